"""The metrics by name. A new one is a line in `METRICS`, which names the feature network that it needs."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch

from latentmix.metrics.distances import (
    Features,
    Others,
    clip_scores,
    cmmd,
    cosine_distances,
    frechet_distance_to,
    frechet_infinity,
    kid,
)
from latentmix.metrics.intervals import Sample, jackknifed, mean
from latentmix.metrics.neighbours import coverage, density, precision, recall
from latentmix.plugins import Table


@dataclass(frozen=True)
class Metric:
    """A metric of a run: its label, the network whose features it takes, and the function of these features.

    `network` is "frechet" or "clip", the run's networks of Fréchet and CLIP distances; "pairs"; or the name of any
    other feature network, such as "dinov2". `sample` is given the features of generated images [n, D] and those of real
    images [m, D]. For "pairs", features are distances within pairs of images, [n, 1].
    """

    label: str  # in figures and reports
    better: Literal["lower", "higher", "nearer"]  # "nearer": the nearer to the value of real images
    network: str
    sample: Callable[[Features, Others], Sample]
    other_networks: tuple[str, str] | None = None  # name and label with networks other than Inception
    of_prompt: bool = False  # compares with the embedding [1, D] of the prompt, not with real images
    plotted: bool = True  # has a panel in Fig. 7; metrics without one are drawn only if no other metric was measured
    limits: tuple[float, float] = (-math.inf, math.inf)  # of its values and intervals
    note: str = ""  # what captions and reports say about it
    down_to_real: bool = False  # lower is better, but not below the value of real images

    @property
    def own_network(self) -> str | None:
        """Return the name of a network that the metric needs besides those of the run."""
        return None if self.network in ("frechet", "clip", "pairs") else self.network

    @property
    def direction(self) -> str:
        """Return in words which values are better."""
        if self.better == "nearer":
            return "nearer to real images is better"
        return f"{self.better} is better{', down to real images' * self.down_to_real}"

    @property
    def lower(self) -> bool:
        """Return whether lower values are better."""
        return self.better == "lower"

    @property
    def against(self) -> str:
        """Return the name of the features that those of generated images are compared with."""
        return "prompt" if self.of_prompt else self.network

    def column(self, name: str, network: str) -> str:
        """Return the metric's name in tables, which contains the network: `fid` (Inception), else as `fd_embedded`."""
        if self.other_networks is None:
            return f"{name}_{network}"
        return name if network == "inception" else f"{self.other_networks[0]}_{network}"


def _frechet(x: Features, y: Others) -> Sample:
    return jackknifed(frechet_distance_to(y), x)


def _frechet_infinity(x: Features, y: Others) -> Sample:
    """Return FID∞ without an interval: a jackknife would take hours. The average over classes has its own interval."""
    return Sample(frechet_infinity(x, y), torch.empty(0, dtype=torch.float64, device="cpu"), len(x))


def _cosine(x: Features, y: Others, unit: bool = True) -> Sample:
    """Return the mean distance. Its interval allows for draws at a distance of 1, which resemble no real image."""
    return mean(cosine_distances(x, y, unit), (None, 1.0))


def _clip_score(x: Features, text: Others) -> Sample:
    """Return the mean score. Its interval allows for draws with a score of 0."""
    return mean(clip_scores(x, text), (0.0, None))


def _precision(x: Features, y: Others) -> Sample:
    return mean(precision(x, y), SHARE)


def _density(x: Features, y: Others) -> Sample:
    """Return the mean density. Its interval allows for draws of density 1, which real images have on average."""
    values = density(x, y)
    return mean(values, (0.0, max(1.0, values.max().item())))


DISTANCE, COSINE, SHARE = (0.0, math.inf), (0.0, 2.0), (0.0, 1.0)  # limits of metrics
TYPICAL = (
    "A distance to the mean of real images rewards typical ones: real images are further from it than mixtures. "
    "Below the value of real images, smaller is not better."
)
COUNTS = "A Fréchet distance depends on the number of images. Its interval is for the expected value at this number."
REACH = "Coverage depends on the number of images. Compare it between methods, not with that of real images."
LIMIT = "FID∞ estimates the limit of many generated images, and its interval over classes is one of this limit."

_Unplotted = partial(Metric, plotted=False)
_ToMean = partial(Metric, better="lower", network="clip", limits=COSINE, note=TYPICAL, down_to_real=True)

METRICS: Mapping[str, Metric] = Table(
    "metrics",
    {
        "fid": Metric("FID", "lower", "frechet", _frechet, ("fd", "Fréchet distance"), limits=DISTANCE, note=COUNTS),
        "fid_infinity": _Unplotted("FID∞", "lower", "frechet", _frechet_infinity, ("fd_infinity", "FD∞"), note=LIMIT),
        "kid": _Unplotted("KID", "lower", "frechet", kid, ("kd", "Kernel distance")),
        "clip_distance": _ToMean("Cosine distance", sample=_cosine),
        "clip_distance_raw": _ToMean("Cosine distance, raw mean", sample=partial(_cosine, unit=False)),
        "clip_score": _Unplotted("CLIP score", "higher", "clip", _clip_score, of_prompt=True, limits=(0.0, 100.0)),
        "cmmd": Metric("CMMD", "lower", "clip", cmmd),
        "precision": _Unplotted("Precision", "higher", "frechet", _precision, limits=SHARE),
        "recall": _Unplotted("Recall", "higher", "frechet", recall, limits=SHARE),
        "density": _Unplotted("Density", "higher", "frechet", _density, limits=DISTANCE),
        "coverage": Metric("Coverage", "higher", "frechet", coverage, limits=SHARE, note=REACH),
        "diversity": _Unplotted("Diversity", "nearer", "pairs", lambda x, _: mean(x[:, 0]), limits=DISTANCE),
    },
    kind=Metric,
)
