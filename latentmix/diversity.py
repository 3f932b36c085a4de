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

from latentmix.bench import COUPLES, Bench, Cell, draw_id
from latentmix.errors import UserError
from latentmix.pictures import read_picture
from latentmix.store import Parts
from latentmix.sweep import Loaded, Stage, padded, pixels

Ids = tuple[str, str]


@dataclass(frozen=True)
class Pairs:
    """Pairs of images, by name; how the first or the last ones of several pairs are read; where distances are kept."""

    label: str
    couples: Sequence[Ids]
    read: Callable[[Sequence[str]], Tensor]
    kept: Parts

    @property
    def distances(self) -> Tensor:
        """[pairs, 1], from the cache; raises UserError where one is missing."""
        if not self.couples:
            return torch.empty(0, 1)
        return self.kept.gather([_row(couple) for couple in self.couples], "distance")


def pairing(bench: Bench) -> Stage:
    """Pictures -> distances within pairs, where a run measures diversity; UserError where pictures are missing."""
    stage = Stage("pairs")
    if not bench.pairing:
        return stage
    real = [real_pairs(bench, class_id) for class_id in bench.classes]
    for pairs in (*real, *(draws_in_pairs(bench, cell) for cell in bench.generated)):
        if not pairs.couples:  # of a single real image
            continue
        done = pairs.kept.ids()
        missing = {couple for couple in pairs.couples if _row(couple) not in done}
        work, read = partial(_compare, bench, pairs), partial(_load, pairs)
        stage.plan(pairs.label, pairs.couples, missing, bench.batch, work, read)
    return stage


def real_pairs(bench: Bench, class_id: str) -> Pairs:
    """Of the real images of a class."""
    sources = {source.id: source for source in bench.references(class_id)}

    def read(ids: Sequence[str]) -> Tensor:
        return pixels([sources[id_] for id_ in ids], bench.config.model.size)

    return Pairs(class_id, _couples(list(sources)), read, bench.reference_distances(class_id))


def draws_in_pairs(bench: Bench, cell: Cell) -> Pairs:
    """Of a cell's pictures: draws 0 and 1, 2 and 3, and so on."""
    pictures = {draw_id(draw): bench.picture(cell, draw) for draw in range(bench.config.draws)}

    def read(ids: Sequence[str]) -> Tensor:
        try:
            return torch.stack([read_picture(pictures[id_]) for id_ in ids])
        except OSError:
            raise UserError(f"not all pictures of {cell} are there to be paired; latentmix sweep makes them") from None

    return Pairs(str(cell), _couples(list(pictures)), read, bench.distances(cell))


def _couples(ids: Sequence[str]) -> list[Ids]:
    """Neighbours, none in two pairs."""
    return list(zip(ids[::2], ids[1::2], strict=False))[:COUPLES]


def _load(pairs: Pairs, couples: Sequence[Ids]) -> Loaded[Ids]:
    """Their pixels are [2, B, 3, H, W]."""
    return Loaded(couples, torch.stack([pairs.read(ids) for ids in zip(*couples, strict=True)]))


def _compare(bench: Bench, pairs: Pairs, images: Loaded[Ids], size: int) -> None:
    couples = images.ids
    distances = bench.perceptual.between(*(padded(end, size) for end in images.pixels))[: len(couples), None]
    pairs.kept.write([_row(couple) for couple in couples], {"distance": distances})


def _row(couple: Ids) -> str:
    return " ".join(couple)
