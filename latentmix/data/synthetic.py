"""Images that the model itself makes (the paper's Section 4.1), to mix latents without real data's misalignment.

An image is generated from noise under its class's prompt, and perturbed by a little Gaussian noise, so that it is not
to the pixel what the model puts out. Latents inverted from such images are independent, and of nothing but what the
model knows: where their centroids degenerate too, the data are not to blame.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from latentmix.cache import key
from latentmix.data import Source
from latentmix.errors import UserError
from latentmix.rng import noise


@dataclass(frozen=True)
class Synthetic:
    """The images of any class that has a name. `folder` is where they are kept; its name tells how they are made."""

    names: tuple[str, ...]
    folder: Path
    seed: int

    def classes(self) -> tuple[str, ...]:
        return tuple(sorted(self.names))

    def resolve(self, name: str) -> str:
        return name

    def fetch(self, class_ids: object) -> None:
        """Nothing is elsewhere."""

    def title(self, class_id: str) -> str:
        return class_id

    def images(self, class_id: str, count: int | None = None) -> list[Source]:
        if count is None:
            raise UserError("synthetic images have no end; say how many of each class with pool and data.reference")
        paths = [self.path(class_id, index) for index in range(count)]
        return [Source(f"{self.folder.name}/{class_id}/{path.stem}", partial(_pixels, path)) for path in paths]

    def path(self, class_id: str, index: int) -> Path:
        return self.folder / key(class_id) / f"{index:06d}.png"

    def noise(self, class_id: str, index: int, purpose: str, shape: tuple[int, ...]) -> np.ndarray:
        """Standard Gaussian noise of an image's own, float32, the same in whatever batch and order it is drawn."""
        return noise(self.seed, f"{purpose} {class_id}", index, shape)


def _pixels(path: Path, size: int) -> np.ndarray:
    try:
        with Image.open(path) as image:
            return np.array(image.convert("RGB").resize((size, size), Image.Resampling.BICUBIC))
    except OSError as error:
        raise UserError(f"{path} is missing or damaged; run latentmix invert, which makes such images") from error
