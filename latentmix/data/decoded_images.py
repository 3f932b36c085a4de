"""Decoded images in memory, so that an image's check and all of its uses decode it once."""

from collections import OrderedDict
from threading import Lock

import numpy as np
from PIL import Image, ImageOps

BUDGET = 256 << 20  # bytes


class Kept:
    """What a process remembers of images by their ids, up to a number of bytes.

    A picture that was decoded for its check stays whole until it is used; then its square of the size asked for takes
    its place. Where room is short, squares go first, the oldest first, and new pictures are not kept.
    """

    def __init__(self, budget: int = BUDGET) -> None:
        self.budget = budget
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self._known: set[tuple[str, float]] = set()
        self._pictures: dict[str, Image.Image] = {}
        self._squares: OrderedDict[tuple[str, int], np.ndarray] = OrderedDict()
        self._bytes = 0
        self._lock = Lock()

    def is_known(self, id_: str, max_megapixels: float) -> bool:
        """Return True if an image of these bytes was found whole under this limit before."""
        return (id_, max_megapixels) in self._known

    def add(self, id_: str, max_megapixels: float, picture: Image.Image) -> None:
        """Remember that an image is whole, and its picture if there is room for it."""
        with self._lock:
            self._known.add((id_, max_megapixels))
            if id_ not in self._pictures and self._make_room(_bytes(picture)):
                self._pictures[id_] = picture
                self._bytes += _bytes(picture)

    def square(self, id_: str, size: int) -> np.ndarray | None:
        """Return an image's square, uint8 [size, size, 3], by what is kept of it; None if nothing is."""
        with self._lock:
            if (square := self._squares.get((id_, size))) is not None:
                return square.copy()
            picture = self._pictures.pop(id_, None)
            if picture is None:
                return None
            self._bytes -= _bytes(picture)
        square = fit(picture, size)
        self.add_square(id_, square)
        return square

    def add_square(self, id_: str, square: np.ndarray) -> None:
        """Keep a copy of an image's square if there is room for it."""
        with self._lock:
            if (id_, len(square)) not in self._squares and self._make_room(square.nbytes):
                self._squares[id_, len(square)] = square.copy()
                self._bytes += square.nbytes

    def _make_room(self, needed: int) -> bool:
        """Drop the oldest squares as far as necessary; return whether there is room then."""
        while self._squares and self._bytes + needed > self.budget:
            self._bytes -= self._squares.popitem(last=False)[1].nbytes
        return self._bytes + needed <= self.budget


KEPT = Kept()


def fit(picture: Image.Image, size: int) -> np.ndarray:
    """Return the centred square of a picture, its side resized to `size` with antialiasing: uint8 [size, size, 3]."""
    return np.array(ImageOps.fit(picture, (size, size), Image.Resampling.BICUBIC))


def _bytes(picture: Image.Image) -> int:
    """Return the bytes that an RGB picture takes in memory: Pillow uses four for each pixel."""
    return 4 * picture.width * picture.height
