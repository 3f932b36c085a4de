"""DDIM inversion whose first steps are replaced by the forward process: z = α·z0 + σ·ε, with ε drawn at random.

Staniszewski et al., "There and Back Again: On the relation between noise and image inversions in diffusion models"
(ICLR 2026): the noise that the first steps predict follows the image where it is smooth. Without these steps, latents
are less correlated with their images.
"""

from hashlib import sha256
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from latentmix import sampling
from latentmix.inversion.base import Inversion, InversionSettings, State, cfg_factor
from latentmix.models.protocol import Conditioning, Model, predictor
from latentmix.rng import noise
from latentmix.sampling import Schedule
from latentmix.settings import STRICT, Positive


@dataclass(frozen=True, config=STRICT)
class ForwardSettings(InversionSettings):
    replaced: Positive = 2  # steps, the first ones
    seed: Annotated[int, Field(ge=0)] = 0

    def __post_init__(self) -> None:
        if self.replaced > self.steps:
            raise ValueError(f"replaced={self.replaced} is more than steps={self.steps}")


@torch.no_grad()
def invert(model: Model, z0: Tensor, schedule: Schedule, cond: Conditioning, settings: ForwardSettings) -> State:
    """Return the latents at t = T."""
    level = schedule[settings.replaced - 1].noisy
    z = level.alpha * z0 + level.sigma * _noise(z0, settings.seed)
    return {"latents": sampling.invert(predictor(model, cond), z, schedule[settings.replaced :])}


def _noise(z0: Tensor, seed: int) -> Tensor:
    """Return noise like `z0`, seeded for each image by its own latent, and so the same whatever shares its batch."""
    rows = z0.float().cpu().numpy()
    drawn = [noise(seed, f"forward {sha256(row.tobytes()).hexdigest()}", 0, row.shape) for row in rows]
    return torch.from_numpy(np.stack(drawn)).to(z0)


FORWARD = Inversion(invert, settings=ForwardSettings, nfe=lambda settings: cfg_factor(settings.guidance))
