"""From features to the tables of a run: metrics by class and averaged over classes, and paired comparisons."""

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import torch
from torch import Tensor

from latentmix.errors import UserError
from latentmix.experiment.csv_files import RUN, grouped, interval, number, read_rows, run_names, write_table
from latentmix.experiment.diversity import draw_pairs, real_pairs
from latentmix.experiment.draws import Cell, draw_id
from latentmix.experiment.experiment import Experiment
from latentmix.experiment.pseudo_values import AGAIN, Samples, write_parts
from latentmix.metrics import METRICS, Comparison, Estimate, Metric, Sample, average, mean_interval, paired
from latentmix.mixing import Method

COLUMNS = (*RUN, "class", "n", "method", "metric", "value", "low", "high", "count", "over")
DIFFERENCE = ("difference", "low", "high", "won", "count", "over")
PAIR_COLUMNS = (*RUN, "class", "n", "metric", "method", "reference", *DIFFERENCE)
AVERAGE = "all"  # the class that stands for the average over classes
LEAST_CLASSES = 4  # with fewer, intervals of averages are over draws: those over classes would be too wide to be of use
REFERENCE = Method("fix", "0")  # other methods are compared with it, or else with the run's first method

Limits = tuple[float, float]
Pair = tuple[str, int, str, str, str]  # class, N, metric, method and reference of a row of `pairs.csv`


@dataclass(frozen=True)
class Result:
    """One row of `metrics.csv`."""

    class_id: str
    n: int
    method: str
    metric: str
    estimate: Estimate

    @property
    def row(self) -> tuple[object, ...]:
        """Return the values of `COLUMNS` after those of `RUN`."""
        e = self.estimate
        return self.class_id, self.n, self.method, self.metric, *interval(e), e.count, e.over


def evaluate(experiment: Experiment) -> list[Result]:
    """Return all metrics of a run, computed from cached features.

    Write `metrics.csv`, `pairs.csv`, `images.parquet` and `parts.parquet`.
    """
    results, pairs, columns = list[Result](), dict[Pair, Comparison](), labels(experiment)
    measured = dict[Cell, Samples]()
    for class_id in experiment.classes:
        real = _real_features(experiment, class_id)
        cells = [cell for cell in experiment.cells.generated if cell.class_id == class_id]
        samples = {cell: _samples(experiment, _cell_features(experiment, cell), real) for cell in cells}
        rows = [(cell.n, cell.method_name, by_metric) for cell, by_metric in samples.items()]
        if "real" in experiment.config.controls and len(real["clip"]) >= 4:  # two in each half, to have a covariance
            whole = ("prompt", "pairs")  # these are not split
            halves = ({name: x if name in whole else x[start::2] for name, x in real.items()} for start in (0, 1))
            rows.append((0, "real", _samples(experiment, *halves)))
        for n, method, by_metric in rows:
            estimates = {name: _estimate(name, sample, method) for name, sample in by_metric.items()}
            results += [Result(class_id, n, method, columns[name], e) for name, e in estimates.items()]
        pairs |= _compare(experiment, samples)
        measured |= samples
    limits = {column: METRICS[name].limits for name, column in columns.items()}
    results += averages(results, limits)
    groups = grouped((pair[1:], comparison) for pair, comparison in pairs.items())
    pairs |= {(AVERAGE, *group): average_comparison(each, limits[group[1]]) for group, each in groups.items()}
    folder, run = experiment.config.folder, run_names(experiment.config)
    write_table(folder / "metrics.csv", COLUMNS, [(*run, *result.row) for result in results])
    write_table(folder / "pairs.csv", PAIR_COLUMNS, [(*run, *pair, *difference_row(c)) for pair, c in pairs.items()])
    write_parts(folder, measured, columns, experiment.cells.draws)
    return results


def labels(experiment: Experiment) -> dict[str, str]:
    """Return the names of the run's metrics in tables, which name their networks: {"fid": "fd_embedded"}."""
    networks = {name: network.name for name, network in experiment.networks.items()}
    if experiment.config.measures_diversity:
        networks["pairs"] = experiment.perceptual.name
    wanted = dict.fromkeys(experiment.config.metrics)
    return {name: METRICS[name].column(name, networks[METRICS[name].network]) for name in wanted}


def averages(results: list[Result], limits: Mapping[str, Limits]) -> list[Result]:
    """Return the mean over classes of each value. `limits` are those of the metrics' values."""
    groups = grouped(((result.n, result.method, result.metric), result.estimate) for result in results)
    return [Result(AVERAGE, *group, over_classes(each).within(limits[group[2]])) for group, each in groups.items()]


def over_classes(estimates: Sequence[Estimate]) -> Estimate:
    """Return the mean of the estimates of classes.

    Its interval comes from the scatter of the classes (Student's t), or for fewer than `LEAST_CLASSES` from the
    intervals of the classes, which are over draws. If all classes have the same sign, a few may have far larger values
    than the others. So the end away from 0 is then at least as far as that of Student's interval for log(mean).
    """
    if len(estimates) < LEAST_CLASSES and not any(math.isnan(e.low) for e in estimates):
        return average(estimates)
    values = torch.tensor([e.value for e in estimates], dtype=torch.float64)
    found = replace(mean_interval(values), over="classes")
    if len(values) < LEAST_CLASSES or not ((values > 0).all() or (values < 0).all()):
        return found
    end = found.value * math.exp((found.high - found.low) / 2 / abs(found.value))
    return replace(found, low=min(found.low, end), high=max(found.high, end))


