"""How unlike each other images are: pairs of pictures -> the perceptual distance within each.

A distance between images needs both, which may be in different batches, and what LPIPS makes of an image is larger than
the image: so pictures are kept, and pairs compared once they are there. No image is in two pairs, so that their
distances are independent.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from latentmix.cache import TensorCache
from latentmix.errors import UserError
from latentmix.experiment.experiment import MAX_PAIRS, Cell, Experiment, draw_id
from latentmix.experiment.stages import Loaded, Stage, padded, pixels
from latentmix.images import read_image

Ids = tuple[str, str]


@dataclass(frozen=True)
class Pairs:
    """Pairs of images, by name; how the first or the last ones of several pairs are read; where distances are kept."""

    label: str
    couples: Sequence[Ids]
    read: Callable[[Sequence[str]], Tensor]
    kept: TensorCache

    @property
    def distances(self) -> Tensor:
        """[pairs, 1], from the cache; raises UserError where one is missing."""
        if not self.couples:
            return torch.empty(0, 1)
        return self.kept.gather([_row(couple) for couple in self.couples], "distance")


def pairing(experiment: Experiment) -> Stage:
    """Pictures -> distances within pairs, where a run measures diversity; UserError where pictures are missing."""
    stage = Stage("pairs")
    if not experiment.pairing:
        return stage
    real = [real_pairs(experiment, class_id) for class_id in experiment.classes]
    for pairs in (*real, *(draws_in_pairs(experiment, cell) for cell in experiment.generated)):
        if not pairs.couples:  # of a single real image
            continue
        done = pairs.kept.ids()
        missing = {couple for couple in pairs.couples if _row(couple) not in done}
        work, read = partial(_compare, experiment, pairs), partial(_load, pairs)
        stage.plan(pairs.label, pairs.couples, missing, experiment.batch, work, read)
    return stage


def real_pairs(experiment: Experiment, class_id: str) -> Pairs:
    """Of the real images of a class."""
    sources = {source.id: source for source in experiment.references(class_id)}

    def read(ids: Sequence[str]) -> Tensor:
        return pixels([sources[id_] for id_ in ids], experiment.config.model.size)

    return Pairs(class_id, _couples(list(sources)), read, experiment.reference_distances(class_id))


def draws_in_pairs(experiment: Experiment, cell: Cell) -> Pairs:
    """Of a cell's pictures: draws 0 and 1, 2 and 3, and so on."""
    pictures = {draw_id(draw): experiment.image_path(cell, draw) for draw in range(experiment.config.draws)}

    def read(ids: Sequence[str]) -> Tensor:
        try:
            return torch.stack([read_image(pictures[id_]) for id_ in ids])
        except OSError:
            raise UserError(f"not all pictures of {cell} are there to be paired; latentmix sweep makes them") from None

    return Pairs(str(cell), _couples(list(pictures)), read, experiment.distances(cell))


def _couples(ids: Sequence[str]) -> list[Ids]:
    """Neighbours, none in two pairs."""
    return list(zip(ids[::2], ids[1::2], strict=False))[:MAX_PAIRS]


def _load(pairs: Pairs, couples: Sequence[Ids]) -> Loaded[Ids]:
    """Their pixels are [2, B, 3, H, W]."""
    return Loaded(couples, torch.stack([pairs.read(ids) for ids in zip(*couples, strict=True)]))


def _compare(experiment: Experiment, pairs: Pairs, images: Loaded[Ids], size: int) -> None:
    couples = images.ids
    distances = experiment.perceptual.between(*(padded(end, size) for end in images.pixels))[: len(couples), None]
    pairs.kept.write([_row(couple) for couple in couples], {"distance": distances})


def _row(couple: Ids) -> str:
    return " ".join(couple)
