"""Things to look at: one mixture with chosen weights, and the pictures of a run under readable names."""

from dataclasses import dataclass
from pathlib import Path

import torch

from latentmix.bench import Bench, draw_id
from latentmix.errors import UserError
from latentmix.mixing import mix
from latentmix.pictures import write_picture
from latentmix.store import file_name, save_tensors, write
from latentmix.sweep import render


@dataclass(frozen=True)
class Mixture:
    """The first images of a class, and their weights."""

    class_id: str
    weights: tuple[float, ...]


def class_of(bench: Bench, name: str) -> str:
    """A class by any of its names; UserError where it is not one of the run's."""
    class_id = bench.data.resolve(name)
    if class_id not in bench.classes:
        raise UserError(f"{class_id!r} is not among the classes of this run: {', '.join(bench.classes)}")
    return class_id


def mixture(bench: Bench, class_id: str, text: str) -> Mixture:
    """Weights as they were given ("0.5,0.3,0.2"), checked; UserError where they or the class can't be used."""
    class_id = class_of(bench, class_id)
    try:
        weights = tuple(float(part) for part in text.split(","))
        if len(weights) > bench.config.pool:
            raise ValueError(f"{len(weights)} weights are more than pool={bench.config.pool} images")
        mix(torch.zeros(len(weights), 1, 1, 1), weights)
    except ValueError as error:
        raise UserError(f"--weights {text}: {error}") from error
    return Mixture(class_id, weights)


def mix_once(bench: Bench, wanted: Mixture) -> list[Path]:
    """Make a mixture by each method: the latent, and its picture."""
    class_id, w = wanted.class_id, wanted.weights
    weights, written = "-".join(map(str, w)), []
    for method in bench.config.methods:
        mixed = bench.mixed(class_id, torch.tensor([w]), method)
        stem = bench.config.folder / "mixed" / f"{file_name(class_id)}-{weights}-{method.norm}-{method.mean}"
        about = {"class": class_id, "weights": w, "method": str(method), "latents": bench.latents_identity(class_id)}
        save_tensors(stem.with_name(stem.name + ".safetensors"), {name: x[0] for name, x in mixed.items()}, about)
        write_picture(stem.with_name(stem.name + ".png"), render(bench, class_id, mixed, str(method))[1][0])
        written += [stem.with_name(stem.name + ".safetensors"), stem.with_name(stem.name + ".png")]
    return written


def copy_pictures(bench: Bench) -> Path:
    """Copy a run's pictures from the cache to images/CLASS/METHOD/N=…/DRAW.png in its folder."""
    folder = bench.config.folder / "images"
    for cell in bench.cells:
        place = folder / file_name(cell.class_id) / f"{cell.method.norm}-{cell.method.mean}" / f"N={cell.n:03d}"
        for draw in range(bench.config.draws):
            write(place / f"{draw_id(draw)}.png", bench.picture(cell, draw).read_bytes())
    return folder
