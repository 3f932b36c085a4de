"""DDIM inversion (Song et al.): the deterministic sampler run backwards, as if ε did not change within a step."""

import torch
from torch import Tensor

from latentmix.ladder import Ladder, invert
from latentmix.models import Conditioning, Model


@torch.no_grad()
def ddim(model: Model, z0: Tensor, ladder: Ladder, conditioning: Conditioning) -> Tensor:
    """Clean latents [B, C, h, w] -> latents at the ladder's top, likewise."""
    return invert(lambda z, here, clock: model.predict(z, here, clock, conditioning), z0, ladder)
