"""Augmentation: more images of each class, from random mixtures of all its images."""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

from torch import Tensor

from latentmix.data import Source
from latentmix.errors import UserError
from latentmix.experiment.cache_keys import Layout
from latentmix.experiment.draws import NOISE, Cell
from latentmix.experiment.experiment import Experiment
from latentmix.experiment.memo import cached_method
from latentmix.experiment.random_mixtures import Mixture, count_mixtures, mixture_weights, random_mixtures
from latentmix.feature_networks import Network


class Augmentation(Experiment):
    """An experiment whose draws are random mixtures; see `random_mixtures`.

    The config's `n` are the numbers of images that may be mixed, `draws` is the number of mixtures of each class, and
    the first of `methods` is used. The pool of a class is all of its images. A method with a mean of the pool mixes at
    most half of it.
    """

    measured_with = ("clip",)
    reserved = ()  # its table has no averages

    @property
    def alpha(self) -> float:
        """Return the concentration of the weights; infinity if they are uniform."""
        return math.inf if self.config.weights == "uniform" else self.config.weights

    @cached_property
    def networks(self) -> dict[str, Network]:  # type: ignore[override]
        """Return the network of similarities."""
        return {name: network for name, network in super().networks.items() if name == "clip"}

    @cached_method
    def pool(self, class_id: str) -> list[Source]:
        """Return all images of a class. Raises UserError if they are too few to mix."""
        images = self.prompted(self._fetched_data.images(class_id), class_id)
        images = list({image.id: image for image in images}.values())
        if not self._sizes(len(images)):
            need = f"mixing needs {self._least * min(self.config.n)}"
            raise UserError(
                f"the class {class_id!r} has {len(images)} different image{'s' * (len(images) > 1)}, and {need} by "
                f"{self.config.methods[0]}; add images, or choose other classes by 'data.classes=[...]'"
            )
        return images

    @property
    def _least(self) -> int:
        """Return how many images a pool needs for each image that is mixed: two for means of the pool."""
        return 2 if self.config.methods[0].of_pool else 1

    def _sizes(self, pool: int) -> list[int]:
        """Return the numbers of images that may be mixed of a pool."""
        return [size for size in self.config.n if self._least * size <= pool]

    @property
    def few_draws(self) -> str:
        wanted, pools = self.config.draws, {class_id: len(self.pool(class_id)) for class_id in self.classes}
        counts = {c: count_mixtures(self._sizes(pool), self.alpha, pool) for c, pool in pools.items()}
        few = ", ".join(f"{class_id} has {count}" for class_id, count in counts.items() if count < wanted)
        return f"{wanted} for each class is more than the different mixtures of some, which get all: {few}"

    @cached_method
    def references(self, class_id: str) -> list[Source]:
        """Return the images that generated ones are compared with: those that were mixed."""
        return self.pool(class_id)

    def cells_of(self, class_id: str) -> list[Cell]:
        """Return the single cell of a class; its N is the most images that are mixed."""
        return [Cell(class_id, max(self.config.n), self.config.methods[0])]

    @property
    def images_kept(self) -> int:
        return self.config.draws

    @cached_method
    def mixtures(self, class_id: str) -> list[Mixture]:
        """Return the mixtures of a class: as many as asked for, or as there are."""
        config, pool = self.config, len(self.pool(class_id))
        return random_mixtures(config.seed, class_id, config.draws, self._sizes(pool), self.alpha, pool)

    def draws(self, cell: Cell, most: int | None = None) -> Sequence[int]:
        count = self.config.draws if cell.method == NOISE else len(self.mixtures(cell.class_id))
        return range(count)[:most]

    def weights(self, cell: Cell, draws: Sequence[int]) -> Tensor:
        mixtures = self.mixtures(cell.class_id)
        return mixture_weights([mixtures[draw] for draw in draws], len(self.pool(cell.class_id)))

    @cached_property
    def layout(self) -> Layout:  # type: ignore[override]
        """Return the folders of this experiment; the keys of cells contain the sizes of mixtures, too."""
        usual = super().layout
        return replace(usual, mixing={**usual.mixing, "of": sorted(self.config.n)})
