"""The U-Net of `tiny` with its text encoder: a `StableDiffusionPipeline` with the scheduler of Stable Diffusion 1.5."""

from typing import Any

import torch
from torch import Tensor

from . import package
from .latents import examples, read_vae, vae_digest
from .loop import rounds
from .muon import matrices
from .saving import float16, load, write_pipeline
from .settings import SEED, Run
from .text import text_encoder, tokenizer

WIDTH = 64  # of the text encoder


def unet(run: Run) -> None:
    """Train the U-Net and the text encoder to predict the noise in noisy latents."""
    from transformers import CLIPTextModel

    folder = run.weights / "tiny"
    torch.manual_seed(SEED + 1)
    words = tokenizer(folder / "tokenizer")
    text, network = text_encoder(CLIPTextModel, words, WIDTH, layers=2), denoiser()
    known = load(text, folder / "text_encoder") and load(network, folder / "unet")
    text, network = text.to(run.device), network.to(run.device, memory_format=torch.channels_last)
    if run.device.type == "cpu":
        package.fast_on_cpu(text, network)
    encoder, digest, scheduler = read_vae(run, folder), vae_digest(folder), stable_diffusion_scheduler()
    batch, levels = run.settings.stages["unet"].batch, scheduler.alphas_cumprod.to(run.device)
    draw = examples(run, encoder, digest, words, batch, run.settings.unet_views)
    predict = torch.compile(network) if run.compiled else network

    def losses() -> dict[str, Tensor]:
        z0, ids = draw()
        eps = torch.randn_like(z0)
        t = torch.randint(len(levels), (batch,), device=run.device)
        alpha = levels[t].view(-1, 1, 1, 1)
        z = (alpha.sqrt() * z0 + (1 - alpha).sqrt() * eps).contiguous(memory_format=torch.channels_last)
        predicted = predict(z, t, text(ids).last_hidden_state).sample
        return {"loss": (predicted.float() - eps).square().mean()}

    for _ in rounds(run, "unet", [network, text], losses, matrices(network), base=digest, known=known):
        write_pipeline(stable_diffusion(encoder, text, words, network, scheduler), folder)


def denoiser() -> Any:
    """Return the U-Net, untrained: attention to the text on its two lower levels."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(32, 64, 128, 160),
        down_block_types=("DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        cross_attention_dim=WIDTH,
        attention_head_dim=(1, 2, 4, 5),  # heads of 32 numbers, whatever the name says
        norm_num_groups=16,
        layers_per_block=1,
    )


def stable_diffusion_scheduler() -> Any:
    """Return the scheduler of Stable Diffusion 1.5; the defaults of the class are others."""
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def stable_diffusion(encoder: Any, text: Any, words: Any, network: Any, scheduler: Any) -> Any:
    from diffusers import StableDiffusionPipeline

    return StableDiffusionPipeline(
        vae=float16(encoder),
        text_encoder=float16(text),
        tokenizer=words,
        unet=float16(network),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,  # type: ignore[arg-type]
        requires_safety_checker=False,
    )
