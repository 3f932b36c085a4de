"""The points of a run's curves, and the draws of each: which images it mixes, by what weights."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from latentmix.config import Config
from latentmix.experiment.data import RunData
from latentmix.experiment.draws import GAUSS, NOISE, Cell, dirichlet_weights, distinct_draws, uniform_weights

MAX_PAIRS = 50  # of images in a cell or class, whose perceptual distance is the diversity


class Cells:
    """The cells of a run, class by class, as one class's latents are in memory at a time."""

    def __init__(self, config: Config, data: RunData) -> None:
        self.config = config
        self.data = data

    def of(self, class_id: str) -> list[Cell]:
        """Return the cells of a class, without the controls."""
        return [Cell(class_id, n, method) for n in self.config.n for method in dict.fromkeys(self.config.methods)]

    @property
    def mixed(self) -> list[Cell]:
        """Return all cells without the controls."""
        return [cell for class_id in self.data.classes for cell in self.of(class_id)]

    @property
    def streams(self) -> dict[str, list[Cell]]:
        """Return groups of cells that are generated together, by name.

        The cells of a class share a prompt and a pool, so they form one stream. The controls `gauss` and `noise` form
        further ones.
        """
        mixed = {class_id: self.of(class_id) for class_id in self.data.classes}
        plain = [Cell(class_id, 0, NOISE) for class_id in self.data.classes if "noise" in self.config.controls]
        if "gauss" in self.config.controls:
            mixed |= {f"{c}, {GAUSS}": [replace(cell, gaussian=True) for cell in cells] for c, cells in mixed.items()}
        return mixed | {str(cell): [cell] for cell in plain}

    @property
    def generated(self) -> list[Cell]:
        """Return all cells, with the controls `gauss` and `noise`."""
        return [cell for cells in self.streams.values() for cell in cells]

    @property
    def images_kept(self) -> int:
        """Return how many images of each cell a sweep keeps; diversity needs those of its pairs."""
        config = self.config
        return max(config.keep, 2 * MAX_PAIRS) if config.measures_diversity else config.keep

    def draws(self, cell: Cell, most: int | None = None) -> Sequence[int]:
        """Return the numbers of a cell's draws, or of the first `most`; fewer where the pool has fewer subsets of N."""
        config = self.config
        count = config.draws if most is None else min(most, config.draws)
        if cell.method == NOISE or (config.weights != "uniform" and cell.n > 1):  # random weights are never the same
            return range(count)
        return distinct_draws(config.seed, cell.class_id, count, cell.n, config.pool)

    @property
    def few_draws(self) -> str:
        """Return the warning for a run in which some N has fewer draws than asked for."""
        draws, pool, every = self.config.draws, self.config.pool, self.config.weights == "uniform"
        counts = {n: math.comb(pool, n) for n in self.config.n if every or n == 1}  # random weights never repeat
        few = ", ".join(f"{count} of n={n}" for n, count in counts.items() if count < draws)
        more = f"draws={draws} is more than the subsets that pool={pool} images have"
        return f"{more}: {few}; each of these is drawn once"

    def weights(self, cell: Cell, draws: Sequence[int]) -> Tensor:
        """Return the weights [K, pool] of the images of the pool in K draws of a cell."""
        config = self.config
        drawn = config.seed, cell.class_id, draws, cell.n, config.pool
        return uniform_weights(*drawn) if config.weights == "uniform" else dirichlet_weights(*drawn, config.weights)

    @property
    def identity(self) -> dict[str, Any]:
        """Return what weights depend on besides the seed, the cell and the pool."""
        return {} if self.config.weights == "uniform" else {"weights": self.config.weights}
