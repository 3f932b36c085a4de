"""Pure functions of features: how far generated images are from real ones, and how sure one can be of it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from latentmix.metrics.distances import (
    Features,
    Moments,
    cmmd,
    cmmd_contributions,
    cosine_distances,
    extrapolated,
    frechet_distance,
    frechet_infinity,
    frechet_of_moments,
    kid,
    kid_contributions,
    kid_subsets,
)
from latentmix.metrics.intervals import (
    Comparison,
    Estimate,
    Sample,
    bootstrap_interval,
    class_bootstrap_interval,
    jackknife_interval,
    jackknifed,
    mean,
    mean_interval,
    paired,
)
from latentmix.metrics.neighbours import coverage, coverage_sample, density, precision, recall, recall_sample

__all__ = [
    "METRICS",
    "Comparison",
    "Estimate",
    "Features",
    "Metric",
    "Moments",
    "Sample",
    "bootstrap_interval",
    "class_bootstrap_interval",
    "cmmd",
    "cmmd_contributions",
    "cosine_distances",
    "coverage",
    "coverage_sample",
    "density",
    "extrapolated",
    "frechet_distance",
    "frechet_infinity",
    "frechet_of_moments",
    "jackknife_interval",
    "jackknifed",
    "kid",
    "kid_contributions",
    "kid_subsets",
    "mean",
    "mean_interval",
    "paired",
    "precision",
    "recall",
    "recall_sample",
]


@dataclass(frozen=True)
class Metric:
    """A metric of a run: whose features it takes, and what it makes of those of generated and of real images."""

    network: str  # `frechet`, the network of the Fréchet distance, or `clip`
    sample: Callable[[Features, Features], Sample]
    lower: bool = True  # is better
    elsewhere: str | None = None  # what it is called outside of Inception, where its own name belongs

    def label(self, name: str, network: str) -> str:
        """Its name in tables, which says in which network it was taken: `fid` or `fd_embedded`, `cmmd_embedded`."""
        return name if self.elsewhere and network == "inception" else f"{self.elsewhere or name}_{network}"


def _once(value: float, count: int) -> Sample:
    """Without an interval, which would take too long."""
    return Sample(value, mean_of_none, count)


METRICS: dict[str, Metric] = {}
