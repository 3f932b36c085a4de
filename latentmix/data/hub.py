"""data=hub: any data set of the Hugging Face hub that has a column of images and, for several classes, one of labels.

Its split is streamed once. Images of the wanted classes are written to the user's cache as files, in the stream's
order. From then on they are read like any folder, without a network.
"""

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from latentmix.data import imagenet_names
from latentmix.data.decode import suffix
from latentmix.data.hub_errors import EXPORT, explain, is_local
from latentmix.data.image_files import Blob, Rules, digest, is_image, listing, sources
from latentmix.data.protocol import Dataset, Source, unknown
from latentmix.data.settings import RANDOM, DataConfig
from latentmix.errors import UserError
from latentmix.runner.progress import bar
from latentmix.storage import DiskFull, key, read_checked_json, user_cache, write_atomic, write_checked_json

IMAGENET = "ILSVRC/imagenet-1k"
IMAGENETTE = "frgfm/imagenette"
SYNSETS = {  # the classes of data sets, where they are known without a network
    IMAGENETTE: (
        *("n01440764", "n02102040", "n02979186", "n03000684", "n03028079"),
        *("n03394916", "n03417042", "n03425413", "n03445777", "n03888257"),
    )
}
VOLUME = {(IMAGENET, "train"): "about 150 GB", (IMAGENETTE, "train"): "1.1 GB"}  # of data sets and splits
MOST = 1300  # images that a class of ImageNet has, at most
COMPLETE = "complete.json"  # in a class's folder, written last: `limit`, and how many images there are
MOST_CLASSES = 10_000  # at most, different values of a column that is no ClassLabel
VALUES = re.compile(r"(large_)?string|u?int\d+|bool")  # of such a column
SAVED = "state.json"  # in a folder that the `save_to_disk` of one split wrote
STRIDE = 500  # rows of the stream between two records of its progress


def load(config: DataConfig) -> Dataset:
    """Return the data set that `data=hub data.hub=OWNER/NAME` describes."""
    if config.hub is None:
        raise UserError("data=hub needs data.hub=OWNER/NAME, a data set of the Hugging Face hub, or a folder like one")
    return Hub(config)


