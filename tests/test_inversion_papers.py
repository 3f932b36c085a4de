"""Inversions against direct readings of the equations of their papers: the latents, not only the way back."""

import math
from dataclasses import fields
from itertools import pairwise
from types import ModuleType
from typing import Any

import analytic
import pytest
import torch
from analytic import TwoPeaks, clean_latents, text
from torch import Tensor

from latentmix.inversion import INVERSIONS, fixed_point, renoise
from latentmix.models.protocol import Conditioning, predictor
from latentmix.sampling import Level, Schedule, flow_schedule, flow_sigmas, move, move_by_noise, step


def distance(a: Tensor, b: Tensor) -> float:
    """Return the root mean square of the difference, over that of `b`."""
    return ((a - b).square().mean().sqrt() / b.square().mean().sqrt()).item()


def conditioning(guidance: float) -> Conditioning:
    return Conditioning(text(0.3), text(0.1), guidance=guidance)


def flow(steps: int, shift: float = 3.0) -> Schedule:
    return flow_schedule(flow_sigmas(steps, "trailing", shift=shift))


def invert(kind: str, schedule: Schedule, guidance: float, z0: Tensor, **changed: Any) -> dict[str, Tensor]:
    inversion, model = INVERSIONS[kind], TwoPeaks()
    steps = len(schedule) // inversion.intervals_per_step
    own = {field.name for field in fields(inversion.settings)} & {*changed}
    settings = inversion.settings(kind, kind, steps, guidance, "trailing", **{name: changed[name] for name in own})
    names = changed.get("names", [f"{row}" for row in range(len(z0))])
    return inversion.run(model, z0, schedule, conditioning(guidance), settings, names)  # type: ignore[arg-type]


@pytest.mark.parametrize("schedule", [analytic.schedule(9), flow(9)], ids=["diffusion", "flow"])
def test_moving_by_the_noise_predicted_at_z_is_a_step(schedule: Schedule) -> None:
    z = clean_latents(2)
    for interval in schedule:
        for here, there in ((interval.clean, interval.noisy), (interval.noisy, interval.clean)):
            x0, eps = TwoPeaks().predict(z, here, interval.timestep, conditioning(1))
            eps = (z - here.alpha * x0) / here.sigma if here.sigma else eps
            x0 = x0 if here.sigma else z / here.alpha
            expected = step(lambda *_, out=(x0, eps): out, z, here, there, interval.timestep)
            assert distance(move_by_noise(z, here, there, x0, eps), expected) < 1e-12


@pytest.mark.parametrize("alpha", [0.068, 1e-3, 2e-4])
def test_moving_by_the_noise_needs_no_x0_as_long_as_there_is_some_signal(alpha: float) -> None:
    """Down to a level of no signal but rounding, from which a division by α would lead anywhere."""
    z, eps, levels = clean_latents(2), clean_latents(2).flip(0), (Level(0.9, 0.1), Level(alpha, 1 - alpha))
    for here, there in (levels, levels[::-1]):
        expected = there.alpha * (z - here.sigma * eps) / here.alpha + there.sigma * eps
        assert distance(move_by_noise(z, here, there, torch.full_like(z, math.nan), eps), expected) < 1e-12
    silent = Level(1e-17, 1.0)
    for here, there in ((levels[0], silent), (silent, levels[0])):
        assert torch.equal(move_by_noise(z, here, there, z, eps), move(z, here, there, z, eps))


# EDICT (Wallace et al.).


