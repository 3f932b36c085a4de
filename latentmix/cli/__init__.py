"""The command line. `latentmix X` is declared in X.py here, with its help, and implemented in commands/X.py.

torch, Hydra and other slow imports are inside the functions of commands, so that `--help` answers at once.
"""

import errno
import signal
import sys
import warnings
from typing import Any

import typer

from latentmix.cli.shared import app as app
from latentmix.errors import Terminated, UserError, optional_imports, retry_lost_rows

# `--help` lists the commands in this order.
# isort: off
from latentmix.cli import invert, mix, generate, evaluate, sweep, augment, morph  # noqa: F401
from latentmix.cli import diagnose, probe, reconstruct, check_inversion, figure  # noqa: F401
from latentmix.cli import status, compare, report, doctor, bench, fetch, cache  # noqa: F401
# isort: on


ADVICE = dict.fromkeys(
    (errno.ENOSPC, errno.EDQUOT, errno.EROFS), ("written", "free some space, or set TMPDIR to another folder")
)
ADVICE |= dict.fromkeys(
    (errno.EACCES, errno.EPERM), ("used", "give yourself permission to read and write it, or choose another place")
)


def main() -> None:
    """Run the command line; print a UserError in one line, and exit with its code."""
    warnings.showwarning = _show_warning
    signal.signal(signal.SIGTERM, _terminate)
    try:
        with optional_imports():
            retry_lost_rows(app)
    except UserError as error:
        _complain(f"error: {error}")
        sys.exit(error.exit_code)
    except OSError as error:
        if error.errno not in ADVICE:
            raise
        place = error.filename or "a temporary file"  # of a library; latentmix's own files are explained above
        what, advice = ADVICE[error.errno]
        _complain(f"error: {place} could not be {what}: {error.strerror}; {advice}, and give the same command again")
        sys.exit(1)


def _terminate(*_: object) -> None:
    raise Terminated


def _complain(text: str) -> None:
    """Print an error, with control characters escaped, as a file's name may have some."""
    shown = "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)
    typer.echo(f"latentmix: {shown}", err=True)


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    if category is UserWarning and not str(message).startswith("Failed"):
        _complain(f"warning: {message}")