def read_table(path: Path) -> list[Result]:
    """Return the rows of a `metrics.csv`. Raises: UserError where it is missing, empty or damaged."""
    try:
        if path.stat().st_size and not path.read_bytes().endswith((b"\n", b"\r")):
            raise ValueError("its last line is cut short")
        results = [_result(row) for row in read_rows(path)]
    except (OSError, KeyError, ValueError, TypeError, csv.Error) as error:
        raise UserError(f"{path} can't be read: {error}; {AGAIN}") from error
    if not results:
        raise UserError(f"{path} is empty; {AGAIN}")
    return results


def _result(row: Mapping[str, str]) -> Result:
    over = row.get("over") or ("classes" if row["class"] == AVERAGE else "draws")  # earlier releases lack the column
    value, low, high = (number(row[name]) for name in ("value", "low", "high"))
    estimate = Estimate(value, low, high, int(row["count"]), over)
    return Result(row["class"], int(row["n"]), row["method"], row["metric"], estimate)


def _real_features(experiment: Experiment, class_id: str) -> dict[str, Tensor]:
    """Return the features of the real images of a class, by network; `prompt` and `pairs` if some metric needs them."""
    ids, layout = [source.id for source in experiment.data.references(class_id)], experiment.layout
    networks = experiment.networks.items()
    features = {name: layout.references(class_id, network).gather(ids, "features") for name, network in networks}
    if any(METRICS[name].of_prompt for name in experiment.config.metrics):
        features["prompt"] = experiment.texts.features(class_id, experiment.networks["clip"])
    if experiment.config.measures_diversity:
        features["pairs"] = real_pairs(experiment, class_id).distances
    return features


def _cell_features(experiment: Experiment, cell: Cell) -> dict[str, Tensor]:
    """Return the features of the generated images of a cell, by network."""
    ids, layout = [draw_id(draw) for draw in experiment.cells.draws(cell)], experiment.layout
    networks = experiment.networks.items()
    features = {name: layout.features(cell, network).gather(ids, "features") for name, network in networks}
    if experiment.config.measures_diversity:
        features["pairs"] = draw_pairs(experiment, cell).distances
    return features


def _samples(experiment: Experiment, generated: Mapping[str, Tensor], real: Mapping[str, Tensor]) -> Samples:
    """Return each metric of generated images against real ones, or against the prompt.

    It is computed on the CPU unless the device is a CUDA GPU, as other devices lack float64.
    """
    device = experiment.device if experiment.device.type == "cuda" else torch.device("cpu")
    samples = {}
    for name in dict.fromkeys(experiment.config.metrics):
        metric = METRICS[name]
        samples[name] = _sample(metric, generated[metric.network].to(device), real[metric.against].to(device))
    return samples


def _sample(metric: Metric, generated: Tensor, real: Tensor) -> Sample:
    """Return one metric; NaN if there is a single draw, and the metric needs two."""
    try:
        return metric.sample(generated, real)
    except ValueError:
        if len(generated) > 1:
            raise
        return Sample(math.nan, torch.empty(0, dtype=torch.float64), len(generated))


def _estimate(name: str, sample: Sample, method: str) -> Estimate:
    """Return a sample's estimate, which says what its interval is over."""
    over = "pairs" if METRICS[name].network == "pairs" else "images" if method == "real" else "draws"
    return replace(sample.interval().within(METRICS[name].limits), over=over)


def _compare(experiment: Experiment, samples: Mapping[Cell, Samples]) -> dict[Pair, Comparison]:
    """Compare each method with the reference method and with the control `gauss`, on the same draws.

    The control mixes Gaussian latents. So its difference is due to inversion.
    """
    methods, columns = experiment.config.methods, labels(experiment)
    reference, pairs = REFERENCE if REFERENCE in methods else methods[0], dict[Pair, Comparison]()
    for cell, by_metric in samples.items():
        if cell.gaussian or cell.method not in methods:
            continue
        others = {replace(cell, method=reference), replace(cell, gaussian=True)} - {cell}
        for other, (name, sample) in product(sorted(others & samples.keys()), by_metric.items()):
            pair = (cell.class_id, cell.n, columns[name], cell.method_name, other.method_name)
            pairs[pair] = paired(sample, samples[other][name], METRICS[name].lower)
    return pairs


def average_comparison(comparisons: Sequence[Comparison], limits: Limits) -> Comparison:
    """Return the mean over classes of a comparison. `limits` are those of the values that are compared."""
    low, high = limits
    difference = over_classes([comparison.difference for comparison in comparisons]).within((low - high, high - low))
    return Comparison(difference, sum(comparison.won for comparison in comparisons) / len(comparisons))


def difference_row(comparison: Comparison) -> tuple[object, ...]:
    """Return the values of the columns `DIFFERENCE`."""
    difference = comparison.difference
    return *interval(difference), comparison.won, difference.count, difference.over
