"""Figs. 1, 3, 5 and 8 to 12: what comes out of mixtures, N or classes across and methods or models down."""

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from latentmix.errors import UserError
from latentmix.experiment.experiment import Cell, Experiment
from latentmix.figures.grid import draw_grid
from latentmix.images import read_image
from latentmix.mixing import Method


def draw_mixtures(experiments: Sequence[Experiment], stem: Path, most: int | None = None) -> list[Path]:
    """The first draw of each class (of `most` classes), N and method, all models below each other; draws are nested in
    N, so a column adds images to the one before."""
    first = experiments[0]
    columns = [(place, n) for place in range(len(first.classes[:most])) for n in first.config.n]
    rows = [(experiment, method) for experiment in experiments for method in dict.fromkeys(experiment.config.methods)]
    pictures = [
        [_picture(experiment, Cell(experiment.classes[c], n, method)) for c, n in columns]
        for experiment, method in rows
    ]
    names = [_name(experiment, method, len(experiments) > 1) for experiment, method in rows]
    return draw_grid(pictures, names, _titles(first, columns), stem)


def _picture(experiment: Experiment, cell: Cell) -> Tensor:
    path = experiment.image_path(cell, 0)
    if not path.exists():
        raise UserError(f"no picture of {cell} is kept; run latentmix sweep with keep=1")
    return read_image(path)


def _name(experiment: Experiment, method: Method, several: bool) -> str:
    if not several:
        return str(method)
    alone = len(set(experiment.config.methods)) == 1
    return experiment.config.model.name if alone else f"{experiment.config.model.name}\n{method}"


def _titles(experiment: Experiment, columns: Sequence[tuple[int, int]]) -> list[str]:
    """A class's name where it begins, unless there is one class only, and N, unless there is one only."""
    classes, ns = {place for place, _ in columns}, experiment.config.n
    titles = []
    for place, n in columns:
        name = experiment.title(experiment.classes[place]) if n == ns[0] else ""
        lines = [*([name] if len(classes) > 1 else []), *([f"N = {n}"] if len(ns) > 1 else [])]
        titles.append("\n".join(lines) or f"N = {n}")
    return titles
