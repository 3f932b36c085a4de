"""Files of networks: which of them a library opens, whether they are whole, and a digest of what was opened."""

import hashlib
import json
import math
import re
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from latentmix.cache import key, read_checked_json, read_json, user_cache, write_checked_json
from latentmix.errors import UserError
from latentmix.profiling import timed

STEMS = {  # of the file that each library opens: as safetensors, and pickled
    "diffusers": ("diffusion_pytorch_model", "diffusion_pytorch_model"),
    "transformers": ("model", "pytorch_model"),
}
REMEMBERED = 32 << 20  # bytes from which a file's digest is remembered; smaller files are read in 0.1 s
SETTLED = 2e9  # ns since its last change; before, a file can change again without a new time of change
SHA256 = re.compile(r"[0-9a-f]{64}")


def weight_files(folder: Path, library: str, pickled: bool = False) -> list[Path]:
    """Return the files that a library's `from_pretrained` opens for a network's weights: one, or an index and shards.

    Raises: UserError where there are none, where they are pickles and `pickled` is false, or where an index names files
    outside the folder.
    """
    (safe, bin_), found = STEMS[library], list[Path]()
    for stem, suffix in [(safe, "safetensors"), (bin_, "bin")][: 2 if pickled else 1]:
        single, index = folder / f"{stem}.{suffix}", folder / f"{stem}.{suffix}.index.json"
        # Where both are there, diffusers takes the shards and transformers the single file.
        if index.is_file() and not (library == "transformers" and single.is_file()):
            found = [index, *_shards(index, suffix)]
        elif single.is_file():
            found = [single]
        if found:
            return found
    raise UserError(_missing(folder, f"{safe}.safetensors"))


def _missing(folder: Path, name: str) -> str:
    if variants := sorted(file.name for file in folder.glob("*.safetensors")):
        return f"{folder} holds no {name}, only {', '.join(variants[:3])}, which is not read; copy {name} there too"
    return (
        f"{folder} holds no *.safetensors; copy the folder again, or, where its weights are pickled (*.bin) and you "
        "trust whoever made them, set model.pickled=true"
    )


def _shards(index: Path, suffix: str) -> list[Path]:
    """Return the files that an index names; none where it is damaged, which its library will say."""
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
            raise UserError(f"{file} is missing or cut short; copy the whole folder again") from error


def parameters(file: Path) -> int:
    """Return how many numbers a safetensors file holds, by its header; 0 for another file."""
    if file.suffix != ".safetensors":
        return 0
    from safetensors import safe_open

    with safe_open(file, "pt") as opened:
        return sum(math.prod(opened.get_slice(name).get_shape()) for name in opened.keys())  # noqa: SIM118


def read_config(folder: Path) -> dict[str, Any]:
    """Return a network's config.json. Raises: UserError where it can't be read."""
    try:
        return dict(json.loads((folder / "config.json").read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{folder / 'config.json'} can't be read: {error}") from error


# --- digests --------------------------------------------------------------------------------------------------------


def digest(folder: Path, files: Iterable[Path]) -> str:
    """Return 16 hex digits that name the contents of files, and their names relative to `folder`."""
    lines = sorted(f"{file.relative_to(folder).as_posix()} {file_digest(file)}" for file in files)
    return key(lines)


@timed("loading weights")
def file_digest(file: Path) -> str:
    """Return the sha256 of a file's bytes.

    It is known without reading where the file is a link to a blob of the hub's cache, which is named by it, and where
    it was computed before for a file of this path, size, time of change and inode.
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
