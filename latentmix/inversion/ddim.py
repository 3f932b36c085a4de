"""DDIM inversion (Song et al.): the deterministic sampler run backwards, as if ε did not change within a step."""

from dataclasses import replace

import torch
from torch import Tensor

from latentmix import ladder
from latentmix.config import InversionConfig
from latentmix.ladder import Ladder
from latentmix.models import Conditioning, Model, predictor


@torch.no_grad()
def invert(model: Model, z0: Tensor, rungs: Ladder, told: Conditioning, _: InversionConfig) -> dict[str, Tensor]:
    return {"latents": ladder.invert(predictor(model, told), z0, rungs)}


@torch.no_grad()
def generate(model: Model, state: dict[str, Tensor], rungs: Ladder, told: Conditioning, _: InversionConfig) -> Tensor:
    return ladder.generate(predictor(model, told), state["latents"], rungs)


def negative_prompt(
    model: Model, state: dict[str, Tensor], rungs: Ladder, told: Conditioning, settings: InversionConfig
) -> Tensor:
    """Generation with the prompt in the empty prompt's place (Miyake et al., "Negative-prompt inversion"), near which
    null-text inversion ends up. Both halves of guidance are then one and the same, so it is computed once."""
    return generate(model, state, rungs, replace(told, guidance=1.0), settings)
