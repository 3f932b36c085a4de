"""Diffusion models as the rest of latentmix sees them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from latentmix.config import ModelConfig
from latentmix.ladder import Ladder, Level


@dataclass(frozen=True)
class Conditioning:
    """What a network is told besides the clock: text [B or 1, S, D], the empty prompt's [1, S, D], and how far to go
    from the second to the first (classifier-free guidance; 1 is no guidance)."""

    text: Tensor
    null: Tensor
    guidance: float = 1.0


class Model(Protocol):
    """Everything that a family of models must say for itself."""

    @property
    def identity(self) -> dict[str, str]:
        """What its results depend on: the weights and their precision."""

    def ladder(self, steps: int, spacing: str) -> Ladder:
        """The rungs from clean to noisy."""

    def embed(self, prompts: Sequence[str]) -> Conditioning: ...

    def predict(self, z: Tensor, here: Level, clock: float, conditioning: Conditioning) -> tuple[Tensor, Tensor]:
        """float32 latents [B, C, h, w] at a level -> x0 and ε, likewise."""

    def encode(self, images: Tensor) -> Tensor:
        """uint8 [B, 3, H, W] -> clean latents [B, C, h, w] in the network's scale, the posterior's mean."""

    def decode(self, latents: Tensor) -> Tensor:
        """Clean latents [B, C, h, w] -> uint8 [B, 3, H, W], rounded."""


def load_model(config: ModelConfig, device: torch.device) -> Model:
    from latentmix.models.unet import UNetModel, find

    return UNetModel(find(config), config.precision, device)
