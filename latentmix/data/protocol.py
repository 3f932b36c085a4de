"""What a data set is: classes, and the images of each. Every use of images goes through these two types."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from latentmix.errors import UserError, nearest

LISTED = 5  # classes that a message names


@dataclass(frozen=True)
class Source:
    """One image. Its `id` changes whenever the picture does, so results are kept under it."""

    id: str
    pixels: Callable[[int | str], np.ndarray]  # size (512, or "768x512") -> uint8 [H, W, 3], RGB
    name: str = field(default="", compare=False)  # of its file, for people
    prompt: str | None = None  # its own, under which it is inverted; None is that of its class

    @property
    def label(self) -> str:
        """Return what tables call the image: its file, or its id if it has none."""
        return self.name or self.id


class NotFetched(UserError):
    """Images are elsewhere, and could not be fetched: there is no network, no such repository, or no access to it."""


class Dataset(Protocol):
    """A data set. Subclass it, and write `classes` and `images`; the rest is for data sets that differ.

    Making one costs nothing: it reads files when it is first asked for classes or images.
    """

    world: str = "photographs"  # what the images show; a model may know only one world, such as "shapes"
    from_model: bool = False  # whether the run's model generates the images

    def classes(self) -> tuple[str, ...]:
        """Return the identifiers of all classes, sorted."""
        ...

    def images(self, class_id: str, count: int | None = None) -> list[Source]:
        """Return the first `count` images of a class, or all. Raises UserError if there are fewer."""
        ...

    def resolve(self, name: str) -> str:
        """Return the identifier of the class that a user calls `name`. Raises UserError for none, or several."""
        if name not in (classes := self.classes()):
            raise UserError(unknown(name, classes, "the data set"))
        return name

    def title(self, class_id: str) -> str:
        """Return the class's name as prompts have it: by default, with spaces for underscores."""
        return class_id.replace("_", " ")

    def fetch(self, class_ids: Sequence[str]) -> None:
        """Bring images of these classes that are elsewhere to this machine, all at once; by default, none are."""
        return None

    def repository(self) -> str | None:
        """Return OWNER/NAME on the Hugging Face hub, if `fetch` gets images from there."""
        return None

    def volume(self, images: bool = True) -> str:
        """Say how much `fetch` reads there for images or, without, for the names of classes."""
        return "its images" if images else "the names of its classes"

    def home(self) -> str:
        """Say where the images are, to go on from "N images"."""
        return "are here"

    def planned(self) -> "Dataset":
        """Return a stand-in that fetches nothing, for a dry run: images that are not here are only counted."""
        return self


def unknown(name: str, classes: Sequence[str], where: str) -> str:
    """Say that a class does not exist, and name the nearest that does and the first few."""
    return f"no class in {where} is called {name!r}; try {nearest(name, classes)!r}; there are {first_few(classes)}"


def first_few(names: Sequence[str]) -> str:
    """List some of the names that there are, for a message."""
    return ", ".join(names[:LISTED]) + (", ..." if len(names) > LISTED else "")


def one_line(error: BaseException) -> str:
    """Return what a library says of an error, in one line without a full stop."""
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
