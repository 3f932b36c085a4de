"""The pseudo-values (`Sample.parts`) of a run's metrics, in two files, to compare runs draw by draw.

`images.parquet` has a row for each generated image, with its values of those metrics that are means over images.
`parts.parquet` has a row for each metric of a cell, with the pseudo-values of the other metrics.
"""

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from latentmix.errors import UserError
from latentmix.experiment.csv_files import grouped
from latentmix.experiment.draws import Cell
from latentmix.metrics import METRICS, Sample
from latentmix.storage import write_atomic

AGAIN = "give the run's command again"  # it writes all results again from the cache
Samples = dict[str, Sample]  # by metric
Key = tuple[str, int, str, str]  # class, N, method, metric as tables name it


def write_parts(
    folder: Path, measured: Mapping[Cell, Samples], columns: Mapping[str, str], draws: Callable[[Cell], Sequence[int]]
) -> None:
    """Write both files. `columns` are the names of metrics in tables, `draws` returns the draws of a cell."""
    images = [row for cell, samples in measured.items() for row in _image_rows(cell, samples, draws(cell))]
    parts = [row for cell, samples in measured.items() for row in _part_rows(cell, samples, columns)]
    _write_parquet(folder / "images.parquet", images)
    _write_parquet(folder / "parts.parquet", parts)


def read_samples(folder: Path) -> Iterator[tuple[Key, tuple[str, Sample]]]:
    """Yield each metric of a cell with its name and sample; nothing for a run of an earlier release."""
    if not (folder / "parts.parquet").exists():
        return
    rows = _read_parquet(folder / "images.parquet")
    images = grouped(((row["class"], row["n"], row["method"]), row) for row in rows)
    for row in _read_parquet(folder / "parts.parquet"):
        if "low" not in row:
            return
        cell, parts = (row["class"], row["n"], row["method"]), row["parts"]
        if parts is None:
            parts = [image[row["name"]] for image in images[cell]]
        by_row = row["parts"] is None or METRICS[row["name"]].network == "pairs"
        values = torch.tensor(parts, dtype=torch.float64)
        sample = Sample(row["value"], values, row["count"], row["low"], row["high"], by_row, row["rare"])
        yield (*cell, row["metric"]), (row["name"], sample)


def read_draws(folder: Path) -> dict[tuple[str, int, str], list[int]]:
    """Return the numbers of the draws of each cell, by class, N and method, in the order of its parts."""
    rows = _read_parquet(folder / "images.parquet", ["class", "n", "method", "draw"])
    return grouped(((row["class"], row["n"], row["method"]), row["draw"]) for row in rows)


def _read_parquet(path: Path, columns: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Return the rows of a file, with some of its columns or all."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_table(path, columns=columns).to_pylist()
    except (OSError, ValueError, pa.ArrowException) as error:
        raise UserError(f"{path} is missing or damaged; {AGAIN}") from error


def _image_rows(cell: Cell, samples: Samples, draws: Sequence[int]) -> Iterator[dict[str, object]]:
    """Yield a row for each image, with its values of the metrics that are means over images.

    For a mean over pairs, both images of a pair have their distance, and images in no pair have no value.
    """
    columns = dict[str, list[float | None]]()
    for name, sample in samples.items():
        parts = sample.parts.tolist()
        if METRICS[name].network == "pairs":
            columns[name] = [parts[row // 2] if row // 2 < len(parts) else None for row in range(len(draws))]
        elif sample.by_row:
            columns[name] = parts
    for row, draw in enumerate(draws):
        values = {name: column[row] for name, column in columns.items()}
        yield {"class": cell.class_id, "n": cell.n, "method": cell.method_name, "draw": draw, **values}


def _part_rows(cell: Cell, samples: Samples, columns: Mapping[str, str]) -> Iterator[dict[str, object]]:
    """Yield a row for each metric of a cell; its `parts` are None if they are in `images.parquet`."""
    for name, sample in samples.items():
        in_images = sample.by_row and METRICS[name].network != "pairs"
        yield {
            **{"class": cell.class_id, "n": cell.n, "method": cell.method_name, "name": name, "metric": columns[name]},
            **{"value": sample.value, "count": sample.count, "parts": None if in_images else sample.parts.tolist()},
            **{"low": sample.low, "high": sample.high, "rare": sample.rare},
        }


def _write_parquet(path: Path, rows: list[dict[str, object]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), buffer)
    write_atomic(path, buffer.getvalue())
