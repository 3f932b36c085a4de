"""A finished run -> report.html: one page that needs no other files."""

import warnings
from pathlib import Path

from latentmix.cache import write_atomic
from latentmix.compose import find_run
from latentmix.report.contents import read_contents
from latentmix.report.page import render


def write_report(run: str) -> Path:
    """Write `report.html` in the folder of a run; raise UserError if the run is missing or not finished."""
    folder = find_run(run)
    contents = read_contents(folder)
    if contents.images.note:
        warnings.warn(contents.images.note, stacklevel=2)
    path = folder / "report.html"
    write_atomic(path, render(contents).encode())
    return path
