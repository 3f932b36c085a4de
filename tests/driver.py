"""The command line, driven in this process."""

import contextlib
import io
import json
import os
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from safetensors.torch import load_file

from latentmix import cli, figures, report


@dataclass(frozen=True)
class Said:
    code: int
    out: str
    err: str


def invoke(*arguments: str) -> Said:
    """What a command leaves; an exception that a user would see as a traceback goes through."""
    code: object = None
    with (
        pytest.MonkeyPatch.context() as patch,
        mock.patch.dict(os.environ),  # as a process of its own, which leaves nothing to later ones
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()) as out,
        contextlib.redirect_stderr(io.StringIO()) as err,
    ):
        warnings.simplefilter("always", UserWarning)  # the command line shows these, and makes no errors of them
        patch.setattr(sys, "argv", ["latentmix", *arguments])
        patch.setenv("COLUMNS", "200")
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code
    return Said(code if isinstance(code, int) else 0, out.getvalue(), err.getvalue())


def leave_out_pages(patch: pytest.MonkeyPatch) -> None:
    """Draw no figures and write no report at the end of a run: they take longer than all the rest of a small one."""
    patch.setattr(figures, "draw_run", lambda _: [])
    patch.setattr(report, "write_report", lambda runs: Path(runs[0]) / "report.html")


def refusal(*arguments: str, code: int = 2) -> str:
    """Return the one line with which a command fails."""
    said = invoke(*arguments)
    (line,) = said.err.splitlines()
    assert said.code == code and line.startswith("latentmix: error: ")
    return line


def files(outputs: Path) -> list[Path]:
    """All but what workers tell each other."""
    return [path for path in outputs.rglob("*") if path.is_file() and "work" not in path.relative_to(outputs).parts]


def results(outputs: Path) -> dict[str, bytes]:
    """Whatever must not depend on how a run went, and who did it: all but notes of time, of place, and what is left of
    the dead."""
    there = [path for path in files(outputs) if not path.name.startswith(".")]
    besides = {"rates.json", "config.yaml", "done.json", "cache.json", "report.html"}
    kept = [path for path in there if path.name not in besides]
    return {path.relative_to(outputs).as_posix(): path.read_bytes() for path in sorted(kept)}


def assert_same(outputs: Path, whole: Path, but: str = "nothing") -> None:
    one, other = results(outputs), results(whole)
    names = {name for name in one.keys() | other.keys() if but not in name}
    differing = sorted(name for name in names if one.get(name) != other.get(name))
    assert not differing, differing


def rows(folder: Path, name: str) -> dict[str, np.ndarray]:
    """Return the rows of a tensor by id, from a folder of the cache, without latentmix's code."""
    found: dict[str, np.ndarray] = {}
    for path in folder.glob("*.safetensors"):
        content = path.read_bytes()
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        ids = json.loads(header["__metadata__"]["latentmix"])["about"]["ids"]
        found |= dict(zip(ids, load_file(path)[name].double().numpy(), strict=True))
    return found
