"""Pure functions of features: how far generated images are from real ones, and how sure one can be of it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from latentmix.metrics.distances import (
    Features,
    Moments,
    Others,
    activation_distances,
    clip_scores,
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
    "Others",
    "Sample",
    "activation_distances",
    "bootstrap_interval",
    "class_bootstrap_interval",
    "clip_scores",
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
    """A metric of a run: whose features it takes, and what it makes of those of generated and of real images.

    Of `pairs` of images, features are the distance between the two: [n, 1].
    """

    network: str  # `frechet`, the network of the Fréchet distance, `clip`, or `pairs`
    sample: Callable[[Features, Others], Sample]
    lower: bool = True  # is better
    elsewhere: str | None = None  # what it is called outside of Inception, where its own name belongs
    of_prompt: bool = False  # it takes the embedding [1, D] of the prompt in place of those of real images

    @property
    def against(self) -> str:
        """What features of generated images are compared with: the same ones of real images, or those of `prompt`."""
        return "prompt" if self.of_prompt else self.network

    def label(self, name: str, network: str) -> str:
        """Its name in tables, which says in which network it was taken: `fid` or `fd_embedded`, `cmmd_embedded`."""
        return name if self.elsewhere and network == "inception" else f"{self.elsewhere or name}_{network}"


def _frechet(x: Features, y: Others) -> Sample:
    return jackknifed(partial(frechet_distance, y=y), x)


def _frechet_infinity(x: Features, y: Others) -> Sample:
    """Without an interval: a jackknife would take hours, and the average over classes has one of its own."""
    return Sample(frechet_infinity(x, y), torch.empty(0, dtype=torch.float64), len(x))


METRICS: dict[str, Metric] = {
    "fid": Metric("frechet", _frechet, elsewhere="fd"),
    "fid_infinity": Metric("frechet", _frechet_infinity, elsewhere="fd_infinity"),
    "kid": Metric("frechet", lambda x, y: mean(kid_contributions(x, y)), elsewhere="kd"),
    "clip_distance": Metric("clip", lambda x, y: mean(cosine_distances(x, y))),
    "clip_distance_raw": Metric("clip", lambda x, y: mean(cosine_distances(x, y, unit=False))),
    "clip_score": Metric("clip", lambda x, y: mean(clip_scores(x, y)), lower=False, of_prompt=True),
    "cmmd": Metric("clip", lambda x, y: mean(cmmd_contributions(x, y))),
    "precision": Metric("frechet", lambda x, y: mean(precision(x, y)), lower=False),
    "recall": Metric("frechet", recall_sample, lower=False),
    "density": Metric("frechet", lambda x, y: mean(density(x, y)), lower=False),
    "coverage": Metric("frechet", coverage_sample, lower=False),
    "diversity": Metric("pairs", lambda x, _: mean(x[:, 0]), lower=False),
}
