"""data=folder: a folder of class folders, DIR/<class>/**/*.jpg (or png, webp)."""

import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from unicodedata import normalize

from latentmix.data.image_files import SUFFIXES, Blob, Rules, image_files, is_image, listing, sources
from latentmix.data.protocol import Dataset, Source, first_few, unknown
from latentmix.data.settings import DataConfig
from latentmix.errors import UserError, warn_once

LAYOUT = "DIR/<class>/*.jpg"
ADVICE = f"give a folder of class folders, {LAYOUT}"
SPLITS = re.compile(r"(?:.*[^a-z])?(train(ing)?|val(id(ation)?)?|dev|test(ing)?|eval)(?:[^a-z].*)?")


def load(config: DataConfig) -> Dataset:
    """Return the data set that `data=folder data.path=DIR` describes."""
    if config.path is None:
        raise UserError(f"data=folder needs data.path=DIR, a folder of class folders: {LAYOUT}")
    return Folder(Path(config.path), Rules(config.bad_images, config.max_megapixels))


@dataclass(frozen=True)
class Folder(Dataset):
    """The images in and below path/<class>, sorted by folder and file name.

    Hidden entries are ignored, and folders that archives and systems leave, such as __MACOSX. Class folders without
    images are left out with a warning.
    """

    path: Path
    rules: Rules = field(default_factory=Rules)

    def classes(self) -> tuple[str, ...]:
        """Return the class folders that have images, sorted. Raises UserError for none, or a level above classes."""
        names = [name for name, folder in self._folders.items() if any(image_files(folder, ADVICE))]
        if not names:
            raise UserError(f"no class folder in {self.path} has images ({', '.join(SUFFIXES)}); expected {LAYOUT}")
        self._refuse_splits(names)
        if len(names) == 1:
            self._refuse_wrapper(self._folders[names[0]])
        if empty := [name for name in self._folders if name not in names]:
            warn_once(f"{self.path}: these class folders have no images, and are left out: {', '.join(empty)}")
        return tuple(names)

    def resolve(self, name: str) -> str:
        """Return the class of this name. It is looked up, so a name such as "../x" can't lead out of the data set."""
        if name in self._folders:
            return name
        alike = [known for known in self._folders if normalize("NFC", known) == normalize("NFC", name)]
        if not alike:
            raise UserError(unknown(name, list(self._folders), str(self.path)))
        return alike[0]  # an accented letter may be one character or, as on macOS, two

    def images(self, class_id: str, count: int | None = None) -> list[Source]:
        blobs = [Blob(file) for file in image_files(self._folders[self.resolve(class_id)], ADVICE)]
        return sources(blobs, count, self.rules, f"class {class_id!r} in {self.path}")

    def home(self) -> str:
        return f"are in {self.path}"

    @cached_property
    def _folders(self) -> dict[str, Path]:
        """Return the folder of each class, in the order of names. Raises UserError if there are none."""
        entries, path = listing(self.path, ADVICE), self.path.absolute()
        folders = {entry.name: entry for entry in entries if entry.is_dir()}
        if not folders and any(is_image(entry.name) for entry in entries):
            advice = f"move them into a folder per class, {LAYOUT}"
            itself = f"if it is a class, name the folder above it, {path.parent}, and 'data.classes=[{path.name}]'"
            raise UserError(f"the images lie directly in {self.path}; {advice}; or, {itself}")
        if not folders:
            raise UserError(f"there are no class folders in {self.path}; expected {LAYOUT}")
        return folders

    def _refuse_splits(self, names: list[str]) -> None:
        """Raise UserError if the folders are splits, such as train and val, with class folders in them."""
        inside = (entry for name in names for entry in listing(self._folders[name], ADVICE))
        if all(SPLITS.fullmatch(name.lower()) for name in names) and any(entry.is_dir() for entry in inside):
            split = next((name for name in names if "train" in name.lower()), names[0])
            found = f"{self.path} has splits ({', '.join(names)}) in place of classes"
            raise UserError(f"{found}; give {self.path / split} as the folder")

    def _refuse_wrapper(self, folder: Path) -> None:
        """Raise UserError if the only class may be a folder around the classes, as unpacked archives have it."""
        entries = listing(folder, ADVICE)
        inside = [entry.name for entry in entries if entry.is_dir()]
        levels = len(inside) > 1 or any(SPLITS.fullmatch(name.lower()) for name in inside)
        if any(is_image(entry.name) for entry in entries) or not levels:
            return
        advice = f"give {folder} as the folder if these are the classes, or 'data.classes=[{folder.name}]' if it is one"
        raise UserError(f"{folder} is the only class folder, and has folders in it ({first_few(inside)}); {advice}")
