"""What lies on disk is whole, knows what it is, and is found again under a key made from what it was computed from."""

import errno
import hashlib
import json
import math
import os
import re
import secrets
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from latentmix.errors import UserError
from latentmix.profiling import timed

PART = ".part"  # ends the name, a hidden one, of a file that is being written, which takes seconds
ABANDONED = 3600  # s after which nobody is writing it any more
LONGEST = 100  # bytes of a class's name within that of a file; file systems allow 255 in all


class DiskFull(UserError):
    exit_code = 1


def user_cache() -> Path:
    """Return $LATENTMIX_CACHE or, if it is not set, `latentmix` in the user's cache ($XDG_CACHE_HOME or ~/.cache)."""
    if own := os.environ.get("LATENTMIX_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "latentmix"


def key(identity: Any) -> str:
    """16 hex digits that name `identity`, anything JSON can hold; the order of its keys does not matter."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]


def file_name(name: str) -> str:
    """A class's name as that of a file: as it is or, where it would lead elsewhere or can't be one, made plain."""
    plain = re.sub(r"[^\w .,;+=()&'@!-]", "_", name)
    if plain == name and not name.startswith(".") and 0 < len(name.encode()) <= LONGEST:
        return name
    return f"{plain.lstrip('.')[: LONGEST // 4]}-{key(name)[:8]}"


def folder_digest(folder: Path) -> str:
    """A digest of every file in a folder: of its bytes or, beyond 64 MiB, its size and 64 blocks from all over it."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and not _hidden(p.relative_to(folder))):
        size = path.stat().st_size
        digest.update(f"{path.relative_to(folder).as_posix()} {size}\n".encode())
        with path.open("rb") as file:
            if size <= 1 << 26:
                digest.update(file.read())
                continue
            for block in range(64):
                file.seek(block * (size - (1 << 20)) // 63)
                digest.update(file.read(1 << 20))
    return digest.hexdigest()[:16]


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


@timed("writing")
def write_atomic(path: Path, content: bytes) -> None:
    """Put a file in its place in one move, so that whatever is there is whole. Makes the folders above it."""
    part = path.with_name(f".{secrets.token_hex(8)}{PART}")  # whoever else writes here, on whatever machine
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        _tidy(part)
        raise explain_write_error(path, error) from error
    except BaseException:
        _tidy(part)
        raise


def explain_write_error(path: Path, error: OSError) -> UserError:
    """What a file system says of a file that can't be written, and what to do."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull(
            f"the disk is full: {path} could not be written. Free some space, or choose another place with "
            "outputs=, and give the same command again; what is finished is kept"
        )
    return UserError(f"{path} could not be written: {error.strerror}; choose another place with outputs=")


def _tidy(part: Path) -> None:
    with suppress(OSError):
        part.unlink()


def remove_partial_files(folder: Path) -> None:
    """Remove what killed runs left half written in a folder; not what another run may be writing just now."""
    files = (Path(root) / name for root, _, names in os.walk(folder) for name in names)
    parts = [path for path in files if path.name.startswith(".") and path.name.endswith(PART)]
    if not parts:
        return
    now = _now(folder)
    for part in parts:
        with suppress(OSError):
            if now - part.stat().st_mtime > ABANDONED:
                part.unlink()


def _now(folder: Path) -> float:
    """By the file system's own clock, which need not be this machine's; nothing is ever old where it can't be told."""
    probe = folder / f".{secrets.token_hex(8)}{PART}"
    try:
        probe.touch()
        return probe.stat().st_mtime
    except OSError:
        return -math.inf
    finally:
        _tidy(probe)


def read_json(path: Path) -> dict[str, Any]:
    """What JSON object a file holds; an empty one where it is missing or damaged."""
    try:
        return dict(json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError, RecursionError):
        return {}


def write_json(path: Path, content: Any) -> None:
    write_atomic(path, (json.dumps(content, indent=2, sort_keys=True) + "\n").encode())


def write_checked_json(path: Path, note: Mapping[str, Any]) -> None:
    """A JSON object with a checksum."""
    plain = json.loads(json.dumps(note))
    write_json(path, plain | {"sha256": key(plain)})


def read_checked_json(path: Path) -> dict[str, Any]:
    """What `write_checked_json` wrote; an empty one where it is missing or damaged."""
    note = read_json(path)
    checksum = note.pop("sha256", None)
    return note if checksum == key(note) else {}


def save_tensors(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """A safetensors file with `about` (JSON) and a checksum of everything in its header."""
    held = {name: tensor.detach().cpu().contiguous() for name, tensor in sorted(tensors.items())}
    text = json.dumps(dict(about), sort_keys=True)
    header = {"about": text, "sha256": _checksum(held, text)}
    write_atomic(path, save(held, {"latentmix": json.dumps(header)}))  # one entry, as safetensors shuffles several


@timed("reading")
def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and `about` of `save_tensors`; raises ValueError where the file is not exactly what was saved."""
    content = path.read_bytes()
    try:
        tensors = load(content)
        metadata = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
        header = json.loads(metadata["latentmix"])
        text, checksum = header["about"], header["sha256"]
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a file of this cache") from error
    if checksum != _checksum(tensors, text):
        raise ValueError(f"{path} does not match its checksum")
    return tensors, json.loads(text)


def _checksum(tensors: Mapping[str, Tensor], about: str) -> str:
    digest = hashlib.sha256(about.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


@cache
def _warn_once(text: str) -> None:
    warnings.warn(text, stacklevel=3)


class TensorCache:
    """Rows of tensors, one row for each id, in files of one batch each.

    A batch is there or not; the rows of a damaged one count as missing, with a warning, until it is written again.
    """

    def __init__(self, folder: Path, identity: Any) -> None:
        self.folder = folder
        self.identity = identity

    def write(self, ids: Sequence[str], tensors: Mapping[str, Tensor]) -> None:
        """Each tensor has a row per id."""
        note = self.folder / "identity.json"  # for whoever looks into the cache
        if not note.exists():
            write_json(note, self.identity)
        save_tensors(self.folder / f"{key(list(ids))}.safetensors", tensors, {"ids": list(ids)})

    def ids(self) -> set[str]:
        """Those whose rows are there whole; the rows, which may not fit into memory, are let go file by file."""
        return {id_ for _, ids in self._files() for id_ in ids}

    def read(self) -> dict[str, dict[str, Tensor]]:
        """id -> name -> row, for all that is there."""
        rows: dict[str, dict[str, Tensor]] = {}
        for tensors, ids in self._files():
            for row, id_ in enumerate(ids):
                rows.setdefault(id_, {name: tensor[row] for name, tensor in tensors.items()})
        return rows

    def _files(self) -> Iterator[tuple[dict[str, Tensor], list[str]]]:
        """The tensors and the ids of each file that is whole; at the end a warning of those that are not."""
        damaged: list[ValueError] = []
        for path in sorted(self.folder.glob("*.safetensors")):
            try:
                tensors, about = load_tensors(path)
            except ValueError as error:
                damaged.append(error)
                continue
            except OSError as error:
                raise UserError(f"{path} can't be read: {error.strerror or error}") from error
            yield tensors, about["ids"]
        if damaged:
            more = f" (nor are {len(damaged) - 1} others beside it)" if len(damaged) > 1 else ""
            _warn_once(f"{damaged[0]}{more}; it counts as missing and is made again")

    def gather(self, ids: Iterable[str], name: str) -> Tensor:
        """The rows of one tensor in the order of `ids`; raises UserError for one that is missing."""
        rows = self.read()
        try:
            return torch.stack([rows[id_][name] for id_ in ids])
        except KeyError as error:
            raise UserError(f"{self.folder} lacks {error.args[0]!r}; give the same command again to make it") from None
