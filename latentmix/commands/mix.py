"""Things to look at: one mixture with chosen weights, and the pictures of a run under readable names."""

from dataclasses import dataclass
from pathlib import Path

import torch

from latentmix.cache import file_name, save_tensors, write_atomic
from latentmix.errors import UserError
from latentmix.experiment.experiment import Experiment, draw_id
from latentmix.experiment.stages import render
from latentmix.images import write_image
from latentmix.mixing import mix


@dataclass(frozen=True)
class Mixture:
    """The first images of a class, and their weights."""

    class_id: str
    weights: tuple[float, ...]


def class_of(experiment: Experiment, name: str) -> str:
    """A class by any of its names; UserError where it is not one of the run's."""
    class_id = experiment.data.resolve(name)
    if class_id not in experiment.classes:
        raise UserError(f"{class_id!r} is not among the classes of this run: {', '.join(experiment.classes)}")
    return class_id


def mixture(experiment: Experiment, class_id: str, text: str) -> Mixture:
    """Weights as they were given ("0.5,0.3,0.2"), checked; UserError where they or the class can't be used."""
    class_id = class_of(experiment, class_id)
    try:
        weights = tuple(float(part) for part in text.split(","))
        if len(weights) > experiment.config.pool:
            raise ValueError(f"{len(weights)} weights are more than pool={experiment.config.pool} images")
        mix(torch.zeros(len(weights), 1, 1, 1), weights)
    except ValueError as error:
        raise UserError(f"--weights {text}: {error}") from error
    return Mixture(class_id, weights)


def mix_once(experiment: Experiment, wanted: Mixture) -> list[Path]:
    """Make a mixture by each method: the latent, and its picture."""
    class_id, w = wanted.class_id, wanted.weights
    weights, written = "-".join(map(str, w)), []
    for method in experiment.config.methods:
        mixed = experiment.mixed(class_id, torch.tensor([w]), method)
        stem = experiment.config.folder / "mixed" / f"{file_name(class_id)}-{weights}-{method.norm}-{method.mean}"
        about = {
            "class": class_id,
            "weights": w,
            "method": str(method),
            "latents": experiment.latents_identity(class_id),
        }
        save_tensors(stem.with_name(stem.name + ".safetensors"), {name: x[0] for name, x in mixed.items()}, about)
        write_image(stem.with_name(stem.name + ".png"), render(experiment, class_id, mixed, str(method))[1][0])
        written += [stem.with_name(stem.name + ".safetensors"), stem.with_name(stem.name + ".png")]
    return written


def copy_images(experiment: Experiment) -> Path:
    """Copy a run's pictures from the cache to images/CLASS/METHOD/N=…/DRAW.png in its folder."""
    folder = experiment.config.folder / "images"
    for cell in experiment.cells:
        place = folder / file_name(cell.class_id) / f"{cell.method.norm}-{cell.method.mean}" / f"N={cell.n:03d}"
        for draw in range(experiment.config.draws):
            write_atomic(place / f"{draw_id(draw)}.png", experiment.image_path(cell, draw).read_bytes())
    return folder
