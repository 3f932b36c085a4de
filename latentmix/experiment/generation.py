"""Steps that stages share, for one batch: read, pad, invert, generate, check."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from latentmix import sampling
from latentmix.data import Source
from latentmix.errors import UserError
from latentmix.experiment.experiment import Experiment
from latentmix.inversion.base import State, image_names
from latentmix.models.protocol import Conditioning, predictor
from latentmix.profiling import timed
from latentmix.threads import on_all_threads

Item = TypeVar("Item")


@dataclass(frozen=True)
class Loaded(Generic[Item]):
    """Images, uint8 [B, 3, H, W], and what identifies them."""

    ids: Sequence[Item]
    pixels: Tensor = field(repr=False)


def loader(experiment: Experiment) -> Callable[[Sequence[Source]], Loaded[str]]:
    """Return a function that reads images at the experiment's size."""
    size = experiment.config.model.size
    return lambda sources: Loaded([source.id for source in sources], pixels(sources, size))


@timed("reading")
def pixels(sources: Sequence[Source], size: int | str) -> Tensor:
    """Read images at a size (512, or "768x512"), uint8 [B, 3, H, W]."""
    rows = on_all_threads(lambda source: source.pixels(size), sources)
    return torch.from_numpy(np.stack(rows)).permute(0, 3, 1, 2).contiguous()


def invert(experiment: Experiment, images: Tensor, cond: Conditioning, label: str) -> State:
    """Invert images, uint8 [B, 3, H, W]. Return `latents` at t = T, the inversion's extras and `clean` latents."""
    clean, settings = experiment.model.encode(images), experiment.config.inversion
    levels, names = experiment.inversion_schedule, image_names(images)
    state = experiment.inversion.run(experiment.inverter, clean, levels, cond, settings, names)
    refuse_nan(state["latents"], f"inverting {label}")
    return state | {"clean": clean}


@torch.no_grad()
def generate(experiment: Experiment, cond: Conditioning, state: State, label: str) -> tuple[Tensor, Tensor]:
    """Generate from inverted or mixed latents and their extras.

    Return clean latents [B, C, h, w] and images, uint8 [B, 3, H, W], on the device.
    """
    refuse_nan(state["latents"], f"mixing {label}")
    schedule, settings = experiment.generation_schedule, experiment.config.inversion
    clean = experiment.inversion.generate(experiment.model, state, schedule, cond, settings)
    refuse_nan(clean, f"generating {label}")
    return clean, experiment.model.decode(clean)


def generate_plainly(
    experiment: Experiment, class_id: str, z: Tensor, schedule: sampling.Schedule, label: str
) -> Tensor:
    """Generate from latents by DDIM or Euler steps, whatever the inversion. Return clean latents."""
    cond = experiment.texts.conditioning(class_id, experiment.config.guidance, experiment.model)
    clean = sampling.generate(predictor(experiment.model, cond), z, schedule)
    refuse_nan(clean, f"generating {label}")
    return clean


def padded(rows: Tensor, size: int) -> Tensor:
    """Return rows with the last one repeated up to `size`, as a network's rounding depends on the size of its batch."""
    return torch.cat([rows, rows[-1:].expand(size - len(rows), *rows.shape[1:])])


def refuse_nan(z: Tensor, label: str) -> None:
    """Raise UserError for values that are not finite."""
    if not bool(z.isfinite().all()):
        raise UserError(f"NaN or infinity came up in {label}; try model.precision=float32, and check its inputs")
