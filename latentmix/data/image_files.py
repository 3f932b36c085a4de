"""Image files of data sets: their listing, checks and pixels.

Every image of a run is decoded once before the run starts, so that a damaged one is found then and not hours later. The
decoded picture is kept in `DECODED` if there is room, and later runs do not decode checked files again.
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from itertools import islice
from pathlib import Path
from stat import S_ISREG
from typing import Literal

import numpy as np

from latentmix.data.decode import decode, fitted, misnamed_profile, names_a_profile
from latentmix.data.decoded_images import DECODED, CheckedId, checked_ids
from latentmix.data.odd_image_files import has_fewer_bits
from latentmix.data.protocol import Source, first_few, one_line
from latentmix.data.settings import MAX_MEGAPIXELS
from latentmix.errors import UserError, warn_once
from latentmix.threads import on_all_threads

SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".tif", ".tiff", ".bmp")
UNREAD = (".gif", ".heic", ".heif", ".avif", ".jxl", ".jp2", ".ppm", ".pgm", ".tga", ".psd", ".exr", ".dng")
LARGEST = 1 << 30  # bytes of an image file, at most
BLOCK = 64  # images that are checked together, on all threads
# Folders that archives and operating systems leave behind.
DROPPINGS = ("__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found")
AGAIN = "restore it, or give the same command again to continue with the files as they are now"


@dataclass(frozen=True)
class Rules:
    """Which images can be used, and what is done with others: see `data.max_megapixels` and `data.bad_images`."""

    bad_images: Literal["refuse", "skip"] = "refuse"
    max_megapixels: float = MAX_MEGAPIXELS


@dataclass(frozen=True)
class Blob:
    """Where an image's bytes are: a file or, in an archive, the `size` bytes of a member from `offset` on."""

    file: Path
    offset: int = 0
    size: int = -1  # -1: up to the end of the file
    member: str = ""  # its name in the archive
    digest: str = ""  # the digest that its bytes must have, if it is known

    def read(self) -> bytes:
        """Return the bytes. Raises OSError for what is no regular file, such as a pipe, and for more than 1 GiB."""
        status = self.file.stat()  # before it is opened: opening a pipe would wait for its other end
        size = status.st_size - self.offset if self.size < 0 else self.size
        if not S_ISREG(status.st_mode):
            raise OSError("it is no regular file")
        if size > LARGEST:
            raise OSError(f"its {size} bytes are more than an image may have ({LARGEST})")
        with self.file.open("rb") as opened:
            opened.seek(self.offset)
            return opened.read(size)

    @property
    def name(self) -> str:
        """Return the image's own file name."""
        return Path(self.member).name or self.file.name

    def __str__(self) -> str:
        return f"{self.file}/{self.member}" if self.member else str(self.file)


def is_image(name: str) -> bool:
    """Return True if a file name has the suffix of an image and is not hidden."""
    return Path(name).suffix.lower() in SUFFIXES and not name.startswith(".")


def is_listed(name: str) -> bool:
    """Return True if an entry of a folder belongs to the data: not hidden, and not left by an archive or a system."""
    return not name.startswith(".") and name not in DROPPINGS


def listing(folder: Path, advice: str) -> list[Path]:
    """Return the entries of a folder that belong to the data, sorted. Raises UserError, which ends with `advice`."""
    try:
        return sorted(entry for entry in folder.iterdir() if is_listed(entry.name))
    except OSError as error:
        raise _not_listed(error, advice) from error


def image_files(folder: Path, advice: str) -> Iterator[Path]:
    """Yield the image files in a folder and all folders below it, sorted within each; links are followed.

    A broken link is yielded, so that the missing image is noticed. Pictures in other formats are left out with a
    warning. Raises UserError, which ends with `advice`, where a folder can't be listed.
    """
    unread: list[str] = []
    seen: set[tuple[int, int]] = set()  # folders, so that a link to a folder above it is not followed for ever

    def fail(error: OSError) -> None:
        raise _not_listed(error, advice) from error

    for root, folders, names in os.walk(folder, followlinks=True, onerror=fail):
        status = Path(root).stat()
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(filter(is_listed, folders))
        yield from (Path(root, name) for name in sorted(names) if is_image(name))
        unread += (name for name in sorted(names) if is_listed(name) and Path(name).suffix.lower() in UNREAD)
    if unread:
        warn_once(f"{folder}: pictures in formats that are not read are left out: {first_few(unread)}")


