"""Pipelines of random weights in the layout of diffusers, made and saved in under a second.

Tests of mechanics (resuming, workers, the command line) run on these: the classes of the real models at their smallest,
for images of 16 px. The images mean nothing; what must be true of images is tested on the embedded models.

A test file takes them by `pytestmark = pytest.mark.usefixtures("random_pipelines")` and the overrides `SD`, `SD3`,
`SDXL` or `FLUX`.
These read the folder from the environment, so they also hold in processes that a test starts.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from latentmix.compose import compose
from latentmix.embedded import embedded_folder
from latentmix.models.protocol import Model

SIZE = 16  # pixels; latents are 4 x 4
WIDTH = 16  # of a prompt's states
FOLDER = "LATENTMIX_RANDOM_PIPELINES"  # the environment variable
SD = ("model=tiny", f"model.path=${{oc.env:{FOLDER}}}/sd", f"model.size={SIZE}")
SD3 = ("model=tiny-sd3", f"model.path=${{oc.env:{FOLDER}}}/sd3", f"model.size={SIZE}")
SDXL = ("model=tiny", f"model.path=${{oc.env:{FOLDER}}}/sdxl", f"model.size={SIZE}")
FLUX = (
    "model=flux-dev",
    f"model.path=${{oc.env:{FOLDER}}}/flux",
    f"model.size={SIZE}",
    "model.max_sequence_length=8",
    "model.domain=shapes",
    *(f"model.{network}=embedded" for network in ("features", "clip", "perceptual")),
)
VAE = {
    "block_out_channels": (8, 8, 8),
    "down_block_types": ("DownEncoderBlock2D",) * 3,
    "up_block_types": ("UpDecoderBlock2D",) * 3,
    "norm_num_groups": 4,
    "latent_channels": 4,
    "sample_size": SIZE,
    "scaling_factor": 0.5,
}

UNET: dict[str, Any] = {
    "sample_size": SIZE // 4,
    "block_out_channels": (16, 32),
    "layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "norm_num_groups": 4,
}


def built(model: Callable[..., Model], folder: Path, precision: str = "float32", **settings: Any) -> Any:
    """Return the model of a family's class, on the CPU, from a pipeline folder."""
    config = compose([f"model.{name}={value}" for name, value in settings.items()]).model
    return model(folder, config, precision, torch.device("cpu"))


def save_all(folder: Path) -> None:
    """Save all pipelines, in the folders that `SD` and the others name."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        stable_diffusion().save_pretrained(folder / "sd")
        stable_diffusion_3().save_pretrained(folder / "sd3")
        stable_diffusion_xl().save_pretrained(folder / "sdxl")
        flux().save_pretrained(folder / "flux")


def stable_diffusion(**unet: Any) -> Any:
    """Return a StableDiffusionPipeline: a U-Net of two levels, with cross-attention in the lower one, or as given."""
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextModel

    network = UNet2DConditionModel(**UNET | {"cross_attention_dim": WIDTH, "attention_head_dim": 4} | unet)
    return StableDiffusionPipeline(
        vae=AutoencoderKL(**VAE),
        text_encoder=CLIPTextModel(_clip()).eval(),
        tokenizer=_tokenizer(),
        unet=network,
        scheduler=DDIMScheduler.from_pretrained(embedded_folder("tiny") / "scheduler"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def stable_diffusion_3(layers: int = 2) -> Any:
    """Return a StableDiffusion3Pipeline: a transformer of two blocks and two CLIP text encoders, without T5."""
    from diffusers import (
        AutoencoderKL,
        FlowMatchEulerDiscreteScheduler,
        SD3Transformer2DModel,
        StableDiffusion3Pipeline,
    )
    from transformers import CLIPTextModelWithProjection

    transformer = SD3Transformer2DModel(
        sample_size=SIZE // 4,
        patch_size=1,
        in_channels=4,
        out_channels=4,
        num_layers=layers,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=2 * WIDTH,
        caption_projection_dim=16,
        pooled_projection_dim=2 * WIDTH,
        pos_embed_max_size=SIZE // 4,
        qk_norm="rms_norm",
    )
    return StableDiffusion3Pipeline(
        vae=AutoencoderKL(**VAE, shift_factor=0.1),
        text_encoder=CLIPTextModelWithProjection(_clip()).eval(),
        text_encoder_2=CLIPTextModelWithProjection(_clip()).eval(),
        text_encoder_3=None,
        tokenizer=_tokenizer(),
        tokenizer_2=_tokenizer(),
        tokenizer_3=None,
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    )


def stable_diffusion_xl(**options: Any) -> Any:
    """Return a StableDiffusionXLPipeline: as SD's, with a second text encoder, and attention of two depths."""
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    unet = UNet2DConditionModel(
        **UNET,
        cross_attention_dim=2 * WIDTH,
        attention_head_dim=(2, 4),
        transformer_layers_per_block=(1, 2),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=WIDTH + 6 * 8,
    )
    return StableDiffusionXLPipeline(
        vae=AutoencoderKL(**VAE),
        text_encoder=CLIPTextModel(_clip()).eval(),
        text_encoder_2=CLIPTextModelWithProjection(_clip()).eval(),
        tokenizer=_tokenizer(),
        tokenizer_2=_tokenizer(),
        unet=unet,
        scheduler=DDIMScheduler.from_pretrained(embedded_folder("tiny") / "scheduler"),
        add_watermarker=False,
        **options,
    )


def flux(guidance_embeds: bool = True, **scheduler: Any) -> Any:
    """Return a FluxPipeline: a transformer of one double and one single block, CLIP and T5.

    It is laid out as FLUX.1-dev, or as FLUX.1-schnell without `guidance_embeds`.
    """
    from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
    from transformers import CLIPTextModel

    transformer = FluxTransformer2DModel(
        in_channels=16,  # 2 x 2 latents of 4 channels
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=WIDTH,
        guidance_embeds=guidance_embeds,
        axes_dims_rope=(4, 6, 6),
    )
    encoder, tokenizer = t5()
    return FluxPipeline(
        vae=AutoencoderKL(**VAE, shift_factor=0.1, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=CLIPTextModel(_clip()).eval(),
        text_encoder_2=encoder,
        tokenizer=_tokenizer(),
        tokenizer_2=tokenizer,
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(
            shift=3.0, use_dynamic_shifting=guidance_embeds, base_image_seq_len=2, max_image_seq_len=16, **scheduler
        ),
    )


def t5(width: int = WIDTH, heads: int = 2, hidden: int = 32) -> tuple[Any, Any]:
    """Return a T5 encoder and its tokenizer."""
    from transformers import T5Config, T5EncoderModel, T5TokenizerFast

    pieces = ["▁a", "▁photo", "▁of", "▁star", "▁heart", "▁"]
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    tokenizer = T5TokenizerFast(vocab=[*special, *((p, -float(i)) for i, p in enumerate(pieces))], extra_ids=0)
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=width,
        d_kv=8,
        d_ff=hidden,
        num_layers=2,
        num_heads=heads,
        tie_word_embeddings=False,
    )
    return T5EncoderModel(config).eval(), tokenizer


def _clip() -> Any:
    from transformers import CLIPTextConfig

    tokenizer = _tokenizer()
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        projection_dim=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _tokenizer() -> Any:
    from transformers import CLIPTokenizer

    return CLIPTokenizer.from_pretrained(embedded_folder("tiny") / "tokenizer")
