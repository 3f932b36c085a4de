"""The rules for inversions, checked by running one: `latentmix check-inversion NAME`.

Images share batches with others, are cached one by one, and may be inverted by several workers. So results of an
inversion that breaks one of these rules depend on how a run went.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from latentmix.inversion.base import Inversion, InversionSettings, State, cfg_factor
from latentmix.models.protocol import Conditioning, Model
from latentmix.sampling import Level, Schedule

ROUND_TRIP = 0.7  # largest error of the round trip, half of what unrelated latents have
ROUNDING = {torch.float16: 0.05, torch.bfloat16: 0.05}  # largest difference between equal computations, by dtype
GUIDANCE = 3.0  # scale that is compared with no guidance


@dataclass(frozen=True)
class Finding:
    name: str
    passed: bool
    detail: str


@dataclass(frozen=True)
class Trial:
    """An inversion, and what it is tried on: clean latents [B, C, h, w] of at least two images, and their prompt."""

    inversion: Inversion
    settings: InversionSettings
    model: Model
    schedule: Schedule  # settings.steps * inversion.intervals_per_step intervals
    clean: Tensor
    prompt: Conditioning

    def invert(self, rows: slice = slice(None), guidance: float | None = None, clean: Tensor | None = None) -> State:
        """Return the state of some images, under the settings' own guidance or another."""
        settings = replace(self.settings, guidance=self.settings.guidance if guidance is None else guidance)
        cond = replace(self.prompt, guidance=settings.guidance)
        z, names = (self.clean.clone() if clean is None else clean)[rows], [f"{row}" for row in range(len(self.clean))]
        return self.inversion.run(self.model, z, self.schedule, cond, settings, names[rows])

    def generate(self, state: State, guidance: float | None = None) -> Tensor:
        """Return the clean latents of a state."""
        cond = replace(self.prompt, guidance=self.settings.guidance if guidance is None else guidance)
        copy = {name: tensor.clone() for name, tensor in state.items()}
        return self.inversion.generate(self.model, copy, self.schedule, cond, self.settings)


def check(trial: Trial) -> list[Finding]:
    """Return a finding for each rule. A wrong state ends the checks, as the others build on it."""
    findings = []
    for name, rule in CHECKS.items():
        failure, detail = rule(trial)
        findings.append(Finding(name, not failure, detail))
        if failure and rule is _state:
            break
    return findings


Result = tuple[bool, str]  # whether the check failed, and what it saw


def _state(trial: Trial) -> Result:
    """Check that `invert` returns finite `latents` of the input's shape and dtype, and extras of a row per image."""
    state, wanted = trial.invert(), {"latents", *trial.inversion.extras}
    if set(state) != wanted:
        return True, f"invert returns {', '.join(sorted(state))}; it should return {', '.join(sorted(wanted))}"
    latents = state["latents"]
    if latents.shape != trial.clean.shape or latents.dtype != trial.clean.dtype:
        return True, f"latents are {list(latents.shape)}, {latents.dtype}; clean ones {list(trial.clean.shape)}"
    short = [name for name, tensor in state.items() if len(tensor) != len(trial.clean)]
    if short:
        return True, f"{', '.join(short)} should have {len(trial.clean)} rows, one for each image"
    infinite = [name for name, tensor in state.items() if not tensor.isfinite().all()]
    return bool(infinite), f"not finite: {', '.join(infinite)}" if infinite else ", ".join(sorted(wanted))


def _round_trip(trial: Trial) -> Result:
    """Check that generation with the same steps and guidance leads back to the image."""
    error = _distance(trial.generate(trial.invert()), trial.clean)
    return not error < ROUND_TRIP, f"error {error:.3g} of the latents' root mean square; at most {ROUND_TRIP:g}"


