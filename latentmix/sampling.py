"""Inversion and generation, written once for every family of diffusion model.

A noise level is (α, σ): z = α·x0 + σ·ε. A schedule is a list of intervals from clean to noisy. Inversion goes up and
generation down, by the same step: predict x0 and ε at the current level, and combine them at the target level (DDIM,
eq. 12 of Song et al., with η = 0; Euler's step for rectified flow). The timestep given to the network is that of an
interval's noisy end, in both directions.
"""

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

Latents = Float[Tensor, "B C H W"]
Timestep = int | float
Noise = TypeVar("Noise", float, Tensor)


@dataclass(frozen=True)
class Level:
    """A noise level: z = alpha·x0 + sigma·ε."""

    alpha: float
    sigma: float

    @property
    def scale(self) -> float:
        """z / scale lies on the straight line (1 − s)·x0 + s·ε, whatever the family; see `move`."""
        return self.alpha + self.sigma

    @property
    def s(self) -> float:
        """The position on that line: 0 is clean, 1 is noise."""
        return self.sigma / self.scale


@dataclass(frozen=True)
class Interval:
    """Two neighbouring levels of a schedule, and the timestep that the network is given in both directions."""

    clean: Level
    noisy: Level
    timestep: Timestep


Schedule = tuple[Interval, ...]
Predict = Callable[[Latents, Level, Timestep], tuple[Latents, Latents]]  # z, its level, timestep -> x0, ε


def step(predict: Predict, z: Latents, current: Level, target: Level, timestep: Timestep) -> Latents:
    """Return the latents at the target level."""
    x0, eps = predict(z, current, timestep)
    return target.alpha * x0 + target.sigma * eps


def move(z: Latents, current: Level, target: Level, x0: Latents, eps: Latents) -> Latents:
    """Return `z` at the target level, moved by the velocity ε − x0, which may have been predicted elsewhere.

    On z / (α + σ) = (1 − s)·x0 + s·ε every family is a rectified flow, dz/ds = ε − x0, so methods of higher order are
    written once, on this line. With a prediction at `z` itself this equals `step`.
    """
    return target.scale * (z / current.scale + (target.s - current.s) * (eps - x0))


def move_by_noise(z: Latents, current: Level, target: Level, x0: Latents, eps: Latents) -> Latents:
    """Return `z` at the target level, moved by ε, which may have been predicted elsewhere; `x0` is not used.

    x0 is then that of `z` and ε. With a prediction at `z` itself this equals `step`. At a level without signal (α = 0
    up to rounding), such as the noisy end of a rectified flow, `z` and ε do not determine x0, so there this is `move`.
    """
    if min(current.alpha, target.alpha) < 1e-4:
        return move(z, current, target, x0, eps)
    return target.alpha / current.alpha * (z - current.sigma * eps) + target.sigma * eps


def is_flow(*levels: Level) -> bool:
    """Return whether levels are of a rectified flow, α + σ = 1. Diffusion has α² + σ² = 1."""
    return all(math.isclose(level.scale, 1) for level in levels)


def trajectory(predict: Predict, z: Latents, schedule: Schedule) -> Iterator[Latents]:
    """Yield the latents at every level of an inversion: `z` itself, and the result of each step up to t = T."""
    yield z
    for interval in schedule:
        z = step(predict, z, interval.clean, interval.noisy, interval.timestep)
        yield z


def invert(predict: Predict, z: Latents, schedule: Schedule) -> Latents:
    """Return latents at t = T from clean latents, in the dtype of `z`; use float32, as many steps in 16 bits drift."""
    return deque(trajectory(predict, z, schedule), maxlen=1).pop()


def generate(predict: Predict, z: Latents, schedule: Schedule) -> Latents:
    """Return clean latents from latents at t = T."""
    for interval in reversed(schedule):
        z = step(predict, z, interval.noisy, interval.clean, interval.timestep)
    return z


def from_epsilon(out: Latents, z: Latents, level: Level) -> tuple[Latents, Latents]:
    """Return x0 and ε from the output of a network that predicts ε."""
    return (z - level.sigma * out) / level.alpha, out


def from_v(out: Latents, z: Latents, level: Level) -> tuple[Latents, Latents]:
    """Return x0 and ε from the output of a network that predicts v = α·ε − σ·x0 (Salimans & Ho)."""
    return level.alpha * z - level.sigma * out, level.sigma * z + level.alpha * out


