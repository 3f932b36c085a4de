"""Results -> pictures, as PNG and PDF. What the paper's own figures need is in `latentmix.figures.paper`."""

from pathlib import Path

from latentmix.experiment.experiment import Experiment
from latentmix.figures.curves import draw_curves
from latentmix.figures.mixtures import draw_mixtures


def draw_run(experiment: Experiment) -> list[Path]:
    """Of a finished run, in its folder: its images as in Fig. 1, if it keeps any, and its curves as in Fig. 7."""
    folder = experiment.config.folder
    images = draw_mixtures([experiment], folder / "fig1", most=3) if experiment.config.keep else []
    return [*images, *draw_curves(experiment, folder / "fig7")]
