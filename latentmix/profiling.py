"""Where the time of a command went: seconds by what they were spent on, for `--profile`.

Sections may lie within each other; the time of an inner one is its own and not the outer one's. Only the thread that
takes the profile is timed; others work for it, and it waits for them. A GPU is waited for at the end of each section,
which costs a little, and only while a profile is taken.
"""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

NETWORKS = ("diffusion", "VAE", "features", "text encoders")  # what all the rest is there for
_profiles: list["Profile"] = []  # the one that is taken, if any


class Profile:
    """`seconds` by section; what is in none is `other`."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.thread = threading.get_ident()
        self._sections, self._since = ["other"], time.perf_counter()

    @property
    def whole(self) -> float:
        return sum(self.seconds.values())

    @property
    def in_networks(self) -> float:
        """The share of the time that was spent in networks."""
        return sum(self.seconds.get(name, 0.0) for name in NETWORKS) / self.whole if self.whole else 0.0

    @contextmanager
    def section(self, name: str) -> Iterator[None]:
        self._pass()
        self._sections.append(name)
        try:
            yield
        finally:
            _settle()
            self._pass()
            self._sections.pop()

    def _pass(self) -> None:
        """The time since the last change of section goes to the one that is left."""
        now = time.perf_counter()
        self.seconds[self._sections[-1]] = self.seconds.get(self._sections[-1], 0.0) + now - self._since
        self._since = now


@contextmanager
def profiled() -> Iterator[Profile]:
    """Within, `spent` counts."""
    profile = Profile()
    _profiles.append(profile)
    try:
        yield profile
    finally:
        profile._pass()
        _profiles.remove(profile)


@contextmanager
def timed(on: str) -> Iterator[None]:
    """Within, or in a function that is decorated by it, time counts as spent on this; free where none is asked for."""
    if not _profiles or _profiles[-1].thread != threading.get_ident():
        yield
        return
    with _profiles[-1].section(on):
        yield


def _settle() -> None:
    """Wait for the GPU, where one is in use."""
    torch = sys.modules.get("torch")  # which is not loaded for the sake of a clock
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.synchronize()