def from_velocity(out: Latents, z: Latents, level: Level) -> tuple[Latents, Latents]:
    """Return x0 and ε from the output of a rectified flow, the velocity ε − x0; its α is 1 − σ."""
    return z - level.sigma * out, z + level.alpha * out


def discrete_schedule(alphas_cumprod: Tensor, timesteps: Sequence[int], first: float) -> Schedule:
    """Return the schedule from the clean level of ᾱ = `first` up through discrete `timesteps` (increasing)."""
    levels = [_level(first), *(_level(alphas_cumprod[t].item()) for t in timesteps)]
    return tuple(
        Interval(clean, noisy, timestep) for clean, noisy, timestep in zip(levels, levels[1:], timesteps, strict=False)
    )


def flow_schedule(sigmas: Sequence[float], train_steps: int = 1000) -> Schedule:
    """Return the schedule of a rectified flow from σ = 0 up through `sigmas` (increasing).

    An interval's timestep is the σ of its noisy end times `train_steps`.
    """
    levels = [Level(1 - sigma, sigma) for sigma in (0.0, *sigmas)]
    return tuple(Interval(clean, noisy, noisy.sigma * train_steps) for clean, noisy in pairwise(levels))


def flow_sigmas(
    steps: int, spacing: str, shift: float, train_steps: int = 1000, lowest: float | None = None
) -> tuple[float, ...]:
    """Return `steps` noise levels of a rectified flow, increasing to 1, shifted towards noise (Esser et al., eq. 23).

    Before the shift, levels are evenly spaced from 1 down. `linspace` ends at `lowest`, the lowest level of training,
    as diffusers and the reference implementation do; by default it is 1 / train_steps, shifted. `trailing` would end at
    0 one step later. Raises: ValueError for an unknown spacing, and for steps outside 1 to `train_steps`.
    """
    if not 1 <= steps <= train_steps:
        raise ValueError(f"steps must be between 1 and {train_steps}, not {steps}")
    if spacing not in FLOW_SPACINGS:
        raise ValueError(f"spacing must be {' or '.join(FLOW_SPACINGS)} for a rectified flow, not {spacing!r}")
    last = shifted(1 / train_steps, shift) if lowest is None else lowest
    stride = (1 - (1 / steps if spacing == "trailing" else last)) / max(1, steps - 1)
    return tuple(shifted(1 - i * stride, shift) for i in reversed(range(steps)))


FLOW_SPACINGS = ("linspace", "trailing")


def shifted(sigma: Noise, shift: float) -> Noise:
    """Return noise levels of a rectified flow, from 0 to 1, shifted towards noise (Esser et al., eq. 23)."""
    return shift * sigma / (1 + (shift - 1) * sigma)


def _level(alpha_bar: float) -> Level:
    return Level(alpha_bar**0.5, (1 - alpha_bar) ** 0.5)


def timesteps(steps: int, spacing: str, train_steps: int = 1000, offset: int = 0) -> tuple[int, ...]:
    """Return `steps` timesteps, increasing, spaced as diffusers' schedulers space them.

    `trailing` ends at the last step of training (999), `leading` before it (981 for 50 steps and an offset of 1), and
    `linspace` spans all (Lin et al., "Common diffusion noise schedules and sample steps are flawed", Table 2).

    For a few numbers of steps, such as 48, some timesteps lie halfway between two integers. These may be rounded
    differently than in diffusers. For some numbers above 60, diffusers' `trailing` has one timestep too many, −1.

    Raises: ValueError for an unknown spacing, and for steps outside 1 to `train_steps`.
    """
    if not 1 <= steps <= train_steps:
        raise ValueError(f"steps must be between 1 and {train_steps}, not {steps}")
    if spacing not in SPACINGS:
        raise ValueError(f"spacing must be one of {', '.join(SPACINGS)}, not {spacing!r}")
    return SPACINGS[spacing](steps, train_steps, offset)


SPACINGS: dict[str, Callable[[int, int, int], tuple[int, ...]]] = {  # steps n, training steps T, offset
    "trailing": lambda n, T, _: tuple(round(T - i * (T / n)) - 1 for i in reversed(range(n))),
    "leading": lambda n, T, offset: tuple(i * (T // n) + offset for i in range(n)),
    "linspace": lambda n, T, _: tuple(round(t) for t in torch.linspace(0, T - 1, n, dtype=torch.float64).tolist()),
}
