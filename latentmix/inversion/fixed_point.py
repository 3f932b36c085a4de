"""Fixed-point inversion: each step is solved for its noisy end z, from which generation's step leads to the clean end.

DDIM inversion takes ε at the clean end instead. Here it is taken at the last estimate of the noisy end, repeatedly
(Pan et al., "Effective real image editing with accelerated iterative diffusion inversion"; Meiri et al., "Fixed-point
inversion for text-to-image diffusion models"). In the noisiest step of a rectified flow, whose end has no signal, the
velocity takes the place of ε (`move_by_noise`).
"""

from typing import Annotated

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from latentmix.inversion.base import Inversion, InversionSettings, State, cfg_factor
from latentmix.models.protocol import Conditioning, Model, predictor
from latentmix.sampling import Schedule, move_by_noise, step
from latentmix.settings import STRICT, Positive


@dataclass(frozen=True, config=STRICT)
class FixedPointSettings(InversionSettings):
    iterations: Positive = 5  # at most, in each step
    tolerance: Annotated[float, Field(ge=0)] = 1e-4  # an image is done once its root mean square change is this small


@torch.no_grad()
def invert(model: Model, z0: Tensor, schedule: Schedule, cond: Conditioning, settings: FixedPointSettings) -> State:
    """Return the latents at t = T. An image that is done does not change any more, so its batch has no effect on it."""
    z, predict = z0, predictor(model, cond)
    for interval in schedule:
        clean, z = z, step(predict, z, interval.clean, interval.noisy, interval.timestep)
        active = torch.ones(len(z), 1, 1, 1, dtype=torch.bool, device=z.device)
        for _ in range(settings.iterations):
            x0, eps = predict(z, interval.noisy, interval.timestep)
            better = torch.where(active, move_by_noise(clean, interval.clean, interval.noisy, x0, eps), z)
            active &= (better - z).square().mean((1, 2, 3), keepdim=True).sqrt() > settings.tolerance
            z = better
            if not active.any():
                break
    return {"latents": z}


FIXED_POINT = Inversion(
    invert,
    settings=FixedPointSettings,
    version=2,  # 1 iterated the velocity, which converges more slowly
    nfe=lambda settings: (1 + settings.iterations) * cfg_factor(settings.guidance),
)
