"""`latentmix evaluate`: measure images that a run generated, or those of any folder."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from latentmix import evaluation
from latentmix.commands import sweep
from latentmix.commands.shared import session
from latentmix.experiment.csv_files import interval, three_digits, write_table
from latentmix.experiment.diversity import COMPARE_PAIRS
from latentmix.experiment.experiment import Experiment
from latentmix.experiment.stages import MEASURE, MEASURE_REFERENCES
from latentmix.experiment.synthesis import SYNTHESIZE
from latentmix.storage import check_writable

COLUMNS = ("images", "reference", "metric", "value", "low", "high", "count", "real")
REAL = (
    "real: as many reference images, but at most one half, against the other half; fewer images make Fréchet distances "
    "larger"
)
STAGES = (SYNTHESIZE, MEASURE_REFERENCES, MEASURE, COMPARE_PAIRS)


def run(experiment: Experiment, arguments: Sequence[str], dry_run: bool) -> None:
    """Measure all images of a run, and write its tables and figures."""
    if not dry_run:
        session.refuse_to_overwrite(experiment.config)
    if session.run_stages(experiment, STAGES, "evaluate", dry_run):
        sweep.finish(experiment, arguments)


def measure_folders(
    images: Path, reference: Path, metrics: str, networks: Mapping[str, Any], out: Path | None
) -> list[Path]:
    """Measure the images of a folder against those of another. Show a table, and write it to `out`."""
    if out is not None:
        check_writable(out, "-o")
    estimates, real = evaluation.against(images, reference, metrics, **networks)
    headings, title = ("metric", "value", "95 % interval", "images", "real"), f"{images} against {reference}"
    table = Table(*headings, title=title, caption=REAL if real else None)
    for name, e in estimates.items():
        limits = f"[{three_digits(e.low)}, {three_digits(e.high)}]"
        table.add_row(
            name, three_digits(e.value), limits, str(e.count), three_digits(real[name]) if name in real else "–"
        )
    Console().print(table)
    if out is None:
        return []
    rows = [(images, reference, name, *interval(e), e.count, real.get(name, "")) for name, e in estimates.items()]
    write_table(out, COLUMNS, rows)
    return [out]
