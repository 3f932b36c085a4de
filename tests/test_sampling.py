"""The ladder against diffusers' schedulers, and against a data distribution whose solution is known in closed form."""

import math
from fractions import Fraction
from itertools import pairwise
from typing import Any, Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from latentmix.sampling import (
    Interval,
    Level,
    Predict,
    Schedule,
    discrete_schedule,
    from_epsilon,
    from_v,
    generate,
    invert,
    step,
    timesteps,
)

Spacing = Literal["trailing", "leading", "linspace"]
SPACINGS: tuple[Spacing, ...] = ("trailing", "leading", "linspace")

quick = settings(max_examples=20, deadline=None, derandomize=True)

SD15: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}


def alphas_cumprod() -> Tensor:
    """Of SD 1.5, as diffusers computes them."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float32) ** 2
    return torch.cumprod(1.0 - betas, dim=0)


def discrete(steps: int, spacing: str = "trailing") -> Schedule:
    alphas = alphas_cumprod()
    return discrete_schedule(alphas, timesteps(steps, spacing, offset=1), first=alphas[0].item())


def network(z: Tensor, timestep: float) -> Tensor:
    """A smooth network that heeds the clock, so that one step out shows."""
    return torch.tanh(0.8 * z + timestep / 1000)


def dummy(z: Tensor, here: Level, timestep: float) -> tuple[Tensor, Tensor]:
    return from_epsilon(network(z, timestep), z, here)


def dummy_v(z: Tensor, here: Level, timestep: float) -> tuple[Tensor, Tensor]:
    return from_v(network(z, timestep), z, here)


PREDICTIONS: dict[str, Predict] = {"epsilon": dummy, "v_prediction": dummy_v}


def noise(seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def furthest(a: Tensor, b: Tensor) -> float:
    return (a - b).abs().max().item()


# diffusers.


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("offset", [0, 1])
def test_timesteps_are_those_of_diffusers(spacing: Spacing, offset: int) -> None:
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler(**SD15 | {"steps_offset": offset}, timestep_spacing=spacing)
    for steps in (1, 2, 3, 7, 10, 20, 30, 50, 64, 99, 100, 250, 333, 500, 999, 1000):
        scheduler.set_timesteps(steps)
        assert timesteps(steps, spacing, offset=offset) == tuple(reversed(scheduler.timesteps.tolist())), steps


@pytest.mark.parametrize("spacing", SPACINGS)
def test_timesteps_of_any_number_are_those_of_diffusers_up_to_ties(spacing: Spacing) -> None:
    """Where a step falls halfway between two numbers, rounding in float64 decides."""
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler(timestep_spacing=spacing)
    for steps in range(1, 1001, 3):
        scheduler.set_timesteps(steps)
        theirs = scheduler.timesteps.tolist()[:steps][::-1]
        stride = Fraction(1000, steps) if spacing == "trailing" else Fraction(999, max(1, steps - 1))
        for i, (a, b) in enumerate(zip(timesteps(steps, spacing), theirs, strict=True)):
            steps_away = steps - 1 - i if spacing == "trailing" else i
            is_tie = spacing != "leading" and (steps_away * stride).denominator == 2
            assert a == b or (is_tie and abs(a - b) == 1), (steps, i)


def test_where_timesteps_begin_and_end() -> None:
    assert timesteps(50, "trailing")[::49] == (19, 999)
    assert timesteps(50, "leading", offset=1)[::49] == (1, 981)
    assert timesteps(50, "linspace")[::49] == (0, 999)
    assert timesteps(4, "trailing", train_steps=8) == (1, 3, 5, 7)


# `trailing` only where the number of steps divides 1000; elsewhere diffusers' stride leaves its own time steps.
GRIDS: list[tuple[Spacing, int]] = [("trailing", n) for n in (1, 2, 20, 50, 500)]
GRIDS += [("leading", n) for n in (2, 7, 20, 50, 500)]
TOLERANCES = {  # v multiplies the rounding of float32 more than ε
    ("epsilon", torch.float32): 2e-6,
    ("epsilon", torch.float64): 1e-13,
    ("v_prediction", torch.float32): 1e-5,
    ("v_prediction", torch.float64): 1e-13,
}


@pytest.mark.parametrize(("prediction", "dtype"), TOLERANCES)
@pytest.mark.parametrize(("spacing", "steps"), GRIDS)
def test_generation_is_that_of_ddim(spacing: Spacing, steps: int, prediction: str, dtype: torch.dtype) -> None:
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler(**SD15, timestep_spacing=spacing, prediction_type=prediction)
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.to(dtype)  # float32 as it stands, roots and all
    scheduler.final_alpha_cumprod = scheduler.final_alpha_cumprod.to(dtype)
    scheduler.set_timesteps(steps)
    start = z = noise(dtype=dtype)
    for t in scheduler.timesteps:
        z = scheduler.step(network(z, t.item()), t, z, eta=0.0, return_dict=False)[0]
    assert furthest(z, start) > 0.1
    ours = generate(PREDICTIONS[prediction], start, discrete(steps, spacing))
    assert furthest(ours, z) < TOLERANCES[prediction, dtype] * z.abs().max()


@pytest.mark.parametrize(("prediction", "dtype"), TOLERANCES)
@pytest.mark.parametrize(("spacing", "steps"), GRIDS)
def test_inversion_is_that_of_ddim(spacing: Spacing, steps: int, prediction: str, dtype: torch.dtype) -> None:
    """diffusers' inverse scheduler, too, tells the network the noisier end of each step."""
    from diffusers import DDIMInverseScheduler

    scheduler = DDIMInverseScheduler(**SD15, timestep_spacing=spacing, prediction_type=prediction)
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.to(dtype)
    scheduler.initial_alpha_cumprod = scheduler.initial_alpha_cumprod.to(dtype)
    scheduler.set_timesteps(steps)
    start = z = noise(dtype=dtype)
    for t in scheduler.timesteps:
        z = scheduler.step(network(z, t.item()), t, z, return_dict=False)[0]
    assert furthest(z, start) > 0.1
    ours = invert(PREDICTIONS[prediction], start, discrete(steps, spacing))
    assert furthest(ours, z) < TOLERANCES[prediction, dtype] * z.abs().max()


