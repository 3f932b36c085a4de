"""Finished runs -> report.html: one page that needs no other files."""

import hashlib
import warnings
from collections.abc import Sequence
from pathlib import Path

from latentmix.cache import write_atomic
from latentmix.compose import find_run
from latentmix.experiment.comparison import read_runs
from latentmix.report.contents import read_contents
from latentmix.report.page import render


def write_report(names: Sequence[str]) -> Path:
    """Write the page of finished runs: `report.html` in the folder of a single one, otherwise beside the first one.

    Raises UserError if a run is missing or not finished.
    """
    runs = [read_contents(run) for run in read_runs(names)]
    for run in runs:
        if run.images.note:
            warnings.warn(run.images.note, stacklevel=2)
    folder, joined = find_run(names[0]), "+".join(run.run.folder.name for run in runs)
    if len(joined) > 100:
        joined = f"{joined[:80]}-{hashlib.sha256(joined.encode()).hexdigest()[:8]}"
    path = folder / "report.html" if len(runs) == 1 else folder.parent / f"report-{joined}.html"
    write_atomic(path, render(*runs).encode())
    return path