@dataclass(frozen=True)
class Hub(Dataset):
    """The images of one split, in the stream's order; `limit` of each class at most."""

    config: DataConfig

    def classes(self) -> tuple[str, ...]:
        """Return all classes that the data set names, sorted: WordNet ids with `synsets`, else the names."""
        return tuple(sorted(self._labels))

    def resolve(self, name: str) -> str:
        """Return the class of this name or, with `synsets`, WordNet id. Raises UserError if there is none."""
        class_id = imagenet_names.resolve(name) if self.config.synsets else name
        if class_id not in self._labels:
            titles = list(map(self.title, self.classes())) if self.config.synsets else self.classes()
            raise UserError(unknown(name, titles, self._name))
        return class_id

    def title(self, class_id: str) -> str:
        return imagenet_names.title(class_id) if self.config.synsets else class_id.replace("_", " ")

    def fetch(self, class_ids: Sequence[str]) -> None:
        """Stream the images of these classes that are not kept yet; a stopped stream resumes from its last record."""
        missing = {self._labels[class_id] for class_id in class_ids if not self._is_kept(self._labels[class_id])}
        if missing:
            with self._explained():
                self._stream(missing)

    def images(self, class_id: str, count: int | None = None) -> list[Source]:
        """Return the first `count` usable images of a class, or all up to `limit`. Raises UserError for fewer."""
        limit = self.config.limit
        if count is not None and limit is not None and count > limit:
            raise UserError(f"data.limit={limit} keeps fewer than {count} images of a class; raise it")
        label = self._labels[self.resolve(class_id)]
        self.fetch([class_id])
        blobs = [Blob(file, digest=file.stem.partition("-")[2]) for file in self._files(label)[:limit]]
        rules = Rules(self.config.bad_images, self.config.max_megapixels)
        return sources(blobs, count, rules, f"class {class_id!r} of {self._name}")

    def repository(self) -> str | None:
        return None if is_local(self._name) else self._name

    def volume(self, images: bool = True) -> str:
        """Return in words what `fetch` would stream for images or, without, for the names of classes."""
        if not images:
            return "the names of its classes"
        what = VOLUME.get((self._name, self.config.split), f"its split {self.config.split!r}")
        if self.config.limit is not None:
            return f"of {what}, as much as it takes to find {self.config.limit} images of each class"
        return f"all of {what}, as all images of a class are wanted (data.limit=N stops after N of each)"

    def home(self) -> str:
        return f"are in {self._folder}"

    def planned(self) -> Dataset:
        return PlannedHub(self.config)

    @property
    def _name(self) -> str:
        return str(self.config.hub)

    @cached_property
    def _folder(self) -> Path:
        """Return the folder of everything that is kept of this data set."""
        config, name = self.config, self._name.strip("/").replace("/", "--")
        parts: list[Any] = [self._name, config.subset, config.revision, config.split, config.image, config.label]
        if is_local(self._name):  # the same name may be another folder, and the same folder may have other files
            name, parts = _last_part(self._name), [*parts[1:], *_contents(Path(self._name))]
        return user_cache() / "hub" / f"{name}-{key(parts)[:8]}"

    def _class_folder(self, label: int) -> Path:
        return self._folder / f"{label:05d}"

    def _files(self, label: int) -> list[Path]:
        """Return the images that are kept of a class, in the stream's order."""
        return [file for file in listing(self._class_folder(label), "set LATENTMIX_CACHE") if is_image(file.name)]

    @cached_property
    def _labels(self) -> dict[str, int]:
        """Return the number of each class. Classes are in file names, so slashes are replaced."""
        names = [str(name) for name in self._about["names"]]
        ids = imagenet_names.synsets(names) if self.config.synsets else [name.replace("/", "-") for name in names]
        labels = {class_id: label for label, class_id in enumerate(ids)}
        if len(labels) < len(ids):
            raise UserError(f"{self._name} has classes of the same name, which can't be told apart")
        return labels

    @cached_property
    def _about(self) -> dict[str, Any]:
        """Return `names`, the classes in the order of their numbers, and `numbered`: whether the column has numbers."""
        file = self._folder / "about.json"
        about = read_checked_json(file)
        if "names" not in about:
            with self._explained():
                names, numbered = self._names(self._open())
                about = {"hub": self._name, "names": names, "numbered": numbered}
                write_checked_json(file, about)
        return about

    def _names(self, rows: Any) -> tuple[list[str], bool]:
        """Return the names of the classes, and whether the column has their numbers; if not, read the whole column."""
        column = self.config.label
        if column is None:
            return [_last_part(self._name)], True
        if hasattr(rows.features[column], "names"):
            return list(rows.features[column].names), True
        values = set[str]()
        with bar(f"labels of {self._name}", disable=None) as shown:
            for row, example in enumerate(rows.select_columns([column]), 1):
                values |= {str(example[column])} - {"None", ""}
                if len(values) > MOST_CLASSES:
                    many = f"{self._name} has more than {MOST_CLASSES} values of {column!r}, so they are no classes"
                    raise UserError(f"{many}; set data.label to another column")
                if row % STRIDE == 0:
                    _show(shown, len(values), row)
        if not values:
            raise UserError(f"{self._name} has only empty values of {column!r}; data.label=null takes one class")
        return sorted(values), False

    def _is_kept(self, label: int) -> bool:
        """Return True if all wanted images of a class are kept, or all that exist."""
        done = read_checked_json(self._class_folder(label) / COMPLETE)
        if not done or len(self._files(label)) < done["count"]:
            return False
        return done["limit"] is None or (self.config.limit is not None and self.config.limit <= done["limit"])

    def _open(self) -> Any:
        """Return the split as a stream of rows, an image as {"bytes", "path"}. Raises whatever its libraries raise."""
        if is_local(self._name) and not Path(self._name).exists():
            raise UserError(f"there is no folder {self._name}; give data.hub=OWNER/NAME, or a folder that exists")
        if (place := Path(self._name)).is_file():
            raise UserError(f"{place} is a file; give the folder that it is in, data.hub={place.absolute().parent}")
        import datasets

        config = self.config
        part = {"data_dir" if config.revision == EXPORT else "name": config.subset}
        if (place / SAVED).is_file():
            rows = datasets.load_from_disk(str(place)).to_iterable_dataset()
        else:
            options = {"split": config.split, "revision": config.revision, "streaming": True, **part}
            rows = datasets.load_dataset(str(place.resolve()) if is_local(self._name) else self._name, **options)
        self._check(rows.features or {})
        rows = rows.select_columns([config.image, *([config.label] if config.label else [])])
        return rows.cast_column(config.image, datasets.Image(decode=False))

    def _check(self, features: Any) -> None:
        """Raise UserError if the columns are not what they should be."""
        columns = {name: type(feature).__name__ for name, feature in features.items()}
        kinds = {name: features[name].dtype if kind == "Value" else kind for name, kind in columns.items()}
        listed = ", ".join(f"{name} ({kind})" for name, kind in kinds.items())
        if columns.get(self.config.image) != "Image":
            image = self.config.image
            raise UserError(f"{self._name} has no Image column {image!r}; set data.image to one, of: {listed}")
        if (name := self.config.label) is None or columns.get(name) == "ClassLabel":
            return
        if columns.get(name) != "Value" or not VALUES.match(features[name].dtype):
            lacking = f"{self._name} has no column of labels {name!r} (text, whole numbers or class labels)"
            advice = f"set data.label to one, of: {listed}; or to null, if all images are of one class"
            raise UserError(f"{lacking}; {advice}")

    def _stream(self, labels: set[int]) -> None:
        """Keep the wanted images of these labels."""
        limit, column, rows = self.config.limit, self.config.label, self._open()
        numbers = None if self._about.get("numbered", True) else {str(n): i for i, n in enumerate(self._about["names"])}
        total = None if limit is None else limit * len(labels)
        note, wanted = self._folder / "progress.json", {"labels": sorted(labels), "limit": limit}
        with bar(f"images of {self._name}", total, disable=None) as shown:
            kept, start = _resume(rows, note, wanted)
            for row, example in enumerate(rows, start):
                value = 0 if column is None else example[column]
                label = value if numbers is None else numbers.get(str(value))  # None where it is missing
                image = example[self.config.image]  # None where it is missing
                if label in labels and kept[label] != limit and image is not None:
                    self._keep(label, row, image)
                    kept[label] += 1
                    if kept.total() == total:
                        break
                if (row + 1) % STRIDE == 0:
                    progress = {"wanted": wanted, "state": rows.state_dict(), "kept": kept, "row": row + 1}
                    write_checked_json(note, progress)
                    _show(shown, kept.total(), row + 1)
            else:
                limit = None  # there are no more
            for label in labels:
                write_checked_json(self._class_folder(label) / COMPLETE, {"limit": limit, "count": kept[label]})
            note.unlink(missing_ok=True)

    def _keep(self, label: int, row: int, image: dict[str, Any]) -> None:
        """Write an image's bytes as they are; its name has the row, for the stream's order, and a digest."""
        content = self._content(image)
        ending = suffix(content) or ".jpg"  # bytes that are no image are refused when they are used
        file = self._class_folder(label) / f"{row:09d}-{digest(content)}{ending}"
        if not file.exists():  # an existing file is complete, and from an earlier fetch
            write_atomic(file, content)

    def _content(self, image: dict[str, Any]) -> bytes:
        """Return an image's bytes. A data set of the hub must not name a file of this machine."""
        if image["bytes"] is not None:
            return bytes(image["bytes"])
        from datasets.utils.file_utils import xopen

        outermost = str(image["path"]).split("::")[-1]  # of archives in archives
        if not Path(self._name).exists() and not outermost.startswith(("hf://", "https://")):
            raise UserError(f"{self._name} names an image that is not on the hub: {outermost!r}")
        with xopen(image["path"], "rb") as opened:
            return opened.read()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn errors of the hub's libraries, of any type, into UserErrors."""
        try:
            yield
        except DiskFull as error:
            advice = "free some space, or set LATENTMIX_CACHE to a folder with more, and give the same command again"
            raise DiskFull(f"the disk is full: {self._folder} can't be written; {advice}") from error
        except (UserError, ModuleNotFoundError):  # of `datasets` itself: `optional_imports` names the extra to install
            raise
        except Exception as error:
            instead = "; or take data=imagenet data.path=DIR, ImageNet's training images" if self.config.synsets else ""
            raise explain(error, self._name, self._folder, instead) from error