def edict(schedule: Schedule, guidance: float, z0: Tensor, p: float) -> tuple[Tensor, Tensor]:
    """Return both latents at t = T, by the paper's equations with its a_t and b_t; the two alternate."""
    model, cond = TwoPeaks(), conditioning(guidance)
    x, y = z0, z0
    for index, interval in enumerate(schedule):
        before, after = interval.clean.alpha**2, interval.noisy.alpha**2
        a = math.sqrt(before / after)
        b = math.sqrt(1 - before) - math.sqrt(before * (1 - after) / after)

        def eps(z: Tensor, level: Level, t: float = interval.timestep) -> Tensor:
            return model.predict(z, level, t, cond)[1]

        if index % 2:
            x, y = y, x
        y_inter = (y - (1 - p) * x) / p
        x_inter = (x - (1 - p) * y_inter) / p
        y = (y_inter - b * eps(x_inter, interval.clean)) / a
        x = (x_inter - b * eps(y, interval.noisy)) / a
        if index % 2:
            x, y = y, x
    return x, y


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_exact_is_edict(guidance: float) -> None:
    schedule, z0 = analytic.schedule(51), clean_latents(2)
    found = invert("exact", schedule, guidance, z0)
    x, y = edict(schedule, guidance, z0, 0.93)
    assert distance(found["latents"], x) < 1e-9
    assert distance(found["partner"], y) < 1e-9
    assert found["latents"].norm().item() == pytest.approx(x.norm().item(), rel=1e-9)


@pytest.mark.parametrize("schedule", [analytic.schedule(50), flow(50)], ids=["diffusion", "flow"])
@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_the_two_latents_of_edict_stay_together(schedule: Schedule, guidance: float) -> None:
    """By the velocity, which moves a latent by its partner's x0 too, they were 2 to 3 times their norm apart."""
    z0 = clean_latents(2)
    state = invert("exact", schedule, guidance, z0)
    assert distance(state["partner"], state["latents"]) < 0.1
    assert state["latents"].norm() < 1.3 * invert("ddim", schedule, guidance, z0)["latents"].norm()


# Fixed points: AIDI (Pan et al.), ReNoise (Garibi et al.).


@pytest.mark.parametrize("iterations", [1, 4])
def test_fixed_point_iterates_noise(iterations: int) -> None:
    schedule, z0, model, cond = analytic.schedule(12), clean_latents(2), TwoPeaks(), conditioning(3)
    z = z0
    for interval in schedule:
        clean, level = z, interval.clean
        for _ in range(1 + iterations):
            eps = model.predict(z, level, interval.timestep, cond)[1]
            if level is interval.clean:  # DDIM's step is the first estimate; it takes x0 from the network too
                z = step(predictor(model, cond), z, interval.clean, interval.noisy, interval.timestep)  # type: ignore[arg-type]
            else:
                x0 = (clean - interval.clean.sigma * eps) / interval.clean.alpha
                z = interval.noisy.alpha * x0 + interval.noisy.sigma * eps
            level = interval.noisy
    found = invert("fixed_point", schedule, 3, z0, iterations=iterations, tolerance=0.0)["latents"]
    assert distance(found, z) < 1e-12


def test_fixed_point_stops_at_the_root_mean_square_of_a_change() -> None:
    schedule, z0, model, cond = analytic.schedule(12), clean_latents(1), TwoPeaks(), conditioning(3)
    z, counts, tolerance = z0, [], 1e-3
    for interval in schedule:
        clean = z
        z = step(predictor(model, cond), z, interval.clean, interval.noisy, interval.timestep)  # type: ignore[arg-type]
        count, change = 0, math.inf
        while change > tolerance:
            eps = model.predict(z, interval.noisy, interval.timestep, cond)[1]
            x0 = (clean - interval.clean.sigma * eps) / interval.clean.alpha
            before, z = z, interval.noisy.alpha * x0 + interval.noisy.sigma * eps
            count, change = count + 1, math.sqrt((z - before).square().mean())
        counts.append(count)
    assert len(set(counts)) > 2 and max(counts) < 60, counts
    found = invert("fixed_point", schedule, 3, z0, iterations=60, tolerance=tolerance)["latents"]
    assert distance(found, z) < 1e-12


