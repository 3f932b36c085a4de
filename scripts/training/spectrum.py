"""A look at the latents of an autoencoder before a network is trained on them."""

import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import data, package
from .latents import encode, read_vae
from .settings import Run
from .vae import FLOOR

EACH = 4  # images for each dimension of the latents, if there are so many


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
    dimensions = encoder.config.latent_channels * (data.SIZE // 8) ** 2
    some = images[:: max(1, len(images) // (EACH * dimensions))]
    means = torch.cat([encode(run, encoder, part).mean.float() for part in some.split(100)])
    flat, count = (means - means.mean()) / means.std(), len(means)
    variances = torch.linalg.eigvalsh(flat.flatten(1).T.cov())
    by_frequency = variances_by_frequency(flat).flatten()
    norm, back = ideal(by_frequency, run.settings.exact_steps, flow=encoder.config.latent_channels > 4)
    white = (1 - math.sqrt(dimensions / count)) ** 2 if count > dimensions else 0.0
    return {
        "psnr": round(psnr(run, encoder), 2),
        "images": count,
        "directions": dimensions,
        "least_variance": _rounded(variances[0]),
        "least_if_white": round(white, 4),  # what so few images would show of a variance of 1 (Marchenko and Pastur)
        f"share_below_{FLOOR}": _rounded((variances < FLOOR).float().mean()),
        "least_by_frequency": _rounded(by_frequency.min()),
        "quantiles": {q: _rounded(variances.quantile(float(q))) for q in ("0.01", "0.1", "0.5", "0.9", "0.99")},
        "power_by_radius": [_rounded(p) for p in power_by_radius(flat)],
        "channel_mean_std": [_rounded(s) for s in flat.mean((2, 3)).std(0)],
        "ideal_norm": round(norm, 4),
        "ideal_round_trip": round(back, 4),
        "scaling_factor": encoder.config.scaling_factor,
    }


def ideal(variances: Tensor, steps: int, flow: bool) -> tuple[float, float]:
    """Return norm over √L and round trip, RMSE per std, of an ideal model of Gaussian latents with these variances.

    A trained network can hardly be expected to do better, although latents are not Gaussian.
    """
    variances = variances.double().clamp(min=1e-6)
    inverted, back = package.return_of_gaussian_latents(variances, steps, flow)
    lost = variances * (1 - back).square()
    return inverted.square().mean().sqrt().item(), (lost.sum() / variances.sum()).sqrt().item()


def psnr(run: Run, encoder: Any) -> float:
    """Return the peak signal-to-noise ratio in dB of 40 held-out images of each class, rounded to uint8."""
    errors = []
    for images in data.held_out_images(run).values():
        images = images[:40]
        back = encoder.decode(encoder.encode(data.to_network(images)).latent_dist.mean).sample
        pixels = ((back + 1) * 127.5).round().clamp(0, 255)
        errors.append(((pixels - images.float()) / 255).square().mean())
    return float(-10 * torch.stack(errors).mean().log10())


def variances_by_frequency(latents: Tensor) -> Tensor:
    """Return the principal variances of the channels of [N, C, h, w] at each spatial frequency: [h, w, C].

    They are the principal variances of all latents if these are alike everywhere in the plane, and need fewer images.
    """
    spectrum = torch.fft.fft2(latents - latents.mean(0), norm="ortho")
    return torch.linalg.eigvalsh(torch.einsum("bchw,bdhw->hwcd", spectrum, spectrum.conj()) / len(latents))


def power_by_radius(latents: Tensor) -> list[Tensor]:
    """Return the mean power of latents [N, C, h, w] at spatial frequencies of radius 0, 1, 2, and so on."""
    side = latents.shape[-1]
    power = torch.fft.fft2(latents, norm="ortho").abs().square().mean((0, 1))
    axis = torch.fft.fftfreq(side, 1 / side, device=latents.device)
    radius = torch.hypot(axis[:, None], axis[None]).round()
    return [power[radius == r].mean() for r in range(side // 2 + 1)]


def _rounded(value: Tensor) -> float:
    return round(float(value), 4)
