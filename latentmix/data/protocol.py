"""The types of images and data sets: `Source` and `Dataset`. The data sets are listed in `registry.py`."""

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
    name: str = field(default="", compare=False)  # of its file, for messages and tables
    prompt: str | None = None  # the one that it is inverted under, if not that of its class

    @property
    def label(self) -> str:
        """Return what tables call the image: its file, or its id if it has none."""
        return self.name or self.id


class NotFetched(UserError):
    """Images could not be fetched: there is no network, no such repository, or no access to it."""


class Dataset(Protocol):
    """A data set. Subclass it, and write `classes` and `images`; the other methods have defaults.

    The constructor should read nothing: files are read when classes or images are first asked for.
    """

    domain: str = "photographs"  # what the images show; a model may know only one domain, such as "shapes"
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
        """Fetch the images of these classes that are not on this machine; by default, all are."""
        return None

    def repository(self) -> str | None:
        """Return OWNER/NAME on the Hugging Face hub, if `fetch` gets images from there."""
        return None

    def volume(self, images: bool = True) -> str:
        """Return in words how much `fetch` reads there for images or, without, for the names of classes."""
        return "its images" if images else "the names of its classes"

    def home(self) -> str:
        """Return where the images are, as the end of a sentence that begins with "N images"."""
        return "are here"

    def planned(self) -> "Dataset":
        """Return a stand-in that fetches nothing, for a dry run: images that are not here are only counted."""
        return self


def unknown(name: str, classes: Sequence[str], where: str) -> str:
    """Return the message for a class that does not exist; it names the nearest that does and the first few."""
    return f"no class in {where} is called {name!r}; try {nearest(name, classes)!r}; there are {first_few(classes)}"


def first_few(names: Sequence[str]) -> str:
    """Return the first few names in a line, for a message."""
    return ", ".join(names[:LISTED]) + (", ..." if len(names) > LISTED else "")


def one_line(error: BaseException) -> str:
    """Return the text of a library's error in one line without a full stop."""
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
