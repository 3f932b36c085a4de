"""The progress of a run, from the files that its workers write to its folder."""

import time
from dataclasses import dataclass
from pathlib import Path

from latentmix.runner.claims import LOST_AFTER, DoneLists, is_stuck, read_text
from latentmix.storage import read_json


@dataclass(frozen=True)
class Progress:
    """The numbers of images of one stage that are finished, running and left."""

    stage: str
    finished: int
    running: int
    left: int

    @property
    def total(self) -> int:
        """Return the number of all images of the stage."""
        return self.finished + self.running + self.left


@dataclass(frozen=True)
class Worker:
    """A worker that has not exited. `silent` is the age of its last heartbeat in seconds, by this machine's clock.

    `stuck` says that its present task has taken so long that it is taken for hanging; see `claims.is_stuck`.
    """

    name: str
    shard: str
    doing: str
    silent: float
    stuck: bool

    @property
    def lost(self) -> bool:
        """Return True if other workers take over its task."""
        return self.silent > LOST_AFTER or self.stuck

    @property
    def process(self) -> str:
        """Return the number of its process."""
        return self.name.split("-")[-2]


def progress(work: Path) -> list[Progress]:
    """Return all stages that have been planned, in order. A task claimed by a lost worker does not count as running."""
    records = [read_json(path) | {"stage": path.stem.replace("-", " ")} for path in work.glob("stages/*.json")]
    alive = {worker.name for worker in workers(work) if not worker.lost}
    claimed = {path.name for path in work.glob("claims/*") if read_text(path) in alive}
    records.sort(key=lambda record: (record.get("place", 0), record["stage"]))
    stages = []
    for record in (record for record in records if "left" in record):
        finished_since = DoneLists(work / "workers", record["read"]).read_new()
        remaining = {name: images for name, images in record["left"].items() if name not in finished_since}
        running, todo = sum(remaining[name] for name in remaining.keys() & claimed), sum(remaining.values())
        stages.append(Progress(record["stage"], record["images"] - todo, running, todo - running))
    return stages


def workers(work: Path) -> list[Worker]:
    """Return all workers that have not exited."""
    found = []
    for path in sorted(work.glob("workers/*.json")):
        about = read_json(path)
        try:
            silent = time.time() - path.stat().st_mtime
        except OSError:  # it has exited meanwhile
            continue
        shard, doing = about.get("shard", "?"), about.get("doing", "")
        found.append(Worker(path.stem, shard, doing, max(0.0, silent), is_stuck(about, work)))
    return found
