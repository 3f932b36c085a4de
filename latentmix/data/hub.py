"""Any data set on the Hugging Face hub that has a column of images and one of class labels.

Its split is streamed once, past whatever is not wanted. What is wanted stays in the user's cache as files, in the
stream's order, and is read like any folder from then on, without a network.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from latentmix.cache import DiskFull, key, read_checked_json, user_cache, write_atomic, write_checked_json
from latentmix.data import Source, imagenet
from latentmix.data.files import digest, images, listing, sources, suffix
from latentmix.data.folder import unknown
from latentmix.data.settings import RANDOM, DataConfig
from latentmix.errors import Interrupted, UserError

PAGE = "https://huggingface.co/datasets/"
IMAGENET = "ILSVRC/imagenet-1k"
IMAGENETTE = "frgfm/imagenette"
SYNSETS = {  # of data sets that need not be asked for their classes
    IMAGENETTE: (
        *("n01440764", "n02102040", "n02979186", "n03000684", "n03028079"),
        *("n03394916", "n03417042", "n03425413", "n03445777", "n03888257"),
    )
}
VOLUME = {IMAGENET: "about 150 GB", IMAGENETTE: "1.1 GB"}  # of their training images
MOST = 1300  # images that a class of ImageNet has, at most
EXPORT = "refs/convert/parquet"  # the hub's own Parquet copy of a data set, SUBSET/SPLIT/*.parquet
COMPLETE = "complete.json"  # in a class's folder, written last: how many images were wanted (null: all), and came
STRIDE = 500  # rows of the stream after which it is written down how far it came


@dataclass(frozen=True)
class Hub:
    """The images of one split, in the stream's order; `limit` of each class at most."""

    config: DataConfig

    def classes(self) -> tuple[str, ...]:
        """All classes that the data set's features name, sorted: WordNet ids with `synsets`, else the names."""
        return tuple(sorted(self._labels))

    def resolve(self, name: str) -> str:
        """The class of this name or, with `synsets`, WordNet id; UserError where there is none."""
        class_id = imagenet.resolve(name) if self.config.synsets else name
        if class_id not in self._labels:
            there = list(map(self.title, self.classes())) if self.config.synsets else self.classes()
            raise UserError(unknown(name, there, self._name))
        return class_id

    def title(self, class_id: str) -> str:
        return imagenet.title(class_id) if self.config.synsets else class_id.replace("_", " ")

    def fetch(self, class_ids: Sequence[str]) -> None:
        """Stream what is not kept yet of these classes; an interrupted stream goes on from about where it was."""
        missing = {self._labels[class_id] for class_id in class_ids if not self._is_kept(self._labels[class_id])}
        if missing:
            self._stream(missing)

    def images(self, class_id: str, count: int | None = None) -> list[Source]:
        """The first `count` usable images of a class, or all up to `limit`; UserError for fewer, or none."""
        limit = self.config.limit
        if count is not None and limit is not None and count > limit:
            raise UserError(f"data.limit={limit} keeps fewer than {count} images of a class; raise it")
        label = self._labels[self.resolve(class_id)]
        self.fetch([class_id])
        blobs = images(listing(self._class_folder(label)))[:limit]
        named = [replace(blob, digest=blob.file.stem.partition("-")[2]) for blob in blobs]
        return sources(named, count, self.config.bad_images, f"class {class_id!r} of {self._name}")

    @property
    def _name(self) -> str:
        return str(self.config.hub)

    @cached_property
    def _folder(self) -> Path:
        """Where everything of this data set is kept."""
        config = self.config
        parts = [config.hub, config.subset, config.revision, config.split, config.image, config.label]
        return user_cache() / "hub" / f"{self._name.strip('/').replace('/', '--')}-{key(parts)[:8]}"

    def _class_folder(self, label: int) -> Path:
        return self._folder / f"{label:05d}"

    @cached_property
    def _labels(self) -> dict[str, int]:
        """Class -> its number in the column of labels. Classes name files, so none has a slash."""
        about = read_checked_json(self._folder / "about.json")
        if "names" not in about:
            about = {"hub": self._name, "names": self._open().features[self.config.label].names}
            with self._explained():
                write_checked_json(self._folder / "about.json", about)
        names = [str(name) for name in about["names"]]
        ids = imagenet.synsets(names) if self.config.synsets else [name.replace("/", "-") for name in names]
        labels = {class_id: label for label, class_id in enumerate(ids)}
        if len(labels) < len(ids):
            raise UserError(f"{self._name} has classes of the same name, which can't be told apart")
        return labels

    def _is_kept(self, label: int) -> bool:
        """Whether as many images as are wanted are there, or all that exist."""
        done = read_checked_json(self._class_folder(label) / COMPLETE)
        if not done or len(images(listing(self._class_folder(label)))) < done["count"]:
            return False
        return done["limit"] is None or (self.config.limit is not None and self.config.limit <= done["limit"])

    def _open(self) -> Any:
        """The split as a stream of rows, an image as {"bytes", "path"}; UserError where that can't be."""
        with self._explained():
            import datasets

            config = self.config
            part = {"data_dir" if config.revision == EXPORT else "name": config.subset}
            rows = datasets.load_dataset(
                config.hub, split=config.split, revision=config.revision, streaming=True, **part
            )
            self._check(rows.features or {})
            rows = rows.select_columns([config.image, config.label])
            return rows.cast_column(config.image, datasets.Image(decode=False))

    def _check(self, features: Any) -> None:
        """UserError where the columns are not what they should be."""
        columns = {name: type(feature).__name__ for name, feature in features.items()}
        there = ", ".join(f"{name} ({kind})" for name, kind in columns.items())
        for key_, name, kind in (("image", self.config.image, "Image"), ("label", self.config.label, "ClassLabel")):
            if columns.get(name) != kind:
                raise UserError(f"{self._name} has no {kind} column {name!r}; set data.{key_} to one, of: {there}")

    def _stream(self, labels: set[int]) -> None:
        """Keep what is wanted of these labels."""
        limit, rows = self.config.limit, self._open()
        total = None if limit is None else limit * len(labels)
        mark = _Mark(self._folder / "progress.json", {"labels": sorted(labels), "limit": limit})
        with self._explained(), _bar(self._name, total) as (bar, task):
            kept, start = mark.resume(rows)
            for row, example in enumerate(rows, start):
                label = example[self.config.label]
                if label in labels and kept[label] != limit:
                    self._keep(label, row, example[self.config.image])
                    kept[label] += 1
                    if kept.total() == total:
                        break
                if (row + 1) % STRIDE == 0:
                    mark.write(rows, kept, row + 1)
                    bar.update(task, completed=kept.total(), what=f"of {row + 1:,} seen")
            else:
                limit = None  # there are no more
            for label in labels:
                write_checked_json(self._class_folder(label) / COMPLETE, {"limit": limit, "count": kept[label]})
            mark.file.unlink(missing_ok=True)

    def _keep(self, label: int, row: int, image: dict[str, Any]) -> None:
        """Write an image's bytes as they are; its name has the row, for the stream's order, and a digest."""
        content = self._content(image)
        file = self._class_folder(label) / f"{row:09d}-{digest(content)}{suffix(content)}"
        if not file.exists():  # else it is whole, from a run that was stopped or wanted fewer
            write_atomic(file, content)

    def _content(self, image: dict[str, Any]) -> bytes:
        """An image's bytes; those of a data set from the hub never come from a file of this machine."""
        if image["bytes"] is not None:
            return bytes(image["bytes"])
        from datasets.utils.file_utils import xopen

        place = str(image["path"]).split("::")[-1]  # of archives in archives, the outermost
        if not Path(self._name).exists() and not place.startswith(("hf://", "https://")):
            raise UserError(f"{self._name} names an image that is not on the hub: {place!r}")
        with xopen(image["path"], "rb") as opened:
            return opened.read()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """One line for whatever the hub's libraries raise, which is nearly anything."""
        try:
            yield
        except KeyboardInterrupt as stop:
            text = "stopped; the images fetched are kept, and the same command goes on from there"
            raise Interrupted(text, stop) from None
        except DiskFull as error:
            raise DiskFull(
                f"the disk is full: {self._folder} takes no more; free some space, or set LATENTMIX_CACHE to a folder "
                "with more, and give the same command again"
            ) from error
        except UserError:
            raise
        except Exception as error:
            raise UserError(self._explanation(error)) from error

    def _explanation(self, error: BaseException) -> str:
        """What went wrong on the hub, and what to do."""
        name = self._name
        elsewhere = "; or take data=imagenet data.path=DIR, ImageNet's training images" if self.config.synsets else ""
        if _is_about(error, "GatedRepoError", "gated dataset", "private or gated", "Unauthorized", "Forbidden"):
            return f"{name} is gated: accept its terms at {PAGE}{name}, then log in with `hf auth login`{elsewhere}"
        if _is_about(error, "Offline", "ConnectError", "ConnectionError", "Timeout", "ReadError", "ProtocolError"):
            return (
                f"the Hugging Face hub can't be reached for {name}, or HF_HUB_OFFLINE is set; run this once with a "
                f"network, or copy {self._folder} from a machine that has it{elsewhere}"
            )
        if _is_about(error, "scripts are no longer supported"):
            return f"{name} comes as a script, which datasets no longer runs; try data.revision={EXPORT}"
        if _is_about(error, "DatasetNotFoundError", "Couldn't find any data file"):
            return f"{name} is not on the hub, or private; check data.hub and data.revision, or `hf auth login`"
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        return f"{name} can't be read from the hub: {reason}; check data.hub, data.subset and data.split"


