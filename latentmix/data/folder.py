"""Any folder of class folders, DIR/<class>/*.jpg, as a data set.

Every image asked for is decoded once before any is used, so that a broken file is found now and not hours into a run.
"""

import warnings
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache, partial
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from latentmix.data import Source
from latentmix.errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
FORMATS = ("JPEG", "PNG", "WEBP")  # no others, whatever the suffix says: these have the modes that `_picture` knows
LAYOUT = "DIR/<class>/*.jpg"
LISTED = 5  # classes that a message names


@dataclass(frozen=True)
class Folder:
    """The images path/<class>/*, sorted by file name; whatever starts with a dot is ignored."""

    path: Path
    bad_images: Literal["refuse", "skip"] = "refuse"

    def classes(self) -> tuple[str, ...]:
        """The names of the class folders, sorted; raises UserError where there are none."""
        return tuple(self._folders())

    def title(self, class_id: str) -> str:
        """The folder's name with spaces for underscores; hyphens stay, as they belong to words such as "t-shirt"."""
        return class_id.replace("_", " ")

    def images(self, class_id: str, count: int | None = None) -> list[Source]:
        """The first `count` usable images of a class, or all; raises UserError where there are fewer, or none."""
        files = _images(_listing(self._folder(class_id)))
        usable = (source for file in files if (source := self._source(file)))
        sources = list(islice(usable, count))
        if len(sources) >= (1 if count is None else count):
            return sources
        where = f"class {class_id!r} in {self.path}"
        if not sources:
            raise UserError(f"{where} has no usable images; add some ({', '.join(SUFFIXES)})")
        raise UserError(f"{where} has {len(sources)} of the {count} images asked for; lower the count or add images")

    def _folders(self) -> dict[str, Path]:
        entries = _listing(self.path)
        folders = {entry.name: entry for entry in entries if entry.is_dir()}
        if folders:
            return folders
        if _images(entries):
            raise UserError(f"the images lie directly in {self.path}; move them into a folder per class: {LAYOUT}")
        raise UserError(f"there are no class folders in {self.path}; expected {LAYOUT}")

    def _folder(self, class_id: str) -> Path:
        """Looked up in the listing, so that no identifier, such as "../x", leads out of the data set."""
        folders = self._folders()
        if class_id in folders:
            return folders[class_id]
        nearest = get_close_matches(class_id, folders, n=1, cutoff=0)[0]
        names = ", ".join([*folders][:LISTED]) + (", ..." if len(folders) > LISTED else "")
        raise UserError(f"no class in {self.path} is called {class_id!r}; try {nearest!r}; there are {names}")

    def _source(self, file: Path) -> Source | None:
        """The image in a file, or None where it is broken and to be skipped."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", Image.DecompressionBombWarning)
                _picture(file)
            return Source(sha256(file.read_bytes()).hexdigest()[:16], partial(_pixels, file))
        except Exception as error:  # on broken files Pillow raises anything: OSError, SyntaxError, struct.error...
            problem = f"{file} cannot be used: {_reason(error)}"
            if self.bad_images == "refuse":
                raise UserError(f"{problem}; mend or delete it, or set data.bad_images=skip") from error
            _warn_once(f"{problem}; the next image is taken instead")
            return None


def _listing(folder: Path) -> list[Path]:
    try:
        return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"cannot list {folder}: {reason}; give a folder of class folders, {LAYOUT}") from error


def _images(entries: list[Path]) -> list[Path]:
    """A link that leads nowhere counts too: it stands for an image that is missing, which should not go unnoticed."""
    return [entry for entry in entries if entry.suffix.lower() in SUFFIXES and not entry.is_dir()]


def _pixels(file: Path, size: int) -> np.ndarray:
    """The centred square, its side resized to `size` with antialiasing: uint8 [size, size, 3], RGB."""
    return np.array(ImageOps.fit(_picture(file), (size, size), Image.Resampling.BICUBIC))


def _picture(file: Path) -> Image.Image:
    """The whole image, upright, on white where it is transparent, in RGB."""
    with Image.open(file, formats=FORMATS) as opened:
        image: Image.Image = ImageOps.exif_transpose(opened)
    if image.mode.startswith("I"):  # 16 bits of grey, which Pillow would clip to 255
        image = Image.fromarray(np.rint(np.asarray(image) / 257).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return f"it is not an image in {', '.join(FORMATS[:-1])} or {FORMATS[-1]} format"
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


@cache
def _warn_once(text: str) -> None:
    """Once in a process, though the images of a class are asked for many times; Python's own filters forget."""
    warnings.warn(text, stacklevel=2)
