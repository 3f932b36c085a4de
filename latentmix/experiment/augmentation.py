"""Augmentation: more images of each class, from random mixtures of all its images."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from latentmix.config import Config
from latentmix.data import Source
from latentmix.errors import UserError
from latentmix.experiment.cached_method import cached_method
from latentmix.experiment.cells import Cells
from latentmix.experiment.data import RunData
from latentmix.experiment.draws import NOISE, Cell
from latentmix.experiment.experiment import Experiment
from latentmix.experiment.random_mixtures import Mixture, count_mixtures, mixture_weights, random_mixtures


def sizes(config: Config, pool: int) -> list[int]:
    """Return the numbers of images that may be mixed of a pool: `n`, of which means of the pool mix at most half."""
    return [size for size in config.n if _least(config) * size <= pool]


def _least(config: Config) -> int:
    """Return how many images a pool needs for each image that is mixed."""
    return 2 if config.methods[0].of_pool else 1


class WholeClasses(RunData):
    """Classes all of whose images are mixed, and are what mixtures are compared with."""

    reserved = ()  # the table has no averages

    @cached_method
    def pool(self, class_id: str) -> list[Source]:
        """Return all images of a class. Raises UserError if they are too few to mix."""
        images = self.prompted(self.fetched.images(class_id), class_id)
        images = list({image.id: image for image in images}.values())
        if not sizes(self.config, len(images)):
            need = f"mixing needs {_least(self.config) * min(self.config.n)}"
            raise UserError(
                f"the class {class_id!r} has {len(images)} different image{'s' * (len(images) > 1)}, and {need} by "
                f"{self.config.methods[0]}; add images, or choose other classes by 'data.classes=[...]'"
            )
        return images

    def references(self, class_id: str) -> list[Source]:
        """Return the images that were mixed."""
        return self.pool(class_id)


class RandomMixtures(Cells):
    """A single cell for each class, whose draws are random mixtures; its N is the most images that are mixed."""

    @property
    def alpha(self) -> float:
        """Return the concentration of the weights; infinity if they are uniform."""
        return math.inf if self.config.weights == "uniform" else self.config.weights

    def of(self, class_id: str) -> list[Cell]:
        return [Cell(class_id, max(self.config.n), self.config.methods[0])]

    @property
    def images_kept(self) -> int:
        return self.config.draws

    @cached_method
    def mixtures(self, class_id: str) -> list[Mixture]:
        """Return the mixtures of a class: as many as asked for, or as there are."""
        config, pool = self.config, len(self.data.pool(class_id))
        return random_mixtures(config.seed, class_id, config.draws, sizes(config, pool), self.alpha, pool)

    def draws(self, cell: Cell, most: int | None = None) -> Sequence[int]:
        count = self.config.draws if cell.method == NOISE else len(self.mixtures(cell.class_id))
        return range(count)[:most]

    @property
    def few_draws(self) -> str:
        config, pools = self.config, {class_id: len(self.data.pool(class_id)) for class_id in self.data.classes}
        counts = {c: count_mixtures(sizes(config, pool), self.alpha, pool) for c, pool in pools.items()}
        few = ", ".join(f"{class_id} has {count}" for class_id, count in counts.items() if count < config.draws)
        return f"{config.draws} for each class is more than the different mixtures of some, which get all: {few}"

    def weights(self, cell: Cell, draws: Sequence[int]) -> Tensor:
        mixtures = self.mixtures(cell.class_id)
        return mixture_weights([mixtures[draw] for draw in draws], len(self.data.pool(cell.class_id)))

    @property
    def identity(self) -> dict[str, object]:
        return {**super().identity, "of": sorted(self.config.n)}


class Augmentation(Experiment):
    """An experiment that mixes all images of each class at random.

    The config's `n` are the numbers of images that may be mixed, `draws` is the number of mixtures of each class, and
    the first of `methods` is used.
    """

    measured_with = ("clip",)
    data_type = WholeClasses
    cells_type = RandomMixtures
    if TYPE_CHECKING:
        cells: RandomMixtures  # type: ignore[assignment]
