"""Figs. 1, 3, 5 and 8 to 12: what comes out of mixtures, N or classes across and methods or models down."""

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from latentmix.bench import Bench, Cell
from latentmix.errors import UserError
from latentmix.figures.pictures import draw_grid
from latentmix.mixing import Method
from latentmix.pictures import read_picture


def draw_mixtures(benches: Sequence[Bench], stem: Path, most: int | None = None) -> list[Path]:
    """The first draw of each class (of `most` classes), N and method, all models below each other; draws are nested in
    N, so a column adds images to the one before."""
    first = benches[0]
    columns = [(place, n) for place in range(len(first.classes[:most])) for n in first.config.n]
    rows = [(bench, method) for bench in benches for method in dict.fromkeys(bench.config.methods)]
    pictures = [[_picture(bench, Cell(bench.classes[c], n, method)) for c, n in columns] for bench, method in rows]
    names = [_name(bench, method, len(benches) > 1) for bench, method in rows]
    return draw_grid(pictures, names, _titles(first, columns), stem)


def _picture(bench: Bench, cell: Cell) -> Tensor:
    path = bench.picture(cell, 0)
    if not path.exists():
        raise UserError(f"no picture of {cell} is kept; run latentmix sweep with keep=1")
    return read_picture(path)


def _name(bench: Bench, method: Method, several: bool) -> str:
    if not several:
        return str(method)
    alone = len(set(bench.config.methods)) == 1
    return bench.config.model.name if alone else f"{bench.config.model.name}\n{method}"


def _titles(bench: Bench, columns: Sequence[tuple[int, int]]) -> list[str]:
    """A class's name where it begins, unless there is one class only, and N, unless there is one only."""
    classes, ns = {place for place, _ in columns}, bench.config.n
    titles = []
    for place, n in columns:
        name = bench.title(bench.classes[place]) if n == ns[0] else ""
        lines = [*([name] if len(classes) > 1 else []), *([f"N = {n}"] if len(ns) > 1 else [])]
        titles.append("\n".join(lines) or f"N = {n}")
    return titles