def _not_listed(error: OSError, advice: str) -> UserError:
    return UserError(f"cannot list {error.filename}: {error.strerror or error}; {advice}")


def sources(blobs: Iterable[Blob], count: int | None, rules: Rules, where: str) -> list[Source]:
    """Return the first `count` usable images, or all.

    Raises UserError, which names `where`, if there are fewer or none, and for an image that cannot be used unless
    `rules` say to skip it.
    """
    blobs = list(blobs)
    found: list[Source] = []
    notes: list[tuple[str, str]] = []  # remarks, and the image that each is of
    remaining = iter(blobs)
    first = f"{blobs[0].file.absolute()} {blobs[0].offset}" if blobs else "none"
    with checked_ids(f"{first} {rules.max_megapixels:g}") as checked_id:
        check = partial(_source, rules=rules, checked_id=checked_id, notes=notes)
        while block := list(islice(remaining, BLOCK if count is None else min(BLOCK, count - len(found)))):
            found += filter(None, on_all_threads(check, block))
    for remark in sorted({remark for remark, _ in notes}):
        first, *others = sorted(image for each, image in notes if each == remark)
        warn_once(f"{where}: images with {remark}: {first}" + (f" and {len(others)} more" if others else ""))
    if len(found) >= (1 if count is None else count):
        return found
    if not found:
        raise UserError(f"{where} has no usable images; add some ({', '.join(SUFFIXES)})")
    fewer = f"set pool={len(found)}, and n and data.reference to no more, or add images"
    advice = "add images, at least 1 more, or leave the class out" if len(found) == 1 else fewer
    raise UserError(f"{where} has {len(found)} of the {count} images asked for; {advice}")


def _source(blob: Blob, rules: Rules, checked_id: CheckedId, notes: list[tuple[str, str]]) -> Source | None:
    """Return the image, or None if it cannot be used and is to be skipped."""
    try:
        id_ = checked_id(blob.file, blob.offset, partial(_check, blob, rules.max_megapixels, notes))
        return Source(id_, partial(_pixels, blob, id_, rules.max_megapixels), str(blob))
    except Exception as error:  # Pillow raises nearly anything for damaged files: OSError, SyntaxError, struct.error...
        problem = f"{blob} cannot be used: {one_line(error)}"
        if rules.bad_images == "refuse":
            raise UserError(f"{problem}; mend or delete it, or set data.bad_images=skip") from error
        warn_once(f"{problem}; the next image is taken instead")
        return None


def _check(blob: Blob, max_megapixels: float, notes: list[tuple[str, str]]) -> str:
    """Return the digest of an image that can be decoded; raise anything for one that cannot."""
    content = blob.read()
    id_ = image_id(content)
    if blob.digest not in ("", digest(content)):
        raise ValueError("its bytes are not those that were fetched")
    if (id_, max_megapixels) not in DECODED:
        picture, remarks = decode(content, max_megapixels)
        DECODED.add((id_, max_megapixels), picture)
        notes += ((remark, str(blob)) for remark in remarks)
    return id_


def digest(content: bytes) -> str:
    """Return a digest, 16 hex digits, of an image's bytes."""
    return sha256(content).hexdigest()[:16]


def image_id(content: bytes) -> str:
    """Return a digest, 16 hex digits, of an image's bytes and of how its colour profile is applied."""
    applied = b"in sRGB" if names_a_profile(content) else b""
    applied += b"by its curves" if misnamed_profile(content) else b""
    return digest(content + applied + (b"in its own bits" if has_fewer_bits(content) else b""))


def _pixels(blob: Blob, id_: str, max_megapixels: float, size: int | str) -> np.ndarray:
    """Return an image at a size (see `decode.fitted`): uint8 [H, W, 3], RGB.

    Raises UserError if the file has changed since it was checked, as results are kept under the id that it had then.
    """
    picture = DECODED.get((id_, max_megapixels))
    if picture is None:
        try:
            content = blob.read()
        except OSError as error:
            raise UserError(f"{blob} can't be read any more: {one_line(error)}; {AGAIN}") from error
        if image_id(content) != id_:
            raise UserError(f"{blob} has changed since it was checked; {AGAIN}")
        picture = decode(content, max_megapixels)[0]
        DECODED.add((id_, max_megapixels), picture, used=True)
    return fitted(picture, size)
