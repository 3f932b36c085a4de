"""How far a run is, from what its workers leave in its folder; no network is loaded, and nothing is waited for."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from latentmix.cache import read_json
from latentmix.compose import find_run
from latentmix.errors import UserError
from latentmix.runner.claims import LOST_AFTER, DoneLists


@dataclass(frozen=True)
class Progress:
    """Images of one stage."""

    stage: str
    done: int
    running: int
    left: int


@dataclass(frozen=True)
class Worker:
    """Who has not left yet; `silent` for so many seconds, as far as clocks agree."""

    name: str
    shard: str
    doing: str
    silent: float

    @property
    def lost(self) -> bool:
        return self.silent > LOST_AFTER


def stages(work: Path) -> list[Progress]:
    """All stages that have been planned, in their order. What was claimed by a worker that is lost is not running."""
    notes = sorted(
        (read_json(path) | {"stage": path.stem.replace("-", " ")} for path in work.glob("stages/*.json")), key=_place
    )
    alive = {member.name for member in workers(work) if not member.lost}
    claimed = {path.name for path in work.glob("claims/*") if _holder(path) in alive}
    return [_progress(work, note, claimed) for note in notes if "left" in note]


def _progress(work: Path, note: dict[str, Any], claimed: set[str]) -> Progress:
    since = DoneLists(work / "workers", note["read"]).read_new()
    left = {name: images for name, images in note["left"].items() if name not in since}
    running = sum(images for name, images in left.items() if name in claimed)
    todo = sum(left.values())
    return Progress(note["stage"], note["images"] - todo, running, todo - running)


def _holder(claim: Path) -> str:
    try:
        return claim.read_text(errors="replace")
    except OSError:  # it was given up meanwhile
        return ""


def _place(note: dict[str, Any]) -> tuple[int, str]:
    return note.get("place", 0), note["stage"]


def workers(work: Path) -> list[Worker]:
    found = []
    for path in sorted(work.glob("workers/*.json")):
        about = read_json(path)
        try:
            silent = time.time() - path.stat().st_mtime
        except OSError:  # it has left meanwhile
            continue
        found.append(Worker(path.stem, about.get("shard", "?"), about.get("doing", ""), max(0.0, silent)))
    return found


def show(run: str) -> None:
    """Tables on the console; UserError where there is no such run, or no worker ever was at it."""
    folder = find_run(run)
    progress, members, console = stages(folder / "work"), workers(folder / "work"), Console()
    if not progress:
        raise UserError(
            f"nothing is known of {folder}: no stage of it has been planned; is a run there, and has it begun?"
        )
    console.print(f"{folder}: {_summary(folder, progress, members)}", soft_wrap=True, highlight=False)
    table = Table("images", "done", "running", "left")
    for of in progress:
        if of.done or of.running or of.left:
            table.add_row(of.stage, f"{of.done:,}", f"{of.running:,}", f"{of.left:,}")
    console.print(table)
    if members:
        console.print(_table(members))


def _summary(folder: Path, progress: list[Progress], members: list[Worker]) -> str:
    alive = sum(not member.lost for member in members)
    if alive:
        return f"{alive} at work" + (f", {len(members) - alive} lost" if alive < len(members) else "")
    if any(of.running or of.left for of in progress):
        return "stopped; what is left waits in a queue, or for the command that started it"
    results = [folder / name for name in ("done.json", "metrics.csv")]
    if all(path.exists() for path in results):
        return f"finished; the results are in {folder / 'metrics.csv'}"
    return "all images are done; the results are not written yet: give the command again, without --shard or launch="


def _table(members: list[Worker]) -> Table:
    table = Table("worker", "shard", "doing", "last sign of life")
    for member in members:
        lost = ": lost; whoever is at work takes over" if member.lost else ""
        table.add_row(member.name, member.shard, member.doing or "-", f"{member.silent:.0f} s ago{lost}")
    return table
