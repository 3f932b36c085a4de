"""Features -> the tidy tables: metrics per class and averaged over classes, methods in pairs, images one by one."""

import csv
import io
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from latentmix.cache import write_atomic
from latentmix.experiment.diversity import draws_in_pairs, real_pairs
from latentmix.experiment.experiment import Cell, Experiment, draw_id
from latentmix.metrics import METRICS, Comparison, Estimate, Sample, mean_interval, paired
from latentmix.mixing import Method

RUN = ("model", "data", "inversion")
COLUMNS = (*RUN, "class", "n", "method", "metric", "value", "low", "high", "count")
PAIRS = (*RUN, "class", "n", "metric", "method", "reference", "difference", "low", "high", "won", "count")
AVERAGE = "all"  # the class that stands for the average over classes
REFERENCE = Method("fix", "0")  # what other methods are compared with; the run's first, where it is not among them

Samples = dict[str, Sample]  # of the run's metrics, by name


@dataclass(frozen=True)
class Result:
    """One value of `metrics.csv`; interval and count are over draws for a class, over classes for `all`."""

    class_id: str
    n: int
    method: str
    metric: str
    estimate: Estimate


@dataclass(frozen=True)
class Pair:
    """One row of `pairs.csv`: how much a method's value differs from the reference's on the same draws."""

    class_id: str
    n: int
    metric: str
    method: str
    reference: str
    comparison: Comparison


def evaluate(experiment: Experiment) -> list[Result]:
    """All metrics of a run, from cached features; writes `metrics.csv`, `pairs.csv` and, image by image,
    `images.parquet`."""
    results, pairs, per_image, names = list[Result](), list[Pair](), list[dict[str, object]](), labels(experiment)
    for class_id in experiment.classes:
        real = _real(experiment, class_id)
        cells = [cell for cell in experiment.generated if cell.class_id == class_id]
        samples = {cell: _samples(experiment, _made(experiment, cell), real) for cell in cells}
        rows = [(cell.n, cell.name, of) for cell, of in samples.items()]
        if "real" in experiment.config.controls and len(real["clip"]) >= 4:  # two in each half, to have a covariance
            rows.append((0, "real", _samples(experiment, *_halves(real))))
        for n, method, of in rows:
            results += [Result(class_id, n, method, names[name], sample.interval()) for name, sample in of.items()]
        pairs += _pairs(experiment, samples)
        per_image += (row for cell, of in samples.items() for row in _images(cell, of, experiment.config.draws))
    results += averages(results)
    pairs += _average_pairs(pairs)
    _write_table(experiment, "metrics.csv", COLUMNS, map(_row, results))
    _write_table(experiment, "pairs.csv", PAIRS, map(_pair_row, pairs))
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(per_image), buffer)
    write_atomic(experiment.config.folder / "images.parquet", buffer.getvalue())
    return results


def labels(experiment: Experiment) -> dict[str, str]:
    """The run's metrics, and what they are called in the networks that they are taken in."""
    networks = {name: network.name for name, network in experiment.networks.items()}
    if experiment.pairing:
        networks["pairs"] = experiment.perceptual.name
    wanted = dict.fromkeys(experiment.config.metrics)
    return {name: METRICS[name].column(name, networks[METRICS[name].network]) for name in wanted}


def averages(results: list[Result]) -> list[Result]:
    """The mean over classes of each value, with the interval that their scatter gives."""
    groups: dict[tuple[int, str, str], list[float]] = {}
    for result in results:
        groups.setdefault((result.n, result.method, result.metric), []).append(result.estimate.value)
    return [Result(AVERAGE, *group, _over_classes(values)) for group, values in groups.items()]


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


def _samples(experiment: Experiment, made: Mapping[str, Tensor], real: Mapping[str, Tensor]) -> Samples:
    """Each metric of features by network; among those of real images are the prompt's."""
    wanted = {name: METRICS[name] for name in dict.fromkeys(experiment.config.metrics)}
    return {name: metric.sample(made[metric.network], real[metric.against]) for name, metric in wanted.items()}


