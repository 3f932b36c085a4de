"""Files of networks: which of them a library opens, whether they are complete, and their digest."""

import hashlib
import json
import math
import re
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latentmix.errors import UserError
from latentmix.profiling import timed
from latentmix.storage import key, read_checked_json, read_json, user_cache, write_checked_json

STEMS = {  # stems of the files that each library opens: of safetensors, and of pickles
    "diffusers": ("diffusion_pytorch_model", "diffusion_pytorch_model"),
    "transformers": ("model", "pytorch_model"),
}
VARIANTS = ("fp32", "fp16", "bf16", "ema", "non_ema")  # read, in this order, if there are no weights of full precision
INSTEAD = {  # beginnings of files that are often found in place of weights -> what such a file is
    b"version https://git-lfs": "a Git LFS pointer; run git lfs pull",
    b"<!doctype html": "an HTML page, as servers send in place of a file; get it again",
    b"<html": "an HTML page, as servers send in place of a file; get it again",
}
SOURCE = "weights.json"  # the file that says where a network's weights are, if not in its folder
REMEMBERED = 32 << 20  # bytes from which a file's digest is remembered; smaller files are read in 0.1 s
SETTLED = 2e9  # ns since a file's last change, before which another change may leave its time of change the same
SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Source:
    """Where a network's weights are, if not simply in its own folder: see models/assembly.py."""

    place: Path  # a folder, or a single file that holds all networks of a pipeline
    variant: str | None = None
    loras: tuple[tuple[Path, float], ...] = ()  # files that are added to the weights, each by a factor


def assembled_folder() -> Path:
    """Return the folder of the pipeline folders that models/assembly.py writes."""
    return user_cache() / "pipelines"


def read_source(folder: Path) -> Source:
    """Return where the weights of the network in `folder` are: in it, unless latentmix itself wrote the folder."""
    noted = read_json(folder / SOURCE) if folder.is_relative_to(assembled_folder()) else {}
    loras = tuple((Path(file), factor) for file, factor in noted.get("loras", ()))
    return Source(Path(noted.get("place", folder)), noted.get("variant"), loras)


def weight_files(folder: Path, library: str, pickled: bool = False) -> list[Path]:
    """Return the files that a network's weights are read from: one, shards, or an index and shards.

    The variant that is named for this folder comes first, then full precision, then `VARIANTS`. Files of LoRA are not
    among them.
    Raises: UserError where there are none, where they are pickles and `pickled` is false, or where an index names files
    outside the folder.
    """
    source = read_source(folder)
    if source.place.is_file():
        return [source.place]
    for stem, suffix in zip(STEMS[library], ("safetensors", "bin")[: 2 if pickled else 1], strict=False):
        found = variants(source.place.glob(f"*.{suffix}"), stem, suffix)
        # If there are both, diffusers reads the shards, and transformers the single file.
        index, single = source.place / f"{stem}.{suffix}.index.json", source.place / f"{stem}.{suffix}"
        if index.is_file() and not (library == "transformers" and single.is_file()):
            found[""] = [index, *_shards(index, suffix)]
        if (files := choose(found, source.variant)) is not None:
            return files
    raise UserError(_missing(source.place, f"{STEMS[library][0]}.safetensors"))


def choose(found: Mapping[str, list[Path]], variant: str | None) -> list[Path] | None:
    """Return the files of `variant`, else of full precision, else of the first of `VARIANTS` that was found."""
    return next((found[name] for name in (variant, "", *VARIANTS) if name is not None and name in found), None)


def variants(files: Iterable[Path], stem: str, suffix: str) -> dict[str, list[Path]]:
    """Return the files of each complete variant of a network: one file, or all shards. Full precision is ""."""
    middle = r"(?:\.(?P<variant>[\w-]+?))?(?:-(?P<number>\d{5})-of-(?P<count>\d{5}))?(?:\.(?P<after>\w+))?"
    shards: dict[tuple[str, int], dict[int, Path]] = {}  # variant and number of shards (0: one file) -> files
    for file in sorted(files):
        if found := re.fullmatch(re.escape(stem) + middle + rf"\.{suffix}", file.name):
            name, count = found["variant"] or found["after"] or "", int(found["count"] or 0)
            shards.setdefault((name, count), {})[int(found["number"] or 0)] = file
    whole: dict[str, list[Path]] = {}
    for (name, count), numbered in sorted(shards.items()):
        if len(numbered) == max(1, count) and not (
            count and suffix == "bin"
        ):  # no index can be made for pickled shards
            whole.setdefault(name, [*numbered.values()])
    return whole


def are_plain(folder: Path, files: Sequence[Path], library: str) -> bool:
    """Return True if a library finds `files` in `folder` by itself."""
    names = (f"{stem}.{suffix}" for stem, suffix in zip(STEMS[library], ("safetensors", "bin"), strict=True))
    return files[0].parent == folder and files[0].name.removesuffix(".index.json") in names


