"""Results -> pictures, as PNG and PDF. What the paper's own figures need is in `latentmix.paper`."""

from pathlib import Path

from latentmix.bench import Bench
from latentmix.figures.curves import draw_curves
from latentmix.figures.grid import draw_mixtures


def draw_run(bench: Bench) -> list[Path]:
    """Of a finished run, in its folder: its images as in Fig. 1, if it keeps any, and its curves as in Fig. 7."""
    folder = bench.config.folder
    images = draw_mixtures([bench], folder / "fig1", most=3) if bench.config.keep else []
    return [*images, *draw_curves(bench, folder / "fig7")]
