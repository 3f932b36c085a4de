"""Diversity: the perceptual distance between two images of a pair, averaged over pairs.

A distance needs both images, which may be generated in different batches, and LPIPS' activations are larger than
images. So images are kept, and compared once both are written. No image is in two pairs, so distances are independent.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from latentmix.errors import UserError
from latentmix.experiment.cells import MAX_PAIRS
from latentmix.experiment.draws import Cell, draw_id
from latentmix.experiment.experiment import Experiment
from latentmix.experiment.generation import Loaded, padded, pixels
from latentmix.experiment.stages import StageType
from latentmix.images import read_image
from latentmix.runner.tasks import Stage
from latentmix.storage import TensorCache

Pair = tuple[str, str]  # ids of two images


@dataclass(frozen=True)
class Pairs:
    """Pairs of images of one group, how the images are read, and where their distances are kept."""

    label: str
    pairs: Sequence[Pair]
    read: Callable[[Sequence[str]], Tensor]
    cached: TensorCache

    @property
    def distances(self) -> Tensor:
        """Return the distances [pairs, 1] from the cache; raise UserError if one is missing."""
        if not self.pairs:
            return torch.empty(0, 1)
        return self.cached.gather([_row_id(pair) for pair in self.pairs], "distance")


def _plan_pairs(experiment: Experiment, batch_size: int) -> Stage:
    """Plan images -> distances within pairs, if the run measures diversity."""
    stage = Stage("pairs")
    if not experiment.config.measures_diversity:
        return stage
    real = [real_pairs(experiment, class_id) for class_id in experiment.classes]
    for group in (*real, *(draw_pairs(experiment, cell) for cell in experiment.cells.generated)):
        finished = group.cached.ids()
        missing = {pair for pair in group.pairs if _row_id(pair) not in finished}
        compute, read = partial(_compare, experiment, group), partial(_load, group)
        stage.add(group.label, group.pairs, missing, batch_size, compute, read)
    return stage


COMPARE_PAIRS = StageType(_plan_pairs, frozenset({"references", "perceptual"}))


def real_pairs(experiment: Experiment, class_id: str) -> Pairs:
    """Return the pairs of real images of a class."""
    sources = {source.id: source for source in experiment.data.references(class_id)}

    def read(ids: Sequence[str]) -> Tensor:
        return pixels([sources[id_] for id_ in ids], experiment.config.model.size)

    kept = experiment.layout.references(class_id, experiment.perceptual)
    return Pairs(class_id, _disjoint_pairs(list(sources)), read, kept)


def draw_pairs(experiment: Experiment, cell: Cell) -> Pairs:
    """Return the pairs of generated images of a cell: the first and the second draw, the third and the fourth..."""
    paths = {draw_id(draw): experiment.layout.image_path(cell, draw) for draw in experiment.cells.draws(cell)}

    def read(ids: Sequence[str]) -> Tensor:
        try:
            return torch.stack([read_image(paths[id_]) for id_ in ids])
        except OSError:
            raise UserError(
                f"some images of {cell} that diversity compares are missing; latentmix sweep makes them"
            ) from None

    kept = experiment.layout.distances(cell, experiment.perceptual)
    return Pairs(str(cell), _disjoint_pairs(list(paths)), read, kept)


def _disjoint_pairs(ids: Sequence[str]) -> list[Pair]:
    return list(zip(ids[::2], ids[1::2], strict=False))[:MAX_PAIRS]


def _load(group: Pairs, pairs: Sequence[Pair]) -> Loaded[Pair]:
    """Read both images of each pair: pixels [2, B, 3, H, W]."""
    return Loaded(pairs, torch.stack([group.read(ids) for ids in zip(*pairs, strict=True)]))


def _compare(experiment: Experiment, group: Pairs, images: Loaded[Pair], size: int) -> None:
    first, second = (padded(side, size) for side in images.pixels)
    distances = experiment.perceptual.between(first, second)[: len(images.ids), None]
    group.cached.write([_row_id(pair) for pair in images.ids], {"distance": distances})


def _row_id(pair: Pair) -> str:
    return " ".join(pair)
