"""Where images come from: each data set lists its classes and yields their images, the same way for every use."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from latentmix.config import DataConfig


@dataclass(frozen=True)
class Source:
    """One image. `id` changes whenever the picture does, so what is computed from it can be kept under that name."""

    id: str
    pixels: Callable[[int], np.ndarray]  # size -> uint8 [size, size, 3], RGB


class Dataset(Protocol):
    def classes(self) -> tuple[str, ...]:
        """Identifiers of all classes, sorted."""

    def title(self, class_id: str) -> str:
        """The class's name as it stands in a prompt."""

    def images(self, class_id: str, count: int | None = None) -> list[Source]:
        """The first `count` images of a class, or all; raises UserError where there are fewer."""


def load_dataset(config: DataConfig) -> Dataset:
    if config.name == "shapes":
        from latentmix.data.shapes import Shapes

        return Shapes()
    from latentmix.data.folder import Folder

    return Folder(Path(config.path or ""), config.bad_images)
