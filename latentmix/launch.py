"""Where and how tasks run: in this process, under a progress bar, with the rates that the next dry run estimates by."""

import ctypes
import ctypes.util
import json
import platform
import sys
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path

import torch
import yaml
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from latentmix import memory
from latentmix.bench import Bench
from latentmix.config import LaunchConfig
from latentmix.errors import Interrupted
from latentmix.evaluate import AVERAGE, Result, labels
from latentmix.metrics import METRICS
from latentmix.spent import Profile, spent
from latentmix.store import key, write, write_json
from latentmix.sweep import Stage

SHOWN = 2  # of a run's metrics, the first; metrics.csv has them all
PACKAGES = ("latentmix", "torch", "diffusers", "transformers", "open_clip_torch", "torchmetrics", "numpy")


def prepare(config: LaunchConfig) -> None:
    """Settings of the process that change speed only."""
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    _keep_freed_memory()


def _keep_freed_memory() -> None:
    """Tell glibc to keep large blocks that were freed: a network frees and asks for the same ones all the time, and
    giving them back to the system in between costs a CPU up to a third of its time."""
    libc = ctypes.util.find_library("c")
    if sys.platform == "linux" and libc is not None:
        mallopt = getattr(ctypes.CDLL(libc), "mallopt", None)
        if mallopt is not None:
            mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
            mallopt(-4, 0)  # M_MMAP_MAX: no block outside the heap


class Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.1f} images/s", style="progress.data.speed")


def run(bench: Bench, plan: Callable[[Bench], Stage]) -> None:
    """Do all tasks of a stage; where memory runs out, what is left of it in batches of half the size."""
    while True:
        try:
            with spent("planning"):
                stage = plan(bench)
            return _run(bench, stage)
        except Exception as error:
            if not memory.is_short_of_memory(error):
                raise
        memory.shrink(bench)  # out here, where the error and all that its frames hold are gone
        Console(stderr=True).print(f"memory ran out; going on with {bench.batch} images at once")


def _run(bench: Bench, stage: Stage) -> None:
    console = Console(stderr=True)
    if not stage.tasks and not stage.cached:
        return
    if not stage.tasks:
        console.print(f"{stage.name}: all {stage.cached} images are there already")
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Rate(), TimeRemainingColumn())
    start = time.monotonic()
    with Progress(*columns, TextColumn("{task.fields[what]}"), console=console, speed_estimate_period=120) as bar:
        done = bar.add_task(stage.name, total=stage.images + stage.cached, completed=stage.cached, what="")
        try:
            for task in stage.tasks:
                bar.update(done, what=task.label)
                task.run()
                bar.update(done, advance=task.images)
        except KeyboardInterrupt:
            raise Interrupted("stopped; what is finished is kept, and the same command continues from there") from None
        bar.update(done, what="")
    _remember_rate(bench, stage, time.monotonic() - start)


def report(bench: Bench, stages: Sequence[Stage], disk: str) -> None:
    """What a run would do, on the console; `disk` is what its files take, all in all."""
    table = Table("stage", "to do", "done before", "network evaluations", "time")
    for stage in (stage for stage in stages if stage.tasks or stage.cached):
        seconds = _estimate(bench, stage)
        row = (stage.name, f"{stage.images:,}", f"{stage.cached:,}", f"{stage.evaluations:,}")
        table.add_row(*row, "not known yet" if seconds is None else _duration(seconds))
    console = Console()
    console.print(table)
    console.print(
        f"Images; nothing was done. Results would go to {bench.config.folder}, and take about {disk} with the cache.",
        soft_wrap=True,
    )


def conclude(bench: Bench, results: Sequence[Result], pictures: Sequence[Path]) -> None:
    """Write the config and, last, `done.json`; show the averages and say where everything is."""
    config = bench.config
    plain = config.as_dict()
    write(config.folder / "config.yaml", yaml.safe_dump(plain, sort_keys=False).encode())
    versions = {name: metadata.version(name) for name in PACKAGES}
    about = {"config": plain, "model": bench.model.identity, "versions": versions, "python": platform.python_version()}
    write_json(config.folder / "done.json", about)
    console = Console()
    for name, label in list(labels(bench).items())[:SHOWN]:
        of = [result for result in results if (result.class_id, result.metric) == (AVERAGE, label)]
        title = f"{label}, average over classes ({'lower' if METRICS[name].lower else 'higher'} is better)"
        console.print(_averages(of, title, config.n))
    for path in (*(config.folder / name for name in ("metrics.csv", "pairs.csv", "config.yaml")), *pictures):
        console.print(str(path), soft_wrap=True, highlight=False)
    console.print(f"All of it on one page: latentmix report {config.folder}", soft_wrap=True, highlight=False)


def account(bench: Bench, profile: Profile) -> Path:
    """Show where the time went, and leave it in `profile.json`."""
    table = Table("spent on", "seconds", "of it", title=f"{profile.in_networks:.1%} of the time in networks")
    for name, seconds in sorted(profile.seconds.items(), key=lambda item: -item[1]):
        table.add_row(name, f"{seconds:.1f}", f"{seconds / profile.whole:.1%}")
    Console().print(table)
    path = bench.config.folder / "profile.json"
    write_json(path, {"seconds": profile.seconds, "whole": profile.whole, "in networks": profile.in_networks})
    return path


def _averages(results: Sequence[Result], title: str, ns: Sequence[int]) -> Table:
    """A row for each method; a control, whose n is 0, stands beside each N."""
    table = Table("method", *(f"N = {n}" for n in ns), title=title)
    for method in dict.fromkeys(result.method for result in results):
        values = {r.n: r.estimate.value for r in results if r.method == method}
        table.add_row(method, *(f"{values.get(n, values.get(0)):.3f}" for n in ns))
    return table


def _rates_file(bench: Bench) -> Path:
    return bench.config.cache / "rates.json"


def _rate_name(bench: Bench, stage: Stage) -> str:
    device = torch.cuda.get_device_name(bench.device) if bench.device.type == "cuda" else bench.device.type
    return key([stage.name, bench.model.identity, bench.config.model.size, device, bench.batch])


def _rates(bench: Bench) -> dict[str, float]:
    try:
        return json.loads(_rates_file(bench).read_text())
    except (OSError, ValueError):
        return {}


def _cost(stage: Stage) -> int:
    return stage.evaluations or stage.images


def _remember_rate(bench: Bench, stage: Stage, seconds: float) -> None:
    write_json(_rates_file(bench), _rates(bench) | {_rate_name(bench, stage): _cost(stage) / seconds})


def _estimate(bench: Bench, stage: Stage) -> float | None:
    """Seconds, by the rate of the same stage the last time it ran here."""
    rate = _rates(bench).get(_rate_name(bench, stage))
    return 0.0 if not stage.tasks else None if rate is None else _cost(stage) / rate


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {seconds:02} s"
