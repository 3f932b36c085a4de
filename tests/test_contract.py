"""The contract of inversions: latentmix's own keep it, and broken ones fail the check of the rule that they break."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from analytic import TwoPeaks, clean_latents, schedule, text
from torch import Tensor

from latentmix import sampling
from latentmix.compose import compose
from latentmix.inversion import INVERSIONS, ddim
from latentmix.inversion.base import Inversion, InversionSettings, State, generate
from latentmix.inversion.contract_check import CHECKS, Finding, Trial, check
from latentmix.models.protocol import Conditioning, Model, predictor

PRESETS = sorted(path.stem for path in Path(__file__).parents[1].joinpath("configs", "inversion").glob("*.yaml"))
STEPS = 20


def trial(inversion: Inversion, settings: InversionSettings) -> Trial:
    intervals = schedule(STEPS * inversion.intervals_per_step)
    return Trial(inversion, settings, TwoPeaks(), intervals, clean_latents(3), Conditioning(text(0.3), text(0.1)))  # type: ignore[arg-type]


@pytest.mark.parametrize("preset", PRESETS)
def test_latentmix_s_own_inversions_keep_the_contract(preset: str) -> None:
    settings = compose([f"inversion={preset}"]).inversion
    found = check(trial(INVERSIONS[settings.kind], settings))
    assert [finding.name for finding in found] == list(CHECKS)
    assert [finding for finding in found if not finding.passed] == []


def first_failure(inversion: Inversion) -> Finding:
    settings = inversion.settings("own", "own", STEPS, 1.0, "trailing")
    return next(finding for finding in check(trial(inversion, settings)) if not finding.passed)


def plain(model: Model, z0: Tensor, intervals: Any, cond: Conditioning) -> Tensor:
    return sampling.invert(predictor(model, cond), z0, intervals)


def neighbour(model: Model, z0: Tensor, intervals: Any, cond: Conditioning, _: Any) -> State:
    z = plain(model, z0, intervals, cond)
    return {"latents": z + z[:1] / 10}


def noise(model: Model, z0: Tensor, intervals: Any, cond: Conditioning, _: Any) -> State:
    return {"latents": plain(model, z0, intervals, cond) + 0.01 * torch.randn_like(z0[:1])}


def from_nothing(model: Model, z0: Tensor, intervals: Any, cond: Conditioning, _: Any) -> State:
    return {"latents": 0.01 * z0 + cond.guidance * cond.text.states.mean() - 5}


def unguided(model: Model, z0: Tensor, intervals: Any, cond: Conditioning, _: Any) -> State:
    return {"latents": plain(model, z0, intervals, replace(cond, guidance=1.0))}


def in_place(model: Model, z0: Tensor, intervals: Any, cond: Conditioning, _: Any) -> State:
    z = plain(model, z0, intervals, cond)
    z0.zero_()
    return {"latents": z}


def generate_unguided(model: Model, state: State, intervals: Any, cond: Conditioning, settings: Any) -> Tensor:
    return generate(model, state, intervals, replace(cond, guidance=1.0), settings)


def generate_with_noise(model: Model, state: State, intervals: Any, cond: Conditioning, settings: Any) -> Tensor:
    back = generate(model, state, intervals, cond, settings)
    return back + 0.01 * torch.randn_like(back)


def generate_by_neighbour(model: Model, state: State, intervals: Any, cond: Conditioning, settings: Any) -> Tensor:
    back = generate(model, state, intervals, cond, settings)
    return back + back[:1] / 10


@pytest.mark.parametrize(
    ("broken", "name", "detail"),
    [
        (Inversion(lambda *a: {"z": a[1]}), "state", "invert returns z; it should return latents"),
        (Inversion(lambda *a: {"latents": a[1][:, :2]}), "state", "latents are [3, 2, 8, 8]"),
        (Inversion(lambda *a: {"latents": a[1].float()}), "state", "torch.float32"),
        (Inversion(lambda *a: {"latents": a[1] / 0}), "state", "not finite: latents"),
        (Inversion(ddim.invert, extras={"nulls": None}), "state", "it should return latents, nulls"),
        (
            Inversion(lambda *a: {"latents": a[1], "nulls": a[1][:1]}, extras={"nulls": None}),
            "state",
            "nulls should have 3 rows",
        ),
        (Inversion(from_nothing), "round trip", "at most 0.7"),
        (Inversion(neighbour), "independence of the batch", "latents differs by"),
        (Inversion(ddim.invert, generate_by_neighbour), "independence of the batch", "generate differs by"),
        (Inversion(unguided), "guidance", "invert gives the same at guidance 1 and 3"),
        (Inversion(ddim.invert, generate_unguided), "guidance", "generate gives the same"),
        (Inversion(ddim.invert, unguided=True), "guidance", "generate gives not the same"),
        (Inversion(in_place), "determinism", "invert changes its input"),
        (Inversion(ddim.invert, nfe=lambda _: 0), "evaluations", "1 in generate; declared are 0, 1"),
        (Inversion(ddim.invert, predictions_per_step=2), "evaluations", "declared are 1, 2"),
    ],
)
def test_a_broken_inversion_fails_the_check_of_what_it_breaks(broken: Inversion, name: str, detail: str) -> None:
    found = first_failure(broken)
    assert (found.name, detail in found.detail) == (name, True), found


@pytest.mark.parametrize("broken", [Inversion(noise), Inversion(ddim.invert, generate_with_noise)])
def test_random_numbers_fail_the_check_of_determinism(broken: Inversion) -> None:
    """And that of the batch, before it."""
    settings = broken.settings("own", "own", STEPS, 1.0, "trailing")
    failed = {finding.name for finding in check(trial(broken, settings)) if not finding.passed}
    assert failed == {"independence of the batch", "determinism"}


def test_a_state_of_the_wrong_shape_ends_the_checks() -> None:
    broken: Callable[..., State] = lambda *a: {"latents": a[1][:, :1]}  # noqa: E731
    settings = InversionSettings("own", "own", STEPS, 1.0, "trailing")
    assert [finding.name for finding in check(trial(Inversion(broken), settings))] == ["state"]
