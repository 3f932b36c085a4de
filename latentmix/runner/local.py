"""Run a sweep by several worker processes of this machine: one for each GPU, or several on the CPU."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.progress import TaskID

from latentmix.errors import STOPPED, Interrupted, UserError
from latentmix.runner import status
from latentmix.runner.console import bars
from latentmix.runner.progress import report

if TYPE_CHECKING:
    from latentmix.config import LaunchConfig


@dataclass
class Process:
    """A worker process, its name, and the file that its output goes to."""

    popen: "subprocess.Popen[bytes]"
    name: str
    log: Path

    def last_line(self) -> str:
        """Return the last line of its output."""
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return lines[-1].removeprefix("latentmix: error: ") if lines else "it said nothing"


def run(launch: "LaunchConfig", work: Path, freeze: Callable[[int], Path]) -> None:
    """Run all stages by several processes, under common progress bars.

    `freeze` takes a number of threads, writes the config of workers with as many, and returns its file. If a process
    dies, the others do its tasks. Raise UserError if all fail.
    """
    from latentmix.threads import usable_cores

    gpus = _gpus(launch)
    frozen = freeze(launch.threads or max(1, usable_cores() // len(gpus)))
    processes: list[Process] = []
    try:
        for index, gpu in enumerate(gpus):
            processes.append(_start(frozen, f"{index}/{len(gpus)}", gpu))
        _watch(work, processes)
    except KeyboardInterrupt as stop:
        raise Interrupted(STOPPED, stop) from None
    finally:
        _end(processes)
    if all(process.popen.returncode for process in processes):
        raise UserError(f"all workers failed; {processes[0].name} said last: {processes[0].last_line()}")


def _gpus(launch: "LaunchConfig") -> list[str]:
    """Return the value of CUDA_VISIBLE_DEVICES for each worker; "" for a worker on the CPU."""
    if not launch.gpus:
        return [""] * launch.workers
    import torch

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [str(index) for index in range(torch.cuda.device_count())] if visible is None else visible.split(",")
    if len(names) < launch.gpus or torch.cuda.device_count() < launch.gpus:
        raise UserError(f"launch.gpus={launch.gpus}, and this machine shows {torch.cuda.device_count()}; lower it")
    return names[: launch.gpus]


def _start(frozen: Path, shard: str, gpu: str) -> Process:
    log = frozen.parent / f"worker-{shard.partition('/')[0]}.log"
    command = [sys.executable, "-m", "latentmix", "worker", str(frozen), "--shard", shard]
    with log.open("wb") as file:
        environment = os.environ | ({"CUDA_VISIBLE_DEVICES": gpu} if gpu else {})
        popen = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment)
    return Process(popen, f"worker {shard}" + (f" on GPU {gpu}" if gpu else ""), log)


def _watch(work: Path, processes: Sequence[Process]) -> None:
    """Show a progress bar for each stage until all processes have ended, and a line for each one that fails."""
    shown, reported = dict[str, TaskID](), set[str]()
    with bars() as progress:
        while any(process.popen.poll() is None for process in processes):
            for stage in (stage for stage in status.progress(work) if stage.total):
                if stage.stage not in shown:
                    shown[stage.stage] = progress.add_task(stage.stage, total=stage.total)
                progress.update(shown[stage.stage], total=stage.total, completed=stage.finished)
                report(stage.stage, stage.finished, stage.total)
            stuck = {member.process for member in status.workers(work) if member.stuck}
            for process in processes:
                if str(process.popen.pid) in stuck and process.popen.poll() is None:
                    progress.console.print(f"{process.name} makes no progress, and is killed", markup=False)
                    process.popen.kill()
                if process.popen.poll() and process.name not in reported:
                    reported.add(process.name)
                    progress.console.print(
                        f"{process.name} died: {process.last_line()} (its output is in {process.log})", markup=False
                    )
            time.sleep(0.5)


def _end(processes: Sequence[Process]) -> None:
    """Terminate the processes that still run, and kill those that do not end within 30 seconds."""
    for process in processes:
        process.popen.terminate()
    for process in processes:
        try:
            process.popen.wait(30)
        except subprocess.TimeoutExpired:
            process.popen.kill()
            process.popen.wait()
