"""Share tasks among workers that have nothing in common but a folder, which may be on NFS.

A *claim* is a file that only one worker can create. It is a lease: it holds as long as its worker is alive. Each worker
writes a *heartbeat*, a file that changes every `HEARTBEAT` seconds. Other workers take it for lost when its heartbeat
has not changed for `LOST_AFTER` seconds of their own clock, or at once if it ran on the same machine and its process
has ended. Clocks of two machines are never compared.

A call that hangs in a driver does not stop the heartbeat. So the heartbeat also says how long the present task has run,
by the worker's own clock. A worker is also lost when this is many times what the slowest task of the kind took. As a
first task loads weights and may compile, at least `SHORTEST_PATIENCE` must pass, and `LONGEST_PATIENCE` if no task of
the kind was ever finished.

A finished task is listed before its claim is released, so the next worker that claims it finds it in a list. If two
workers do the same task, time is lost but nothing else: files are written atomically, and both write the same bytes.

`filelock.SoftFileLease` is not used: it tells machines apart by hostname, so two nodes of one name break each other's
live claims, and the heartbeat that `latentmix status` reads would still be needed beside it.
"""

import json
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from latentmix.errors import UserError
from latentmix.runner.tasks import Task
from latentmix.storage import explain_write_error, file_system_time, key, read_json, write_json

HEARTBEAT = 10.0  # seconds between two heartbeats
LOST_AFTER = 120.0  # seconds without a heartbeat; NFS may show a file as it was a minute ago
SHORTEST_PATIENCE, LONGEST_PATIENCE = 1800.0, 6 * 3600.0  # seconds; see above
USUAL_TIMES = 20  # how many times as long as the slowest of its kind a task may take
POLL, LONGEST_POLL = 0.5, 10.0  # seconds between two checks of other workers' files; they grow while nothing changes


@dataclass(frozen=True)
class Shard:
    """Part `index` of `count` parts of a run, counted from 0. The default is the whole run.

    A shard first does its own tasks, then tasks of others. A static one does only its own, and claims nothing.
    """

    index: int = 0
    count: int = 1
    static: bool = False

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """Parse `i/n`. Raises UserError if `text` is not that."""
        index, slash, count = text.partition("/")
        if not (slash and index.isdecimal() and count.isdecimal() and int(index) < int(count)):
            raise UserError(f"--shard={text} is not I/N with I from 0 to N-1, as in --shard 0/3, 1/3 and 2/3")
        return cls(int(index), int(count))

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


class DoneLists:
    """The names of finished tasks: each worker appends to a file of its own.

    `read` has the number of bytes of each file that have been read.
    """

    def __init__(self, folder: Path, read: Mapping[str, int] | None = None) -> None:
        self.folder = folder
        self.read = dict(read or {})

    def read_new(self) -> set[str]:
        """Return the names that were added since the last call."""
        return {name for path in sorted(self.folder.glob("*.done")) for name in self._read_new(path)}

    def _read_new(self, path: Path) -> list[str]:
        start = self.read.get(path.name, 0)
        try:
            with path.open("rb") as file:
                file.seek(start)
                text = file.read()
        except OSError:
            return []
        complete = text[: text.rfind(b"\n") + 1]  # a line that is being written is read by the next call
        self.read[path.name] = start + len(complete)
        return complete.decode(errors="replace").split()


