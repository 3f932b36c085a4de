"""Grids of images: mixtures (Figs. 1, 3, 5 and 8 to 12) and offsets (Fig. 6)."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure
from torch import Tensor

from latentmix.errors import UserError
from latentmix.experiment.draws import Cell
from latentmix.experiment.experiment import Experiment
from latentmix.experiment.probe import TIMES, Probe
from latentmix.figures.style import save, styled
from latentmix.images import read_image

DOTS = 200  # dots per inch of PNG files


def draw_grid(rows: Sequence[Sequence[Tensor]], names: Sequence[str], titles: Sequence[str], stem: Path) -> list[Path]:
    """Draw images, uint8 [3, H, W], in a grid with a name for each row and a title for each column."""
    wide = len(titles) <= 8
    side = 0.9 if wide else 0.62  # inches
    with styled():
        height, width = rows[0][0].shape[1:]
        figure = Figure(figsize=(side * len(titles) + 0.5, side * height / width * len(rows) + 0.3))
        grid = figure.subplots(len(rows), len(titles), squeeze=False)
        for row_of_axes, images, name in zip(grid, rows, names, strict=True):
            for axes, image in zip(row_of_axes, images, strict=True):
                enlarged = image.shape[-1] < DOTS * side
                interpolation = "nearest" if enlarged else "antialiased"
                axes.imshow(image.permute(1, 2, 0).numpy(), interpolation=interpolation)
                axes.set(xticks=[], yticks=[])
                axes.spines[:].set_visible(False)
            row_of_axes[0].set_ylabel(name, rotation=0, ha="right", va="center")
        for axes, title in zip(grid[0], titles, strict=True):
            axes.set_title(title, fontsize=8 if wide else 7, loc="center" if wide else "left")
        figure.subplots_adjust(wspace=0.04, hspace=0.04)
        return save(figure, stem)


def draw_offsets(probe: Probe, images: Mapping[tuple[str, int, float], Tensor], stem: Path) -> list[Path]:
    """Draw Fig. 6: a column for each offset, two rows (t = T, t = 0) for each noise; `images` by (time, draw, b)."""
    rows = [[images[t, draw, b] for b in probe.offsets] for draw in range(probe.draws) for t in TIMES]
    names = [f"t = {t}" for _ in range(probe.draws) for t in TIMES]
    return draw_grid(rows, names, [f"b = {b:g}" for b in probe.offsets], stem)


def draw_mixtures(experiments: Sequence[Experiment], stem: Path, most: int | None = None) -> list[Path]:
    """Draw the first draw of each class, N and method; each method of each experiment is a row.

    `most` limits the number of classes. Draws are nested in N, so each column adds latents to the one before.
    """
    first = experiments[0]
    columns = [(index, n) for index in range(len(first.classes[:most])) for n in first.config.n]
    rows = [(experiment, method) for experiment in experiments for method in dict.fromkeys(experiment.config.methods)]
    images = [[_image(e, Cell(e.classes[index], n, method)) for index, n in columns] for e, method in rows]
    names = [str(method) for _, method in rows]
    if len(experiments) > 1:  # of several models
        names = [e.config.model.name + f"\n{method}" * (len(set(e.config.methods)) > 1) for e, method in rows]
    return draw_grid(images, names, _titles(first, columns), stem)


def _image(experiment: Experiment, cell: Cell) -> Tensor:
    path = experiment.layout.image_path(cell, 0)
    if not path.exists():
        raise UserError(f"no image of {cell} is kept; run latentmix sweep with keep=1")
    return read_image(path)


def _titles(experiment: Experiment, columns: Sequence[tuple[int, int]]) -> list[str]:
    """Return the title of each column: the class at its first N if there are several, and N if there are several."""
    classes, ns = {index for index, _ in columns}, experiment.config.n
    titles = []
    for index, n in columns:
        name = experiment.data.title(experiment.classes[index]) if n == ns[0] else ""
        lines = [*([name] if len(classes) > 1 else []), *([f"N = {n}"] if len(ns) > 1 else [])]
        titles.append("\n".join(lines) or f"N = {n}")
    return titles
