"""ReNoise (Garibi et al., "ReNoise: Real image inversion through iterative noising"): averaged fixed-point estimates.

As in `fixed_point`, the ε of a step is predicted at the last estimate of its noisy end. The last few predictions are
averaged, and ε can be regularised towards the statistics of white noise.
"""

from typing import Annotated

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from latentmix.inversion.base import Inversion, InversionSettings, State, cfg_factor
from latentmix.models.protocol import Conditioning, Model
from latentmix.sampling import Interval, Schedule, move_by_noise
from latentmix.settings import STRICT, Positive


@dataclass(frozen=True, config=STRICT)
class RenoiseSettings(InversionSettings):
    iterations: Positive = 4  # estimates of each step
    averaged: Positive = 3  # how many of the last predictions are averaged
    regularisation: Annotated[float, Field(ge=0, le=1)] = 0.0  # of ε towards white noise; 1 sets channels' means to 0

    def __post_init__(self) -> None:
        if self.averaged > self.iterations:
            raise ValueError(f"averaged={self.averaged} is more than iterations={self.iterations}")


@torch.no_grad()
def invert(model: Model, z0: Tensor, schedule: Schedule, cond: Conditioning, settings: RenoiseSettings) -> State:
    """Return the latents at t = T."""
    z = z0
    for interval in schedule:
        z = _renoised(model, z, interval, cond, settings)
    return {"latents": z}


def _renoised(model: Model, clean: Tensor, interval: Interval, cond: Conditioning, settings: RenoiseSettings) -> Tensor:
    x0, eps = model.predict(clean, interval.clean, interval.timestep, cond)
    predictions = []
    for _ in range(settings.iterations):
        z = move_by_noise(clean, interval.clean, interval.noisy, x0, eps)
        x0, eps = model.predict(z, interval.noisy, interval.timestep, cond)
        predictions.append((x0, eps))
    x0, eps = (torch.stack(last).mean(0) for last in zip(*predictions[-settings.averaged :], strict=True))
    if settings.regularisation:
        eps = eps - settings.regularisation * torch.func.grad(_deviation)(eps)
    return move_by_noise(clean, interval.clean, interval.noisy, x0, eps)


def _deviation(eps: Tensor) -> Tensor:
    """Return how far the statistics of ε [B, C, h, w] are from white noise.

    For each channel: the divergence of N(mean, variance) from N(0, 1), and the correlation of neighbours (the two terms
    of pix2pix-zero, the second on its finest scale). The weights are such that one whole step along the gradient
    removes each of them, to first order.
    """
    pixels = eps[0, 0].numel()
    variance, mean = torch.var_mean(eps, dim=(2, 3), correction=0)
    divergence = mean.square() / 2 + (variance - 1 - variance.log()) / 4
    centred = eps - mean[:, :, None, None]
    neighbours = [(centred * centred.roll(1, axis)).mean((2, 3)) for axis in (2, 3)]
    return pixels * (divergence + sum(c.square() for c in neighbours) / 4).sum()


RENOISE = Inversion(
    invert,
    settings=RenoiseSettings,
    version=2,  # 1 iterated the velocity, which converges more slowly
    nfe=lambda settings: (1 + settings.iterations) * cfg_factor(settings.guidance),
)