def _batch(trial: Trial) -> Result:
    """Check that an image gives the same result alone as in a batch."""
    together = trial.invert()
    back = trial.generate(together)
    errors = {"generate": 0.0}
    for row in range(len(trial.clean)):
        alone = trial.invert(slice(row, row + 1))
        for name, tensor in alone.items():
            errors[name] = max(errors.get(name, 0.0), _distance(together[name][row : row + 1], tensor))
        image = trial.generate({name: tensor[row : row + 1] for name, tensor in together.items()})
        errors["generate"] = max(errors["generate"], _distance(back[row : row + 1], image))
    worst = max(errors, key=lambda name: errors[name])
    return errors[worst] > _rounding(trial), f"{worst} differs by {errors[worst]:.2g}; at most {_rounding(trial):g}"


def _guidance(trial: Trial) -> Result:
    """Check that the guidance scale changes both directions, except generation that is declared `unguided`."""
    plain, guided = trial.invert(guidance=1.0), trial.invert(guidance=GUIDANCE)
    inverted = max(_distance(guided[name], plain[name]) for name in plain)
    generated = _distance(trial.generate(plain, guidance=GUIDANCE), trial.generate(plain, guidance=1.0))
    if inverted == 0:
        return True, f"invert gives the same at guidance 1 and {GUIDANCE:g}"
    if trial.inversion.unguided != (generated == 0):
        same = "the same" if generated == 0 else "not the same"
        return True, f"generate gives {same} at guidance 1 and {GUIDANCE:g}, with unguided={trial.inversion.unguided}"
    return False, f"at guidance {GUIDANCE:g}, invert differs by {inverted:.2g} and generate by {generated:.2g}"


def _determinism(trial: Trial) -> Result:
    """Check that the same input gives the same output, whatever random numbers were drawn, and is not changed."""
    clean = trial.clean.clone()
    first = trial.invert(clean=clean)
    if not torch.equal(clean, trial.clean):
        return True, "invert changes its input"
    back = trial.generate(first)
    torch.rand(1)
    second = trial.invert()
    errors = [_distance(second[name], first[name]) for name in first] + [_distance(trial.generate(first), back)]
    return max(errors) > _rounding(trial), f"repeated, it differs by {max(errors):.2g}; at most {_rounding(trial):g}"


def _evaluations(trial: Trial) -> Result:
    """Check that a step evaluates the network at most `nfe` times, and in generation `nfe_generation` times."""
    counting = _Counting(trial.model)
    steps = len(trial.schedule) // trial.inversion.intervals_per_step
    counted = replace(trial, model=counting)
    state = counted.invert()
    inverted, counting.evaluations = counting.evaluations / steps, 0
    counted.generate(state)
    generated = counting.evaluations / steps
    nfe = trial.inversion.nfe(trial.settings), trial.inversion.nfe_generation(trial.settings.guidance)
    seen = f"a step takes {inverted:g} evaluations in invert, {generated:g} in generate"
    return inverted > nfe[0] or generated != nfe[1], f"{seen}; declared are {nfe[0]}, {nfe[1]}"


CHECKS: dict[str, Callable[[Trial], Result]] = {
    "state": _state,
    "round trip": _round_trip,
    "independence of the batch": _batch,
    "guidance": _guidance,
    "determinism": _determinism,
    "evaluations": _evaluations,
}


class _Counting:
    """A model that counts the evaluations of its network."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self.evaluations = 0

    def predict(self, z: Tensor, level: Level, timestep: float, conditioning: Conditioning) -> tuple[Tensor, Tensor]:
        self.evaluations += cfg_factor(conditioning.guidance)
        return self._model.predict(z, level, timestep, conditioning)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


def _rounding(trial: Trial) -> float:
    return ROUNDING.get(trial.model.dtype, 1e-3)


def _distance(a: Tensor, b: Tensor) -> float:
    """Return the root mean square of a − b, relative to that of b."""
    return ((a - b).square().mean().sqrt() / b.square().mean().sqrt().clamp_min(1e-12)).item()
