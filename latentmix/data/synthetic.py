"""data=synthetic: images that the model itself generates from noise (the paper's Section 4.1).

They show what mixing does without the misalignment between real images and the model. An image is generated under its
class's prompt, and a little Gaussian noise is added to it, so that it is not exactly an output of the model. Latents
inverted from these images are independent: if their centroids degenerate too, the data are not to blame.
"""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from latentmix.data.decode import fitted
from latentmix.data.protocol import Dataset, Source
from latentmix.data.settings import RANDOM, DataConfig
from latentmix.errors import UserError
from latentmix.rng import noise
from latentmix.storage import key


def load(config: DataConfig) -> Dataset:
    """Return the data set that `data=synthetic 'data.classes=[...]'` describes; `made_by` says where its images are."""
    if config.reference is None or not config.classes or RANDOM.match(config.classes[0]):
        raise UserError("data=synthetic needs names in data.classes, and a number of images in data.reference")
    if config.titles:
        raise UserError("data=synthetic uses data.classes in prompts; leave out data.titles")
    return Synthetic(config.classes)


@dataclass(frozen=True)
class Synthetic(Dataset):
    """Generated images of named classes, in a `folder` whose name is a key of all that they depend on."""

    names: tuple[str, ...]
    folder: Path = Path()
    seed: int = 0
    from_model = True

    def made_by(self, identity: object, cache: Path, seed: int) -> "Synthetic":
        """Return the same classes with the folder of their images. `identity` is all that images depend on."""
        return replace(self, folder=cache / "synthetic" / key(identity), seed=seed)

    def classes(self) -> tuple[str, ...]:
        return tuple(sorted(self.names))

    def resolve(self, name: str) -> str:
        return name

    def title(self, class_id: str) -> str:
        return class_id

    def images(self, class_id: str, count: int | None = None) -> list[Source]:
        if count is None:
            raise UserError("synthetic images are unlimited; say how many of each class with pool and data.reference")
        paths = [self.path(class_id, index) for index in range(count)]
        return [Source(f"{self.folder.name}/{class_id}/{path.stem}", partial(_pixels, path)) for path in paths]

    def home(self) -> str:
        return "are made by the model, so there is nothing to fetch"

    def path(self, class_id: str, index: int) -> Path:
        """Return the file of an image."""
        return self.folder / key(class_id) / f"{index:06d}.png"

    def noise(self, class_id: str, index: int, purpose: str, shape: tuple[int, ...]) -> np.ndarray:
        """Return an image's own standard Gaussian noise, float32, the same in every batch and order."""
        return noise(self.seed, f"{purpose} {class_id}", index, shape)


def _pixels(path: Path, size: int | str) -> np.ndarray:
    try:
        with Image.open(path) as image:
            return fitted(image.convert("RGB"), size)
    except OSError as error:
        raise UserError(f"{path} is missing or damaged; run latentmix invert, which makes such images") from error
