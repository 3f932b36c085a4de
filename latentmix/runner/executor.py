"""How tasks run: under a progress bar, shared with other workers at the same run, with the rates that the next dry run
estimates by."""

import ctypes
import ctypes.util
import json
import platform
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
import yaml
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Task as Bar
from rich.table import Table
from rich.text import Text

from latentmix.cache import key, read_json, remove_partial_files, write_atomic, write_json
from latentmix.commands import doctor
from latentmix.config import OF_A_MACHINE, LaunchConfig
from latentmix.errors import STOPPED, Interrupted
from latentmix.experiment import batch_size as memory
from latentmix.experiment.experiment import Experiment
from latentmix.experiment.results import AVERAGE, Result, labels
from latentmix.experiment.stages import Plan, Stage, Task, finish_images
from latentmix.metrics import METRICS
from latentmix.profiling import Profile, timed
from latentmix.runner.claims import POLL, Claims, Shard
from latentmix.runner.prefetch import Prefetcher

SHOWN = 2  # of a run's metrics, the first; metrics.csv has them all
PACKAGES = ("latentmix", "torch", "diffusers", "transformers", "open_clip_torch", "torchmetrics", "numpy")


def prepare(config: LaunchConfig) -> None:
    """Settings of the process: speed, and that 32 bits are 32."""
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    torch.backends.cudnn.conv.fp32_precision = "ieee"  # type: ignore[attr-defined]  # no TF32
    _keep_freed_memory()


def _keep_freed_memory() -> None:
    """Tell glibc to keep large blocks that were freed: a network frees and asks for the same ones all the time, and
    giving them back to the system in between can cost a CPU time."""
    libc = ctypes.util.find_library("c")
    if sys.platform == "linux" and libc is not None:
        mallopt = getattr(ctypes.CDLL(libc), "mallopt", None)
        if mallopt is not None:
            mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
            mallopt(-4, 0)  # M_MMAP_MAX: no block outside the heap


class Rate(ProgressColumn):
    def render(self, task: Bar) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.1f} images/s", style="progress.data.speed")


@contextmanager
def joining(experiment: Experiment, command: str, shard: Shard | None = None) -> Iterator[Claims]:
    """Go to work at a run, beside whoever else does; UserError before that where something needed is missing."""
    with timed("starting"):
        doctor.require(experiment, command)
        experiment.check(images=command in doctor.OF_IMAGES)
        for folder in (experiment.config.cache, experiment.config.folder):
            remove_partial_files(folder)
    with Claims(experiment.config.work, shard) as claims:
        if command != "evaluate":
            settle(experiment, claims)
        yield claims


def work(experiment: Experiment, plans: Sequence[Plan], claims: Claims) -> None:
    """Do the stages of a run, one after the other."""
    if claims.shard.index == 0:
        for place, plan in enumerate(plans):
            _planned(experiment, plan, claims, place)  # for `latentmix status`, which tells what is to come
    for place, plan in enumerate(plans):
        run(experiment, plan, claims, place)


def run(experiment: Experiment, plan: Plan, claims: Claims, place: int = 0) -> None:
    """Do all tasks of a stage, or see others do them, until a plan finds none left."""
    stage = _planned(experiment, plan, claims, place)
    if not stage.tasks and stage.cached:
        Console(stderr=True).print(f"{stage.name}: all {stage.cached} images are there already")
    while stage.tasks and not _done(experiment, stage, claims):
        stage = _planned(experiment, plan, claims, place)


def _done(experiment: Experiment, stage: Stage, claims: Claims) -> bool:
    """Whether all is done; where memory runs out it is not, and goes on in batches of half the size."""
    try:
        return _run(experiment, stage, claims)
    except Exception as error:
        if not memory.is_short_of_memory(error):
            raise
    memory.shrink(experiment)  # out here, where the error and all that its frames hold are gone
    if claims.shard.count > 1 or _agreed(experiment, claims) is not None:
        experiment.batch = min(
            experiment.batch, _agreed(experiment, claims) or experiment.batch
        )  # others may have come to less
        write_json(_agreement(experiment, claims), experiment.batch)
    Console(stderr=True).print(f"memory ran out; going on with {experiment.batch} images at once")
    return False