def test_the_noise_levels_are_those_of_sd15() -> None:
    from diffusers import DDIMScheduler

    assert torch.equal(DDIMScheduler(**SD15).alphas_cumprod, alphas_cumprod())
    assert discrete(50)[-1].noisy.alpha ** 2 == pytest.approx(0.0047, abs=5e-5)  # the paper's


# A ladder's build.


@pytest.mark.parametrize("spacing", ["trailing", "leading"])
@pytest.mark.parametrize("steps", [1, 2, 7, 50, 333, 500])
def test_each_rung_begins_where_the_one_below_ends(spacing: str, steps: int) -> None:
    alphas, schedule = alphas_cumprod(), discrete(steps, spacing)
    assert tuple(interval.timestep for interval in schedule) == timesteps(steps, spacing, offset=1)
    assert schedule[0].clean.alpha ** 2 == pytest.approx(alphas[0].item(), rel=1e-14)
    for below, above in pairwise(schedule):
        assert below.noisy == above.clean
    for interval in schedule:
        assert interval.noisy.alpha**2 == pytest.approx(alphas[int(interval.timestep)].item(), rel=1e-14)
        assert interval.noisy.alpha < interval.clean.alpha
        for level in (interval.clean, interval.noisy):
            assert level.alpha**2 + level.sigma**2 == pytest.approx(1, rel=1e-14)


def test_the_first_level_can_be_clean() -> None:
    interval = discrete_schedule(alphas_cumprod(), (19,), first=1.0)[0]
    assert interval.clean == Level(1.0, 0.0)


def test_the_clock_is_that_of_the_noisy_end_in_both_directions() -> None:
    a, b, c = Level(1.0, 0.0), Level(0.8, 0.6), Level(0.6, 0.8)
    schedule, asked = (Interval(a, b, 10.0), Interval(b, c, 20.0)), list[tuple[Level, float]]()

    def predict(z: Tensor, here: Level, timestep: float) -> tuple[Tensor, Tensor]:
        asked.append((here, timestep))
        return z, z

    z = torch.ones(1, 1, 1, 1)
    up = invert(predict, z, schedule)
    assert asked == [(a, 10), (b, 20)]
    asked.clear()
    down = generate(predict, z, schedule)
    assert asked == [(c, 20), (b, 10)]
    assert up.item() == pytest.approx((0.8 + 0.6) * (0.6 + 0.8))
    assert down.item() == pytest.approx((0.8 + 0.6) * 1.0)


def test_an_empty_ladder_leads_nowhere() -> None:
    z = noise()
    assert torch.equal(invert(dummy, z, ()), z)
    assert torch.equal(generate(dummy, z, ()), z)


# One step.


