"""Notes in the user's cache of which images were found whole, so that later runs need not decode them to check them."""

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from latentmix.cache import key, read_checked_json, user_cache, write_checked_json
from latentmix.errors import UserError

WORTHWHILE = 0.25  # seconds of checking, summed over threads; less is not worth a file
SETTLED = 2e9  # ns since its last change, after which a file cannot change again within the same tick of its clock


class Checked:
    """The note on one class's images, as a context: read at its start, written at its end if that saves time later.

    `name` says which class and which rules. An id counts while its file has the size and the times of change that it
    had when it was checked.
    """

    def __init__(self, name: str) -> None:
        self.note = user_cache() / "checked" / f"{key(name)}.json"
        self.known: dict[str, list] = {}
        self.new: dict[str, list] = {}
        self.seconds: list[float] = []

    def __enter__(self) -> "Checked":
        self.known = read_checked_json(self.note)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.new and sum(self.seconds) >= WORTHWHILE:
            with suppress(UserError):  # a cache that cannot be written makes the next start slow, not wrong
                write_checked_json(self.note, self.known | self.new)

    def id(self, file: Path, offset: int, compute: Callable[[], str]) -> str:
        """Return the id of the image at `offset` in a file: as noted or, if the file has changed since, as computed.

        Threads may call it at the same time. Raises OSError for a file that is missing, and whatever `compute` raises.
        """
        status, name = file.stat(), f"{file}:{offset}"
        stamp = [status.st_size, status.st_mtime_ns, status.st_ctime_ns]
        known = self.known.get(name)
        if known is not None and known[:-1] == stamp:
            return known[-1]
        start = time.monotonic()
        computed = compute()
        self.seconds.append(time.monotonic() - start)
        if time.time_ns() - max(stamp[1:]) > SETTLED:
            self.new[name] = [*stamp, computed]
        return computed
