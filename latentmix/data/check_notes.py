"""Notes in the user's cache of which images were found whole, so that later runs need not decode them to check them."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from latentmix.cache import key, read_checked_json, user_cache, write_checked_json
from latentmix.errors import UserError

WORTHWHILE = 0.25  # seconds of checking, summed over threads; less is not worth a file
SETTLED = 2e9  # ns since its last change, after which a file cannot change again within the same tick of its clock

CheckedId = Callable[[Path, int, Callable[[], str]], str]


@contextmanager
def checked_ids(name: str) -> Iterator[CheckedId]:
    """Read the note on one class's images; write it at the end of the context if that saves time later.

    `name` says which class and which rules. Yield a function of a file, an offset in it and `compute`, which threads
    may share. It returns the id of the image that begins there: as noted or, if the file's size or times of change are
    not as they were, as computed. It raises OSError for a missing file, and whatever `compute` raises.
    """
    note = user_cache() / "checked" / f"{key(name)}.json"
    known = read_checked_json(note)
    new: dict[str, list] = {}
    seconds: list[float] = []

    def checked_id(file: Path, offset: int, compute: Callable[[], str]) -> str:
        status, image = file.stat(), f"{file}:{offset}"
        stamp = [status.st_size, status.st_mtime_ns, status.st_ctime_ns]
        if image in known and known[image][:-1] == stamp:
            return known[image][-1]
        start = time.monotonic()
        computed = compute()
        seconds.append(time.monotonic() - start)
        if time.time_ns() - max(stamp[1:]) > SETTLED:
            new[image] = [*stamp, computed]
        return computed

    try:
        yield checked_id
    finally:
        if new and sum(seconds) >= WORTHWHILE:
            with suppress(UserError):  # a cache that cannot be written makes the next start slow, not wrong
                write_checked_json(note, known | new)
