"""ImageNet's training images as they are distributed, and the names of its 1000 classes.

A class is known by its WordNet id, as two are called "crane". Names, ids and definitions are those that timm has.
"""

import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from latentmix.data import Source
from latentmix.data.files import BadImages, Blob, images, is_image, listing, sources
from latentmix.errors import UserError

if TYPE_CHECKING:
    from timm.data.imagenet_info import ImageNetInfo

ROOTS = ("", "train", "ILSVRC/Data/CLS-LOC/train", "Data/CLS-LOC/train")  # under data.path, where the classes may be
ARCHIVE = "ILSVRC2012_img_train.tar"  # holds a tar of each class
CLASS = re.compile(r"(n\d{8})(\.tar)?")
LAYOUT = f"DIR/train/n01440764/*.JPEG, DIR/train/n01440764.tar or DIR/{ARCHIVE}"
LISTED = 5  # classes that a message names


@dataclass(frozen=True)
class ImageNet:
    """The images of those of the 1000 classes that are in `path`, in folders or tars, sorted by file name."""

    path: Path
    bad_images: BadImages = "refuse"

    def classes(self) -> tuple[str, ...]:
        """The WordNet ids of the classes that are there, sorted; raises UserError where there are none."""
        return tuple(self._places)

    def resolve(self, name: str) -> str:
        """A WordNet id or any of a class's names -> WordNet id; UserError where it isn't there or isn't clear."""
        return self._present(resolve(name))

    def fetch(self, class_ids: Sequence[str]) -> None:
        """Nothing: they are here."""

    def title(self, class_id: str) -> str:
        """The first of the class's names."""
        return title(class_id)

    def images(self, class_id: str, count: int | None = None) -> list[Source]:
        """The first `count` usable images of a class, or all; raises UserError where there are fewer, or none."""
        place = self._places[self._present(class_id)]
        blobs = _members(place) if place.file.is_file() else images(_listing(place.file))
        kept = [blob for blob in blobs if is_image(blob.name)]
        return sources(kept, count, self.bad_images, f"class {class_id} ({title(class_id)}) in {place}")

    def _present(self, class_id: str) -> str:
        if class_id in self._places:
            return class_id
        there = ", ".join([*self._places][:LISTED]) + (", ..." if len(self._places) > LISTED else "")
        what = f"{class_id} ({title(class_id)})" if class_id in names() else repr(class_id)
        raise UserError(f"class {what} is not in {self.path}; there are {there}")

    @cached_property
    def _places(self) -> dict[str, Blob]:
        """WordNet id -> the folder or tar of its images, sorted."""
        found = _members(Blob(self.path)) if self.path.is_file() else _search(self.path)
        classes = {match[1]: blob for blob in found if (match := CLASS.fullmatch(blob.name))}
        places = {class_id: classes[class_id] for class_id in names() if class_id in classes}
        if not places:
            raise UserError(f"ImageNet's training images are not in {self.path}; expected {LAYOUT}")
        return places


def _search(path: Path) -> list[Blob]:
    """The class folders and tars under a path or, without any, what is in the one archive of them all.

    A tar comes after the folder beside it, and so is taken in its place: the folder may be half unpacked.
    """
    roots = [path, *(path / root for root in ROOTS[1:] if (path / root).is_dir())]
    for root in roots:
        if classes := [Blob(entry) for entry in _listing(root) if CLASS.fullmatch(entry.name)]:
            return classes
    return next((_members(Blob(root / ARCHIVE)) for root in roots if (root / ARCHIVE).is_file()), [])


def _listing(folder: Path) -> list[Path]:
    try:
        return listing(folder)
    except OSError as error:
        raise UserError(f"cannot list {folder}: {error.strerror or error}; expected {LAYOUT}") from error


def _members(archive: Blob) -> list[Blob]:
    """The files in a tar that is uncompressed, as ImageNet's are, sorted by name; the tar itself may be in a tar."""
    try:
        with archive.file.open("rb") as opened:
            opened.seek(archive.offset)
            with tarfile.open(fileobj=opened, mode="r:") as tar:  # whose offsets count from the start of the outermost
                files = [Blob(archive.file, m.offset_data, m.size, m.name) for m in _forward(tar) if m.isfile()]
    except (OSError, ValueError, OverflowError, tarfile.TarError) as error:
        raise UserError(f"{archive} is no tar or a damaged one ({error}); get it again") from error
    return sorted(files, key=lambda blob: blob.name)


def _forward(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """The members, but none that leads back to one before it, for ever."""
    for member in tar:
        if member.size < 0:
            raise tarfile.TarError(f"{member.name!r} has a negative size")
        yield member


# The classes' names


@cache
def names() -> dict[str, tuple[str, ...]]:
    """WordNet id -> all names of the class, of all 1000, in the order of their numbers, which is that of the ids."""
    return {id_: tuple(_info().label_name_to_description(id_).split(", ")) for id_ in _info().label_names()}


@cache
def _info() -> "ImageNetInfo":
    from timm.data.imagenet_info import ImageNetInfo  # takes seconds, and torch

    return ImageNetInfo()


def title(class_id: str) -> str:
    """The first of a class's names, with which others may share it."""
    return names()[class_id][0]


def resolve(name: str) -> str:
    """A WordNet id or any of a class's names -> WordNet id; raises UserError where none or several classes have it."""
    if name in names():
        return name
    meant = [class_id for class_id, called in names().items() if _plain(name) in map(_plain, called)]
    if len(meant) == 1:
        return meant[0]
    if meant:
        several = "; ".join(f"{class_id} ({_definition(class_id)})" for class_id in meant)
        raise UserError(f"{len(meant)} classes of ImageNet are called {name!r}: {several}. Give the id of one")
    every = {_plain(called): called for group in names().values() for called in group}
    near = [every[close] for close in get_close_matches(_plain(name), every)] or get_close_matches(name, names())
    hint = f"did you mean {' or '.join(map(repr, near))}?" if near else "give a WordNet id or a name, as 'tree frog'"
    raise UserError(f"no class of ImageNet is called {name!r}; {hint}")


def synsets(labels: Sequence[str]) -> tuple[str, ...]:
    """The WordNet id of each label of a data set: all 1000 go by their order, fewer each by its id or its names.

    Raises UserError where the order is another, or a label is not clear.
    """
    if len(labels) != len(names()):
        return tuple(map(_synset, labels))
    agree = [
        class_id == label or not _words(label).isdisjoint(map(_plain, called))
        for label, (class_id, called) in zip(labels, names().items(), strict=True)
    ]
    if sum(agree) * 2 < len(labels):  # names are spelt in many ways, so some may differ
        raise UserError("the labels are not ImageNet's in their usual order; set data.synsets=false")
    return tuple(names())


def _synset(label: str) -> str:
    whole = [class_id for class_id, called in names().items() if _words(label) == set(map(_plain, called))]
    return whole[0] if len(whole) == 1 else resolve(label.split(", ")[0])


def _words(label: str) -> set[str]:
    return set(map(_plain, label.split(", ")))


def _plain(name: str) -> str:
    return name.strip().replace("_", " ").casefold()


def _definition(class_id: str) -> str:
    text: str = _info().label_name_to_description(class_id, detailed=True)
    return text.removeprefix(f"{', '.join(names()[class_id])}: ")