def settle(experiment: Experiment, claims: Claims) -> None:
    """Set `bench.batch` where the config leaves it to the device: to what the first of several shards came to, since
    bytes depend on it."""
    path = _agreement(experiment, claims)
    while experiment.config.batch == "auto":
        if (agreed := _agreed(experiment, claims)) is not None:
            experiment.batch = agreed
            return
        if claims.shard.count == 1:
            memory.settle(experiment)
            return
        if claims.claim(path.stem):
            with claims.holding(path.stem, "finding out how many images fit into memory"):
                if (
                    _agreed(experiment, claims) is None
                ):  # else another has found out and gone between the look and the claim
                    memory.settle(experiment)
                    write_json(path, experiment.batch)
        else:
            time.sleep(POLL)


def _agreement(experiment: Experiment, claims: Claims) -> Path:
    return (
        claims.folder
        / f"batch-{key([experiment.model.identity, experiment.config.model.size, experiment.config.batch])}.json"
    )


def _agreed(experiment: Experiment, claims: Claims) -> int | None:
    """The batch that the workers at this run have in common, where one was found or ran out of memory."""
    try:
        return int(json.loads(_agreement(experiment, claims).read_text()))
    except (OSError, ValueError, TypeError):
        return None


def _planned(experiment: Experiment, plan: Plan, claims: Claims, place: int) -> Stage:
    """A stage, in the batches agreed upon, and noted for `latentmix status`."""
    experiment.batch = _agreed(experiment, claims) or experiment.batch
    claims.done.read_new()  # whatever is in the lists by now, the plan knows
    finish_images(experiment)
    with timed("planning"):
        stage = plan(experiment)
    left = {name: task.images for name, task in _named(experiment, stage).items()}
    claims.record_stage(stage.name, {"place": place, "images": stage.images + stage.cached, "left": left})
    return stage


def _named(experiment: Experiment, stage: Stage) -> dict[str, Task]:
    """What batches are called among workers: the same in all that have the same settings, and in no others."""
    about = key([settings(experiment.config.as_dict()), experiment.batch, stage.name])
    return {key([about, task.name]): task for task in stage.tasks}


def settings(plain: Mapping[str, Any]) -> dict[str, Any]:
    """What of a config can change a result."""
    return {name: value for name, value in plain.items() if name not in ("name", *OF_A_MACHINE)}


