"""What is peculiar about an image file: fewer bits than it is stored in, several pages or frames."""

import io
from contextlib import suppress
from itertools import count

import numpy as np
from PIL import Image, ImageFile
from PIL.TiffImagePlugin import TiffImageFile

BITS, LARGEST_VALUE, KIND_OF_PAGE = 258, 281, 254  # tags of TIFF
PREVIEW_OR_MASK = 1 | 4  # in the kind of a page
WHITE = 65535
DEPTHS = {(1 << bits) - 1 for bits in range(9, 16)}  # the value of white in fewer bits, which TIFFs keep in 16
DIM = 32  # of 256: where all values of 16 bits are lower, they may be of 12
UNREADABLE = "{} that can't be read, which are used without"
SEVERAL = "several pages or frames, of which only the first is read"
NEARLY_BLACK = (
    "16 bits and values below 1/8 of white alone, which come out nearly black; where white is 4095 (12 bits), save "
    "them in 8 bits, or as TIFF with the tag MaxSampleValue=4095"
)


def peculiarities(opened: ImageFile.ImageFile, picture: Image.Image, is_deep: bool, unreadable: str) -> tuple[str, ...]:
    """Return remarks on a file and the RGB picture that was read of it, each to follow "images with".

    `is_deep` says whether the file has 16 bits, and `unreadable` which of its metadata can't be read, if any.
    """
    is_dim = is_deep and np.max(picture.getextrema()) < DIM
    found = {UNREADABLE.format(unreadable): unreadable, NEARLY_BLACK: is_dim, SEVERAL: _has_several(opened)}
    return tuple(remark for remark, holds in found.items() if holds)


def has_fewer_bits(content: bytes) -> bool:
    """Return whether a file is a grey TIFF in 16 bits that says that it uses fewer."""
    if content.startswith((b"II", b"MM")):
        with suppress(Exception), TiffImageFile(io.BytesIO(content)) as opened:
            return opened.mode.startswith("I") and white(opened) != WHITE
    return False


def white(picture: Image.Image) -> int:
    """Return the value of white in a grey picture of 16 bits: a lower one where a TIFF says that it uses fewer bits."""
    tags = getattr(picture, "tag_v2", {})
    stated = (*tags.get(LARGEST_VALUE, ()), *((1 << bits) - 1 for bits in tags.get(BITS, ())))
    return next((value for value in stated if value in DEPTHS), WHITE)


def _has_several(opened: ImageFile.ImageFile) -> bool:
    """Return whether a file holds further pictures; in a TIFF, previews and masks of the first one don't count."""
    if not isinstance(opened, TiffImageFile):
        return getattr(opened, "n_frames", 1) > 1
    with suppress(Exception):  # at the end, or where further pages are damaged
        for page in count(1):
            opened.seek(page)
            if not opened.tag_v2.get(KIND_OF_PAGE, 0) & PREVIEW_OR_MASK:
                return True
    return False
