"""Where images come from: each data set lists its classes and yields their images, the same way for every use."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Protocol

import numpy as np

from latentmix.config import RANDOM, DataConfig
from latentmix.errors import UserError


@dataclass(frozen=True)
class Source:
    """One image. `id` changes whenever the picture does, so what is computed from it can be kept under that name."""

    id: str
    pixels: Callable[[int], np.ndarray]  # size -> uint8 [size, size, 3], RGB


class Dataset(Protocol):
    def classes(self) -> tuple[str, ...]:
        """Identifiers of all classes, sorted."""

    def resolve(self, name: str) -> str:
        """The identifier of the class that a user calls so; raises UserError where there is none, or more than one."""

    def fetch(self, class_ids: Sequence[str]) -> None:
        """Bring what images of these classes are elsewhere to this machine, all in one go; `images` needs it not."""

    def title(self, class_id: str) -> str:
        """The class's name as it stands in a prompt."""

    def images(self, class_id: str, count: int | None = None) -> list[Source]:
        """The first `count` images of a class, or all; raises UserError where there are fewer."""


def load_dataset(config: DataConfig) -> Dataset:
    if config.hub is not None:
        from latentmix.data.hub import Hub

        return Hub(config)
    if config.name == "shapes":
        from latentmix.data.shapes import Shapes

        return Shapes()
    if config.name == "things":
        from latentmix.data.things import Things

        return Things()
    if config.name == "imagenet":
        from latentmix.data.imagenet import ImageNet

        return ImageNet(Path(config.path or ""), config.bad_images)
    from latentmix.data.folder import Folder

    return Folder(Path(config.path or ""), config.bad_images)


def choose(data: Dataset, wanted: Sequence[str] | None, seed: int) -> tuple[str, ...]:
    """Identifiers of the classes that a config asks for: all (None), those it names in its order, or `random:K`.

    The K drawn by a seed are among the K + 1 drawn by it, and come sorted. Raises UserError where a class is missing.
    """
    for class_id in (chosen := _chosen(data, wanted, seed)):
        if not is_plain(class_id):
            raise UserError(f"the class {class_id!r} has characters in its name that are no text; rename it")
    return chosen


def is_plain(text: str) -> bool:
    """Whether it is text to the last character: no control characters, and no bytes that are not UTF-8."""
    return not re.search(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]", text)


def _chosen(data: Dataset, wanted: Sequence[str] | None, seed: int) -> tuple[str, ...]:
    if wanted is None:
        return data.classes()
    if not (drawn := RANDOM.fullmatch(wanted[0])):
        return tuple(dict.fromkeys(data.resolve(name) for name in wanted))
    there, count = data.classes(), int(drawn[1])
    if count > len(there):
        raise UserError(f"data.classes={wanted[0]} asks for more than the {len(there)} classes that there are")

    def lot(class_id: str) -> bytes:
        return sha256(f"{seed} {class_id}".encode(errors="surrogateescape")).digest()

    return tuple(sorted(sorted(there, key=lot)[:count]))
