"""Stable Diffusion 1.5 and 3.5 medium at their full size with random weights, to measure speed where there are none.

Sizes are those of the published configs. The text encoders have one layer, as they run once; the tokenizer is the
embedded model's.
"""

from pathlib import Path
from typing import Any

import torch

from latentmix.errors import UserError
from latentmix.features import embedded_folder
from latentmix.models.pipeline import DTYPES

SD15: dict[str, Any] = {  # unet/config.json of Stable Diffusion 1.5, where it differs from the class's defaults
    "sample_size": 64,
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
}
SD35_MEDIUM: dict[str, Any] = {  # transformer/config.json of Stable Diffusion 3.5 medium
    "sample_size": 128,
    "patch_size": 2,
    "in_channels": 16,
    "out_channels": 16,
    "num_layers": 24,
    "attention_head_dim": 64,
    "num_attention_heads": 24,
    "joint_attention_dim": 4096,
    "caption_projection_dim": 1536,
    "pooled_projection_dim": 2048,
    "pos_embed_max_size": 384,
    "dual_attention_layers": tuple(range(13)),
    "qk_norm": "rms_norm",
}
VAE_OF_SD: dict[str, Any] = {  # of both, but for the channels and the scale of latents
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
}
CLIP_WIDTHS = {"text_encoder": (768, 12), "text_encoder_2": (1280, 20)}  # of L and of bigG, with their heads


def random_folder(name: str, place: Path) -> Path:
    """A pipeline folder of `sd15` or `sd35-medium` with random weights in 16 bits, made once; UserError for others."""
    if name not in PIPELINES:
        raise UserError(f"--random knows the full sizes of {' and '.join(PIPELINES)}, not of {name}")
    folder = place / name
    if not (folder / "model_index.json").exists():  # which is written last
        torch.manual_seed(0)
        PIPELINES[name]().save_pretrained(folder)
    return folder


def _sd15() -> Any:
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextModel

    scheduler = DDIMScheduler.from_pretrained(embedded_folder("tiny") / "scheduler")  # whose settings are SD 1.5's
    return StableDiffusionPipeline(
        vae=_half(lambda: AutoencoderKL(**VAE_OF_SD, latent_channels=4, scaling_factor=0.18215)),
        text_encoder=_half(lambda: CLIPTextModel(_clip("text_encoder"))),
        tokenizer=_tokenizer(),
        unet=_half(lambda: UNet2DConditionModel(**SD15)),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _sd35_medium() -> Any:
    from diffusers import (
        AutoencoderKL,
        FlowMatchEulerDiscreteScheduler,
        SD3Transformer2DModel,
        StableDiffusion3Pipeline,
    )
    from transformers import CLIPTextModelWithProjection

    vae = {"latent_channels": 16, "scaling_factor": 1.5305, "shift_factor": 0.0609}
    quant = {"use_quant_conv": False, "use_post_quant_conv": False}
    encoders = {
        part: _half(lambda part=part: CLIPTextModelWithProjection(_clip(part)))  # type: ignore[misc]
        for part in CLIP_WIDTHS
    }
    return StableDiffusion3Pipeline(
        transformer=_half(lambda: SD3Transformer2DModel(**SD35_MEDIUM)),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=_half(lambda: AutoencoderKL(**VAE_OF_SD, **vae, **quant)),
        **encoders,
        tokenizer=_tokenizer(),
        tokenizer_2=_tokenizer(),
        text_encoder_3=None,
        tokenizer_3=None,
    )


PIPELINES = {"sd15": _sd15, "sd35-medium": _sd35_medium}


def _half(make: Any) -> Any:
    """A network built in 16 bits, as one of two billion numbers takes twice the memory in 32."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(DTYPES["float16"])
    try:
        return make().eval()
    finally:
        torch.set_default_dtype(before)


def _clip(part: str) -> Any:
    from transformers import CLIPTextConfig

    width, heads = CLIP_WIDTHS[part]
    sizes = {"hidden_size": width, "intermediate_size": 4 * width, "projection_dim": width}
    return CLIPTextConfig(**sizes, num_attention_heads=heads, num_hidden_layers=1)


def _tokenizer() -> Any:
    from transformers import CLIPTokenizer

    return CLIPTokenizer.from_pretrained(embedded_folder("tiny") / "tokenizer", model_max_length=77)
