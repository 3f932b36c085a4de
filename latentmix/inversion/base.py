"""What every inversion has: its settings and its functions, from clean latents to latents at t = T and back.

A new inversion is a file beside this one and a line in `registry.py`, or an entry point `latentmix.inversions`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from hashlib import sha256
from typing import Any, Literal

import torch
from pydantic.dataclasses import dataclass as settings_dataclass
from torch import Tensor

from latentmix import sampling
from latentmix.models.protocol import Conditioning, Model, predictor
from latentmix.sampling import Schedule
from latentmix.settings import STRICT, Guidance, Positive

State = dict[str, Tensor]  # `latents` [B, C, h, w] and an inversion's extras, one row for each image


@settings_dataclass(frozen=True, config=STRICT)
class InversionSettings:
    """The settings of every inversion. A kind with settings of its own inherits this class.

    Each field that it adds has a default, the value in the kind's preset in configs/inversion (see `identity`).
    """

    name: str  # of the preset, by which results are labelled
    kind: str  # the key in INVERSIONS
    steps: Positive
    guidance: Guidance
    spacing: str
    float32: tuple[Literal["unet", "transformer"], ...] = ()  # networks that precision=auto does not run in 16 bits
    float32_in: Literal["both", "inversion"] = "both"  # whether `float32` applies to generation, too


Invert = Callable[..., State]  # (model, clean latents, schedule, conditioning, the kind's own settings)
Generate = Callable[[Model, State, Schedule, Conditioning, Any], Tensor]


def image_names(images: Tensor) -> list[str]:
    """Return a name for each uint8 image [B, 3, H, W], the same wherever the same pixels are inverted."""
    return [sha256(image.numpy().tobytes()).hexdigest() for image in images.cpu()]


def cfg_factor(guidance: float) -> int:
    """Return the network evaluations of one prediction: 2 with guidance (empty prompt and prompt), else 1."""
    return 1 if guidance == 1 else 2


def no_numbers(settings: Any, latent: int, text: int) -> int:
    """Return the size of the extras of an inversion that has none."""
    return 0


def usual_nfe(settings: Any) -> int:
    """Return the network evaluations of a step that makes one prediction."""
    return cfg_factor(settings.guidance)


@torch.no_grad()
def generate(model: Model, state: State, schedule: Schedule, cond: Conditioning, _: InversionSettings) -> Tensor:
    """Return clean latents from `state["latents"]` by DDIM or Euler steps."""
    return sampling.generate(predictor(model, cond), state["latents"], schedule)


@dataclass(frozen=True)
class Inversion:
    """A kind of inversion, and the generation that belongs to it."""

    invert: Invert
    generate: Generate = generate
    settings: type[InversionSettings] = InversionSettings
    version: int = 1
    """Part of every cache key. Raise it when the same settings give other latents than before."""

    extras: Mapping[str, str | None] = field(default_factory=dict)
    """Further tensors that `invert` returns, and the method that mixes each; None is the method of the latents."""
    paired: tuple[str, ...] = ()
    """Settings that must be the same in inversion and generation: of "steps", "guidance", "spacing"."""
    by_name: bool = False  # `invert` also takes `names`, one for each image, to seed random numbers with
    unguided: bool = False  # generation ignores guidance
    needs_guidance: bool = False  # without classifier-free guidance it does nothing

    intervals_per_step: int = 1  # of the schedule
    predictions_per_step: int = 1  # of generation
    extra_numbers: Callable[[Any, int, int], int] = no_numbers
    """(settings, numbers in a latent, numbers in a prompt's states) -> numbers in the extras of one image."""
    nfe: Callable[[Any], int] = usual_nfe
    """The largest number of function evaluations (of the network) for one image and step of inversion."""

    def run(
        self, model: Model, clean: Tensor, schedule: Schedule, cond: Conditioning, settings: Any, names: Sequence[str]
    ) -> State:
        """Return the state of clean latents [B, C, h, w], whose images have `names`."""
        named = {"names": names} if self.by_name else {}
        return self.invert(model, clean, schedule, cond, settings, **named)

    def nfe_generation(self, guidance: float) -> int:
        """Return the number of function evaluations for one image and step of generation."""
        return self.predictions_per_step * (1 if self.unguided else cfg_factor(guidance))

    def identity(self, settings: InversionSettings) -> dict[str, object]:
        """Return what the inverted latents depend on, besides the schedule, the model and the image.

        A setting of this kind is included only if it differs from its default. So a new setting leaves the cache keys
        of earlier results as they are. A changed default changes results, so it needs a new `version`.
        """
        common = {setting.name for setting in fields(InversionSettings)}
        own = {f.name: getattr(settings, f.name) for f in fields(settings) if f.name not in common}
        defaults = {f.name: f.default for f in fields(settings)}
        changed = {name: value for name, value in own.items() if value != defaults[name]}
        return {"kind": settings.kind, "version": self.version, "guidance": settings.guidance, **changed}
