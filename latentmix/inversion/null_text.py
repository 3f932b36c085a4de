"""Null-text inversion (Mokady et al.): DDIM inversion without guidance, then an embedding of the empty prompt for every
step of generation, optimised such that generation under guidance follows the path of the inversion.

A batch gives the same results as its images alone: the losses of images are summed, and an image that is near enough to
its path leaves the batch until the next step.
"""

from dataclasses import replace
from typing import Annotated

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from latentmix.gpu import deterministic
from latentmix.inversion.base import Inversion, InversionSettings, State
from latentmix.models.compile import uncompiled
from latentmix.models.protocol import Conditioning, Model, Text, matmul_precision, predictor
from latentmix.sampling import Interval, Schedule, step, trajectory
from latentmix.settings import STRICT, Positive


@dataclass(frozen=True, config=STRICT)
class NullTextSettings(InversionSettings):
    iterations: Positive = 10  # of Adam, at most, for each step
    learning_rate: Annotated[float, Field(gt=0)] = 0.01


@torch.no_grad()
def invert(model: Model, z0: Tensor, schedule: Schedule, cond: Conditioning, settings: NullTextSettings) -> State:
    """Return the latents at t = T, and `nulls` [B, steps, S, D], the empty prompt's states from noisy to clean."""
    path = list(trajectory(predictor(model, replace(cond, guidance=1.0)), z0, schedule))
    z, null, nulls = path[-1], cond.null.expand(len(z0)), []
    # Batches of many sizes are not compiled. The gradients need the contexts that `predict` has.
    with uncompiled(), matmul_precision(model), deterministic(z0.device):
        for index, (interval, target) in enumerate(zip(reversed(schedule), reversed(path[:-1]), strict=True)):
            guided_step = _GuidedStep(model, z, interval, cond)
            null = _optimise(guided_step, null, target, index, settings)
            z = guided_step(null)
            nulls.append(null.states)
    return {"latents": path[-1], "nulls": torch.stack(nulls, 1)}


@torch.no_grad()
def generate(model: Model, state: State, schedule: Schedule, cond: Conditioning, _: NullTextSettings) -> Tensor:
    """Return clean latents, with the embeddings `nulls` of one image or mixed from several."""
    z, nulls = state["latents"], state["nulls"].to(cond.null.states)
    for index, interval in enumerate(reversed(schedule)):
        null = replace(cond.null.expand(len(z)), states=nulls[:, index])
        z = step(predictor(model, replace(cond, null=null)), z, interval.noisy, interval.clean, interval.timestep)
    return z


class _GuidedStep:
    """One step of generation under guidance from z, as a function of the empty prompt.

    x0 and ε are affine in the network's output, so guidance can be applied to them, and the prompt is predicted once.
    """

    def __init__(self, model: Model, z: Tensor, interval: Interval, cond: Conditioning) -> None:
        self._model, self._z, self._interval, self._guidance = model, z, interval, cond.guidance
        self._with_prompt = self._predict(z, cond.text.expand(len(z)))

    def __call__(self, null: Text, rows: Tensor | slice = slice(None)) -> Tensor:
        """Return the latents at the clean end of the interval, of some rows of z."""
        with_null, with_prompt = self._predict(self._z[rows], null), [x[rows] for x in self._with_prompt]
        x0, eps = (n + self._guidance * (p - n) for n, p in zip(with_null, with_prompt, strict=True))
        return self._interval.clean.alpha * x0 + self._interval.clean.sigma * eps

    def _predict(self, z: Tensor, text: Text) -> tuple[Tensor, Tensor]:
        return self._model.predict(z, self._interval.noisy, self._interval.timestep, Conditioning(text, text))


def _optimise(guided_step: _GuidedStep, null: Text, target: Tensor, index: int, settings: NullTextSettings) -> Text:
    """Return the empty prompt with which step `index` leads nearest to `target`, by Adam (0.9, 0.999) from `null`."""
    rate = max(settings.learning_rate * (1 - index / 100), 1e-8)
    found = null.states.clone()
    states, rows = found, torch.arange(len(found), device=found.device)  # of images that are not near enough
    first = second = torch.zeros_like(states)  # Adam's moments
    for count in range(1, settings.iterations + 1):
        with torch.enable_grad():
            leaf = states.detach().requires_grad_()
            errors = (guided_step(Text(leaf, null.pooled[rows]), rows) - target[rows]).square().mean((1, 2, 3))
            (gradient,) = torch.autograd.grad(errors.sum(), leaf)
        first = torch.lerp(gradient, first, 0.9)
        second = torch.lerp(gradient.square(), second, 0.999)
        scale = (second / (1 - 0.999**count)).sqrt() + 1e-8
        states = states - rate * first / (1 - 0.9**count) / scale
        found[rows] = states
        far = errors >= 1e-5 + 2e-5 * index
        if not far.any():
            break
        rows, states, first, second = rows[far], states[far], first[far], second[far]
    return replace(null, states=found)


NULL_TEXT = Inversion(
    invert,
    generate,
    NullTextSettings,
    extras={"nulls": "lin/0"},  # as the paper's Appendix B does
    extra_numbers=lambda settings, latent, text: settings.steps * text,
    paired=("steps", "guidance", "spacing"),
    needs_guidance=True,
    nfe=lambda settings: 3 + 3 * settings.iterations,  # a gradient costs two evaluations
)