class Unfetched(Hub):
    """A data set of the hub as far as it is here, for a dry run: nothing is fetched, and images that are not here are
    only counted, as `MOST` of a class where it is asked for all of them."""

    def fetch(self, class_ids: Sequence[str]) -> None:
        """Nothing."""

    def lacks(self, class_ids: Sequence[str]) -> bool:
        """Whether images of these classes are not here."""
        return not all(self._is_kept(self._labels[class_id]) for class_id in class_ids)

    def images(self, class_id: str, count: int | None = None) -> list[Source]:
        if not self.lacks([class_id]):
            return super().images(class_id, count)
        count = count or self.config.limit or MOST
        return [Source(f"{class_id} {index}", partial(_not_here, self._name)) for index in range(count)]

    @cached_property
    def _labels(self) -> dict[str, int]:
        if read_checked_json(self._folder / "about.json"):
            return super()._labels
        return {class_id: label for label, class_id in enumerate(self._expected())}

    def _expected(self) -> Sequence[str]:
        """Its classes, as far as they can be told without it; UserError where not even their number can."""
        wanted = self.config.classes
        if self.config.synsets and (wanted is not None or self._name in (IMAGENET, IMAGENETTE)):
            return SYNSETS.get(self._name, tuple(imagenet.names()))
        if wanted is None:
            raise UserError(f"the classes of {self._name} are not known before latentmix fetch; or name data.classes")
        drawn = RANDOM.fullmatch(wanted[0])
        return [f"class {number}" for number in range(int(drawn[1]))] if drawn else wanted


