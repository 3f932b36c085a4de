"""The batch size that the workers of a run agree on, since the rounding of results depends on it."""

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from latentmix.runner.claims import Claims
from latentmix.storage import write_json


class BatchSize:
    """A batch size, which several workers share through a file in the run's folder.

    `name` identifies the settings that it is for. `halved` is called with each smaller value.
    """

    def __init__(self, value: int, claims: Claims, name: str, halved: Callable[[int], None]) -> None:
        self.value = value
        self.halved = halved
        self._shared = claims.shard.count > 1
        self._file = _file(claims, name)

    def refresh(self) -> bool:
        """Take the value that the workers agreed on. Return True if it changed."""
        before, self.value = self.value, _read(self._file) or self.value
        return self.value != before

    def halve(self) -> None:
        """Halve the value after memory ran out, and tell the other workers."""
        self.value = max(1, self.value // 2)
        self.halved(self.value)
        agreed = _read(self._file)
        if self._shared or agreed is not None:
            self.value = min(self.value, agreed or self.value)  # others may have halved further
            write_json(self._file, self.value)


def agree(claims: Claims, name: str, find: Callable[[], int]) -> int:
    """Return the batch size that `find` determines. Only the first of several workers calls it; the others wait."""
    path, task = _file(claims, name), f"batch-{name}"
    if claims.shard.count == 1 or _read(path) is not None:
        return _read(path) or find()
    claims.wait_for(task)
    with claims.holding(task, "finding out how many images fit into memory"):
        value = _read(path)  # another worker may have found it meanwhile
        if value is None:
            value = find()
            write_json(path, value)
    return value


def _file(claims: Claims, name: str) -> Path:
    return claims.folder / f"batch-{name}.json"


def _read(path: Path) -> int | None:
    with suppress(OSError, ValueError, TypeError):
        return int(json.loads(path.read_text()))
    return None
