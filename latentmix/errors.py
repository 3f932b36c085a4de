"""The exceptions that users see: one line that says what is wrong and what to do."""

import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from functools import cache, wraps
from inspect import signature
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
Result = TypeVar("Result")


def nearest(name: str, known: Iterable[str], cutoff: float = 0.0) -> str:
    """Return the known name that is most similar to `name`, or "" if none is by `cutoff` (0 to 1); case is ignored."""
    names = {one.lower(): one for one in known}
    found = get_close_matches(name.lower(), names, n=1, cutoff=cutoff)
    return names[found[0]] if found else ""


def no_such(what: str, name: object, known: Iterable[str]) -> str:
    """Return the message for a name that is not among the known ones."""
    return f"there is no {what} {name!r}; did you mean {nearest(str(name), known)!r}? (there are {', '.join(known)})"


class UserError(Exception):
    """An error that the user can correct. The command line prints it without a traceback and exits with `exit_code`."""

    exit_code = 2


OPTION = re.compile(r"(?<![^\s(])-(?:-(?P<name>[a-z][a-z-]*)|o)\b(?: (?=\S))?=?")


def naming_arguments(function: Callable[P, Result]) -> Callable[P, Result]:
    """Let UserErrors of a Python function name its own arguments: `per_class=500`, not `--per-class 500`."""
    arguments = signature(function).parameters

    def argument(option: re.Match[str]) -> str:
        name = (option["name"] or "out").replace("-", "_")
        return f"{name}=" if name in arguments else option[0]

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> Result:
        try:
            return function(*args, **kwargs)
        except UserError as error:
            error.args = (OPTION.sub(argument, str(error)),)
            raise

    return call


class OutOfTime(UserError):
    """The time for the work (`budget=`) is over. What is finished is kept."""

    exit_code = 0


class RowsLost(UserError):
    """Rows that the cache listed are damaged or gone. A new plan counts them as missing."""


RETRIES = 20  # each removes the damaged files that it finds


def retry_lost_rows(command: Callable[[], Result]) -> Result:
    """Return `command()`; call it again whenever it raises RowsLost, as it then plans and computes the lost rows."""
    for _ in range(RETRIES):
        with suppress(RowsLost):
            return command()
    return command()


class Terminated(KeyboardInterrupt):
    """SIGTERM was received, from a scheduler or `kill`. It is handled like Ctrl-C."""


@cache
def warn_once(text: str) -> None:
    """Warn once in a process; Python's own filters can be reset in between."""
    warnings.warn(text, stacklevel=3)


STOPPED = "stopped; what is finished is kept, and the same command continues from there"


class Interrupted(UserError):
    """The user or the system stopped the work. `exit_code` is 128 plus the signal's number, as in a shell."""

    def __init__(self, text: str, stop: KeyboardInterrupt | None = None) -> None:
        super().__init__(text)
        self.exit_code = 143 if isinstance(stop, Terminated) else 130


# Import name of a package that is not in the base install -> the extra that brings it.
EXTRAS = {"av": "video", "bitsandbytes": "quantize", "datasets": "data", "submitit": "slurm", "torchao": "quantize"}
EXTRAS |= dict.fromkeys(("matplotlib", "open_clip", "pyarrow", "scipy"), "metrics")
EXTRAS |= dict.fromkeys(("torch_fidelity", "torchmetrics", "torchvision"), "metrics")


@contextmanager
def optional_imports() -> Iterator[None]:
    """Raise UserError, which names the extra to install, where a package that is imported within is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        name = str(error.name).partition(".")[0]
        if name not in EXTRAS:
            raise
        text = f"this needs {name}, which is not installed: pip install 'latentmix[{EXTRAS[name]}]'"
        raise UserError(text) from error