class PlannedHub(Hub):
    """A data set of the hub for a dry run: nothing is fetched, and a class has `data.limit` images, or `MOST`."""

    def fetch(self, class_ids: Sequence[str]) -> None:
        """Fetch nothing."""

    def images(self, class_id: str, count: int | None = None) -> list[Source]:
        if self._is_kept(self._labels[self.resolve(class_id)]):
            return super().images(class_id, count)
        count = count or self.config.limit or MOST
        return [Source(f"{class_id} {index}", self._missing) for index in range(count)]

    def _missing(self, _: object) -> Any:
        raise UserError(f"the images of {self._name} are not here; latentmix fetch gets them")

    @cached_property
    def _labels(self) -> dict[str, int]:
        if read_checked_json(self._folder / "about.json"):
            return super()._labels
        return {class_id: label for label, class_id in enumerate(self._expected())}

    def _expected(self) -> Sequence[str]:
        """Return the classes, as far as they are known in advance. Raises UserError if not even their number is."""
        wanted = self.config.classes
        if self.config.synsets and (wanted is not None or self._name in (IMAGENET, IMAGENETTE)):
            return SYNSETS.get(self._name, tuple(imagenet_names.names()))
        if wanted is None:
            raise UserError(f"the classes of {self._name} are not known before latentmix fetch; or name data.classes")
        drawn = RANDOM.fullmatch(wanted[0])
        return [f"class {number}" for number in range(int(drawn[1]))] if drawn else wanted


