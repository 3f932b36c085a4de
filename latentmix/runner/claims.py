"""Workers that share nothing but a folder: who does what, what is done, and who has gone silent.

A claim is a file that only one worker can make. What was made is listed before its claim is given up, so whoever claims
it next finds it in a list. Two workers at the same batch are no harm, only waste: files are moved into their place
whole, and the bytes of both are the same. No worker's clock is compared with another's: one is lost when its pulse has
stood still for `SILENCE` seconds of the watcher's own clock, or when its process is gone from the watcher's machine.
"""

import json
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from latentmix.cache import key, refusal, write_json
from latentmix.errors import UserError

BEAT = 10.0  # seconds between two beats of a pulse
SILENCE = 120.0  # without one, and a worker is lost; NFS may show a file as it was a minute ago
POLL, SELDOM = 0.5, 10.0  # between two looks at what others do; the longer it takes, the fewer


@dataclass(frozen=True)
class Shard:
    """The i-th of n parts of a run, i from 0; alone, it is all of it."""

    index: int = 0
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """`i/n`; UserError where it is not that."""
        index, slash, count = text.partition("/")
        if not (slash and index.isdecimal() and count.isdecimal() and int(index) < int(count)):
            raise UserError(f"--shard={text} is not I/N with I from 0 to N-1, as in --shard 0/3, 1/3 and 2/3")
        return cls(int(index), int(count))

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


class Numbered(Protocol):
    """Anything that has a place among all there is to do, what is done already included."""

    @property
    def number(self) -> int: ...


Piece = TypeVar("Piece", bound=Numbered)


class DoneLists:
    """What is done, each worker having a list of its own that it adds to; `read` is how far each has been read."""

    def __init__(self, folder: Path, read: Mapping[str, int] | None = None) -> None:
        self.folder = folder
        self.read = dict(read or {})

    def read_new(self) -> set[str]:
        """What came since the last look."""
        return {name for path in sorted(self.folder.glob("*.done")) for name in self._read_new(path)}

    def _read_new(self, path: Path) -> list[str]:
        start = self.read.get(path.name, 0)
        try:
            with path.open("rb") as file:
                file.seek(start)
                text = file.read()
        except OSError:
            return []
        whole = text[: text.rfind(b"\n") + 1]  # a line that is being written comes with the next look
        self.read[path.name] = start + len(whole)
        return whole.decode(errors="replace").split()


