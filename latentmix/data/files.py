"""Images as they lie in files and archives: their bytes, their pixels, and which of them can be used.

Every image asked for is decoded once before any is used, so that a broken one is found now and not hours into a run.
"""

import io
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, partial
from hashlib import sha256
from itertools import islice
from pathlib import Path
from stat import S_ISREG
from typing import Literal

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from latentmix.data import Source
from latentmix.data.checked import Checked
from latentmix.errors import UserError

BadImages = Literal["refuse", "skip"]
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
LARGEST = 1 << 30  # bytes; Pillow refuses images of more pixels than could fill them
FORMATS = ("JPEG", "PNG", "WEBP")  # no others, whatever the suffix says: these have the modes that `picture` knows


AGAIN = "bring it back, or give the same command again to go on with what is there now"


@dataclass(frozen=True)
class Blob:
    """Where an image's bytes are: a file or, in an archive, the `size` bytes of a member from `offset` on."""

    file: Path
    offset: int = 0
    size: int = -1  # all that follows
    member: str = ""
    digest: str = ""  # what its bytes must have, where that is known

    def read(self) -> bytes:
        """Raises OSError for what can't be read, and for what would never end or leave no memory."""
        status = self.file.stat()  # before it is opened, which would wait for a pipe's other end
        size = status.st_size - self.offset if self.size < 0 else self.size
        if not S_ISREG(status.st_mode):
            raise OSError("it is no regular file")
        if size > LARGEST:
            raise OSError(f"{size} bytes are more than any image that is taken here has ({LARGEST})")
        with self.file.open("rb") as opened:
            opened.seek(self.offset)
            return opened.read(size)

    @property
    def name(self) -> str:
        """The image's own file name."""
        return Path(self.member).name or self.file.name

    def __str__(self) -> str:
        return f"{self.member} in {self.file}" if self.member else str(self.file)


def is_image(name: str) -> bool:
    """By its suffix alone; hidden files are none."""
    return Path(name).suffix.lower() in SUFFIXES and not name.startswith(".")


def listing(folder: Path) -> list[Path]:
    """What is in a folder, sorted, without what starts with a dot; raises OSError."""
    return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))


def images(entries: Iterable[Path]) -> list[Blob]:
    """A link that leads nowhere counts too: it stands for an image that is missing, which should not go unnoticed."""
    return [Blob(entry) for entry in entries if is_image(entry.name) and not entry.is_dir()]


def sources(blobs: list[Blob], count: int | None, bad_images: BadImages, where: str) -> list[Source]:
    """The first `count` usable images, or all. Raises UserError, which says `where`, for fewer, for none, and for a
    broken one that is not to be skipped."""
    with Checked(f"{blobs[0].file.absolute()} {blobs[0].offset}" if blobs else "none") as checked:
        usable = (source for blob in blobs if (source := _source(blob, bad_images, checked)))
        found = list(islice(usable, count))
    if len(found) >= (1 if count is None else count):
        return found
    if not found:
        raise UserError(f"{where} has no usable images; add some ({', '.join(SUFFIXES)})")
    raise UserError(f"{where} has {len(found)} of the {count} images asked for; lower the count or add images")


def _source(blob: Blob, bad_images: BadImages, checked: Checked) -> Source | None:
    """The image, or None where it is broken and to be skipped."""
    try:
        id_ = checked.id(blob.file, blob.offset, partial(_checksum, blob))
        return Source(id_, partial(_pixels, blob, id_))
    except Exception as error:  # on broken files Pillow raises anything: OSError, SyntaxError, struct.error...
        problem = f"{blob} cannot be used: {_reason(error)}"
        if bad_images == "refuse":
            raise UserError(f"{problem}; mend or delete it, or set data.bad_images=skip") from error
        _warn_once(f"{problem}; the next image is taken instead")
        return None


def _checksum(blob: Blob) -> str:
    """16 hex digits that name a whole image; raises anything for a broken one."""
    content = blob.read()
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        _picture(content)
    if blob.digest not in ("", digest(content)):
        raise ValueError("its bytes are not those that were fetched")
    return digest(content)


def digest(content: bytes) -> str:
    """16 hex digits that name an image's bytes."""
    return sha256(content).hexdigest()[:16]


def _pixels(blob: Blob, id_: str, size: int) -> np.ndarray:
    """The centred square, its side resized to `size` with antialiasing: uint8 [size, size, 3], RGB.

    Raises UserError where the image is no longer what it was when the run began: what is computed goes by its id.
    """
    try:
        content = blob.read()
    except OSError as error:
        raise UserError(f"{blob} can't be read any more: {_reason(error)}; {AGAIN}") from error
    if digest(content) != id_:
        raise UserError(f"{blob} has changed since it was looked at; {AGAIN}")
    return np.array(ImageOps.fit(_picture(content), (size, size), Image.Resampling.BICUBIC))


def _picture(content: bytes) -> Image.Image:
    """The whole image, upright, on white where it is transparent, in RGB."""
    with Image.open(io.BytesIO(content), formats=FORMATS) as opened:
        image: Image.Image = ImageOps.exif_transpose(opened)
    if image.mode.startswith("I"):  # 16 bits of grey, which Pillow would clip to 255
        image = Image.fromarray(np.rint(np.asarray(image) / 257).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def suffix(content: bytes) -> str:
    """By what the bytes are; ".jpg" for what is no image, so that it is found broken where it is used."""
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as opened:
            return {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp"}[str(opened.format)]
    except Exception:
        return ".jpg"


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return f"it is not an image in {', '.join(FORMATS[:-1])} or {FORMATS[-1]} format"
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


@cache
def _warn_once(text: str) -> None:
    """Once in a process, though the images of a class are asked for many times; Python's own filters forget."""
    warnings.warn(text, stacklevel=2)
