"""`latentmix cache`: list what OUTPUTS/cache holds, and remove what is not needed any more.

Runs share the cache, so each run records which of its folders it uses, when it starts and when it has finished. A
folder is kept or removed as a whole. Folders that a run with live workers uses are never removed.
"""

import math
import re
import shutil
import sys
import time
from collections import ChainMap, Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.prompt import Confirm
from rich.table import Table

from latentmix.checks.finding import readable_size
from latentmix.errors import UserError
from latentmix.runner.claims import is_at_work
from latentmix.settings import expand_home
from latentmix.storage import key, read_json, user_cache, write_json

REFERENCES = "cache.json"  # in a run's folder: command -> folders of the cache that it uses
PER_CLASS = ("references",)  # kinds that have a folder for each class inside that of a key
UNITS = {"h": 3600, "d": 86400, "w": 7 * 86400}  # seconds

References = Mapping[str, set[Path] | None]  # run -> the cache folders that it uses; None if it has no record


@dataclass(frozen=True)
class Entry:
    """A folder of the cache."""

    path: Path
    kind: str
    what: str
    size: int  # bytes
    used: float  # when it was written, or a run that uses it last began
    runs: tuple[str, ...]


def record_references(run: Path, command: str, folders: Iterable[Path], replace: bool = True) -> None:
    """Record in a run's folder which folders of OUTPUTS/cache one of its commands uses.

    A run calls this when it has planned, with `replace=False`, which adds to the command's earlier record, so that new
    folders do not count as unused during the work. When it has finished, it replaces the earlier record.
    """
    commands = read_json(run / REFERENCES)
    earlier = set() if replace else set(commands.get(command, ()))
    cached = sorted({folder.relative_to(run.parent / "cache").as_posix() for folder in folders} | earlier)
    write_json(run / REFERENCES, commands | {command: cached})


def references(outputs: Path) -> References:
    """Return the cache folders that each run uses."""
    runs = {path.parent for pattern in ("work", "done.json", REFERENCES) for path in outputs.glob(f"*/{pattern}")}
    used_by: dict[str, set[Path] | None] = {}
    for run in sorted(runs - {outputs / "cache"}):
        commands = read_json(run / REFERENCES)
        if commands and all(isinstance(folders, list) for folders in commands.values()):
            used_by[run.name] = {outputs / "cache" / str(folder) for folders in commands.values() for folder in folders}
        else:
            used_by[run.name] = None
    return used_by


def find(run: str, outputs: Path) -> Path | None:
    """Return the folder of a run that is given by its folder, or by the name of one in `outputs`; None if unknown."""
    plain, given = Path(run).name, Path(expand_home(run))
    if str(Path(run)) == plain and (outputs / plain).is_dir():
        return outputs / plain
    return given.absolute() if given.is_dir() else None


def run(outputs: Path, older_than: str | None, of_run: str | None, unused: bool, yes: bool, dry_run: bool) -> None:
    """List the cache or, if any of the first three conditions is given, remove the folders that meet all of them.

    `older_than` is an age such as "30d"; `of_run` selects the folders that this run uses and no other; `unused` those
    that no run uses. Without `yes`, ask first.
    """
    if not (older_than or of_run or unused):
        _show(list_entries(outputs))
        _show_data_sets(user_cache() / "hub")
        return
    chosen, notes = select(outputs, older_than, of_run, unused)
    if chosen:
        _show(chosen)
    for note in notes:
        typer.echo(note)
    if dry_run or not chosen or not (yes or _confirmed(chosen)):
        typer.echo("nothing was removed")
        return
    still = {entry.path for entry in select(outputs, older_than, of_run, unused)[0]}  # a run may have begun meanwhile
    removed = [entry for entry in chosen if entry.path in still]
    for entry in removed:
        try:
            shutil.rmtree(entry.path)
        except OSError as error:
            raise UserError(
                f"{entry.path} could not be removed: {error.strerror or error}; make it writable"
            ) from error
    typer.echo(f"removed {_total(removed)}")


def list_entries(outputs: Path) -> list[Entry]:
    """Return all folders of the cache; raise UserError if there is none."""
    root = outputs / "cache"
    if not root.is_dir():
        raise UserError(f"there is no cache in {outputs}; give the folder of your runs as --outputs DIR")
    used_by, models = references(outputs), _models(outputs)
    begun = {run: (outputs / run / REFERENCES).stat().st_mtime for run, folders in used_by.items() if folders}
    entries = []
    for kind in sorted(path for path in root.iterdir() if path.is_dir() and path.name != "work"):
        for path in sorted(kind.glob("*/*" if kind.name in PER_CLASS else "*")):
            if path.is_dir() and not path.is_symlink():
                files = [file.stat() for file in path.rglob("*") if file.is_file()]
                runs = tuple(run for run, folders in used_by.items() if _uses(folders or set(), path))
                times = [*(file.st_mtime for file in files), *(begun[run] for run in runs)]
                used = max(times, default=path.stat().st_mtime)
                what, size = _describe(path, kind.name, models), sum(file.st_size for file in files)
                entries.append(Entry(path, kind.name, what, size, used, runs))
    return entries


