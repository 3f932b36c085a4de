"""Processes that run the command line, forked from one that has imported everything and computed nothing.

Importing torch and diffusers takes seconds, so a hundred runs that are to be killed can't each do it anew. A run is one
or more commands, one after another. It logs what it does, and what is to happen to it happens at a moment that it is
told: at a time, or at the k-th batch begun or file written.
"""

import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

WORKERS = ("_synthesize", "_measure_real", "_invert", "_mix", "_generate", "_measure_images", "_reconstruct")
ALONE = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")  # none is lost in a fork


@dataclass(frozen=True)
class Run:
    """`at` is (what, k): "batch", the k-th begun, or how far the k-th file written is: "midway", "whole", "moved".

    `then` is what happens there, with `path`; or `signal` comes `after` so many seconds.
    """

    commands: Sequence[Sequence[str]]
    log: str
    signal: int = signal.SIGKILL
    after: float | None = None
    at: tuple[str, int] = ("", 0)
    then: str = "signal"
    path: str = ""
    clock: float | None = None  # what the wall clock stands at, from the start of the run to its end
    figures: bool = False  # which take longer than all the rest


@dataclass(frozen=True)
class Ended:
    code: int  # negative for a signal
    err: str
    log: list[tuple[float, str, str]] = field(repr=False)  # seconds since the start, what, and which

    def begun(self) -> list[str]:
        return [which for _, what, which in self.log if what == "batch"]

    def written(self) -> int:
        return sum(what == "moved" for _, what, _ in self.log)

    def numbers(self, what: str) -> list[int]:
        return [int(which) for _, noted, which in self.log if noted == what]

    def line(self) -> str:
        """The last of what was said; that it is no traceback goes without saying in no test."""
        assert "Traceback" not in self.err, self.err
        return self.err.splitlines()[-1]


class Warm:
    """The process that has imported everything, seen from a test."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | ALONE
        )

    def run(self, *runs: Run) -> list[Ended]:
        """Start them all at once, and wait for all."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps([asdict(run) for run in runs]) + "\n")
        self.process.stdin.flush()
        codes = json.loads(self.process.stdout.readline())
        return [_ended(code, run.log) for code, run in zip(codes, runs, strict=True)]

    def close(self) -> None:
        self.process.communicate()  # which closes its input, so that it ends


def _ended(code: int, log: str) -> Ended:
    lines = [line.split(" ", 2) for line in Path(log).read_text().splitlines()]
    return Ended(code, Path(log + ".err").read_text(), [(float(when), what, which) for when, what, which in lines])


# In the forked process


def _fork(order: dict[str, Any]) -> int:
    """Start a run; its process id."""
    started = time.monotonic()
    if pid := os.fork():
        return pid
    try:
        with Path(order["log"] + ".err").open("w") as err, Path(os.devnull).open("w") as out:
            os.dup2(err.fileno(), 2)
            os.dup2(out.fileno(), 1)
        with Path(order["log"]).open("w", buffering=1) as log:
            _watch(order, log, started)
            known, code = set(sys.modules), _do(order["commands"])
        Path(order["log"] + ".modules").write_text("\n".join(name for name in sys.modules if name not in known))
        os._exit(code)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(70)


def _do(commands: Sequence[Sequence[str]]) -> int:
    """The code of the first command that fails, or 0."""
    from latentmix import cli

    for arguments in commands:
        sys.argv = ["latentmix", *arguments]
        try:
            cli.main()
        except SystemExit as stop:
            if stop.code:
                return int(stop.code)
    return 0