def _run(experiment: Experiment, stage: Stage, claims: Claims) -> bool:
    """Whether all is done and seen to be there; what others did is there for certain when a new plan says so."""
    console, columns = Console(stderr=True), (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    left, own, seconds, total = _named(experiment, stage), list[Task](), 0.0, stage.images + stage.cached
    what = TextColumn("{task.fields[what]}", markup=False)  # as classes may be called anything
    more = (Rate(), TimeRemainingColumn(), what)
    with Progress(*columns, *more, console=console, speed_estimate_period=120) as bar:
        done = bar.add_task(stage.name, total=total, completed=stage.cached, what="")

        def show(what: str) -> None:
            bar.update(done, what=what, completed=total - sum(task.images for task in left.values()))

        try:
            with Prefetcher() as prefetcher:
                for task, took in _shared(stage, claims, left, prefetcher, show):
                    own.append(task)
                    seconds += took
                    if experiment.batch != (_agreed(experiment, claims) or experiment.batch):
                        return False  # memory ran out elsewhere, and the layout is another
        except KeyboardInterrupt as stop:
            raise Interrupted(STOPPED, stop) from None
        show("")
    if own:
        _remember_rate(experiment, replace(stage, tasks=own), seconds)
    return len(own) == len(stage.tasks)


def _shared(
    stage: Stage, claims: Claims, left: dict[str, Task], prefetcher: Prefetcher, show: Callable[[str], None]
) -> Iterator[tuple[Task, float]]:
    """Do what falls to this worker, and see others do the rest: each batch that it did, and the seconds it took. A
    batch is listed when its results are safe; its pictures may still be negatives then, which any later plan develops.
    """
    order = claims.order(left)
    for name in claims.claim_each(left):
        if name is None:
            show(f"waiting for {len(left)} batches of other workers")
            continue
        task, start = left[name], time.monotonic()
        show(task.label)
        with claims.holding(name, f"{stage.name}: {task.label}"):
            needed = prefetcher.read(task)
            prefetcher.prefetch(next((left[later] for later in order if later in left and later != name), None))
            later = task.make(needed)
        if later is not None:
            prefetcher.write_behind(later)
        del left[name]
        yield task, time.monotonic() - start


def report(experiment: Experiment, stages: Sequence[Stage], disk: str) -> None:
    """What a run would do, on the console; `disk` is what its files take, all in all."""
    table = Table("stage", "to do", "done before", "network evaluations", "time")
    for stage in (stage for stage in stages if stage.tasks or stage.cached):
        seconds = _estimate(experiment, stage)
        row = (stage.name, f"{stage.images:,}", f"{stage.cached:,}", f"{stage.evaluations:,}")
        table.add_row(*row, "not known yet" if seconds is None else _duration(seconds))
    console = Console()
    console.print(table)
    console.print(
        f"Images; nothing was done. Results would go to {experiment.config.folder}, and take about {disk} "
        "with the cache.",
        soft_wrap=True,
    )


def conclude(experiment: Experiment, results: Sequence[Result], pictures: Sequence[Path]) -> None:
    """Write the config and, last, `done.json`; show the averages and say where everything is."""
    config = experiment.config
    plain = config.as_dict()
    write_atomic(config.folder / "config.yaml", yaml.safe_dump(plain, sort_keys=False).encode())
    versions = {name: metadata.version(name) for name in PACKAGES}
    about = {
        "config": plain,
        "model": experiment.model.identity,
        "versions": versions,
        "python": platform.python_version(),
    }
    write_json(config.folder / "done.json", about)
    console = Console()
    for name, label in list(labels(experiment).items())[:SHOWN]:
        of = [result for result in results if (result.class_id, result.metric) == (AVERAGE, label)]
        title = f"{label}, average over classes ({'lower' if METRICS[name].lower else 'higher'} is better)"
        console.print(_averages(of, title, config.n))
    for path in (*(config.folder / name for name in ("metrics.csv", "pairs.csv", "config.yaml")), *pictures):
        console.print(str(path), soft_wrap=True, highlight=False)
    console.print(f"All of it on one page: latentmix report {config.folder}", soft_wrap=True, highlight=False)


def account(experiment: Experiment, profile: Profile) -> Path:
    """Show where the time went, and leave it in `profile.json`."""
    table = Table("spent on", "seconds", "of it", title=f"{profile.in_networks:.1%} of the time in networks")
    for name, seconds in sorted(profile.seconds.items(), key=lambda item: -item[1]):
        table.add_row(name, f"{seconds:.1f}", f"{seconds / profile.whole:.1%}")
    Console().print(table)
    path = experiment.config.folder / "profile.json"
    write_json(path, {"seconds": profile.seconds, "whole": profile.whole, "in networks": profile.in_networks})
    return path


def _averages(results: Sequence[Result], title: str, ns: Sequence[int]) -> Table:
    """A row for each method; a control, whose n is 0, stands beside each N."""
    table = Table("method", *(f"N = {n}" for n in ns), title=title)
    for method in dict.fromkeys(result.method for result in results):
        values = {r.n: r.estimate.value for r in results if r.method == method}
        table.add_row(method, *(f"{values.get(n, values.get(0)):.3f}" for n in ns))
    return table


def _rates_file(experiment: Experiment) -> Path:
    return experiment.config.cache / "rates.json"


def _rate_name(experiment: Experiment, stage: Stage) -> str:
    return key(
        [stage.name, experiment.model.identity, experiment.config.model.size, experiment.device_name, experiment.batch]
    )


def _rates(experiment: Experiment) -> dict[str, float]:
    known = read_json(_rates_file(experiment)).items()
    return {name: rate for name, rate in known if isinstance(rate, float) and 1e-9 < rate < 1e9}


def _cost(stage: Stage) -> int:
    return stage.evaluations or stage.images


def _remember_rate(experiment: Experiment, stage: Stage, seconds: float) -> None:
    write_json(_rates_file(experiment), _rates(experiment) | {_rate_name(experiment, stage): _cost(stage) / seconds})


def _estimate(experiment: Experiment, stage: Stage) -> float | None:
    """Seconds, by the rate of the same stage the last time it ran here."""
    rate = _rates(experiment).get(_rate_name(experiment, stage))
    return 0.0 if not stage.tasks else None if rate is None else _cost(stage) / rate


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {seconds:02} s"
