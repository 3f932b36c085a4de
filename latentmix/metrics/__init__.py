"""Metrics: functions of the features of generated and real images, and intervals of their values.

`registry.py` lists the metrics of a run.
"""

from latentmix.metrics.distances import (
    Features,
    Others,
    activation_distances,
    clip_scores,
    cosine_distances,
    frechet_distance,
    frechet_infinity,
)
from latentmix.metrics.intervals import Comparison, Estimate, Sample, average, jackknifed, mean, mean_interval, paired
from latentmix.metrics.neighbours import coverage, density, precision, recall
from latentmix.metrics.registry import METRICS, Metric

__all__ = ["METRICS", "Comparison", "Estimate", "Features", "Metric", "Others", "Sample", "activation_distances"]
__all__ += ["average", "clip_scores", "cosine_distances", "coverage", "density", "frechet_distance"]
__all__ += ["frechet_infinity", "jackknifed", "mean", "mean_interval", "paired", "precision", "recall"]
