"""Tables that other packages can extend through entry points, such as `[project.entry-points."latentmix.norms"]`.

See docs/extending.md. The groups are norms, means, inversions, metrics, feature_networks, models and datasets.
"""

import sys
import warnings
from collections.abc import Iterator, Mapping
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TypeVar

from latentmix.errors import UserError

T = TypeVar("T")


class Table(Mapping[str, T]):
    """The built-in entries and those of the entry points `latentmix.<group>`, by name.

    Installed packages are searched when a name is not built in, or when the table is listed. An entry is imported when
    it is looked up, and must be an instance of `kind` if that is given. A built-in name can't be replaced.

    Raises: UserError at the look-up of an entry that can't be imported or is no `kind`.
    """

    def __init__(self, group: str, builtin: Mapping[str, T], kind: type | None = None) -> None:
        self._group = f"latentmix.{group}"
        self._builtin = builtin
        self._kind = kind
        self._loaded: dict[str, T] = {}

    def __getitem__(self, name: str) -> T:
        if name in self._builtin:
            return self._builtin[name]
        if name not in self._loaded:
            self._loaded[name] = self._load(self._entry_points[name])
        return self._loaded[name]

    def __contains__(self, name: object) -> bool:
        return name in self._builtin or name in self._entry_points

    def __iter__(self) -> Iterator[str]:
        return iter([*self._builtin, *self._entry_points])

    def __len__(self) -> int:
        return len(self._builtin) + len(self._entry_points)

    def file(self, name: str) -> Path:
        """Return the file of another package that has an entry. Raises as the look-up of the entry does."""
        _ = self[name]
        return Path(str(sys.modules[self._entry_points[name][0].module].__file__))

    @cached_property
    def _entry_points(self) -> dict[str, list[EntryPoint]]:
        """Return the entry points of each name; more than one where packages clash."""
        found: dict[str, list[EntryPoint]] = {}
        for entry in entry_points(group=self._group):
            if entry.name in self._builtin:
                warnings.warn(f"{_describe(entry)} is ignored: latentmix has a {entry.name!r} itself", stacklevel=3)
            else:
                found.setdefault(entry.name, []).append(entry)
        return dict(sorted(found.items()))

    def _load(self, entries: list[EntryPoint]) -> T:
        entry = entries[0]
        if len({other.value for other in entries}) > 1:
            raise UserError(f"more than one package has a {entry.name!r}: {', '.join(map(_describe, entries))}")
        try:
            loaded = entry.load()
        except Exception as error:  # of the package's own code
            reason = " ".join(str(error).split())
            raise UserError(f"{_describe(entry)} can't be imported: {type(error).__name__}: {reason}") from error
        if self._kind is not None and not isinstance(loaded, self._kind):
            raise UserError(f"{_describe(entry)} is a {type(loaded).__name__}; it must be a {self._kind.__name__}")
        return loaded


def _describe(entry: EntryPoint) -> str:
    package = f" of the package {entry.dist.name}" if entry.dist else ""
    return f"{entry.group.removeprefix('latentmix.')} entry point {entry.name} = {entry.value}{package}"
