"""DDIM inversion (Song et al.): the deterministic sampler run backwards, as if ε did not change within a step."""

from dataclasses import replace

import torch
from torch import Tensor

from latentmix import sampling
from latentmix.config import InversionConfig
from latentmix.models.protocol import Conditioning, Model, predictor
from latentmix.sampling import Schedule


@torch.no_grad()
def invert(model: Model, z0: Tensor, schedule: Schedule, cond: Conditioning, _: InversionConfig) -> dict[str, Tensor]:
    return {"latents": sampling.invert(predictor(model, cond), z0, schedule)}


@torch.no_grad()
def generate(
    model: Model, state: dict[str, Tensor], schedule: Schedule, cond: Conditioning, _: InversionConfig
) -> Tensor:
    return sampling.generate(predictor(model, cond), state["latents"], schedule)


def negative_prompt(
    model: Model, state: dict[str, Tensor], schedule: Schedule, cond: Conditioning, settings: InversionConfig
) -> Tensor:
    """Generation with the prompt in the empty prompt's place (Miyake et al., "Negative-prompt inversion"), near which
    null-text inversion ends up. Both halves of guidance are then one and the same, so it is computed once."""
    return generate(model, state, schedule, replace(cond, guidance=1.0), settings)
