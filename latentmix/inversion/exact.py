"""EDICT (Wallace et al., "Exact diffusion inversion via coupled transformations"): two latents that take turns.

Each is moved by the ε that is predicted at the other. This ε can be predicted again on the way back, so generation
undoes inversion up to rounding. After each step of generation the two are averaged with the weight `coupling`, or they
would drift apart; inversion undoes the averaging. The order of the two alternates between steps.

In the noisiest step of a rectified flow, whose end has no signal, a latent is moved by the partner's velocity instead
(`move_by_noise`).
"""

from typing import Annotated

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from latentmix.inversion.base import Inversion, InversionSettings, State, cfg_factor
from latentmix.models.protocol import Conditioning, Model
from latentmix.sampling import Schedule, move_by_noise
from latentmix.settings import STRICT


@dataclass(frozen=True, config=STRICT)
class ExactSettings(InversionSettings):
    coupling: Annotated[float, Field(gt=0.5, le=1)] = 0.93  # weight p of the averaging; 1 leaves it out


@torch.no_grad()
def invert(model: Model, z0: Tensor, schedule: Schedule, cond: Conditioning, settings: ExactSettings) -> State:
    """Return both latents at t = T, `latents` and `partner`. Each step undoes one of `generate`, in reverse order."""
    p, x, y = settings.coupling, z0, z0
    for index, interval in enumerate(schedule):
        if index % 2:
            x, y = y, x
        y = (y - (1 - p) * x) / p
        x = (x - (1 - p) * y) / p
        x0, eps = model.predict(x, interval.clean, interval.timestep, cond)
        y = move_by_noise(y, interval.clean, interval.noisy, x0, eps)
        x0, eps = model.predict(y, interval.noisy, interval.timestep, cond)
        x = move_by_noise(x, interval.clean, interval.noisy, x0, eps)
        if index % 2:
            x, y = y, x
    return {"latents": x, "partner": y}


@torch.no_grad()
def generate(model: Model, state: State, schedule: Schedule, cond: Conditioning, settings: ExactSettings) -> Tensor:
    """Return clean latents from both latents."""
    p, x, y = settings.coupling, state["latents"], state["partner"]
    for index, interval in reversed(list(enumerate(schedule))):
        if index % 2:
            x, y = y, x
        x0, eps = model.predict(y, interval.noisy, interval.timestep, cond)
        x = move_by_noise(x, interval.noisy, interval.clean, x0, eps)
        x0, eps = model.predict(x, interval.clean, interval.timestep, cond)
        y = move_by_noise(y, interval.noisy, interval.clean, x0, eps)
        x = p * x + (1 - p) * y
        y = p * y + (1 - p) * x
        if index % 2:
            x, y = y, x
    return x


EXACT = Inversion(
    invert,
    generate,
    ExactSettings,
    version=2,  # 1 moved a latent by its partner's velocity, that is, by its x0 too
    extras={"partner": None},
    extra_numbers=lambda settings, latent, text: latent,
    paired=("steps", "spacing"),
    predictions_per_step=2,
    nfe=lambda settings: 2 * cfg_factor(settings.guidance),
)