def _uses(folders: set[Path], path: Path) -> bool:
    """Return True if some folder is `path`, in it, or around it."""
    return any(folder.is_relative_to(path) or path.is_relative_to(folder) for folder in folders)


def _models(outputs: Path) -> dict[str, str]:
    """Return the names of the models of finished runs, by the keys of their identities."""
    done = [read_json(path) for path in outputs.glob("*/done.json")]
    return {key(run["model"]): run["config"]["model"]["name"] for run in done if "model" in run and "config" in run}


def _describe(path: Path, kind: str, models: Mapping[str, str]) -> str:
    """Return model or network, inversion, class or prompt, and method, if identity.json has them."""
    notes = [*path.glob("identity.json"), *sorted(path.glob("*/identity.json"))]
    found = _flat(read_json(notes[0])) if notes else {}
    model, method = found.get("model"), found.get("method")
    name = models.get(key(model), str(model.get("weights", "?"))) if isinstance(model, dict) else None
    network = found.get("features") or found.get("clip") or found.get("perceptual")
    class_id = path.name if kind in PER_CLASS else found.get("class") or found.get("prompt")
    if isinstance(method, dict):
        method = method.get("method")
    parts = (name or network, found.get("kind"), class_id, method or found.get("control"))
    return ", ".join(str(part) for part in parts if part)


def _flat(identity: dict[str, Any]) -> dict[str, Any]:
    """Return the entries of an identity and of those nested in it; outer ones take precedence."""
    return dict(ChainMap(identity, *(_flat(inner) for inner in identity.values() if isinstance(inner, dict))))


def select(outputs: Path, older_than: str | None, of_run: str | None, unused: bool) -> tuple[list[Entry], list[str]]:
    """Return the folders to remove, and lines on those that meet the conditions but are kept.

    Raises UserError if a run without a record may use some of them.
    """
    used_by = references(outputs)
    if of_run is not None and of_run not in used_by:
        raise UserError(f"there is no run {of_run!r} in these outputs; there are {', '.join(used_by) or 'none'}")
    alive = [name for name in used_by if is_at_work(outputs / name / "work")]
    for name in (name for name, folders in used_by.items() if folders is None):
        if name in alive:
            raise UserError(f"{name} is at work and has not noted what it uses; wait until it has finished")
        if unused or of_run is not None:
            raise UserError(
                f"{name} has not noted what it uses, as an older version did not; give its command again, which notes "
                "it, or delete its folder"
            )
    limit = math.inf if older_than is None else time.time() - _seconds(older_than)
    chosen = [
        entry
        for entry in list_entries(outputs)
        if entry.used < limit and not (unused and entry.runs) and (of_run is None or of_run in entry.runs)
    ]
    others = [] if of_run is None else [name for name in used_by if name != of_run]
    notes = []
    for runs, why in ((others, "which other runs use too"), (alive, "which runs use that are at work")):
        kept = [entry for entry in chosen if not set(runs).isdisjoint(entry.runs)]
        chosen = [entry for entry in chosen if entry not in kept]
        if kept:
            notes.append(f"kept: {_total(kept)}, {why}")
    return chosen, notes


def _seconds(age: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([hdw])", age)
    if match is None:
        raise UserError(f"--older-than={age} is not an age, such as 12h, 30d or 8w")
    return float(match[1]) * UNITS[match[2]]


def _confirmed(chosen: Sequence[Entry]) -> bool:
    if not sys.stdin.isatty():
        raise UserError("there is no terminal to ask whether to remove this; add --yes")
    return Confirm.ask(f"Remove {_total(chosen)}?", default=False)


def _show(entries: Sequence[Entry]) -> None:
    """Print a row for all entries of the same kind, description and runs, and the totals by kind."""
    groups: dict[tuple[str, str, str], list[Entry]] = defaultdict(list)
    sizes: Counter[str] = Counter()
    for entry in entries:
        groups[entry.kind, entry.what, ", ".join(entry.runs)].append(entry)
        sizes[entry.kind] += entry.size
    table, now = Table("kind", "what", "folders", "size", "last used", "by runs"), time.time()
    for (kind, what, runs), group in sorted(groups.items()):
        size, age = readable_size(sum(entry.size for entry in group)), _age(now - max(entry.used for entry in group))
        table.add_row(kind, what, f"{len(group):,}", size, age, runs or "-")
    Console().print(table)
    for kind, total in sizes.most_common():
        typer.echo(f"{kind}: {readable_size(total)}")
    typer.echo(f"in all: {_total(entries)}")


def _show_data_sets(folder: Path) -> None:
    """Print how much `data=hub` keeps for the runs of all outputs, in the user's cache, if anything."""
    sizes = [sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) for path in folder.glob("*")]
    if sizes:
        typer.echo(
            f"besides: {readable_size(sum(sizes))} of images of data=hub, for the runs of all outputs, in {len(sizes)} "
            f"folders of {folder}, one for each state of a local data set; what you delete there is fetched again"
        )


def _total(entries: Sequence[Entry]) -> str:
    folders = "1 folder" if len(entries) == 1 else f"{len(entries):,} folders"
    return f"{folders} of {readable_size(sum(entry.size for entry in entries))}"


def _age(seconds: float) -> str:
    for unit, name in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.0f} {name} ago"
    return "just now"
