"""Latents of the training images with their prompts: what the diffusion networks are trained on."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import data
from .settings import SEED, Run
from .text import token_ids

Examples = Callable[[], tuple[Tensor, Tensor]]


def read_vae(run: Run, folder: Path) -> Any:
    """Return the trained autoencoder of a pipeline's folder, in float32."""
    from diffusers import AutoencoderKL

    network = AutoencoderKL.from_pretrained(folder / "vae", torch_dtype=torch.float32)
    return network.requires_grad_(False).to(run.device, memory_format=torch.channels_last)


def vae_digest(folder: Path) -> str:
    """Return a short digest of an autoencoder's weights. Networks trained on its latents belong to it alone."""
    weights = folder / "vae" / "diffusion_pytorch_model.safetensors"
    return hashlib.sha256(weights.read_bytes()).hexdigest()[:12]


def examples(run: Run, encoder: Any, digest: str, words: Any, batch: int, views: int) -> Examples:
    """Return a function that draws a batch: posterior samples [B, C, 16, 16] and token ids of their prompts.

    Three quarters of the prompts name the class alone, as experiments do, and one in ten is empty, for guidance.
    """
    mean, std = latents(run, encoder, digest, views)
    full = token_ids(words, data.captions(run)).to(run.device).repeat(views, 1)
    short = token_ids(words, [data.class_prompt(name) for name in data.CLASSES]).to(run.device)
    empty, classes = token_ids(words, [""]).to(run.device), data.class_numbers(run).repeat(views)

    def draw() -> tuple[Tensor, Tensor]:
        m, s, number, described = data.pick(batch, mean, std, classes, full)
        chance = torch.rand(batch, 1, device=run.device)
        prompts = torch.where(chance < 0.75, short[number], described)
        noise = torch.randn(m.shape, device=run.device)
        return m.float() + s.float() * noise, torch.where(chance > 0.9, empty, prompts)

    return draw


def latents(run: Run, encoder: Any, digest: str, views: int) -> tuple[Tensor, Tensor]:
    """Return scaled posterior means and stds of all training images, float16 [views * N, C, 16, 16].

    The first view is the images as they are; in the others each is moved around the frame. Kept in `run.work`.
    """
    path = run.work / f"latents-{digest}-{run.settings.per_class}-{views}.pt"
    if path.exists():
        kept = torch.load(path, map_location=run.device, weights_only=True, mmap=True)
        return kept["mean"], kept["std"]
    images, scale = data.training_images(run), encoder.config.scaling_factor
    shift = encoder.config.shift_factor or 0.0
    rng = torch.Generator().manual_seed(SEED)
    parts = []
    for view in range(views):
        for part in images.split(200):
            posterior = encode(run, encoder, _moved(part, rng) if view else part)
            parts.append((((posterior.mean - shift) * scale).half(), (posterior.std * scale).half()))
    mean, std = (torch.cat(each) for each in zip(*parts, strict=True))
    if run.deadline is None:
        torch.save({"mean": mean, "std": std}, path)
    return mean, std


@torch.no_grad()
def encode(run: Run, encoder: Any, images: Tensor) -> Any:
    """Return the posterior of uint8 images."""
    with torch.autocast(run.device.type, torch.bfloat16, enabled=run.settings.half):
        return encoder.encode(data.to_network(images)).latent_dist


def _moved(images: Tensor, rng: torch.Generator) -> Tensor:
    """Move every image around the frame by its own random distance."""
    offsets = torch.randint(images.shape[-1], (len(images), 2), generator=rng).tolist()
    return torch.stack([one.roll(offset, (-2, -1)) for one, offset in zip(images, offsets, strict=True)])
