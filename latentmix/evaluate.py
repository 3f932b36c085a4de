"""Features -> the tidy table of distances, per class and averaged over classes, with intervals."""

import csv
import io
import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from latentmix.bench import Bench, Cell, draw_id
from latentmix.metrics import Estimate, cosine_distances, frechet_distance, jackknife_interval, mean_interval
from latentmix.store import write

COLUMNS = ("model", "data", "inversion", "class", "n", "method", "metric", "value", "low", "high", "count")
AVERAGE = "all"  # the class that stands for the average over classes


@dataclass(frozen=True)
class Result:
    """One value of `metrics.csv`; interval and count are over draws for a class, over classes for `all`."""

    class_id: str
    n: int
    method: str
    metric: str
    estimate: Estimate


def evaluate(bench: Bench) -> list[Result]:
    """All distances of a run, from cached features; writes `metrics.csv` and, image by image, `images.parquet`."""
    results, per_image = [], []
    for class_id in bench.classes:
        real = {name: _real(bench, name, class_id) for name in bench.networks}
        for cell in (cell for cell in bench.cells if cell.class_id == class_id):
            made = {name: _made(bench, name, cell) for name in bench.networks}
            distances = cosine_distances(made["clip"], real["clip"])
            frechet = jackknife_interval(partial(frechet_distance, y=real["frechet"]), made["frechet"])
            for name, estimate in (("frechet", frechet), ("clip", mean_interval(distances))):
                metric = bench.networks[name].metric
                results.append(Result(class_id, cell.n, str(cell.method), metric, estimate))
            per_image += [
                {"class": class_id, "n": cell.n, "method": str(cell.method), "draw": draw, "clip_distance": distance}
                for draw, distance in enumerate(distances.tolist())
            ]
    results += averages(results)
    _write_table(bench, results)
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(per_image), buffer)
    write(bench.config.folder / "images.parquet", buffer.getvalue())
    return results


def averages(results: list[Result]) -> list[Result]:
    """The mean over classes of each value, with the interval that their scatter gives."""
    groups: dict[tuple[int, str, str], list[float]] = {}
    for result in results:
        groups.setdefault((result.n, result.method, result.metric), []).append(result.estimate.value)
    return [
        Result(AVERAGE, *group, mean_interval(torch.tensor(values, dtype=torch.float64)))
        for group, values in groups.items()
    ]


def read_table(path: Path) -> list[Result]:
    """What `metrics.csv` says."""
    with path.open(newline="") as file:
        return [
            Result(
                row["class"],
                int(row["n"]),
                row["method"],
                row["metric"],
                Estimate(_number(row["value"]), _number(row["low"]), _number(row["high"]), int(row["count"])),
            )
            for row in csv.DictReader(file)
        ]


def _number(text: str) -> float:
    return float(text) if text else math.nan


def _write_table(bench: Bench, results: list[Result]) -> None:
    config, text = bench.config, io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    for result in results:
        estimate = result.estimate
        value, low, high = ("" if math.isnan(x) else repr(x) for x in (estimate.value, estimate.low, estimate.high))
        run = (config.model.name, config.data.name, config.inversion.name)
        table.writerow(
            (*run, result.class_id, result.n, result.method, result.metric, value, low, high, result.estimate.count)
        )
    write(config.folder / "metrics.csv", text.getvalue().encode())


def _real(bench: Bench, name: str, class_id: str) -> Tensor:
    ids = [source.id for source in bench.references(class_id)]
    return bench.reference_features(bench.networks[name]).gather(ids, "features")


def _made(bench: Bench, name: str, cell: Cell) -> Tensor:
    ids = [draw_id(draw) for draw in range(bench.config.draws)]
    return bench.features(cell, bench.networks[name]).gather(ids, "features")
