"""Inversion and generation, written once for every family of diffusion model.

A noise level is (α, σ): z = α·x0 + σ·ε. A ladder is a list of rungs from clean to noisy. Inversion climbs it and
generation descends it, by the same step: say what x0 and ε are here, and put them together as they are there (DDIM, eq.
12 of Song et al., with η = 0; for rectified flow it is Euler's step). The clock, which is what the network is told, is
that of a rung's noisy end in both directions.
"""

from collections.abc import Callable, Sequence
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
    alpha: float
    sigma: float

    @property
    def scale(self) -> float:
        """What z is divided by to lie on the straight line (1 − s)·x0 + s·ε, whatever the family; see `move`."""
        return self.alpha + self.sigma

    @property
    def s(self) -> float:
        """How far along that line: 0 is clean, 1 is noise."""
        return self.sigma / self.scale


@dataclass(frozen=True)
class Interval:
    clean: Level
    noisy: Level
    timestep: Timestep


Schedule = tuple[Interval, ...]
Predict = Callable[[Latents, Level, Timestep], tuple[Latents, Latents]]  # z, its level, clock -> x0, eps


def step(predict: Predict, z: Latents, here: Level, there: Level, timestep: Timestep) -> Latents:
    x0, eps = predict(z, here, timestep)
    return there.alpha * x0 + there.sigma * eps


def move(z: Latents, here: Level, there: Level, x0: Latents, eps: Latents) -> Latents:
    """`z` taken from `here` to `there` with the velocity ε − x0, which may have been predicted elsewhere.

    On z / (α + σ) = (1 − s)·x0 + s·ε every family is a rectified flow, dz/ds = ε − x0, so methods of higher order are
    written once, on this line. With what is predicted at `z` itself this is `step`.
    """
    return there.scale * (z / here.scale + (there.s - here.s) * (eps - x0))


def invert(predict: Predict, z: Latents, schedule: Schedule) -> Latents:
    """Clean latents -> latents at t = T. Keeps the dtype of `z`; use float32, as 16 bits don't survive many steps."""
    for interval in schedule:
        z = step(predict, z, interval.clean, interval.noisy, interval.timestep)
    return z


def generate(predict: Predict, z: Latents, schedule: Schedule) -> Latents:
    """Latents at t = T -> clean latents."""
    for interval in reversed(schedule):
        z = step(predict, z, interval.noisy, interval.clean, interval.timestep)
    return z


def from_epsilon(out: Latents, z: Latents, here: Level) -> tuple[Latents, Latents]:
    """x0 and ε from a network that predicts ε."""
    return (z - here.sigma * out) / here.alpha, out


def from_v(out: Latents, z: Latents, here: Level) -> tuple[Latents, Latents]:
    """x0 and ε from a network that predicts v = α·ε − σ·x0 (Salimans & Ho)."""
    return here.alpha * z - here.sigma * out, here.sigma * z + here.alpha * out


def from_velocity(out: Latents, z: Latents, here: Level) -> tuple[Latents, Latents]:
    """x0 and ε from a network that predicts ε − x0, the velocity of a rectified flow, whose α is 1 − σ."""
    return z - here.sigma * out, z + here.alpha * out


def discrete_schedule(alphas_cumprod: Tensor, timesteps: Sequence[int], first: float) -> Schedule:
    """The ladder of a network trained on discrete time steps: it rises through `clocks` (increasing), from the clean
    level whose ᾱ is `first`."""
    levels = [_level(first), *(_level(alphas_cumprod[t].item()) for t in timesteps)]
    return tuple(
        Interval(clean, noisy, timestep) for clean, noisy, timestep in zip(levels, levels[1:], timesteps, strict=False)
    )


def flow_schedule(sigmas: Sequence[float], train_steps: int = 1000) -> Schedule:
    """The ladder of a rectified flow: it rises through `sigmas` (increasing) from 0; the clock is σ in training
    steps."""
    levels = [Level(1 - sigma, sigma) for sigma in (0.0, *sigmas)]
    return tuple(Interval(here, there, there.sigma * train_steps) for here, there in pairwise(levels))


def flow_sigmas(steps: int, spacing: str, shift: float, train_steps: int = 1000) -> tuple[float, ...]:
    """`steps` noise levels of a rectified flow, increasing to 1, shifted towards noise (Esser et al., eq. 23).

    `linspace` is what diffusers' scheduler and the reference implementation do: levels evenly from 1 down to the least
    one that was trained on, which is itself a shifted one. `trailing` spaces them evenly down to 0, which is left out.
    """
    if not 1 <= steps <= train_steps:
        raise ValueError(f"steps must be between 1 and {train_steps}, not {steps}")
    if spacing not in FLOW_SPACINGS:
        raise ValueError(f"spacing must be {' or '.join(FLOW_SPACINGS)} for a rectified flow, not {spacing!r}")
    least = 1 / steps if spacing == "trailing" else shifted(1 / train_steps, shift)
    stride = (1 - least) / max(1, steps - 1)
    return tuple(shifted(1 - i * stride, shift) for i in reversed(range(steps)))


FLOW_SPACINGS = ("linspace", "trailing")


def shifted(sigma: Noise, shift: float) -> Noise:
    """Noise levels of a rectified flow from 0 to 1, moved towards noise (Esser et al., eq. 23)."""
    return shift * sigma / (1 + (shift - 1) * sigma)


def _level(alpha_bar: float) -> Level:
    return Level(alpha_bar**0.5, (1 - alpha_bar) ** 0.5)


def timesteps(steps: int, spacing: str, train_steps: int = 1000, offset: int = 0) -> tuple[int, ...]:
    """`steps` time steps, increasing, spaced as diffusers' schedulers space them.

    `trailing` ends at the last step of training (999), `leading` before it (981 for 50 steps and an offset of 1), and
    `linspace` spans all (Lin et al., "Common diffusion noise schedules and sample steps are flawed", Table 2).
    """
    if not 1 <= steps <= train_steps:
        raise ValueError(f"steps must be between 1 and {train_steps}, not {steps}")
    if spacing not in SPACINGS:
        raise ValueError(f"spacing must be one of {', '.join(SPACINGS)}, not {spacing!r}")
    return SPACINGS[spacing](steps, train_steps, offset)


SPACINGS: dict[str, Callable[[int, int, int], tuple[int, ...]]] = {
    "trailing": lambda n, T, _: tuple(round(T - i * (T / n)) - 1 for i in reversed(range(n))),
    "leading": lambda n, T, offset: tuple(i * (T // n) + offset for i in range(n)),
    "linspace": lambda n, T, _: tuple(round(t) for t in torch.linspace(0, T - 1, n, dtype=torch.float64).tolist()),
}
