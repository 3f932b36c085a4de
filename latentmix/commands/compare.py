"""`latentmix compare`: several finished runs in one table, and their differences on the same draws."""

import math
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Column, Table

from latentmix.errors import UserError
from latentmix.experiment.comparison import Difference, Run, differences, read_runs, settings_to_show, write_comparison
from latentmix.experiment.csv_files import three_digits
from latentmix.experiment.results_table import AVERAGE
from latentmix.inversion import INVERSIONS
from latentmix.metrics import Estimate
from latentmix.storage import check_writable

METRICS_SHOWN = 2  # of the metrics that all runs have, the first; the file has all


def run(names: Sequence[str], out: Path | None) -> list[Path]:
    """Print the averages of runs at their largest common N. Return the files written into `out`, if it is given."""
    if out is not None:
        check_writable(out / "comparison.csv", "--out")
    runs = read_runs(names)
    ns = set.intersection(*({r.n for r in run.results if r.n} for run in runs))
    if not ns:
        raise UserError("the runs have no N in common, so there is nothing to compare; give them the same n=")
    console = Console()
    if different := settings_to_show(runs):
        console.print(f"The runs differ in {', '.join(different)}.", markup=False, soft_wrap=True)
    common = [metric for metric in runs[0].metrics if all(metric in run.metrics for run in runs)]
    paired = [difference for run in runs[1:] for difference in differences(run, runs[0])]
    if not common:
        console.print("The runs have no metric in common.", soft_wrap=True)
    for metric in common[:METRICS_SHOWN]:
        console.print(_averages(runs, paired, metric, max(ns)))
    if trips := {run.label: quantities for run in runs if (quantities := _round_trip(run))}:
        table = Table("quantity", Column("run", no_wrap=True), "value", title="Inversion and generation")
        for name in dict.fromkeys(name for quantities in trips.values() for name in quantities):
            for label, quantities in trips.items():
                table.add_row(name, label, quantities.get(name, "-"))
            table.add_section()
        console.print(table)
    return [] if out is None else write_comparison(out, runs)


def _averages(runs: Sequence[Run], paired: Sequence[Difference], metric: str, n: int) -> Table:
    """Return a table with a row for each method and run: the value, and the difference on the same draws."""
    titles = ("method", Column("run", no_wrap=True), "value")
    title = f"{metric} at N = {n}, average over classes"
    table = Table(*titles, *([f"difference from {runs[0].label}"] if paired else []), title=title)
    values = {
        (r.method, run.label): _text(r.estimate)
        for run in runs
        for r in run.results
        if (r.class_id, r.metric) == (AVERAGE, metric) and r.n in (0, n)
    }
    different = {
        (d.key[2], d.run): _text(d.comparison.difference) for d in paired if d.key == (AVERAGE, n, d.key[2], metric)
    }
    for method in dict.fromkeys(method for method, _ in values):
        for row in ((method, run.label) for run in runs if (method, run.label) in values):
            table.add_row(*row, values[row], *([different.get(row, "-")] if paired else []))
        table.add_section()
    return table


def _text(estimate: Estimate) -> str:
    interval = "" if math.isnan(estimate.low) else f" \\[{three_digits(estimate.low)}, {three_digits(estimate.high)}]"
    return three_digits(estimate.value) + interval


def _round_trip(run: Run) -> dict[str, str]:
    """Return what `latentmix reconstruct` and `latentmix diagnose` measured in a run's folder, if they did."""
    found = {name: f"{value:.4g}" for name, value in run.round_trip.items()}
    if classes := run.diagnosis.values():
        for part in ("channels", "space"):
            found[f"bias²·1000 in {part}"] = f"{1000 * sum(c['bias'][part] for c in classes) / len(classes):.1f}"
    if found:
        config = run.settings
        inversion = INVERSIONS[config.inversion.kind]
        found["NFE of inversion"] = f"{config.inversion.steps * inversion.nfe(config.inversion):,}"
        found["NFE of generation"] = f"{config.steps * inversion.nfe_generation(config.guidance):,}"
    return found
