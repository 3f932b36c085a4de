"""DDIM inversion (Song et al.): the deterministic sampler run backwards, as if ε did not change within a step."""

from dataclasses import replace

import torch
from torch import Tensor

from latentmix import sampling
from latentmix.inversion.base import Inversion, InversionSettings, State, generate
from latentmix.models.protocol import Conditioning, Model, predictor
from latentmix.sampling import Schedule


@torch.no_grad()
def invert(model: Model, z0: Tensor, schedule: Schedule, cond: Conditioning, _: InversionSettings) -> State:
    """Return the latents at t = T."""
    return {"latents": sampling.invert(predictor(model, cond), z0, schedule)}


def generate_unguided(
    model: Model, state: State, schedule: Schedule, cond: Conditioning, settings: InversionSettings
) -> Tensor:
    """Return clean latents with the prompt in place of the empty prompt (Miyake et al., "Negative-prompt inversion").

    This approximates null-text inversion. Both predictions of guidance are equal, so guidance has no effect.
    """
    return generate(model, state, schedule, replace(cond, guidance=1.0), settings)


DDIM = Inversion(invert)
NEGATIVE_PROMPT = Inversion(invert, generate_unguided, unguided=True)
