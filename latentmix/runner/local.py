"""Several workers on one machine: a process for each GPU, or so many on the CPU, each a shard of the run."""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from latentmix.commands import status
from latentmix.commands.sweep import freeze
from latentmix.config import Config
from latentmix.errors import STOPPED, Interrupted, UserError


@dataclass
class Process:
    """A worker, where it works, and the file that has what it says."""

    popen: "subprocess.Popen[bytes]"
    where: str
    log: Path

    def last_words(self) -> str:
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return lines[-1].removeprefix("latentmix: error: ") if lines else "it said nothing"


def run(config: Config) -> None:
    """All stages of a sweep by several processes, shown as one. What a dead one leaves the others do; UserError where
    none is left."""
    places = _places(config)
    threads = config.launch.threads or max(1, (os.cpu_count() or 1) // len(places))
    frozen = freeze(replace(config, launch=replace(config.launch, threads=threads)))
    processes: list[Process] = []
    try:
        for index, place in enumerate(places):
            processes.append(_start(frozen, f"{index}/{len(places)}", place))
        _watch(config, processes)
    except KeyboardInterrupt as stop:
        raise Interrupted(STOPPED, stop) from None
    finally:
        _end(processes)
    if all(process.popen.returncode for process in processes):
        raise UserError(f"no worker came to the end; of {processes[0].where}: {processes[0].last_words()}")


def _places(config: Config) -> list[str]:
    """For each worker the GPU that it is to see, or none for the CPU."""
    gpus = config.launch.gpus
    if not gpus:
        return [""] * config.launch.workers
    import torch

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [str(index) for index in range(torch.cuda.device_count())] if visible is None else visible.split(",")
    if len(names) < gpus or torch.cuda.device_count() < gpus:
        raise UserError(f"launch.gpus={gpus}, and this machine shows {torch.cuda.device_count()}; lower it")
    return names[:gpus]


def _start(frozen: Path, shard: str, gpu: str) -> Process:
    log = frozen.parent / f"worker-{shard.partition('/')[0]}.log"
    command = [sys.executable, "-m", "latentmix.cli", "worker", str(frozen), "--shard", shard]
    with log.open("wb") as file:
        seen = {"CUDA_VISIBLE_DEVICES": gpu} if gpu else {}
        popen = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=os.environ | seen)
    return Process(popen, f"worker {shard}" + (f" on GPU {gpu}" if gpu else ""), log)


def _watch(config: Config, processes: Sequence[Process]) -> None:
    """Until all have ended: a bar for each stage, and a line for each that dies."""
    console, told = Console(stderr=True), set[str]()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bars(*columns, console=console, speed_estimate_period=120) as bars:
        shown = {}
        while any(process.popen.poll() is None for process in processes):
            for of in status.stages(config.work):
                total = of.done + of.running + of.left
                if total and of.stage not in shown:
                    shown[of.stage] = bars.add_task(of.stage, total=total, completed=of.done)
                elif total:
                    bars.update(shown[of.stage], total=total, completed=of.done)
            for process in processes:
                if process.popen.poll() and process.where not in told:
                    told.add(process.where)
                    console.print(f"{process.where} died: {process.last_words()} (all of it is in {process.log})")
            time.sleep(0.5)


def _end(processes: Sequence[Process]) -> None:
    for process in processes:
        if process.popen.poll() is None:
            process.popen.terminate()
    for process in processes:
        try:
            process.popen.wait(30)
        except subprocess.TimeoutExpired:
            process.popen.kill()
            process.popen.wait()