@pytest.mark.parametrize("module", [fixed_point, renoise], ids=["fixed_point", "renoise"])
def test_iterating_noise_needs_fewer_calls_under_guidance(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both forms have the same fixed point. 8 iterations of ε come nearer to it than 20 of the velocity do."""
    schedule, z0, guidance = analytic.schedule(20), clean_latents(1), 7.5
    solved = invert("fixed_point", schedule, guidance, z0, iterations=300, tolerance=0.0)["latents"]

    def error(iterations: int) -> float:
        kind = module.__name__.rpartition(".")[2]
        found = invert(kind, schedule, guidance, z0, iterations=iterations, averaged=1, tolerance=0.0)
        return distance(found["latents"], solved)

    few, many = error(8), error(20)
    assert many < 0.6 * few
    monkeypatch.setattr(module, "move_by_noise", move)
    assert error(8) > 1.2 * few
    assert few < error(20) > 2 * many


# RF-Solver (Wang et al.), as its authors' code has it.


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_midpoint_is_rf_solver_on_a_flow(shift: float) -> None:
    schedule, z0, model, cond = flow(20, shift), clean_latents(2), TwoPeaks(), conditioning(1)

    def velocity(z: Tensor, sigma: float) -> Tensor:
        x0, eps = model.predict(z, Level(1 - sigma, sigma), 1000 * sigma, cond)
        return eps - x0

    z, ends = z0, [0.0, *(interval.noisy.sigma for interval in schedule[1::2])]
    for start, end in pairwise(ends):
        half = (end - start) / 2
        first = velocity(z, start)
        derivative = (velocity(z + half * first, start + half) - first) / half
        z = z + (end - start) * first + (end - start) ** 2 / 2 * derivative
    assert distance(invert("midpoint", schedule, 1, z0)["latents"], z) < 1e-9


# Forward noise in place of the first steps (Staniszewski et al.).


@pytest.mark.parametrize("schedule", [analytic.schedule(9), flow(9)], ids=["diffusion", "flow"])
@pytest.mark.parametrize("replaced", [1, 3, 9])
def test_the_first_steps_are_replaced_by_the_forward_process(schedule: Schedule, replaced: int) -> None:
    """The noise is recovered from the result, by undoing the steps that remain."""
    z0, predict = clean_latents(64, (4, 8, 8)), predictor(TwoPeaks(), conditioning(1))  # type: ignore[arg-type]
    latents = invert("forward", schedule, 1, z0, replaced=replaced)["latents"]
    level = schedule[replaced - 1].noisy
    # Of these, every step is invertible by fixed-point iteration.
    z = latents
    for interval in reversed(schedule[replaced:]):
        before = z
        for _ in range(200):
            before = before + z - step(predict, before, interval.clean, interval.noisy, interval.timestep)
        z = before
    eps = (z - level.alpha * z0) / level.sigma
    assert abs(eps.mean()) < 0.02 and eps.std().item() == pytest.approx(1, abs=0.02)
    assert abs((eps * z0).mean()) < 0.03  # of the image it knows nothing
    between = torch.corrcoef(eps.flatten(1))
    assert (between - torch.eye(64)).abs().max() < 0.3  # a common noise would be a bias


def test_forward_noise_depends_on_the_image_and_the_seed_alone() -> None:
    z0, schedule = clean_latents(4), analytic.schedule(6)
    together = invert("forward", schedule, 1, z0)["latents"]
    alone = invert("forward", schedule, 1, z0[2:3], names=["2"])["latents"]
    assert distance(alone, together[2:3]) < 1e-6
    encoded_elsewhere = invert("forward", schedule, 1, z0 * (1 + 1e-6))["latents"]
    assert distance(encoded_elsewhere, together) < 1e-4
    assert distance(invert("forward", schedule, 1, z0, names=list("abcd"))["latents"], together) > 0.1
    assert distance(invert("forward", schedule, 1, z0, seed=1)["latents"], together) > 0.1
    with pytest.raises(ValueError, match="replaced=7 is more than steps=6"):
        invert("forward", schedule, 1, z0, replaced=7)
