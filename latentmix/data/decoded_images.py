"""Two caches that save decoding: pictures in memory, and records on disk of files that were checked.

So the check and all uses of an image decode or draw it once, and later runs need not decode a file to check it.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock

from PIL import Image

from latentmix.errors import UserError
from latentmix.storage import key, read_checked_json, user_cache, write_checked_json

WORTHWHILE = 0.25  # seconds of checking, summed over threads, below which no record is written
SETTLED = 2e9  # ns since a file's last change, before which another change may leave its time of change the same

CheckedId = Callable[[Path, int, Callable[[], str]], str]


class DecodedImages:
    """Pictures that this process has decoded or drawn, by an id, up to `budget` bytes.

    If memory is short, pictures that were used already are removed, the oldest first. Pictures that were only checked
    stay, as they are still to be used; if there is no room beside them, a new picture is not kept.
    """

    budget = 256 << 20  # bytes

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Remove all pictures."""
        self._unused: dict[Hashable, Image.Image] = {}
        self._used: OrderedDict[Hashable, Image.Image] = OrderedDict()
        self._bytes = 0
        self._lock = Lock()

    def __contains__(self, id_: Hashable) -> bool:
        return id_ in self._unused or id_ in self._used

    def add(self, id_: Hashable, picture: Image.Image, used: bool = False) -> None:
        """Keep a picture if there is room for it. `used` says that it is in use now, not only checked."""
        with self._lock:
            if id_ in self:
                return
            while self._used and self._bytes + _bytes(picture) > self.budget:
                self._bytes -= _bytes(self._used.popitem(last=False)[1])
            if self._bytes + _bytes(picture) <= self.budget:
                (self._used if used else self._unused)[id_] = picture
                self._bytes += _bytes(picture)

    def get(self, id_: Hashable) -> Image.Image | None:
        """Return a picture to be used; None if it is not kept."""
        with self._lock:
            if (picture := self._unused.pop(id_, None)) is not None:
                self._used[id_] = picture
            return self._used.get(id_)


DECODED = DecodedImages()


def _bytes(picture: Image.Image) -> int:
    """Return the bytes that an RGB picture takes in memory: Pillow uses four for each pixel."""
    return 4 * picture.width * picture.height


@contextmanager
def checked_ids(name: str) -> Iterator[CheckedId]:
    """Read the record of the images of `name`, a class and rules; write it at the end if that saves time later.

    Yield a thread-safe function of a file, an offset in it and `compute`. It returns the id of the image that begins
    there: from the record or, if the file's size or times have changed, from `compute`. It raises OSError for a missing
    file, and whatever `compute` raises.
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
            with suppress(UserError):  # without the record the next start is only slower
                write_checked_json(note, known | new)
