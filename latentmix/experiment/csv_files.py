"""The CSV and JSON files of a run. NaN is an empty field or null, and numbers keep all of their digits."""

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from latentmix.config import Config
from latentmix.metrics import Estimate
from latentmix.storage import write_atomic

Group = TypeVar("Group")
Value = TypeVar("Value")

RUN = ("model", "data", "inversion")  # the first columns of most tables


def run_names(config: Config) -> tuple[str, str, str]:
    """Return the values of the columns `RUN`."""
    return config.model.name, config.data.name, config.inversion.name


def three_digits(x: float) -> str:
    """Return a number as people read it: with three significant digits, or all of those before its point."""
    if not math.isfinite(x) or x == 0 or abs(x) < 1e-4:
        return f"{x:.3g}"
    return f"{x:.{max(0, 2 - math.floor(math.log10(abs(x))))}f}"


def interval(estimate: Estimate) -> tuple[float, float, float]:
    """Return a value and the ends of its interval."""
    return estimate.value, estimate.low, estimate.high


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a table with a line of column names."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([["" if _is_nan(cell) else cell for cell in row] for row in rows])
    write_atomic(path, text.getvalue().encode())


def read_rows(path: Path) -> list[dict[str, str]]:
    """Return the rows of a table, whatever its columns."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def grouped(items: Iterable[tuple[Group, Value]]) -> dict[Group, list[Value]]:
    """Return the values of each group."""
    groups = dict[Group, list[Value]]()
    for group, value in items:
        groups.setdefault(group, []).append(value)
    return groups


def number(text: str) -> float:
    """Return the number in a field; NaN if it is empty."""
    return float(text) if text else math.nan


def without_nan(x: Any) -> Any:
    """Return what JSON can hold: null in place of numbers that are not finite."""
    if isinstance(x, Mapping):
        return {name: without_nan(value) for name, value in x.items()}
    if isinstance(x, list | tuple):
        return [without_nan(value) for value in x]
    return None if isinstance(x, float) and not math.isfinite(x) else x


def _is_nan(cell: object) -> bool:
    return isinstance(cell, float) and math.isnan(cell)