class Claims:
    """A worker among those that have a folder in common; it begins with its first claim or note."""

    def __init__(self, folder: Path, shard: Shard | None = None) -> None:
        self.folder = folder
        self.shard = shard or Shard()
        self.machine = _machine()
        self.name = f"{self.machine}-{os.getpid()}-{secrets.token_hex(3)}"
        self.lists = DoneLists(folder / "workers")
        self.doing = ""
        self._beats = 0
        self._pulses: dict[str, tuple[str | None, float]] = {}  # as last seen, and since when, by the own clock
        self._leaving = threading.Event()
        self._heart = threading.Thread(target=self._beat_on, daemon=True)

    def __enter__(self) -> "Claims":
        return self

    def __exit__(self, *_: object) -> None:
        self._leaving.set()
        if self._heart.is_alive():
            self._heart.join()
        with suppress(OSError):
            self._pulse(self.name).unlink()

    def _begin(self) -> None:
        """Leave the first trace in the folder: not before there is something to tell, since settings may be refused."""
        if self._heart.is_alive():
            return
        for part in ("claims", "workers"):
            with _explained(self.folder):
                (self.folder / part).mkdir(parents=True, exist_ok=True)
        for path in self.folder.glob("workers/*.json"):
            if self._is_gone_from_here(path.stem):
                path.unlink(missing_ok=True)
        self._beat()
        self._heart.start()

    def share(self, left: MutableMapping[str, Piece]) -> Iterator[str | None]:
        """The names that this worker is to do, one at a time and claimed; None while others do all that is left.

        The shard's own come first, then those that others have not begun. `left` loses what anyone finishes. It ends
        with all of it done.
        """
        order, pause = self.order(left), POLL
        while left:
            claimed = next((name for name in order if name in left and self.claim(name)), None)
            for name in self.lists.read_new():  # after the claim: whoever had it before has listed it, if it is done
                left.pop(name, None)
            if claimed is not None and claimed in left:
                yield claimed
                pause = POLL
            elif claimed is not None:
                self.release(claimed)
            elif left:
                yield None
                time.sleep(pause)
                pause = min(1.3 * pause, SELDOM)

    def order(self, pieces: Mapping[str, Piece]) -> list[str]:
        """The shard's own from first to last, and then those of others, the last first."""
        index, count = self.shard.index, self.shard.count
        others = {name: of.number % count != index for name, of in pieces.items()}
        return sorted(pieces, key=lambda name: (others[name], pieces[name].number * (-1 if others[name] else 1)))

    @contextmanager
    def at(self, name: str, doing: str) -> Iterator[None]:
        """Do what was claimed: list it as done unless it fails, and give the claim up either way."""
        self.doing = doing
        self._beat()
        try:
            yield
            with _explained(self.folder), self._pulse(self.name).with_suffix(".done").open("a") as file:
                file.write(f"{name}\n")
        finally:
            self.doing = ""
            self.release(name)

    def claim(self, name: str) -> bool:
        """Whether it is this worker's now: nobody had it, or whoever had it is lost."""
        self._begin()
        path = self.folder / "claims" / name
        for _ in range(2):
            try:
                with _explained(path), path.open("x") as file:
                    try:
                        file.write(self.name)
                        file.flush()
                    except OSError:  # the disk is full; a claim that names nobody would hold all others up
                        path.unlink()
                        raise
                return True
            except FileExistsError:
                holder = _read(path)
                if holder is None or not self._is_lost(holder):
                    return False
            print(f"latentmix: {holder or 'a worker'} is gone; its batch is done by others", file=sys.stderr)
            path.unlink(missing_ok=True)
            self._pulse(holder).unlink(missing_ok=True)
        return False

    def release(self, name: str) -> None:
        path = self.folder / "claims" / name
        if _read(path) == self.name:
            with suppress(OSError):  # where nothing can be written any more, the work has complained already
                path.unlink()

    def _is_lost(self, worker: str) -> bool:
        if self._is_gone_from_here(worker):
            return True
        now, pulse = time.monotonic(), _read(self._pulse(worker))
        seen, since = self._pulses.setdefault(worker, (pulse, now))
        if pulse != seen:
            self._pulses[worker] = pulse, now
            return False
        return now - since > SILENCE

    def _is_gone_from_here(self, worker: str) -> bool:
        """Whether it worked on this machine, and its process is no more."""
        machine, _, process = worker.rpartition("-")[0].rpartition("-")
        if machine != self.machine or not process.isdecimal():
            return False
        try:
            os.kill(int(process), 0)
        except ProcessLookupError:
            return True
        except OSError:
            return False
        return False

    def _pulse(self, worker: str) -> Path:
        return self.folder / "workers" / f"{worker}.json"

    def _beat(self) -> None:
        """A disk that is full is for the work to complain of."""
        self._beats += 1
        about: dict[str, Any] = {"shard": str(self.shard), "doing": self.doing, "beats": self._beats}
        with suppress(OSError):  # in place: no name is moved, and a torn one is still another than before
            self._pulse(self.name).write_text(json.dumps(about))

    def _beat_on(self) -> None:
        while not self._leaving.wait(BEAT):
            self._beat()

    def record(self, stage: str, about: Mapping[str, Any]) -> None:
        """Note for `latentmix status` what a stage has and what of it was left when the lists had been read so far."""
        self._begin()
        write_json(self.folder / "stages" / f"{stage.replace(' ', '-')}.json", {**about, "read": self.lists.read})


def _machine() -> str:
    """Its name, and what tells it from others of that name: processes are known by number only inside."""
    inside = ""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()
        inside = f"-{key([boot, str(Path('/proc/self/ns/pid').readlink())])[:6]}"
    return f"{socket.gethostname()}{inside}"


def _read(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return None


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except FileExistsError:
        raise
    except OSError as error:
        raise refusal(path, error) from error
