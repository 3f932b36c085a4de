"""Metrics: functions of the features of generated and real images, and intervals of their values."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from latentmix.metrics.distances import (
    Features,
    Others,
    activation_distances,
    clip_scores,
    cmmd_contributions,
    cosine_distances,
    frechet_distance,
    frechet_infinity,
    kid_contributions,
)
from latentmix.metrics.intervals import Comparison, Estimate, Sample, jackknifed, mean, mean_interval, paired
from latentmix.metrics.neighbours import coverage, density, precision, recall
from latentmix.plugins import table

__all__ = [
    "METRICS",
    "Comparison",
    "Estimate",
    "Features",
    "Metric",
    "Others",
    "Sample",
    "activation_distances",
    "clip_scores",
    "cmmd_contributions",
    "cosine_distances",
    "coverage",
    "density",
    "frechet_distance",
    "frechet_infinity",
    "jackknifed",
    "kid_contributions",
    "mean",
    "mean_interval",
    "paired",
    "precision",
    "recall",
]


@dataclass(frozen=True)
class Metric:
    """A metric of a run: its label, the network whose features it takes, and the function of these features.

    `sample` is given the features of generated images [n, D] and those of real images [m, D]. For the network `pairs`,
    features are distances within pairs of images, [n, 1].
    """

    label: str  # in figures and reports
    better: Literal["lower", "higher", "nearer"]  # "nearer": the nearer to the value of real images
    network: str  # "frechet", the network of the Fréchet distance, "clip" or "pairs"
    sample: Callable[[Features, Others], Sample]
    elsewhere: tuple[str, str] | None = None  # name and label in other networks than Inception
    of_prompt: bool = False  # compares with the embedding [1, D] of the prompt, not with real images
    plotted: bool = True  # has a panel in Fig. 7; metrics without one are drawn only if no other metric was measured

    @property
    def lower(self) -> bool:
        """Return whether lower values are better."""
        return self.better == "lower"

    @property
    def against(self) -> str:
        """Return the name of the features that those of generated images are compared with."""
        return "prompt" if self.of_prompt else self.network

    def column(self, name: str, network: str) -> str:
        """Return the metric's name in tables, which contains the network: `fid`, `fd_embedded`, `cmmd_embedded`."""
        if self.elsewhere is None:
            return f"{name}_{network}"
        return name if network == "inception" else f"{self.elsewhere[0]}_{network}"


def _frechet(x: Features, y: Others) -> Sample:
    return jackknifed(partial(frechet_distance, y=y), x)


def _frechet_infinity(x: Features, y: Others) -> Sample:
    """Return FID∞ without an interval: a jackknife would take hours. The average over classes has its own interval."""
    return Sample(frechet_infinity(x, y), torch.empty(0, dtype=torch.float64), len(x))


def _by_row(contributions: Callable[..., Tensor], **options: bool) -> Callable[[Features, Others], Sample]:
    """Return a metric that is the mean of what each row contributes."""
    return lambda x, y: mean(contributions(x, y, **options))


_Unplotted = partial(Metric, plotted=False)

METRICS: Mapping[str, Metric] = table(
    "metrics",
    {
        "fid": Metric("FID", "lower", "frechet", _frechet, ("fd", "Fréchet distance")),
        "fid_infinity": _Unplotted("FID∞", "lower", "frechet", _frechet_infinity, ("fd_infinity", "FD∞")),
        "kid": _Unplotted("KID", "lower", "frechet", _by_row(kid_contributions), ("kd", "Kernel distance")),
        "clip_distance": Metric("Cosine distance", "lower", "clip", _by_row(cosine_distances)),
        "clip_distance_raw": Metric(
            "Cosine distance, raw mean", "lower", "clip", _by_row(cosine_distances, unit=False)
        ),
        "clip_score": _Unplotted("CLIP score", "higher", "clip", _by_row(clip_scores), of_prompt=True),
        "cmmd": _Unplotted("CMMD", "lower", "clip", _by_row(cmmd_contributions)),
        "precision": _Unplotted("Precision", "higher", "frechet", _by_row(precision)),
        "recall": _Unplotted("Recall", "higher", "frechet", recall),
        "density": _Unplotted("Density", "higher", "frechet", _by_row(density)),
        "coverage": _Unplotted("Coverage", "higher", "frechet", coverage),
        "diversity": _Unplotted("Diversity", "nearer", "pairs", lambda x, _: mean(x[:, 0])),
    },
    kind=Metric,
)