def _halves(real: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """Every other real image, and those between; the prompt and pairs are of both."""
    for start in (0, 1):
        yield {name: x if name in ("prompt", "pairs") else x[start::2] for name, x in real.items()}


def _images(cell: Cell, of: Samples, draws: int) -> Iterator[dict[str, object]]:
    """A row for each image: what it contributes to the metrics that are means over images. To one that is a mean over
    pairs it is their distance, for both images of a pair, and nothing for those in none."""
    columns = dict[str, list[float | None]]()
    for name, sample in of.items():
        parts = sample.parts.tolist()
        if METRICS[name].network == "pairs":
            columns[name] = [parts[draw // 2] if draw // 2 < len(parts) else None for draw in range(draws)]
        elif sample.by_row:
            columns[name] = parts
    for draw in range(draws):
        values = {name: column[draw] for name, column in columns.items()}
        yield {"class": cell.class_id, "n": cell.n, "method": cell.name, "draw": draw, **values}


def _pairs(experiment: Experiment, samples: Mapping[Cell, Samples]) -> Iterator[Pair]:
    """Each method beside the reference, which drew the same images."""
    methods, names = experiment.config.methods, labels(experiment)
    reference = REFERENCE if REFERENCE in methods else methods[0]
    for cell, of in samples.items():
        if cell.method in methods and cell.method != reference:
            beside = samples[Cell(cell.class_id, cell.n, reference)]
            for name, sample in of.items():
                compared = paired(sample, beside[name], METRICS[name].lower)
                yield Pair(cell.class_id, cell.n, names[name], cell.name, str(reference), compared)


def _average_pairs(pairs: list[Pair]) -> list[Pair]:
    groups: dict[tuple[int, str, str, str], list[Comparison]] = {}
    for pair in pairs:
        groups.setdefault((pair.n, pair.metric, pair.method, pair.reference), []).append(pair.comparison)
    return [
        Pair(
            AVERAGE,
            *group,
            Comparison(
                _over_classes([one.difference.value for one in compared]), sum(c.won for c in compared) / len(compared)
            ),
        )
        for group, compared in groups.items()
    ]


def _over_classes(values: list[float]) -> Estimate:
    return mean_interval(torch.tensor(values, dtype=torch.float64))


def _row(result: Result) -> tuple[object, ...]:
    return result.class_id, result.n, result.method, result.metric, *_texts(result.estimate), result.estimate.count


def _pair_row(pair: Pair) -> tuple[object, ...]:
    difference, won = pair.comparison.difference, _text(pair.comparison.won)
    names = (pair.class_id, pair.n, pair.metric, pair.method, pair.reference)
    return *names, *_texts(difference), won, difference.count


def _write_table(
    experiment: Experiment, name: str, columns: tuple[str, ...], rows: Iterable[tuple[object, ...]]
) -> None:
    config, text = experiment.config, io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(columns)
    table.writerows((config.model.name, config.data.name, config.inversion.name, *row) for row in rows)
    write_atomic(config.folder / name, text.getvalue().encode())


def _texts(estimate: Estimate) -> tuple[str, str, str]:
    return _text(estimate.value), _text(estimate.low), _text(estimate.high)


def _text(x: float) -> str:
    return "" if math.isnan(x) else repr(x)


def _number(text: str) -> float:
    return float(text) if text else math.nan


def _real(experiment: Experiment, class_id: str) -> dict[str, Tensor]:
    ids = [source.id for source in experiment.references(class_id)]
    real = {
        name: experiment.reference_features(class_id, network).gather(ids, "features")
        for name, network in experiment.networks.items()
    }
    if any(METRICS[name].of_prompt for name in experiment.config.metrics):
        real["prompt"] = experiment.prompt_features(class_id)
    if experiment.pairing:
        real["pairs"] = real_pairs(experiment, class_id).distances
    return real


def _made(experiment: Experiment, cell: Cell) -> dict[str, Tensor]:
    ids = [draw_id(draw) for draw in range(experiment.config.draws)]
    made = {name: experiment.features(cell, net).gather(ids, "features") for name, net in experiment.networks.items()}
    if experiment.pairing:
        made["pairs"] = draws_in_pairs(experiment, cell).distances
    return made
