"""EDICT (Wallace et al., "Exact diffusion inversion via coupled transformations"): two latents that take turns.

Each is moved by a velocity predicted at the other, which a step back can predict again, so inversion undoes generation
up to rounding. After each step they are drawn together by the factor `coupling`, or they would drift apart; that is
undone too. The order of the two changes with every step.
"""

import torch
from torch import Tensor

from latentmix.config import InversionConfig
from latentmix.models.protocol import Conditioning, Model
from latentmix.sampling import Schedule, move


@torch.no_grad()
def invert(
    model: Model, z0: Tensor, schedule: Schedule, cond: Conditioning, settings: InversionConfig
) -> dict[str, Tensor]:
    """Both latents at the ladder's top: `latents` and their `partner`."""
    p, x, y = settings.coupling, z0, z0
    for place, interval in enumerate(schedule):
        if place % 2:
            x, y = y, x
        y = (y - (1 - p) * x) / p
        x = (x - (1 - p) * y) / p
        y = move(y, interval.clean, interval.noisy, *model.predict(x, interval.clean, interval.timestep, cond))
        x = move(x, interval.clean, interval.noisy, *model.predict(y, interval.noisy, interval.timestep, cond))
        if place % 2:
            x, y = y, x
    return {"latents": x, "partner": y}


@torch.no_grad()
def generate(
    model: Model, state: dict[str, Tensor], schedule: Schedule, cond: Conditioning, settings: InversionConfig
) -> Tensor:
    p, x, y = settings.coupling, state["latents"], state["partner"]
    for place, interval in reversed(list(enumerate(schedule))):
        if place % 2:
            x, y = y, x
        x = move(x, interval.noisy, interval.clean, *model.predict(y, interval.noisy, interval.timestep, cond))
        y = move(y, interval.noisy, interval.clean, *model.predict(x, interval.clean, interval.timestep, cond))
        x = p * x + (1 - p) * y
        y = p * y + (1 - p) * x
        if place % 2:
            x, y = y, x
    return x
