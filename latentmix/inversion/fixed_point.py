"""Inversions that solve a step for its noisy end: z such that generation's step leads from it to the clean end.

DDIM inversion takes the velocity at the clean end instead. Here it is taken at the last estimate of the noisy end, over
and over (Pan et al., "Effective real image editing with accelerated iterative diffusion inversion"; Meiri et al.,
"Fixed-point inversion for text-to-image diffusion models"); ReNoise (Garibi et al.) averages the estimates.
"""

import torch
from torch import Tensor

from latentmix.config import InversionConfig
from latentmix.models.protocol import Conditioning, Model, predictor
from latentmix.sampling import Interval, Schedule, move, step


@torch.no_grad()
def fixed_point(
    model: Model, z0: Tensor, schedule: Schedule, cond: Conditioning, settings: InversionConfig
) -> dict[str, Tensor]:
    """At most `iterations` a step; an image whose estimate moved by less than `tolerance` (root mean square) is done,
    so that no result depends on what else is in the batch."""
    z = z0
    for interval in schedule:
        clean, z = z, step(predictor(model, cond), z, interval.clean, interval.noisy, interval.timestep)
        moving = torch.ones(len(z), 1, 1, 1, dtype=torch.bool, device=z.device)
        for _ in range(settings.iterations):
            better = move(
                clean, interval.clean, interval.noisy, *model.predict(z, interval.noisy, interval.timestep, cond)
            )
            better = torch.where(moving, better, z)
            moving &= (better - z).square().mean((1, 2, 3), keepdim=True).sqrt() > settings.tolerance
            z = better
            if not moving.any():
                break
    return {"latents": z}


@torch.no_grad()
def renoise(
    model: Model, z0: Tensor, schedule: Schedule, cond: Conditioning, settings: InversionConfig
) -> dict[str, Tensor]:
    """The mean of the last `averaged` of `iterations` estimates, its ε pulled towards the statistics of noise."""
    z = z0
    for interval in schedule:
        z = _renoised(model, z, interval, cond, settings)
    return {"latents": z}


def _renoised(model: Model, clean: Tensor, interval: Interval, cond: Conditioning, settings: InversionConfig) -> Tensor:
    x0, eps = model.predict(clean, interval.clean, interval.timestep, cond)
    estimates = []
    for _ in range(settings.iterations):
        z = move(clean, interval.clean, interval.noisy, x0, eps)
        x0, eps = model.predict(z, interval.noisy, interval.timestep, cond)
        estimates.append((x0, eps))
    x0, eps = (torch.stack(of).mean(0) for of in zip(*estimates[-settings.averaged :], strict=True))
    if settings.regularisation:
        eps = eps - settings.regularisation * torch.func.grad(_unlikeness)(eps)
    return move(clean, interval.clean, interval.noisy, x0, eps)


def _unlikeness(eps: Tensor) -> Tensor:
    """How far the statistics of ε [B, C, h, w] are from white noise's: for each channel the divergence of N(mean,
    variance) from N(0, 1), and the correlation of neighbours (pix2pix-zero's two terms, the second on its finest
    scale). Weighted so that a whole step down the gradient takes each away, but for terms of second order."""
    pixels = eps[0, 0].numel()
    variance, mean = torch.var_mean(eps, dim=(2, 3), correction=0)
    divergence = mean.square() / 2 + (variance - 1 - variance.log()) / 4
    centred = eps - mean[:, :, None, None]
    neighbours = [(centred * centred.roll(1, axis)).mean((2, 3)) for axis in (2, 3)]
    return pixels * (divergence + sum(c.square() for c in neighbours) / 4).sum()
