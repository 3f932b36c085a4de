"""What callers see of long work: bars (text in a terminal, a widget in Jupyter), their own function, or nothing."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from torch import Tensor
from tqdm import tqdm as plain
from tqdm.auto import tqdm

Report = Callable[[str, int, int], object]  # is called with what is done, how much of it, and of how much
Progress = bool | Report
_SHOWN: ContextVar[Progress] = ContextVar("progress", default=True)


@contextmanager
def shown(progress: Progress) -> Iterator[None]:
    """Show bars and lines in this context, or nothing, or call a function in place of both."""
    token = _SHOWN.set(progress if callable(progress) else bool(progress))
    try:
        yield
    finally:
        _SHOWN.reset(token)


def is_shown() -> bool:
    """Return whether bars and lines are shown."""
    return _SHOWN.get() is True


def report(what: str, done: int, total: int) -> None:
    """Call the caller's function, if there is one."""
    if callable(to := _SHOWN.get()):
        to(what, done, total)


class _Reported(plain):
    """A bar that is not drawn: it calls the caller's function."""

    def update(self, n: float | None = 1) -> None:
        """Move on, and call the function."""
        if n:
            self.n += n
            report(self.what, self.n, self.total)


def bar(what: str, total: int | None = None, **options: Any) -> tqdm:
    """Return a bar to show in this context; `options` are those of tqdm."""
    if is_shown():
        return tqdm(total=total, desc=what, **options)
    made = _Reported(total=total, disable=True)
    made.what = what
    return made


class CountedSteps:
    """A model that advances a progress bar whenever its network is called at a new time step."""

    def __init__(self, model: Any, bar: tqdm, steps: int) -> None:
        self._model, self._bar, self._steps = model, bar, steps
        self._timestep: float | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def predict(self, z: Tensor, level: Any, timestep: float, conditioning: Any) -> tuple[Tensor, Tensor]:
        """Return what the model predicts."""
        if timestep != self._timestep:
            self._timestep = timestep
            if self._bar.n == self._bar.total:  # the inversion goes through the steps again, as null_text does
                self._bar.total += self._steps
            self._bar.update()
        return self._model.predict(z, level, timestep, conditioning)