def _last_part(name: str) -> str:
    """Return NAME of OWNER/NAME, or the name of a folder."""
    return Path(name).resolve().name if is_local(name) else name.rpartition("/")[2]


def _contents(folder: Path) -> list[Any]:
    """Return the path of a folder, and the name, size and time of change of each file in it that is not hidden."""
    found: list[Any] = [str(folder.resolve())]
    for root, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for file in (Path(root, name) for name in sorted(names) if not name.startswith(".")):
            with suppress(OSError):  # a link that leads nowhere
                status = file.stat()
                found.append([file.relative_to(folder).as_posix(), status.st_size, status.st_mtime_ns])
    return found


def _resume(rows: Any, note: Path, wanted: dict[str, Any]) -> tuple[Counter[int], int]:
    """Move a stream on to where it stopped; return the number of images kept of each label, and the next row.

    The record in `note` is used if it is of the same labels and limit, `wanted`.
    """
    progress = read_checked_json(note)
    if progress.get("wanted") != wanted:
        return Counter(), 0
    rows.load_state_dict(progress["state"])
    return Counter({int(label): count for label, count in progress["kept"].items()}), progress["row"]


def _show(shown: Any, found: int, rows: int) -> None:
    shown.n = found
    shown.set_postfix_str(f"{rows:,} rows seen")
