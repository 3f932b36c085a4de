"""What latentmix needs of a diffusion model: text conditioning, the model's interface, classifier-free guidance."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from latentmix.gpu import tf32
from latentmix.sampling import Level, Predict, Schedule


@dataclass(frozen=True)
class Text:
    """Encoded prompts: `states` [B, S, D] of tokens and an embedding `pooled` [B, P]; P = 0 in families without one."""

    states: Tensor
    pooled: Tensor

    def expand(self, rows: int) -> "Text":
        """Return one prompt repeated to `rows` rows; prompts that are as many already are returned as they are."""
        return Text(self.states.expand(rows, -1, -1), self.pooled.expand(rows, -1))

    def mixed(self, weights: Tensor) -> "Text":
        """Return K linear mixtures of the rows by weights [K, B], summed in float32."""
        w, parts = weights.to(self.states.device, torch.float32), (self.states, self.pooled)
        return Text(*((w @ x.float().flatten(1)).unflatten(1, x.shape[1:]).to(x.dtype) for x in parts))

    def __add__(self, other: "Text") -> "Text":
        """Return the prompts of both, concatenated."""
        return Text(torch.cat([self.states, other.states]), torch.cat([self.pooled, other.pooled]))


@dataclass(frozen=True)
class Conditioning:
    """A prompt, the empty prompt, and the guidance scale (1 is no guidance)."""

    text: Text
    null: Text
    guidance: float = 1.0

    def expand(self, rows: int) -> Text:
        """Return the prompt for each of `rows` latents; under guidance, the empty prompt as many times before it."""
        text = self.text.expand(rows)
        return text if self.guidance == 1 else self.null.expand(rows) + text


class Model(Protocol):
    """A diffusion model, as every family provides it."""

    def latent_shape(self, size: int | str) -> tuple[int, int, int]:
        """Return C, h, w for images of a size, 512 or "768x512". Raises: ValueError where the model can't take it."""

    @property
    def dtype(self) -> torch.dtype:
        """Return the precision of the diffusion network."""

    @property
    def identity(self) -> dict[str, str]:
        """Return what results depend on: a digest of the weights, the precision, and more in some families."""

    def schedule(self, steps: int, spacing: str) -> Schedule:
        """Return the intervals from clean to noisy. Raises: UserError for steps or a spacing that it can't have."""

    def embed(self, prompts: Sequence[str]) -> Text:
        """Return prompts encoded, one row each. The text encoders are loaded and freed within the call."""

    def predict(self, z: Tensor, level: Level, timestep: float, conditioning: Conditioning) -> tuple[Tensor, Tensor]:
        """Return x0 and ε for latents [B, C, h, w] at a noise level, all in float32."""

    def encode(self, images: Tensor) -> Tensor:
        """Return clean latents [B, C, h, w], float32, of uint8 images [B, 3, H, W]: the scaled posterior mean."""

    def decode(self, latents: Tensor) -> Tensor:
        """Return uint8 images [B, 3, H, W] of clean latents [B, C, h, w], rounded."""

    @property
    def text_shape(self) -> tuple[int, int]:
        """Return S, D of a prompt's states, without loading weights."""


def matmul_precision(model: object) -> AbstractContextManager[None]:
    """Return a context in which products of float32 tensors are TF32 if the model's precision says so, else float32."""
    return tf32(getattr(model, "precision", "float32").startswith("tf32"))


def predictor(model: Model, conditioning: Conditioning) -> Predict:
    """Return the model's `predict` for one conditioning, as `sampling` takes it."""
    return lambda z, level, timestep: model.predict(z, level, timestep, conditioning)


def guided(network: Callable[[Tensor, Text], Tensor], z: Tensor, conditioning: Conditioning) -> Tensor:
    """Return the network's output under classifier-free guidance (Ho & Salimans), both predictions in one batch."""
    text = conditioning.expand(len(z))
    if conditioning.guidance == 1:
        return network(z, text)
    out_null, out_text = network(torch.cat([z, z]), text).chunk(2)
    return out_null + conditioning.guidance * (out_text - out_null)
