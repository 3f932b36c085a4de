"""A look at the latents of an autoencoder before a network is trained on them."""

import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import data
from .latents import encode, read_vae
from .settings import Run
from .vae import FLOOR


@torch.no_grad()
def spectrum(run: Run) -> None:
    """Print and write, for each autoencoder that there is: PSNR, principal variances, and power by frequency."""
    for folder in (run.weights / "tiny", run.weights / "tiny-sd3"):
        if (folder / "vae" / "config.json").exists():
            found = look(run, folder)
            print(json.dumps({folder.name: found}, indent=2), flush=True)
            (run.weights / f"spectrum-{folder.name}.json").write_text(json.dumps(found, indent=2) + "\n")


def look(run: Run, folder: Path) -> dict[str, Any]:
    """Return what is to be said of one autoencoder. Variances are relative to their mean."""
    encoder, images = read_vae(run, folder), data.training_images(run)
    means = torch.cat([encode(run, encoder, part).mean.float() for part in images.split(100)])
    flat = (means - means.mean()) / means.std()
    count, dimensions = len(flat), flat[0].numel()
    variances = torch.linalg.eigvalsh(flat.flatten(1).T.cov())
    white = (1 - math.sqrt(dimensions / count)) ** 2 if count > dimensions else 0.0
    return {
        "psnr": round(psnr(run, encoder), 2),
        "images": count,
        "directions": dimensions,
        "least_variance": _rounded(variances[0]),
        "least_if_white": round(white, 4),  # what so few images would show of a variance of 1 (Marchenko and Pastur)
        f"share_below_{FLOOR}": _rounded((variances < FLOOR).float().mean()),
        "quantiles": {q: _rounded(variances.quantile(float(q))) for q in ("0.01", "0.1", "0.5", "0.9", "0.99")},
        "power_by_radius": [_rounded(p) for p in power_by_radius(flat)],
        "channel_mean_std": [_rounded(s) for s in flat.mean((2, 3)).std(0)],
        "scaling_factor": encoder.config.scaling_factor,
    }


def psnr(run: Run, encoder: Any, count: int = 40) -> float:
    """Return the peak signal-to-noise ratio in dB of held-out images, rounded to uint8."""
    errors = []
    for name in data.CLASSES:
        images = data.held_out(name, count).to(run.device)
        back = encoder.decode(encoder.encode(data.to_network(images)).latent_dist.mean).sample
        pixels = ((back + 1) * 127.5).round().clamp(0, 255)
        errors.append(((pixels - images.float()) / 255).square().mean())
    return float(-10 * torch.stack(errors).mean().log10())


def power_by_radius(latents: Tensor) -> list[Tensor]:
    """Return the mean power of latents [N, C, h, w] at spatial frequencies of radius 0, 1, 2, and so on."""
    side = latents.shape[-1]
    power = torch.fft.fft2(latents, norm="ortho").abs().square().mean((0, 1))
    axis = torch.fft.fftfreq(side, 1 / side, device=latents.device)
    radius = torch.hypot(axis[:, None], axis[None]).round()
    return [power[radius == r].mean() for r in range(side // 2 + 1)]


def _rounded(value: Tensor) -> float:
    return round(float(value), 4)