def _watch(order: dict[str, Any], log: IO[str], started: float) -> None:
    """Log whatever happens, and let happen what is to."""
    from latentmix import figures
    from latentmix.data import decoded_images
    from latentmix.experiment import probe, reconstruction, stages, synthesis

    decoded_images.DECODED.budget = 0  # as in a run over more images than memory holds: each use reads the file again
    if not order["figures"]:
        figures.draw_run = lambda experiment: []
    counts: dict[str, int] = {}

    def note(what: str, which: str) -> None:
        log.write(f"{time.monotonic() - started:.3f} {what} {which}\n")
        counts[what] = counts.get(what, 0) + 1
        if [what, counts[what]] == list(order["at"]):
            _happen(order)

    def counted(module: Any, name: str) -> None:
        work = getattr(module, name)

        def count(experiment: Any, *told: Any) -> Any:
            note("files", str(sum(1 for _ in Path("/proc/self/fd").iterdir())))
            note("pages", Path("/proc/self/statm").read_text().split()[1])
            note("batch", f"{module.__name__}.{name} {[_plain(each) for each in told]}")
            return work(experiment, *told)

        setattr(module, name, count)

    modules = (stages, synthesis, reconstruction, probe)
    assert all(any(hasattr(module, name) for module in modules) for name in WORKERS)
    for module in modules:
        for name in WORKERS:
            if hasattr(module, name):
                counted(module, name)
    fsync, replace = os.fsync, Path.replace

    def noted_fsync(file: int) -> None:
        last = order["signal"] == signal.SIGKILL and order["at"] == ["midway", counts.get("midway", 0) + 1]
        note("midway", _cut(file) if last else "-")
        fsync(file)
        note("whole", "-")

    def noted_replace(path: Path, target: Any) -> Path:
        moved = replace(path, target)
        note("moved", str(target))
        return moved

    os.fsync, Path.replace = noted_fsync, noted_replace  # type: ignore[assignment]
    if (stopped := order["clock"]) is not None:
        time.time, time.time_ns = lambda: stopped, lambda: int(stopped * 1e9)


def _plain(told: Any) -> Any:
    """What a batch is of, the same in every process."""
    return [getattr(each, "id", str(each)) for each in told] if isinstance(told, list | tuple) else str(told)


def _cut(file: int) -> str:
    os.ftruncate(file, os.fstat(file).st_size // 2)
    return "-"


def _happen(order: dict[str, Any]) -> None:
    path = Path(order["path"])
    if order["then"] == "signal":
        os.kill(os.getpid(), order["signal"])
    elif order["then"] == "vanish":
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    elif order["then"] == "change":
        path.write_bytes(path.with_name(".other").read_bytes())
    elif order["then"] == "read-only":
        subprocess.run(["mount", "-o", "remount,ro", path], check=True)
    else:
        _fill(path)


def _fill(ballast: Path) -> None:
    with ballast.open("wb", buffering=0) as file:
        size = 1 << 20
        while size:
            try:
                file.write(bytes(size))
            except OSError:
                size //= 2


# In the process that forks


def _import_what_was_imported(log: str) -> None:
    """So that the runs to come are spared it; a killed run tells of nothing."""
    with suppress(OSError):
        for name in Path(log + ".modules").read_text().split():
            with suppress(Exception):
                importlib.import_module(name)


def _wait(pids: list[int], orders: list[dict[str, Any]]) -> list[int]:
    """Signal those whose time it is, until all have ended; their exit codes."""
    started, codes, due = time.monotonic(), dict[int, int](), dict(zip(pids, orders, strict=True))
    while len(codes) < len(pids):
        for pid in (pid for pid in pids if pid not in codes):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                codes[pid] = os.waitstatus_to_exitcode(status)
                due.pop(pid, None)
        for pid, order in list(due.items()):
            if order["after"] is None:
                del due[pid]
            elif time.monotonic() - started > order["after"]:
                os.kill(pid, order["signal"])
                del due[pid]
        time.sleep(0.002)
    return [codes[pid] for pid in pids]


if __name__ == "__main__":
    from latentmix import cli, figures  # noqa: F401
    from latentmix.commands import diagnose, doctor, evaluate, generate, invert, mix, probe, reconstruct, sweep  # noqa: F401

    for line in sys.stdin:
        orders = json.loads(line)
        print(json.dumps(_wait([_fork(order) for order in orders], orders)), flush=True)
        for order in orders:
            _import_what_was_imported(order["log"])
