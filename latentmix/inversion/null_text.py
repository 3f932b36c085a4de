"""Null-text inversion (Mokady et al.): DDIM inversion without guidance, then, for every step of generation under
guidance, an embedding of the empty prompt that keeps it on the inversion's path.

A batch gives what its images give one by one: their losses are added up, and an image that is near enough is frozen,
its embedding and its moments in Adam.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from latentmix.config import InversionConfig
from latentmix.models.protocol import Conditioning, Model, Text, predictor
from latentmix.sampling import Interval, Schedule, step


@torch.no_grad()
def invert(
    model: Model, z0: Tensor, schedule: Schedule, cond: Conditioning, settings: InversionConfig
) -> dict[str, Tensor]:
    """Latents at the ladder's top, and `nulls` [B, steps, S, D], the empty prompt's states from noisy to clean."""
    path, alone = [z0], replace(cond, guidance=1.0)
    for interval in schedule:
        path.append(step(predictor(model, alone), path[-1], interval.clean, interval.noisy, interval.timestep))
    z, null, nulls = path[-1], cond.null.expand(len(z0)), []
    for place, (interval, target) in enumerate(zip(reversed(schedule), reversed(path[:-1]), strict=True)):
        null = _fitted(_Step(model, z, interval, cond, target), null, place, settings)
        z = _there(_Step(model, z, interval, cond, target), null)
        nulls.append(null.states)
    return {"latents": path[-1], "nulls": torch.stack(nulls, 1)}


@torch.no_grad()
def generate(
    model: Model, state: dict[str, Tensor], schedule: Schedule, cond: Conditioning, _: InversionConfig
) -> Tensor:
    """With the empty prompts' embeddings of the inversion, or a mixture of several's."""
    z, nulls = state["latents"], state["nulls"].to(cond.null.states)
    for place, interval in enumerate(reversed(schedule)):
        null = replace(cond.null.expand(len(z)), states=nulls[:, place])
        z = step(predictor(model, replace(cond, null=null)), z, interval.noisy, interval.clean, interval.timestep)
    return z


@dataclass(frozen=True)
class _Step:
    """One step of generation, and where it should lead."""

    model: Model
    z: Tensor
    interval: Interval
    cond: Conditioning
    target: Tensor

    def predict(self, text: Text) -> tuple[Tensor, Tensor]:
        return self.model.predict(self.z, self.interval.noisy, self.interval.timestep, Conditioning(text, text))


def _there(at: _Step, null: Text, cond: tuple[Tensor, Tensor] | None = None) -> Tensor:
    """Where the step leads under guidance with this empty prompt; x0 and ε are affine in the network's output, so that
    they can be guided in its place, and the prompt's be predicted once."""
    with_text = cond or at.predict(at.cond.text.expand(len(at.z)))
    guided = [n + at.cond.guidance * (t - n) for t, n in zip(with_text, at.predict(null), strict=True)]
    return at.interval.clean.alpha * guided[0] + at.interval.clean.sigma * guided[1]


def _fitted(at: _Step, null: Text, place: int, settings: InversionConfig) -> Text:
    """The empty prompt with which step number `place` leads nearest to its target, by Adam (0.9, 0.999) from `null`."""
    rate = max(settings.learning_rate * (1 - place / 100), 1e-8)
    with_text = at.predict(at.cond.text.expand(len(at.z)))
    states = null.states
    first = second = torch.zeros_like(states)
    unfinished = torch.ones(len(states), 1, 1, dtype=torch.bool, device=states.device)
    for count in range(1, settings.iterations + 1):
        with torch.enable_grad():
            tried = states.detach().requires_grad_()
            errors = (_there(at, replace(null, states=tried), with_text) - at.target).square().mean((1, 2, 3))
            (gradient,) = torch.autograd.grad(errors.sum(), tried)
        first = torch.where(unfinished, torch.lerp(gradient, first, 0.9), first)
        second = torch.where(unfinished, torch.lerp(gradient.square(), second, 0.999), second)
        scale = (second / (1 - 0.999**count)).sqrt() + 1e-8
        states = torch.where(unfinished, states - rate * first / (1 - 0.9**count) / scale, states)
        unfinished = unfinished & (errors >= 1e-5 + 2e-5 * place).view(-1, 1, 1)
        if not unfinished.any():
            break
    return replace(null, states=states)