class Claims(AbstractContextManager["Claims"]):
    """The claims of one worker among those that share `folder`. Nothing is written before the first claim or record."""

    def __init__(self, folder: Path, shard: Shard | None = None) -> None:
        self.folder = folder
        self.shard = shard or Shard()
        self.name = f"{_machine()}-{os.getpid()}-{secrets.token_hex(3)}"
        self.done = DoneLists(folder / "workers")
        self.doing = ""
        self._beats = 0
        self._begun = 0.0
        self._slowest: dict[str, float] = {}  # seconds of the slowest task of each kind that this worker has finished
        self._seen: dict[str, tuple[str | None, float]] = {}  # worker -> its heartbeat, and when that was first seen
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat_until_stopped, daemon=True)

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        with suppress(OSError):
            self._heartbeat_file(self.name).unlink()

    def _begin(self) -> None:
        """Start the heartbeat, unless it runs already. This is a worker's first write."""
        if self._thread.is_alive():
            return
        for part in ("claims", "workers"):
            with _explained(self.folder):
                (self.folder / part).mkdir(parents=True, exist_ok=True)
        for path in self.folder.glob("workers/*.json"):
            if _has_ended(path.stem):
                path.unlink(missing_ok=True)
        self._beat()
        self._thread.start()

    def claim_each(self, remaining: MutableMapping[str, Task]) -> Iterator[str | None]:
        """Yield the names of tasks that this worker has claimed, one at a time, until none remain.

        The shard's own tasks come first, then those of other shards that nobody has begun. Tasks that other workers
        finish are removed from `remaining`; the caller removes its own. Yields None before each wait for others.
        """
        order, pause = self.order(remaining), POLL
        while remaining:
            claimed = next((name for name in order if name in remaining and self.claim(name)), None)
            for name in self.done.read_new():  # read after claiming: the previous holder lists a task before release
                remaining.pop(name, None)
            if claimed is not None and claimed in remaining:
                yield claimed
                pause = POLL
            elif claimed is not None:
                self.release(claimed)
            elif remaining:
                yield None
                time.sleep(pause)
                pause = min(1.3 * pause, LONGEST_POLL)

    def order(self, tasks: Mapping[str, Task]) -> list[str]:
        """Return the names in order: the shard's own tasks from first to last, then all others from last to first."""
        index, count = self.shard.index, self.shard.count
        foreign = {name: task.number % count != index for name, task in tasks.items()}
        return sorted(tasks, key=lambda name: (foreign[name], tasks[name].number * (-1 if foreign[name] else 1)))

    @contextmanager
    def holding(self, name: str, doing: str) -> Iterator[None]:
        """Do a claimed task in this context: list it as done unless it fails, then release its claim."""
        self.doing, self._begun = doing, time.monotonic()
        self._beat()
        try:
            yield
            kind, seconds = kind_of(doing), time.monotonic() - self._begun
            self._slowest[kind] = max(seconds, self._slowest.get(kind, 0.0))
            with _explained(self.folder), self._heartbeat_file(self.name).with_suffix(".done").open("a") as file:
                file.write(f"{name}\n")
        finally:
            self.doing = ""
            self.release(name)

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Wait until no other worker of the run is in this context by the same name, and keep others out meanwhile."""
        if self.shard.count > 1:
            self.wait_for(name)
        try:
            yield
        finally:
            if self.shard.count > 1:
                self.release(name)

    def claim(self, name: str) -> bool:
        """Claim a task. Return False if a worker that is alive holds it."""
        self._begin()
        path = self.folder / "claims" / name
        for _ in range(2):
            try:
                with _explained(path), path.open("x") as file:
                    try:
                        file.write(self.name)
                        file.flush()
                    except OSError:  # of a full disk; a claim without a name would block all other workers
                        path.unlink()
                        raise
                return True
            except FileExistsError:
                holder = read_text(path)
                if holder is None or not self._is_lost(holder):
                    return False
            state = "is gone" if _has_ended(holder) or not self._is_stuck(holder) else "makes no progress"
            print(f"latentmix: {holder or 'a worker'} {state}; its batch is done by others", file=sys.stderr)
            path.unlink(missing_ok=True)
            self._heartbeat_file(holder).unlink(missing_ok=True)
        return False

    def wait_for(self, name: str) -> None:
        """Claim a task once no other live worker holds it."""
        while not self.claim(name):
            time.sleep(POLL)

    def release(self, name: str) -> None:
        """Give up a claim, if this worker still holds it."""
        path = self.folder / "claims" / name
        if read_text(path) == self.name:
            with suppress(OSError):  # if the disk can't be written, the task itself has already failed
                path.unlink()

    def _is_lost(self, worker: str) -> bool:
        if _has_ended(worker):
            return True
        now, heartbeat = time.monotonic(), read_text(self._heartbeat_file(worker))
        seen, since = self._seen.setdefault(worker, (heartbeat, now))
        if heartbeat != seen:
            self._seen[worker] = heartbeat, now
            return self._is_stuck(worker)
        return now - since > LOST_AFTER or self._is_stuck(worker)

    def _is_stuck(self, worker: str) -> bool:
        return is_stuck(read_json(self._heartbeat_file(worker)), self.folder)

    def _heartbeat_file(self, worker: str) -> Path:
        return self.folder / "workers" / f"{worker}.json"

    def _beat(self) -> None:
        """Write the heartbeat. Errors are ignored: a full disk stops the task itself, with a message."""
        self._beats += 1
        about: dict[str, Any] = {"shard": str(self.shard), "doing": self.doing, "beats": self._beats}
        about |= {"slowest": self._slowest, "seconds": time.monotonic() - self._begun if self.doing else 0.0}
        text = json.dumps(about).ljust(500).encode()  # of constant length, in one write: no reader sees half of it
        path = self._heartbeat_file(self.name)
        with suppress(OSError), os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT, 0o666), "wb") as file:
            file.write(text)
            file.truncate()

    def _beat_until_stopped(self) -> None:
        while not self._stop.wait(HEARTBEAT):
            self._beat()

    def record_stage(self, stage: str, about: Mapping[str, Any]) -> None:
        """Write what `latentmix status` shows of a stage, and how many bytes of the done lists it accounts for."""
        self._begin()
        write_json(self.folder / "stages" / f"{stage.replace(' ', '-')}.json", {**about, "read": self.done.read})


class StaticClaims(Claims):
    """A worker that does every N-th task, and writes nothing but results: no claims, no heartbeat, no done list.

    No other worker does the tasks of one that died. It must be started again, as most schedulers do.
    """

    _pause = POLL  # seconds to wait for other workers' results

    def claim_each(self, remaining: MutableMapping[str, Task]) -> Iterator[str | None]:
        """Yield the names of the shard's own tasks. If those of others remain, wait before returning, as the caller
        then plans again."""
        own = [name for name in self.order(remaining) if self._is_own(remaining[name])]
        yield from own
        if any(not self._is_own(task) for task in remaining.values()):
            yield None
            self._pause = min(2 * self._pause, LONGEST_POLL) if not own else POLL
            time.sleep(self._pause)

    def _is_own(self, task: Task) -> bool:
        return task.number % self.shard.count == self.shard.index

    def claim(self, name: str) -> bool:
        """Return True for shard 0, which does what only one worker may do, such as writing the results."""
        return self.shard.index == 0

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Do nothing: what several workers do at the same time has the same result."""
        yield

    def release(self, name: str) -> None:
        """Do nothing."""

    @contextmanager
    def holding(self, name: str, doing: str) -> Iterator[None]:
        """Do a task in this context."""
        yield

    def record_stage(self, stage: str, about: Mapping[str, Any]) -> None:
        """Do nothing."""


