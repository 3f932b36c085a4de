"""The midpoint rule, of second order, in both directions; for rectified flows it is RF-Solver (Wang et al., "Taming
rectified flow for inversion and editing").

A step takes two intervals of the schedule. The velocity k at its start leads to a level within the step, where the
velocity is k'. The step then follows k + (k' − k) / 2θ, where θ is how far along the step that level lies. Unlike DDIM
inversion, every prediction is made at the timestep of the level that z is at; another one would cost the second order.

On a rectified flow the level is the middle of the step in σ, as in RF-Solver, whatever the shift of the schedule: θ is
½, and the step follows k'. Networks of discrete timesteps, which RF-Solver does not treat, have no level exactly there,
so the level between the two intervals is taken.
"""

import torch
from torch import Tensor

from latentmix.inversion.base import Inversion, InversionSettings, State, cfg_factor
from latentmix.models.protocol import Conditioning, Model, predictor
from latentmix.sampling import Level, Predict, Schedule, Timestep, is_flow, move

Point = tuple[Level, Timestep]


@torch.no_grad()
def invert(model: Model, z0: Tensor, schedule: Schedule, cond: Conditioning, _: InversionSettings) -> State:
    """Return the latents at t = T."""
    return {"latents": _solve(predictor(model, cond), z0, _points(schedule))}


@torch.no_grad()
def generate(model: Model, state: State, schedule: Schedule, cond: Conditioning, _: InversionSettings) -> Tensor:
    """Return clean latents by the same rule."""
    return _solve(predictor(model, cond), state["latents"], _points(schedule)[::-1])


def _points(schedule: Schedule) -> list[Point]:
    """Return the levels with their own timesteps, clean to noisy; the clean end's is 0."""
    return [(schedule[0].clean, 0), *((interval.noisy, interval.timestep) for interval in schedule)]


def _solve(predict: Predict, z: Tensor, points: list[Point]) -> Tensor:
    for (start, t_start), point, (end, t_end) in zip(points[:-2:2], points[1:-1:2], points[2::2], strict=True):
        middle, t_middle = point
        if is_flow(start, middle, end):
            sigma = (start.sigma + end.sigma) / 2
            middle, t_middle = Level(1 - sigma, sigma), (t_start + t_end) / 2  # a flow's timestep is linear in σ
        x0, eps = predict(z, start, t_start)
        x0_middle, eps_middle = predict(move(z, start, middle, x0, eps), middle, t_middle)
        share = (end.s - start.s) / (2 * (middle.s - start.s))  # 1 / 2θ
        z = move(z, start, end, torch.lerp(x0, x0_middle, share), torch.lerp(eps, eps_middle, share))
    return z


MIDPOINT = Inversion(
    invert,
    generate,
    version=2,  # 1 took the level between the two intervals on flows, too
    intervals_per_step=2,
    predictions_per_step=2,
    nfe=lambda settings: 2 * cfg_factor(settings.guidance),
)