@quick
@given(alpha=st.floats(0.05, 1), sigma=st.floats(0, 1), seed=st.integers(0, 1000))
def test_x0_and_eps_put_together_where_they_were_taken_apart_give_z(alpha: float, sigma: float, seed: int) -> None:
    z, out, here = noise(seed, torch.float64), noise(seed + 1, torch.float64), Level(alpha, sigma)
    x0, eps = from_epsilon(out, z, here)
    assert torch.equal(eps, out)
    assert furthest(alpha * x0 + sigma * eps, z) < 1e-14
    assert furthest(step(lambda z, here, _: from_epsilon(out, z, here), z, here, here, 0.0), z) < 1e-14


@quick
@given(alpha=st.floats(0.05, 1), sigma=st.floats(0, 1), seed=st.integers(0, 1000))
def test_the_true_epsilon_gives_the_true_x0_and_leads_to_any_level(alpha: float, sigma: float, seed: int) -> None:
    x0, eps, here, there = (
        noise(seed, torch.float64),
        noise(seed + 1, torch.float64),
        Level(alpha, sigma),
        Level(0.3, 0.7),
    )
    z = alpha * x0 + sigma * eps
    assert furthest(from_epsilon(eps, z, here)[0], x0) < 1e-13
    moved = step(lambda z, here, _: from_epsilon(eps, z, here), z, here, there, 0.0)
    assert furthest(moved, 0.3 * x0 + 0.7 * eps) < 1e-13


@quick
@given(angle=st.floats(0, math.pi / 2), seed=st.integers(0, 1000))
def test_the_true_v_gives_the_true_x0_and_epsilon(angle: float, seed: int) -> None:
    """v = α·ε − σ·x0, at any level that keeps the variance."""
    x0, eps, here = noise(seed, torch.float64), noise(seed + 1, torch.float64), Level(math.cos(angle), math.sin(angle))
    z, v = here.alpha * x0 + here.sigma * eps, here.alpha * eps - here.sigma * x0
    for got, true in zip(from_v(v, z, here), (x0, eps), strict=True):
        assert furthest(got, true) < 1e-14


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_latents_precision_is_kept(dtype: torch.dtype) -> None:
    z, schedule = noise(dtype=dtype), discrete(7)
    assert invert(dummy, z, schedule).dtype == dtype
    assert generate(dummy, z, schedule).dtype == dtype


# Order of convergence.


def gaussian(std: float) -> Predict:
    """The exact prediction for data that are Gaussian: z has the variance v = α²s² + σ², and E[ε|z] = σz / v."""

    def predict(z: Tensor, here: Level, timestep: float) -> tuple[Tensor, Tensor]:
        return from_epsilon(here.sigma / variance(std, here) * z, z, here)

    return predict


def variance(std: float, level: Level) -> float:
    return level.alpha**2 * std**2 + level.sigma**2


@pytest.mark.parametrize("std", [0.3, 2.0])
@pytest.mark.parametrize("upwards", [False, True])
def test_gaussian_noise_becomes_gaussian_data_and_back(std: float, upwards: bool) -> None:
    """The ODE's solution only scales, so the std is right at every level; the error is of first order in 1/steps."""
    z, errors = noise(dtype=torch.float64), []
    for steps in (25, 50, 100, 200):
        schedule = discrete(steps)
        scale = (variance(std, schedule[0].clean) / variance(std, schedule[-1].noisy)) ** 0.5
        got, true = (invert, 1 / scale) if upwards else (generate, scale)
        moved = got(gaussian(std), z, schedule)
        assert furthest(moved / z, (moved / z).mean()) < 1e-12
        errors.append((moved.norm() / z.norm() / true - 1).abs().item())
    assert errors[-1] < 0.04
    for coarse, fine in pairwise(errors):
        assert 1.6 < coarse / fine < 2.4


def test_the_way_there_and_back_closes_at_first_order() -> None:
    z = noise(dtype=torch.float64)
    errors = [
        furthest(generate(dummy, invert(dummy, z, schedule), schedule), z)
        for schedule in map(discrete, (50, 100, 200, 500))
    ]
    assert errors[-1] < 0.05
    for ratio, coarse, fine in zip((2, 2, 2.5), errors[:-1], errors[1:], strict=True):
        assert coarse / fine == pytest.approx(ratio, rel=0.1)


# Errors.


@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_the_number_of_steps_has_bounds(steps: int) -> None:
    with pytest.raises(ValueError, match=f"between 1 and 1000, not {steps}"):
        timesteps(steps, "trailing")


def test_the_spacings_are_named_when_none_is_meant() -> None:
    with pytest.raises(ValueError, match="one of trailing, leading, linspace, not 'karras'"):
        timesteps(50, "karras")
