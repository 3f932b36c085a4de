"""Results on disk: keys, atomic writes, JSON and tensor files with checksums, and the cache of tensors.

A key is a hash of an *identity*: everything that a result depends on. The folder of a result is named by its key, so a
result is found again if and only if it was computed from the same inputs and settings.
"""

import errno
import hashlib
import json
import math
import os
import re
import secrets
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from latentmix.errors import RowsLost, UserError, warn_once
from latentmix.profiling import timed
from latentmix.settings import expand_home

PART = ".part"  # suffix of the hidden name under which a file is written
ABANDONED = 3600  # seconds after which such a file counts as left by a killed process; writing takes seconds
FULL = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the quota of disk space is used up"}
LONGEST = 100  # bytes of a class's name in a file name; file systems allow 255 in all


class DiskFull(UserError):
    """No space is left where a file is to be written."""

    exit_code = 1


def user_cache() -> Path:
    """Return $LATENTMIX_CACHE or, if it is not set, `latentmix` in the user's cache ($XDG_CACHE_HOME or ~/.cache)."""
    if own := os.environ.get("LATENTMIX_CACHE"):
        return Path(expand_home(own))
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "latentmix"


def key(identity: Any) -> str:
    """Return 16 hex digits that stand for `identity`, any JSON, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]


def file_name(name: str) -> str:
    """Return a file name for a class: its own name, or a plain one with a hash if that is unsafe or too long."""
    plain = re.sub(r"[^\w .,;+=()&'@!-]", "_", name)
    if plain == name and not name.startswith(".") and 0 < len(name.encode()) <= LONGEST:
        return name
    return f"{plain.lstrip('.')[: LONGEST // 4]}-{key(name)[:8]}"


@timed("writing")
def write_atomic(path: Path, content: bytes) -> None:
    """Write a file under a temporary name and rename it, so that `path` is always complete. Creates its folders.

    Raises UserError if it can't be written, and DiskFull if there is no space left.
    """
    part = path.with_name(f".{secrets.token_hex(8)}{PART}")  # unique among all machines that share the folder
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException as error:
        _unlink(part)
        if isinstance(error, OSError):
            raise explain_write_error(path, error) from error
        raise


def explain_write_error(path: Path, error: OSError) -> UserError:
    """Return an error that says why a file can't be written, and what to do."""
    place = f"with {'LATENTMIX_CACHE=' if path.is_relative_to(user_cache()) else 'outputs= or -o'}"
    if error.errno in FULL:
        advice = f"Free some space, or choose another place {place}, and give the same command again"
        return DiskFull(f"{FULL[error.errno]}: {path} could not be written. {advice}; what is finished is kept")
    advice = "make its folder writable, or " if error.errno in (errno.EACCES, errno.EPERM) else ""
    return UserError(f"{path} could not be written: {error.strerror}; {advice}choose another place {place}")


def check_writable(path: Path, option: str) -> None:
    """Raise UserError, which names the command's option, where a file or folder can't be written. Leaves nothing."""
    places = (path, *path.absolute().parents) if path.is_dir() else path.absolute().parents
    above = next(place for place in places if place.exists())
    probe = above / f".{secrets.token_hex(8)}{PART}"
    try:
        probe.touch()
    except OSError as error:
        reason = error.strerror if above.is_dir() else f"{above} is a file"
        raise UserError(f"{path} can't be written: {reason}; choose another place with {option}") from error
    finally:
        _unlink(probe)


def _unlink(path: Path) -> None:
    with suppress(OSError):
        path.unlink()


def remove_partial_files(folder: Path) -> None:
    """Remove the temporary files that killed runs left in a folder, but none that may still be written."""
    files = (Path(root) / name for root, _, names in os.walk(folder) for name in names)
    parts = [path for path in files if path.name.startswith(".") and path.name.endswith(PART)]
    if not parts:
        return
    now = file_system_time(folder)
    for part in parts:
        with suppress(OSError):
            if now - part.stat().st_mtime > ABANDONED:
                part.unlink()