@contextmanager
def under_plain_names(folder: Path, files: Sequence[Path], library: str) -> Iterator[Path]:
    """Yield a folder where a library finds `files`: links to them under the names that it looks for, and the config."""
    if are_plain(folder, files, library):
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="latentmix-") as name:
        place, suffix = Path(name), files[0].suffix
        stem = STEMS[library][suffix == ".bin"]
        shutil.copy(folder / "config.json", place)
        if len(files) == 1:
            _link(files[0], place / f"{stem}{suffix}")
        else:
            index = {"metadata": {}, "weight_map": {key: file.name for file in files for key in shapes(file)}}
            (place / f"{stem}{suffix}.index.json").write_text(json.dumps(index))
            for file in files:
                _link(file, place / file.name)
        yield place


def _link(file: Path, link: Path) -> None:
    try:
        link.symlink_to(file.resolve())
    except OSError:  # Windows allows links only to some users
        shutil.copy(file, link)


def _missing(folder: Path, name: str) -> str:
    if others := sorted(file.name for file in folder.glob("*.safetensors")):
        there = ", ".join(others[:3])
        return f"{folder} holds no {name}, nor all shards or a known variant of it, only {there}; copy the folder again"
    pickles = "where its weights are pickled (*.bin) and you trust whoever made them, set model.pickled=true"
    return f"{folder} holds no *.safetensors; copy the folder again, or, {pickles}"


def _shards(index: Path, suffix: str) -> list[Path]:
    """Return the files that an index names; none if it is damaged, which the library reports."""
    names = read_json(index).get("weight_map")
    files = sorted({str(name) for name in names.values()}) if isinstance(names, dict) else []
    for name in files:
        if Path(name).name != name or not name.endswith(f".{suffix}"):
            raise UserError(f"{index} names the file {name!r}; only *.{suffix} beside it are read")
    return [index.parent / name for name in files]


def check_whole(files: Sequence[Path]) -> None:
    """Raise UserError where a file of weights is missing or cut short. Pickles are not looked into."""
    from safetensors import SafetensorError

    for file in files:
        try:
            if file.name.endswith(".index.json"):
                _ = json.loads(file.read_bytes())["weight_map"].values()
            elif file.suffix == ".safetensors":
                parameters(file)
            else:
                file.stat()
        except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
            what = instead_of_weights(file) or "missing or cut short; copy the whole folder again"
            raise UserError(f"{file} is {what}") from error


def instead_of_weights(file: Path) -> str | None:
    """Return what a file is instead of weights, with advice; None if its beginning does not tell."""
    try:
        with file.open("rb") as opened:
            beginning = opened.read(512).lstrip().lower()
    except OSError:
        return None
    return next((what for start, what in INSTEAD.items() if beginning.startswith(start)), None)


def parameters(file: Path) -> int:
    """Return how many numbers a safetensors file holds, by its header; 0 for another file."""
    if file.suffix != ".safetensors":
        return 0
    return sum(math.prod(shape) for shape in shapes(file).values())


def shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor of a safetensors file, by its header."""
    from safetensors import safe_open

    with safe_open(file, "pt") as opened:
        return {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118


class JSONObject(dict[str, Any]):
    """The object in a JSON file of a model. Raises UserError for a missing key."""

    def __init__(self, file: Path, content: Mapping[str, Any]) -> None:
        super().__init__(content)
        self.file = file

    def __missing__(self, key: str) -> Any:
        raise UserError(f"{self.file} lacks {key!r}; copy the whole folder again")


def read_object(file: Path) -> JSONObject:
    """Return the object in a JSON file of a model. Raises: UserError where it can't be read."""
    try:
        return JSONObject(file, dict(json.loads(file.read_text())))
    except (OSError, ValueError, TypeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{file} can't be read: {reason}; copy the whole folder again") from error


def read_config(folder: Path) -> JSONObject:
    """Return a network's config.json. Raises: UserError where it can't be read."""
    return read_object(folder / "config.json")


def digest(folder: Path, files: Iterable[Path]) -> str:
    """Return a digest, 16 hex digits, of the contents of files and their names relative to `folder`."""
    return digest_named((file.relative_to(folder).as_posix(), file) for file in files)


def digest_named(files: Iterable[tuple[str, Path]]) -> str:
    """Return a digest, 16 hex digits, of the contents of files and of the names that are given with them."""
    return key(sorted(f"{name} {file_digest(file)}" for name, file in files))


@timed("loading weights")
def file_digest(file: Path) -> str:
    """Return the sha256 of a file's bytes.

    A blob of the hub's cache is not read, as it is named by its sha256. Nor is a large file whose digest was computed
    before and whose path, size, time of change and inode are still the same.
    Raises: UserError where the file can't be read.
    """
    try:
        path = file.resolve(strict=True)
        if path.parent.name == "blobs" and SHA256.fullmatch(path.name):
            return path.name
        status = path.stat()
        stamp = {"path": str(path), "size": status.st_size, "mtime": status.st_mtime_ns, "inode": status.st_ino}
        note = user_cache() / "digests" / f"{key(str(path))}.json"
        known = read_checked_json(note) if status.st_size >= REMEMBERED else {}
        if (sha256 := known.pop("content", None)) and known == stamp:
            return str(sha256)
        with path.open("rb") as opened:
            computed = hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{file} can't be read: {error.strerror or error}") from error
    if status.st_size >= REMEMBERED and time.time_ns() - status.st_mtime_ns > SETTLED:
        with suppress(UserError):  # a cache that can't be written costs time, no more
            write_checked_json(note, stamp | {"content": computed})
    return computed
