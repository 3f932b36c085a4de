"""Any folder of class folders, DIR/<class>/*.jpg, as a data set."""

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from latentmix.data import Source
from latentmix.data.files import BadImages, images, listing, sources
from latentmix.errors import UserError

LAYOUT = "DIR/<class>/*.jpg"
LISTED = 5  # classes that a message names


@dataclass(frozen=True)
class Folder:
    """The images path/<class>/*, sorted by file name; whatever starts with a dot is ignored."""

    path: Path
    bad_images: BadImages = "refuse"

    def classes(self) -> tuple[str, ...]:
        """The names of the class folders, sorted; raises UserError where there are none."""
        return tuple(self._folders())

    def resolve(self, name: str) -> str:
        """The name itself; raises UserError where no class folder has it."""
        self._folder(name)
        return name

    def fetch(self, class_ids: Sequence[str]) -> None:
        """Nothing: they are here."""

    def title(self, class_id: str) -> str:
        """The folder's name with spaces for underscores; hyphens stay, as they belong to words such as "t-shirt"."""
        return class_id.replace("_", " ")

    def images(self, class_id: str, count: int | None = None) -> list[Source]:
        """The first `count` usable images of a class, or all; raises UserError where there are fewer, or none."""
        files = images(_listing(self._folder(class_id)))
        return sources(files, count, self.bad_images, f"class {class_id!r} in {self.path}")

    def _folders(self) -> dict[str, Path]:
        entries = _listing(self.path)
        folders = {entry.name: entry for entry in entries if entry.is_dir()}
        if folders:
            return folders
        if images(entries):
            raise UserError(f"the images lie directly in {self.path}; move them into a folder per class: {LAYOUT}")
        raise UserError(f"there are no class folders in {self.path}; expected {LAYOUT}")

    def _folder(self, class_id: str) -> Path:
        """Looked up in the listing, so that no identifier, such as "../x", leads out of the data set."""
        folders = self._folders()
        if class_id in folders:
            return folders[class_id]
        raise UserError(unknown(class_id, list(folders), str(self.path)))


def unknown(name: str, there: Sequence[str], where: str) -> str:
    """What to say of a class that is not there: the nearest that is, and the first few."""
    nearest = get_close_matches(name, there, n=1, cutoff=0)[0]
    names = ", ".join(there[:LISTED]) + (", ..." if len(there) > LISTED else "")
    return f"no class in {where} is called {name!r}; try {nearest!r}; there are {names}"


def _listing(folder: Path) -> list[Path]:
    try:
        return listing(folder)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"cannot list {folder}: {reason}; give a folder of class folders, {LAYOUT}") from error