def file_system_time(folder: Path) -> float:
    """Return the time by the clock that dates the files in a folder; -inf, so that nothing is old, if it is unknown."""
    probe = folder / f".{secrets.token_hex(8)}{PART}"
    try:
        probe.touch()
        return probe.stat().st_mtime
    except OSError:
        return -math.inf
    finally:
        _unlink(probe)


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file, or an empty one if the file is missing or damaged."""
    try:
        return dict(json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError, RecursionError):
        return {}


def write_json(path: Path, content: Any) -> None:
    """Write JSON, the same bytes for equal content."""
    write_atomic(path, (json.dumps(content, indent=2, sort_keys=True) + "\n").encode())


def write_checked_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object with a checksum of it, under `sha256`."""
    plain = json.loads(json.dumps(content))
    write_json(path, plain | {"sha256": key(plain)})


def read_checked_json(path: Path) -> dict[str, Any]:
    """Return what `write_checked_json` wrote, or an empty object if the file is missing or damaged."""
    content = read_json(path)
    checksum = content.pop("sha256", None)
    return content if checksum == key(content) else {}


# Tensor files: safetensors with a checksum of each tensor, and one of the header


def save_tensors(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Write a safetensors file whose header holds `about` (JSON), a checksum of each tensor, and one of itself."""
    saved = {name: tensor.detach().cpu().contiguous() for name, tensor in sorted(tensors.items())}
    plain = json.loads(json.dumps(dict(about)))
    checksums = {name: _checksum(name, tensor) for name, tensor in saved.items()}
    own = {"about": plain, "checksums": checksums, "header": key([plain, checksums])}
    text = json.dumps(own, sort_keys=True)
    write_atomic(path, save(saved, {"latentmix": text}))  # one entry, since safetensors writes several in any order


@timed("reading")
def load_tensors(path: Path, names: Iterable[str] | None = None) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return tensors of a file that `save_tensors` wrote (all, or those in `names` that it has), and its `about`.

    Raises ValueError if the header or a tensor that is read is not exactly what was written.
    """
    with _opened(path) as (file, own):
        checksums = own["checksums"]
        wanted = checksums if names is None else [name for name in names if name in checksums]
        tensors = {name: file.get_tensor(name) for name in wanted}
    if any(checksums[name] != _checksum(name, tensor) for name, tensor in tensors.items()):
        raise ValueError(f"{path} does not match its checksum")
    return tensors, own["about"]


@timed("reading")
def read_about(path: Path) -> dict[str, Any]:
    """Return `about` of a tensor file, by its header alone. Raises ValueError if that or the file's size is wrong."""
    with _opened(path) as (_, own):
        return own["about"]


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Open a tensor file; yield safetensors' view of it, and what its header holds.

    Raises ValueError if it is damaged, UserError if it can't be read, and FileNotFoundError if it is gone.
    """
    try:
        path.open("rb").close()  # safetensors raises the same error for a damaged file and an unreadable one
    except FileNotFoundError:
        raise
    except OSError as error:
        advice = "make it readable, or remove it, and it is made again"
        raise UserError(f"{path} can't be read: {error.strerror or error}; {advice}") from error
    try:
        with safe_open(path, "pt") as file:
            own = json.loads(file.metadata()["latentmix"])
            if own["header"] != key([own["about"], own["checksums"]]) or own["checksums"].keys() != set(file.keys()):
                raise ValueError("not its checksum")
            yield file, own
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} is damaged, or not a file of this cache") from error


def _checksum(name: str, tensor: Tensor) -> str:
    digest = hashlib.sha256(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
    digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


# The cache of tensors

Stamp = tuple[int, int, int]  # size, time of change in ns, inode: while they are the same, so is the file
_listed: dict[Path, tuple[Stamp, tuple[str, ...]]] = {}  # the ids in each file whose header this process has read
_damaged: set[tuple[Path, Stamp]] = set()  # files in which this process has found a damaged tensor


class TensorCache:
    """Rows of tensors, found by id. Each file holds the rows of one batch.

    Listing ids reads headers alone, and each of them once in a process. Rows are verified when they are read. The rows
    of a damaged file count as missing, with a warning, until they are written again. A damaged header is noticed when
    ids are listed; a damaged tensor when it is read, which removes the file and raises RowsLost.
    """

    def __init__(self, folder: Path, identity: Any) -> None:
        self.folder = folder
        self.identity = identity

    def write(self, ids: Sequence[str], tensors: Mapping[str, Tensor]) -> None:
        """Write a file of rows: each tensor has one for each id."""
        path = self.folder / "identity.json"  # for people, and for `latentmix cache`
        if not path.exists():
            write_json(path, self.identity)
        path = self.folder / f"{key(list(ids))}.safetensors"
        save_tensors(path, tensors, {"ids": list(ids)})
        with suppress(OSError):  # removed already
            _listed[path] = _stamp(path), tuple(sys.intern(id_) for id_ in ids)

    def ids(self) -> set[str]:
        """Return the ids of all rows, reading headers alone."""
        return {id_ for ids in self._files().values() for id_ in ids}

    def read(self) -> dict[str, dict[str, Tensor]]:
        """Return id -> name -> row for all rows. Raises RowsLost if some are damaged."""
        rows: dict[str, dict[str, Tensor]] = {}
        files = self._files()
        for path, tensors in self._load(files).items():
            for row, id_ in enumerate(files[path]):
                rows.setdefault(id_, {name: tensor[row] for name, tensor in tensors.items()})
        return rows

    def gather(self, ids: Iterable[str], name: str) -> Tensor:
        """Return the rows of one tensor in the order of `ids`; see `rows`."""
        return torch.stack(self.rows(ids, name))

    def rows(self, ids: Iterable[str], name: str) -> list[Tensor]:
        """Return the rows of one tensor in the order of `ids`, reading nothing but that tensor of the files needed.

        The rows are views of memory-mapped files, so the system can free their memory when it is short.
        Raises UserError if a row is missing, and RowsLost if it was listed before and is now damaged or gone.
        """
        wanted, files = list(ids), self._files()
        places = {id_: (path, row) for path in reversed(files) for row, id_ in enumerate(files[path])}
        for id_ in wanted:
            if id_ not in places:
                raise self._missing(id_, files)
        tensors = self._load(dict.fromkeys(places[id_][0] for id_ in wanted), [name])
        try:
            return [tensors[path][name][row] for path, row in map(places.__getitem__, wanted)]
        except KeyError:
            raise self._missing(name, files) from None

    def _files(self) -> dict[Path, tuple[str, ...]]:
        """Return the ids in each file that is not known to be damaged."""
        files = {}
        for path in sorted(self.folder.glob("*.safetensors")):
            with suppress(FileNotFoundError):  # removed meanwhile
                if ids := _ids(path):
                    files[path] = ids
        return files

    def _load(self, paths: Iterable[Path], names: Iterable[str] | None = None) -> dict[Path, dict[str, Tensor]]:
        """Return the tensors of each file. Removes the damaged ones and raises RowsLost."""
        loaded, lost = {}, list[str]()
        for path in paths:
            stamp = _listed[path][0]
            try:
                loaded[path] = load_tensors(path, names)[0]
            except FileNotFoundError:
                lost.append(f"{path} is gone")
            except ValueError as error:
                lost.append(str(error))
                _remove_damaged(path, stamp, str(error))
        if lost:
            raise RowsLost(f"{lost[0]}; give the same command again to make it")
        return loaded

    def _missing(self, name: str, files: Mapping[Path, object]) -> UserError:
        """Return the error for a row that is missing."""
        gone = [ids for path, (_, ids) in list(_listed.items()) if path.parent == self.folder and path not in files]
        kind = RowsLost if any(name in ids for ids in gone) else UserError
        return kind(f"{self.folder} lacks {name!r}; give the same command again to make it")


def _ids(path: Path) -> tuple[str, ...]:
    """Return the ids in a file; none, with a warning, if its header is damaged."""
    stamp = _stamp(path)
    if path not in _listed or _listed[path][0] != stamp:
        ids: tuple[str, ...] = ()
        try:
            ids = tuple(sys.intern(id_) for id_ in read_about(path).get("ids", ()))
        except ValueError as error:
            warn_once(f"{error}; it counts as missing and is made again")
        _listed[path] = stamp, ids
    return () if (path, stamp) in _damaged else _listed[path][1]


def _remove_damaged(path: Path, stamp: Stamp, reason: str) -> None:
    """Remove a file in which a damaged tensor was found, unless it has been replaced since it was listed."""
    _damaged.add((path, stamp))  # removing it may fail
    warn_once(f"{reason}; it counts as missing and is made again")
    with suppress(OSError):
        if _stamp(path) == stamp:
            path.unlink()


def _stamp(path: Path) -> Stamp:
    status = path.stat()
    return status.st_size, status.st_mtime_ns, status.st_ino
