"""Several finished runs side by side: their joined tables, and differences on the same draws."""

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from latentmix.compose import of_a_run
from latentmix.config import Config, flat_settings
from latentmix.errors import UserError
from latentmix.experiment.csv_files import grouped, read_rows, write_table
from latentmix.experiment.pseudo_values import Key, read_draws, read_samples
from latentmix.experiment.results_table import (
    AVERAGE,
    DIFFERENCE,
    Result,
    average_comparison,
    difference_row,
    read_table,
)
from latentmix.metrics import METRICS, Comparison, Sample, paired
from latentmix.run_folders import find_run
from latentmix.storage import read_json

COLUMNS = ("run", "class", "n", "method", "metric", "value", "low", "high", "count", "over")
PAIR_COLUMNS = ("run", "reference", *COLUMNS[1:5], *DIFFERENCE)


@dataclass(frozen=True)
class Run:
    """A finished run. `label` distinguishes it from the other runs that were read with it."""

    folder: Path
    label: str
    about: Mapping[str, Any]  # done.json
    results: list[Result]

    @property
    def config(self) -> dict[str, Any]:
        """Return the settings as plain values, as `Config.as_dict` does."""
        return dict(self.about["config"])

    @property
    def metrics(self) -> list[str]:
        """Return the names of the metrics in its tables, each once."""
        return list(dict.fromkeys(result.metric for result in self.results))

    @cached_property
    def settings(self) -> Config:
        """Return the settings; see `of_a_run`. Raises: UserError."""
        try:
            return of_a_run(self.config)
        except (UserError, TypeError, ValueError) as error:
            raise UserError(f"the run in {self.folder} can't be read: {error}") from error

    @cached_property
    def samples(self) -> dict[Key, tuple[str, Sample]]:
        """Return each metric's name and its sample, by row of the table; empty for a run of an earlier release."""
        return dict(read_samples(self.folder))

    @cached_property
    def draws(self) -> dict[tuple[str, int, str], list[int]]:
        """Return the numbers of the draws in the samples of each class, N and method."""
        return read_draws(self.folder)

    @cached_property
    def diagnosis(self) -> dict[str, Any]:
        """Return the classes of diagnosis.json; empty where the run has none. Raises: UserError if it is damaged."""
        path = self.folder / "diagnosis.json"
        classes = read_json(path).get("classes") if path.exists() else {}
        if not isinstance(classes, dict):
            raise UserError(f"{path} is damaged; delete it, or run latentmix diagnose with the run's settings again")
        return classes

    @cached_property
    def round_trip(self) -> dict[str, float]:
        """Return the averages in reconstruction.csv; empty if there is none. Raises: UserError if it is damaged."""
        path = self.folder / "reconstruction.csv"
        if not path.exists():
            return {}
        try:
            return {row["quantity"]: float(row["value"]) for row in read_rows(path) if row["class"] == AVERAGE}
        except (OSError, KeyError, ValueError, TypeError, csv.Error) as error:
            raise UserError(
                f"{path} can't be read: {error}; delete it, or run latentmix reconstruct with the run's settings again"
            ) from error


@dataclass(frozen=True)
class Difference:
    """The difference of a run's value from another run's, on the same draws."""

    run: str
    reference: str
    key: Key
    comparison: Comparison


def read_runs(names: Sequence[str]) -> list[Run]:
    """Return finished runs by their names or folders; raise UserError for one that is missing or not finished."""
    folders = list(dict.fromkeys(find_run(name).resolve() for name in names))
    named = [folder.name for folder in folders]
    labels = [folder.name if named.count(folder.name) == 1 else str(folder) for folder in folders]
    return [_read(folder, label) for folder, label in zip(folders, labels, strict=True)]


def _read(folder: Path, label: str) -> Run:
    about = read_json(folder / "done.json")
    if not isinstance(about.get("config"), dict) or not (folder / "metrics.csv").exists():
        raise UserError(f"the run in {folder} is not finished; give its command again")
    return Run(folder, label, about, read_table(folder / "metrics.csv"))


def settings_that_differ(runs: Sequence[Run]) -> list[str]:
    """Return the keys of settings that change a result, that all runs have, and that are not the same in all of them.

    A run lacks the settings of other inversions, and those that are newer than its release.
    """
    first, *others = [flat_settings(run.config) for run in runs]
    return [key for key, value in first.items() if any(settings.get(key, value) != value for settings in others)]


def settings_to_show(runs: Sequence[Run]) -> list[str]:
    """Return the settings that differ; of two inversions or models only the name, as it decides the others."""
    keys = settings_that_differ(runs)
    named = {key.partition(".")[0] for key in keys if key in ("model.name", "inversion.name")}
    return [key for key in keys if key.partition(".")[0] not in named or key.endswith(".name")]


def share_draws(a: Run, b: Run) -> bool:
    """Return whether two runs mix the same images in draws of the same number, so that these can be compared."""
    data = a.config["data"]["kind"]
    synthesis = ("model", "guidance", "steps", "spacing") if data == "synthetic" else ()  # of the images themselves
    for key in settings_that_differ([a, b]):
        group = key.partition(".")[0]
        if group in ("seed", "pool", "draws", *synthesis) or (
            group == "data" and key not in ("data.name", "data.titles")
        ):
            return False
    return True


def differences(run: Run, reference: Run) -> list[Difference]:
    """Return the paired differences of a run from another one, and their averages over classes.

    Empty unless the draws of both mix the same images.
    """
    if not share_draws(run, reference):
        return []
    found = list(_by_class(run, reference))
    limits = {metric: METRICS[name].limits for (*_, metric), (name, _) in run.samples.items()}
    groups = grouped((difference.key[1:], difference.comparison) for difference in found)
    averages = [
        Difference(run.label, reference.label, (AVERAGE, *group), average_comparison(comparisons, limits[group[2]]))
        for group, comparisons in groups.items()
    ]
    return found + averages


def _by_class(run: Run, reference: Run) -> Iterator[Difference]:
    """Yield the differences where both runs have draws of the same numbers.

    With uniform weights, draws of a subset that was drawn before are left out; with random weights they are not.
    """
    for key, (name, sample) in run.samples.items():
        _, other = reference.samples.get(key, (name, None))
        if other is None or run.draws.get(key[:3]) != reference.draws.get(key[:3]):
            continue
        if (other.count, len(other.parts)) == (sample.count, len(sample.parts)):
            yield Difference(run.label, reference.label, key, paired(sample, other, METRICS[name].lower))


def write_comparison(folder: Path, runs: Sequence[Run]) -> list[Path]:
    """Write the joined tables of runs, and all differences from the first one. Return the files."""
    tables, pairs = folder / "comparison.csv", folder / "comparison-pairs.csv"
    write_table(tables, COLUMNS, [(run.label, *result.row) for run in runs for result in run.results])
    found = [difference for run in runs[1:] for difference in differences(run, runs[0])]
    write_table(pairs, PAIR_COLUMNS, [(d.run, d.reference, *d.key, *difference_row(d.comparison)) for d in found])
    return [tables, pairs]