def _not_here(name: str, _: int) -> Any:
    raise UserError(f"the images of {name} are not here; latentmix fetch gets them")


@dataclass(frozen=True)
class _Mark:
    """How far a stream came, so that the next run need not start from its first row."""

    file: Path
    wanted: dict[str, Any]  # a mark of a stream for anything else does not count

    def resume(self, rows: Any) -> tuple[Counter[int], int]:
        """Moves the stream to where it was; the images kept of each label by then, and the next row."""
        mark = read_checked_json(self.file)
        if mark.get("wanted") != self.wanted:
            return Counter(), 0
        rows.load_state_dict(mark["state"])
        return Counter({int(label): count for label, count in mark["kept"].items()}), mark["row"]

    def write(self, rows: Any, kept: Counter[int], row: int) -> None:
        write_checked_json(self.file, {"wanted": self.wanted, "state": rows.state_dict(), "kept": kept, "row": row})


@contextmanager
def _bar(name: str, total: int | None) -> Iterator[tuple[Progress, TaskID]]:
    text = (TextColumn("{task.description}"), MofNCompleteColumn(), TextColumn("{task.fields[what]}"))
    with Progress(SpinnerColumn(), *text, TimeElapsedColumn(), console=Console(stderr=True)) as bar:
        yield bar, bar.add_task(f"images of {name}", total=total, what="")


def _is_about(error: BaseException | None, *signs: str) -> bool:
    """Whether an error, or one that led to it, has one of the signs in its kind or text."""
    while error is not None:
        text = f"{type(error).__name__} {error}"
        if any(sign in text for sign in signs):
            return True
        error = error.__cause__ or error.__context__
    return False