def kind_of(doing: str) -> str:
    """Return the kind of a task from its description: "generate" for "generate: star"."""
    return doing.partition(":")[0]


def is_stuck(heartbeat: Mapping[str, Any], folder: Path) -> bool:
    """Return True if the task in a heartbeat has run for many times the slowest of its kind that `folder` knows of."""
    seconds, kind = heartbeat.get("seconds", 0.0), kind_of(heartbeat.get("doing", ""))
    if seconds <= SHORTEST_PATIENCE:
        return False
    finished = [read_json(path).get("slowest", {}).get(kind) for path in folder.glob("workers/*.json")]
    slowest = max((known for known in finished if known is not None), default=None)
    return bool(seconds > (LONGEST_PATIENCE if slowest is None else max(SHORTEST_PATIENCE, USUAL_TIMES * slowest)))


def is_at_work(folder: Path) -> bool:
    """Return True if some worker that shares `folder` is alive, by the age of its heartbeat."""
    now = file_system_time(folder)
    for path in folder.glob("workers/*.json"):
        with suppress(OSError):  # the worker has left
            if now - path.stat().st_mtime < LOST_AFTER and not _has_ended(path.stem):
                return True
    return False


def _has_ended(worker: str) -> bool:
    """Return True if the worker ran on this machine and its process has ended."""
    machine, _, process = worker.rpartition("-")[0].rpartition("-")
    if machine != _machine() or not process.isdecimal() or sys.platform == "win32":  # where os.kill would end it
        return False
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


@cache
def _machine() -> str:
    """Return the hostname with a digest of boot and PID namespace, within which process numbers are valid."""
    suffix = ""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()
        suffix = f"-{key([boot, str(Path('/proc/self/ns/pid').readlink())])[:6]}"
    return f"{socket.gethostname()}{suffix}"


def read_text(path: Path) -> str | None:
    """Return the text of a file; None if it can't be read, as it may just have been removed."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return None


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn an OSError into a UserError, except for a file that already exists."""
    try:
        yield
    except FileExistsError:
        raise
    except OSError as error:
        raise explain_write_error(path, error) from error
