"""The midpoint rule, of second order, in both directions; for rectified flows it is RF-Solver (Wang et al., "Taming
rectified flow for inversion and editing").

A step takes two rungs. The velocity k at its start leads to the rung between, where the velocity is k'; the step then
follows k + (k' − k)/2θ, θ being how far along the step the middle lies. Unlike in DDIM inversion the network is told
the time at which z is, since a clock that belongs to another level costs the second order.
"""

import torch
from torch import Tensor

from latentmix.config import InversionConfig
from latentmix.models.protocol import Conditioning, Model, predictor
from latentmix.sampling import Level, Predict, Schedule, Timestep, move

Point = tuple[Level, Timestep]


@torch.no_grad()
def invert(model: Model, z0: Tensor, schedule: Schedule, cond: Conditioning, _: InversionConfig) -> dict[str, Tensor]:
    return {"latents": _solve(predictor(model, cond), z0, _points(schedule))}


@torch.no_grad()
def generate(
    model: Model, state: dict[str, Tensor], schedule: Schedule, cond: Conditioning, _: InversionConfig
) -> Tensor:
    return _solve(predictor(model, cond), state["latents"], _points(schedule)[::-1])


def _points(schedule: Schedule) -> list[Point]:
    """The levels of a ladder with their own clocks, clean to noisy; the clean end's is 0."""
    return [(schedule[0].clean, 0), *((interval.noisy, interval.timestep) for interval in schedule)]


def _solve(predict: Predict, z: Tensor, points: list[Point]) -> Tensor:
    for (here, timestep), (middle, between), (there, _) in zip(
        points[:-2:2], points[1:-1:2], points[2::2], strict=True
    ):
        x0, eps = predict(z, here, timestep)
        x0_middle, eps_middle = predict(move(z, here, middle, x0, eps), middle, between)
        share = (there.s - here.s) / (2 * (middle.s - here.s))  # 1 / 2θ
        z = move(z, here, there, torch.lerp(x0, x0_middle, share), torch.lerp(eps, eps_middle, share))
    return z
