"""Diffusion models as the rest of latentmix sees them."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from latentmix.config import USUAL, ModelConfig, SpeedConfig
from latentmix.errors import UserError
from latentmix.sampling import Level, Predict, Schedule


@dataclass(frozen=True)
class Text:
    """Prompts as a network reads them, a row each: states [B, S, D] and, for families that have it, a summary
    `pooled` [B, P]; P is 0 for the others."""

    states: Tensor
    pooled: Tensor

    def expand(self, rows: int) -> "Text":
        """One prompt for a whole batch; as it is where it has `rows` rows already."""
        return Text(self.states.expand(rows, -1, -1), self.pooled.expand(rows, -1))

    def __add__(self, other: "Text") -> "Text":
        """The rows of both."""
        return Text(torch.cat([self.states, other.states]), torch.cat([self.pooled, other.pooled]))


@dataclass(frozen=True)
class Conditioning:
    """What a network is told besides the clock: a prompt, the empty prompt, and how far to go from the second to the
    first (classifier-free guidance; 1 is no guidance)."""

    text: Text
    null: Text
    guidance: float = 1.0
    _told: dict[int, Text] = field(default_factory=dict, init=False, repr=False, compare=False)

    def cond(self, rows: int) -> Text:
        """What a batch is told: a row for each latent or, under guidance, the empty prompt for each and then the
        prompt for each. The same tensors each time, by which networks know what they have read already."""
        if rows not in self._told:
            text = self.text.expand(rows)
            self._told[rows] = text if self.guidance == 1 else self.null.expand(rows) + text
        return self._told[rows]


class Sized(Protocol):
    def latent_shape(self, size: int) -> tuple[int, int, int]:
        """C, h, w for images of `size` pixels, square; raises ValueError for a size that the model can't take."""


class Model(Sized, Protocol):
    """Everything that a family of models must say for itself."""

    @property
    def dtype(self) -> torch.dtype:
        """What its diffusion network runs in."""

    @property
    def identity(self) -> dict[str, str]:
        """What its results depend on: the weights and their precision."""

    def schedule(self, steps: int, spacing: str) -> Schedule:
        """The rungs from clean to noisy."""

    def embed(self, prompts: Sequence[str]) -> Text:
        """A row for each prompt; the text encoders come and go within the call."""

    def predict(self, z: Tensor, here: Level, timestep: float, conditioning: Conditioning) -> tuple[Tensor, Tensor]:
        """float32 latents [B, C, h, w] at a level -> x0 and ε, likewise."""

    def encode(self, images: Tensor) -> Tensor:
        """uint8 [B, 3, H, W] -> clean latents [B, C, h, w] in the network's scale, the posterior's mean."""

    def decode(self, latents: Tensor) -> Tensor:
        """Clean latents [B, C, h, w] -> uint8 [B, 3, H, W], rounded."""

    @property
    def text_shape(self) -> tuple[int, int]:
        """S, D of a prompt's states, read without any weights."""


def predictor(model: Model, conditioning: Conditioning) -> Predict:
    """A model's prediction for one conditioning, as the ladder takes it."""
    return lambda z, here, timestep: model.predict(z, here, timestep, conditioning)


def guided(network: Callable[[Tensor, Text], Tensor], z: Tensor, conditioning: Conditioning) -> Tensor:
    """The network's output under classifier-free guidance (Ho & Salimans), both halves in one batch."""
    cond = conditioning.cond(len(z))
    if conditioning.guidance == 1:
        return network(z, cond)
    out_null, out_text = network(torch.cat([z, z]), cond).chunk(2)
    return out_null + conditioning.guidance * (out_text - out_null)


def load_model(
    config: ModelConfig, device: torch.device, float32: Collection[str] = (), speed: SpeedConfig = USUAL
) -> Model:
    """The model that a config names, its networks read when they are first needed; UserError if it can't be had.

    `float32` names the kinds of network, `unet` or `transformer`, that an automatic precision leaves in 32 bits.
    """
    from latentmix.models.mmdit import MMDiTModel
    from latentmix.models.pipeline import find, pipeline_class
    from latentmix.models.unet import UNetModel

    folder = find(config)
    model: Model
    flow = pipeline_class(folder) == "StableDiffusion3Pipeline"
    exact = config.precision == "auto" and ("transformer" if flow else "unet") in float32
    precision = "float32" if exact else config.precision
    if flow:
        model = MMDiTModel(folder, precision, device, config.max_sequence_length, speed)
    else:
        model = UNetModel(folder, precision, device, speed)
    check_size(model, config.size)
    return model


def check_size(model: Sized, size: int) -> None:
    """UserError where a model can't take images of so many pixels."""
    try:
        model.latent_shape(size)
    except ValueError as error:
        raise UserError(f"model.size={size}: {error}") from error
