"""data=imagenet: ImageNet's training images as they are distributed, in folders or tars, which are not unpacked."""

import re
import tarfile
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from latentmix.data import imagenet_names
from latentmix.data.image_files import Blob, Rules, image_files, is_image, listing, sources
from latentmix.data.protocol import Dataset, Source, first_few
from latentmix.data.settings import DataConfig
from latentmix.errors import UserError

ROOTS = ("", "train", "ILSVRC/Data/CLS-LOC/train", "Data/CLS-LOC/train")  # under data.path, where the classes may be
ARCHIVE = "ILSVRC2012_img_train.tar"  # holds a tar of each class
CLASS = re.compile(r"(n\d{8})(\.tar)?")
LAYOUT = f"DIR/train/n01440764/*.JPEG, DIR/train/n01440764.tar or DIR/{ARCHIVE}"


def load(config: DataConfig) -> Dataset:
    """Return the data set that `data=imagenet data.path=DIR` describes."""
    if config.path is None:
        raise UserError(f"data=imagenet needs data.path=DIR, with {LAYOUT}")
    return ImageNet(Path(config.path), Rules(config.bad_images, config.max_megapixels))


@dataclass(frozen=True)
class ImageNet(Dataset):
    """The images of those of the 1000 classes that are in `path`, sorted by file name."""

    path: Path
    rules: Rules = field(default_factory=Rules)

    def classes(self) -> tuple[str, ...]:
        """Return the WordNet ids of the classes in `path`, sorted. Raises UserError if there are none."""
        return tuple(self._locations)

    def resolve(self, name: str) -> str:
        """Return the WordNet id of a class, by its id or any of its names. Raises UserError for none, or several."""
        class_id = imagenet_names.resolve(name)
        if class_id not in self._locations:
            listed = first_few([*self._locations])
            raise UserError(f"class {class_id} ({self.title(class_id)}) is not in {self.path}; there are {listed}")
        return class_id

    def title(self, class_id: str) -> str:
        return imagenet_names.title(class_id)

    def images(self, class_id: str, count: int | None = None) -> list[Source]:
        location = self._locations[self.resolve(class_id)]
        is_tar, advice = location.file.is_file(), "mend its permissions"
        blobs = _members(location) if is_tar else [Blob(file) for file in image_files(location.file, advice)]
        usable = [blob for blob in blobs if is_image(blob.name)]
        return sources(usable, count, self.rules, f"class {class_id} ({self.title(class_id)}) in {location}")

    def home(self) -> str:
        return f"are in {self.path}"

    @cached_property
    def _locations(self) -> dict[str, Blob]:
        """Return the folder or tar of each class, by WordNet id, sorted."""
        found = _members(Blob(self.path)) if self.path.is_file() else _search(self.path)
        classes = {match[1]: blob for blob in found if (match := CLASS.fullmatch(blob.name))}
        locations = {class_id: classes[class_id] for class_id in imagenet_names.names() if class_id in classes}
        if not locations:
            raise UserError(f"ImageNet's training images are not in {self.path}; expected {LAYOUT}")
        return locations


def _search(path: Path) -> list[Blob]:
    """Return the class folders and tars under a path or, if there are none, the class tars in `ARCHIVE`.

    A class's tar comes after its folder, and so replaces it in `_locations`: the folder may be half unpacked.
    """
    roots = [path, *(path / root for root in ROOTS[1:] if (path / root).is_dir())]
    for root in roots:
        if classes := [Blob(entry) for entry in listing(root, f"expected {LAYOUT}") if CLASS.fullmatch(entry.name)]:
            return classes
    return next((_members(Blob(root / ARCHIVE)) for root in roots if (root / ARCHIVE).is_file()), [])


def _members(archive: Blob) -> list[Blob]:
    """Return the files in an uncompressed tar, which may itself be in a tar, sorted by name. Raises UserError."""
    files = []
    try:
        with archive.file.open("rb") as opened:
            opened.seek(archive.offset)
            with tarfile.open(fileobj=opened, mode="r:") as tar:
                for member in tar:
                    if member.size < 0:  # it would lead back to an earlier one for ever
                        raise tarfile.TarError(f"{member.name!r} has a negative size")
                    if member.isfile():  # its offset counts from the start of the outermost tar
                        name = f"{archive.member}/{member.name}" if archive.member else member.name
                        files.append(Blob(archive.file, member.offset_data, member.size, name))
    except (OSError, ValueError, OverflowError, tarfile.TarError) as error:
        raise UserError(f"{archive} is no tar or a damaged one ({error}); get it again") from error
    return sorted(files, key=lambda blob: blob.name)
