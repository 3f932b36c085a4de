"""The profile of a command for `--profile`: seconds by section.

Sections can be nested; the time of an inner one does not count for the outer one. Only the thread that takes the
profile is timed, as it waits for the others. While a profile is taken, each section waits for the GPU at its end.
"""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

NETWORKS = ("diffusion", "VAE", "features", "text encoders")  # sections in which a network runs
_profiles: list["Profile"] = []  # the one that is being taken, if any


class Profile:
    """`seconds` by section; time outside all sections is `other`."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.thread = threading.get_ident()
        self._sections, self._since = ["other"], time.perf_counter()

    @property
    def whole(self) -> float:
        return sum(self.seconds.values())

    @property
    def in_networks(self) -> float:
        """Return the share of the time in networks."""
        return sum(self.seconds.get(name, 0.0) for name in NETWORKS) / self.whole if self.whole else 0.0

    @contextmanager
    def section(self, name: str) -> Iterator[None]:
        """Count the time in this context for a section."""
        self._record()
        self._sections.append(name)
        try:
            yield
        finally:
            torch = sys.modules.get("torch")  # not imported for this alone
            if torch is not None and torch.cuda.is_initialized():
                torch.cuda.synchronize()
            self._record()
            self._sections.pop()

    def _record(self) -> None:
        """Add the time since the last call to the innermost section."""
        now = time.perf_counter()
        self.seconds[self._sections[-1]] = self.seconds.get(self._sections[-1], 0.0) + now - self._since
        self._since = now


@contextmanager
def profiled() -> Iterator[Profile]:
    """Take a profile of this context."""
    profile = Profile()
    _profiles.append(profile)
    try:
        yield profile
    finally:
        profile._record()
        _profiles.remove(profile)


@contextmanager
def timed(section: str) -> Iterator[None]:
    """Count the time in a context, or in a decorated function, for a section. Does nothing if no profile is taken."""
    if not _profiles or _profiles[-1].thread != threading.get_ident():
        yield
        return
    with _profiles[-1].section(section):
        yield
