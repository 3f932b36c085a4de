"""Results -> pictures. Each function takes the bench of a run and a path without ending, and returns what it wrote."""

from collections.abc import Callable
from pathlib import Path

from latentmix.bench import Bench
from latentmix.figures.bias import fig4
from latentmix.figures.curves import fig7
from latentmix.figures.grid import fig1

FIGURES: dict[str, Callable[[Bench, Path], list[Path]]] = {"fig1": fig1, "fig4": fig4, "fig7": fig7}
