"""Figs. 1, 3, 5 and 8 to 12: images of mixtures. Columns are N or classes, rows are methods or models."""

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from latentmix.errors import UserError
from latentmix.experiment.draws import Cell
from latentmix.experiment.experiment import Experiment
from latentmix.figures.grid import draw_grid
from latentmix.images import read_image
from latentmix.mixing import Method


def draw_mixtures(experiments: Sequence[Experiment], stem: Path, most: int | None = None) -> list[Path]:
    """Draw the first draw of each class, N and method, with the rows of all experiments below each other.

    `most` limits the number of classes. Draws are nested in N, so each column adds latents to the one before.
    """
    first = experiments[0]
    columns = [(index, n) for index in range(len(first.classes[:most])) for n in first.config.n]
    rows = [(experiment, method) for experiment in experiments for method in dict.fromkeys(experiment.config.methods)]
    images = [
        [_image(experiment, Cell(experiment.classes[index], n, method)) for index, n in columns]
        for experiment, method in rows
    ]
    names = [_row_name(experiment, method, len(experiments) > 1) for experiment, method in rows]
    return draw_grid(images, names, _titles(first, columns), stem)


def _image(experiment: Experiment, cell: Cell) -> Tensor:
    path = experiment.layout.image_path(cell, 0)
    if not path.exists():
        raise UserError(f"no image of {cell} is kept; run latentmix sweep with keep=1")
    return read_image(path)


def _row_name(experiment: Experiment, method: Method, several_models: bool) -> str:
    if not several_models:
        return str(method)
    one_method = len(set(experiment.config.methods)) == 1
    return experiment.config.model.name if one_method else f"{experiment.config.model.name}\n{method}"


def _titles(experiment: Experiment, columns: Sequence[tuple[int, int]]) -> list[str]:
    """Return the title of each column: the class at its first N if there are several, and N if there are several."""
    classes, ns = {index for index, _ in columns}, experiment.config.n
    titles = []
    for index, n in columns:
        name = experiment.title(experiment.classes[index]) if n == ns[0] else ""
        lines = [*([name] if len(classes) > 1 else []), *([f"N = {n}"] if len(ns) > 1 else [])]
        titles.append("\n".join(lines) or f"N = {n}")
    return titles
