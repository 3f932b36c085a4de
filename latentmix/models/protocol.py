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
    """Encoded prompts, a row each: states [B, S, D] and a summary `pooled` [B, P]; P is 0 for families without one."""

    states: Tensor
    pooled: Tensor

    def expand(self, rows: int) -> "Text":
        """Return one prompt repeated for a batch; no change where it has `rows` rows already."""
        return Text(self.states.expand(rows, -1, -1), self.pooled.expand(rows, -1))

    def mixed(self, weights: Tensor) -> "Text":
        """Return K linear mixtures of the rows by weights [K, B], summed in float32."""
        w, parts = weights.to(self.states.device, torch.float32), (self.states, self.pooled)
        return Text(*((w @ x.float().flatten(1)).unflatten(1, x.shape[1:]).to(x.dtype) for x in parts))

    def __add__(self, other: "Text") -> "Text":
        """Return the rows of both."""
        return Text(torch.cat([self.states, other.states]), torch.cat([self.pooled, other.pooled]))


@dataclass(frozen=True)
class Conditioning:
    """A prompt, the empty prompt, and the guidance scale (1 is no guidance)."""

    text: Text
    null: Text
    guidance: float = 1.0

    def expand(self, rows: int) -> Text:
        """Return the prompt for each of `rows` latents; under guidance, after as many times the empty prompt."""
        text = self.text.expand(rows)
        return text if self.guidance == 1 else self.null.expand(rows) + text


class Model(Protocol):
    """Everything that a family of models must provide."""

    def latent_shape(self, size: int | str) -> tuple[int, int, int]:
        """Return C, h, w of the latents of images of a size, 512 or "768x512". Raises: ValueError for an unfit one."""

    @property
    def dtype(self) -> torch.dtype:
        """Return the precision of the diffusion network."""

    @property
    def identity(self) -> dict[str, str]:
        """Return what results depend on: the weights and their precision."""

    def schedule(self, steps: int, spacing: str) -> Schedule:
        """Return the intervals from clean to noisy."""

    def embed(self, prompts: Sequence[str]) -> Text:
        """Encode prompts, one row each. The text encoders are loaded and freed within the call."""

    def predict(self, z: Tensor, level: Level, timestep: float, conditioning: Conditioning) -> tuple[Tensor, Tensor]:
        """Return x0 and ε for latents [B, C, h, w] at a noise level, all in float32."""

    def encode(self, images: Tensor) -> Tensor:
        """Return uint8 images [B, 3, H, W] as clean latents [B, C, h, w]: the posterior mean in the network scale."""

    def decode(self, latents: Tensor) -> Tensor:
        """Clean latents [B, C, h, w] -> uint8 [B, 3, H, W], rounded."""

    @property
    def text_shape(self) -> tuple[int, int]:
        """S, D of a prompt's states, read without loading weights."""


def products(model: object) -> AbstractContextManager[None]:
    """Compute float32 products of a model, forwards and backwards, as its precision says: in 32 bits, or in TF32."""
    return tf32(getattr(model, "precision", "float32").startswith("tf32"))


def predictor(model: Model, conditioning: Conditioning) -> Predict:
    """Return the model's `predict` for one conditioning, as `sampling` takes it."""
    return lambda z, level, timestep: model.predict(z, level, timestep, conditioning)


def guided(network: Callable[[Tensor, Text], Tensor], z: Tensor, conditioning: Conditioning) -> Tensor:
    """Return the network's output under classifier-free guidance (Ho & Salimans), both halves in one batch."""
    text = conditioning.expand(len(z))
    if conditioning.guidance == 1:
        return network(z, text)
    out_null, out_text = network(torch.cat([z, z]), text).chunk(2)
    return out_null + conditioning.guidance * (out_text - out_null)
