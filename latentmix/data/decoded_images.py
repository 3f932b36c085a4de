"""Decoded and drawn images in memory, so that an image's check and all of its uses decode or draw it once."""

from collections import OrderedDict
from collections.abc import Hashable
from threading import Lock

from PIL import Image


class Kept:
    """The pictures that a process has decoded or drawn, by what identifies them, up to `budget`.

    Where room is short, pictures that were used before make way, the oldest first. If that does not suffice, a new
    picture is not kept.
    """

    budget = 256 << 20  # bytes

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self._unused: dict[Hashable, Image.Image] = {}
        self._used: OrderedDict[Hashable, Image.Image] = OrderedDict()
        self._bytes = 0
        self._lock = Lock()

    def __contains__(self, id_: Hashable) -> bool:
        return id_ in self._unused or id_ in self._used

    def add(self, id_: Hashable, picture: Image.Image, used: bool = False) -> None:
        """Keep an image's picture if there is room for it. `used` says whether this is for a use."""
        with self._lock:
            if id_ in self:
                return
            while self._used and self._bytes + _bytes(picture) > self.budget:
                self._bytes -= _bytes(self._used.popitem(last=False)[1])
            if self._bytes + _bytes(picture) <= self.budget:
                (self._used if used else self._unused)[id_] = picture
                self._bytes += _bytes(picture)

    def get(self, id_: Hashable) -> Image.Image | None:
        """Return an image's picture for a use; None if it is not kept."""
        with self._lock:
            if (picture := self._unused.pop(id_, None)) is not None:
                self._used[id_] = picture
            return self._used.get(id_)


KEPT = Kept()


def _bytes(picture: Image.Image) -> int:
    """Return the bytes that an RGB picture takes in memory: Pillow uses four for each pixel."""
    return 4 * picture.width * picture.height
