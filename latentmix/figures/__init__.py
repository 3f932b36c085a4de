"""Figures of results, as PNG and PDF. Those of the paper are in `latentmix.figures.registry`."""

from pathlib import Path

from latentmix.experiment.experiment import Experiment
from latentmix.figures.grid import draw_mixtures
from latentmix.figures.metric_curves import draw_curves


def draw_run(experiment: Experiment) -> list[Path]:
    """Draw the figures of a finished run: images as in Fig. 1, if any are kept, and curves as in Fig. 7."""
    folder = experiment.config.folder
    images = draw_mixtures([experiment], folder / "fig1", most=3) if experiment.config.keep else []
    return [*images, *draw_curves(folder / "metrics.csv", folder / "fig7")]
