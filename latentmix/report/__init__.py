"""The report of finished runs: one HTML page that needs no other files."""

import hashlib
import warnings
from collections.abc import Sequence
from pathlib import Path

from latentmix.experiment.comparison import read_runs
from latentmix.report.contents import read_contents
from latentmix.report.page import render
from latentmix.run_folders import find_run
from latentmix.storage import write_atomic

IMAGE = b"data:image/webp"


def write_report(names: Sequence[str]) -> Path:
    """Write the page of finished runs: `report.html` in the folder of a single one, otherwise beside the first one.

    If an existing page has more images, as when the cache is gone, it is kept under another name.
    Raises UserError if a run is missing or not finished.
    """
    runs = [read_contents(run) for run in read_runs(names)]
    notes = [run.images.note for run in runs if run.images.note]
    folder, joined = find_run(names[0]), "+".join(run.run.folder.name for run in runs)
    if len(joined) > 100:
        joined = f"{joined[:80]}-{hashlib.sha256(joined.encode()).hexdigest()[:8]}"
    path = folder / "report.html" if len(runs) == 1 else folder.parent / f"report-{joined}.html"
    page, old = render(*runs).encode(), path.read_bytes() if path.exists() else b""
    if notes and old.count(IMAGE) > page.count(IMAGE):
        write_atomic(kept := path.with_name(f"{path.stem}-with-images.html"), old)
        notes[-1] += f"; the page as it was, with more images, is kept as {kept}"
    for note in notes:
        warnings.warn(note, stacklevel=2)
    write_atomic(path, page)
    return path
