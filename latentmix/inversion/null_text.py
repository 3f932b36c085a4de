"""Null-text inversion (Mokady et al.): DDIM inversion without guidance, then an embedding of the empty prompt for every
step of generation, optimised such that generation under guidance follows the path of the inversion.

A batch gives the same as its images one by one: their losses are summed, and an image that is near enough is frozen,
its embedding as well as its moments in Adam.
"""

from dataclasses import replace
from typing import Annotated

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from latentmix.inversion.base import Inversion, InversionSettings, State
from latentmix.models.protocol import Conditioning, Model, Text, predictor
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
        self._with_prompt = self._predict(cond.text.expand(len(z)))

    def __call__(self, null: Text) -> Tensor:
        """Return the latents at the clean end of the interval."""
        with_null = self._predict(null)
        x0, eps = (n + self._guidance * (p - n) for n, p in zip(with_null, self._with_prompt, strict=True))
        return self._interval.clean.alpha * x0 + self._interval.clean.sigma * eps

    def _predict(self, text: Text) -> tuple[Tensor, Tensor]:
        return self._model.predict(self._z, self._interval.noisy, self._interval.timestep, Conditioning(text, text))


def _optimise(guided_step: _GuidedStep, null: Text, target: Tensor, index: int, settings: NullTextSettings) -> Text:
    """Return the empty prompt with which step `index` leads nearest to `target`, by Adam (0.9, 0.999) from `null`."""
    rate = max(settings.learning_rate * (1 - index / 100), 1e-8)
    states = null.states
    first = second = torch.zeros_like(states)  # Adam's moments
    active = torch.ones(len(states), 1, 1, dtype=torch.bool, device=states.device)
    for count in range(1, settings.iterations + 1):
        with torch.enable_grad():
            leaf = states.detach().requires_grad_()
            errors = (guided_step(replace(null, states=leaf)) - target).square().mean((1, 2, 3))
            (gradient,) = torch.autograd.grad(errors.sum(), leaf)
        first = torch.where(active, torch.lerp(gradient, first, 0.9), first)
        second = torch.where(active, torch.lerp(gradient.square(), second, 0.999), second)
        scale = (second / (1 - 0.999**count)).sqrt() + 1e-8
        states = torch.where(active, states - rate * first / (1 - 0.9**count) / scale, states)
        active = active & (errors >= 1e-5 + 2e-5 * index).view(-1, 1, 1)
        if not active.any():
            break
    return replace(null, states=states)


NULL_TEXT = Inversion(
    invert,
    generate,
    NullTextSettings,
    extras={"nulls": "lin/0"},  # as the paper's Appendix B does
    extra_numbers=lambda settings, latent, text: settings.steps * text,
    paired=("steps", "guidance", "spacing"),
    nfe=lambda settings: 3 + 3 * settings.iterations,  # a gradient costs two evaluations
)
