"""DDIM inversion whose first steps are replaced by the forward process: z = α·z0 + σ·ε, with ε drawn at random.

Staniszewski et al., "There and Back Again: On the relation between noise and image inversions in diffusion models"
(ICLR 2026): the noise that the first steps predict follows the image where it is smooth. Without these steps, latents
are less correlated with their images.
"""

from collections.abc import Sequence
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from latentmix import sampling
from latentmix.inversion.base import Inversion, InversionSettings, State
from latentmix.models.protocol import Conditioning, Model, predictor
from latentmix.rng import noise
from latentmix.sampling import Schedule
from latentmix.settings import STRICT, Positive


@dataclass(frozen=True, config=STRICT)
class ForwardSettings(InversionSettings):
    replaced: Positive = 2  # how many of the first steps
    seed: Annotated[int, Field(ge=0)] = 0

    def __post_init__(self) -> None:
        if self.replaced > self.steps:
            raise ValueError(f"replaced={self.replaced} is more than steps={self.steps}")


@torch.no_grad()
def invert(
    model: Model, z0: Tensor, schedule: Schedule, cond: Conditioning, settings: ForwardSettings, names: Sequence[str]
) -> State:
    """Return the latents at t = T. An image's noise depends on its name and `settings.seed` alone."""
    level = schedule[settings.replaced - 1].noisy
    drawn = [noise(settings.seed, f"forward {name}", 0, tuple(z0.shape[1:])) for name in names]
    z = level.alpha * z0 + level.sigma * torch.from_numpy(np.stack(drawn)).to(z0)
    return {"latents": sampling.invert(predictor(model, cond), z, schedule[settings.replaced :])}


FORWARD = Inversion(
    invert,
    settings=ForwardSettings,
    version=2,  # 1 seeded the noise by clean latents, which differ by rounding between devices
    by_name=True,
)
