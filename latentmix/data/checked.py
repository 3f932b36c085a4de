"""What data sets keep in the user's cache: images from the hub, and which images were found whole."""

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from latentmix.cache import key, read_checked_json, user_cache, write_checked_json
from latentmix.errors import UserError

WORTHWHILE = 100  # images decoded; so many take about half a second, and fewer are not worth a file
SETTLED = 2e9  # ns since its last change, after which a file cannot change again within the same tick of its clock


class Checked:
    """The ids of a class's images that were found whole before: decoding a thousand takes seconds, at every start.

    `name` says which class. An id counts as long as its file has the size and the times of change that it had then.
    """

    def __init__(self, name: str) -> None:
        self.note = user_cache() / "checked" / f"{key(name)}.json"
        self.known: dict[str, list] = {}
        self.new = 0

    def __enter__(self) -> "Checked":
        self.known = read_checked_json(self.note)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.new >= WORTHWHILE:
            with suppress(UserError):  # a cache that cannot be written makes the next start slow, not wrong
                write_checked_json(self.note, self.known)

    def id(self, file: Path, offset: int, compute: Callable[[], str]) -> str:
        """The id of the image at `offset` in a file: the one known or, if the file has changed, the one computed.

        Raises OSError for a file that is not there, and whatever `compute` raises.
        """
        status, name = file.stat(), f"{file.name}:{offset}"
        stamp = [status.st_size, status.st_mtime_ns, status.st_ctime_ns]
        known = self.known.get(name)
        if known is not None and known[:-1] == stamp:
            return known[-1]
        computed = compute()
        if time.time_ns() - max(stamp[1:]) > SETTLED:
            self.known[name] = [*stamp, computed]
            self.new += 1
        return computed
