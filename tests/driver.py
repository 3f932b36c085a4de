"""The command line, driven in this process."""

import contextlib
import io
import sys
import warnings
from dataclasses import dataclass

import pytest

from latentmix import cli


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
