"""Pipelines of random weights in the layout of diffusers, made and saved in under a second.

Tests of mechanics (resuming, workers, the command line) run on these: the classes of the real models at their smallest,
for images of 16 px. The images mean nothing; what must be true of images is tested on the embedded models.

A test file takes them by `pytestmark = pytest.mark.usefixtures("random_pipelines")` and the overrides `SD` or `SD3`.
These read the folder from the environment, so they also hold in processes that a test starts.
"""

from pathlib import Path
from typing import Any

import torch

from latentmix.embedded import embedded_folder

SIZE = 16  # pixels; latents are 4 x 4
WIDTH = 16  # of a prompt's states
FOLDER = "LATENTMIX_RANDOM_PIPELINES"  # the environment variable
SD = ("model=tiny", f"model.path=${{oc.env:{FOLDER}}}/sd", f"model.size={SIZE}")
SD3 = ("model=tiny-sd3", f"model.path=${{oc.env:{FOLDER}}}/sd3", f"model.size={SIZE}")
VAE = {
    "block_out_channels": (8, 8, 8),
    "down_block_types": ("DownEncoderBlock2D",) * 3,
    "up_block_types": ("UpDecoderBlock2D",) * 3,
    "norm_num_groups": 4,
    "latent_channels": 4,
    "sample_size": SIZE,
    "scaling_factor": 0.5,
}


def save_all(folder: Path) -> None:
    """Save both pipelines, in the folders that `SD` and `SD3` name."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        stable_diffusion().save_pretrained(folder / "sd")
        stable_diffusion_3().save_pretrained(folder / "sd3")


def stable_diffusion() -> Any:
    """Return a StableDiffusionPipeline: a U-Net of two levels, with cross-attention in the lower one."""
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextModel

    unet = UNet2DConditionModel(
        sample_size=SIZE // 4,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
        cross_attention_dim=WIDTH,
        attention_head_dim=4,
    )
    return StableDiffusionPipeline(
        vae=AutoencoderKL(**VAE),
        text_encoder=CLIPTextModel(_clip()).eval(),
        tokenizer=_tokenizer(),
        unet=unet,
        scheduler=DDIMScheduler.from_pretrained(embedded_folder("tiny") / "scheduler"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def stable_diffusion_3() -> Any:
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
        num_layers=2,
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
