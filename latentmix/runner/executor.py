"""Run stages: under a progress bar, shared with the other workers of a run, in smaller batches if memory runs out."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from latentmix.errors import STOPPED, Interrupted, OutOfTime, UserError
from latentmix.gpu import is_out_of_memory
from latentmix.profiling import timed
from latentmix.runner.batch_agreement import BatchSize
from latentmix.runner.claims import Claims
from latentmix.runner.console import Show, say, stage_bar
from latentmix.runner.prefetch import Prefetcher
from latentmix.runner.rates import Rates
from latentmix.runner.tasks import Plan, Stage, Task
from latentmix.storage import key


@dataclass
class Executor:
    """One worker of a run."""

    claims: Claims
    batch_size: BatchSize
    rates: Callable[[], Rates]  # called after `begin`, which may turn on compilation, on which rates depend
    settings: object  # JSON of all that results depend on: workers share tasks only if their settings are equal
    before_planning: Callable[[], None] = lambda: None  # finishes what a stopped run left half done
    begin: Callable[[Sequence[Stage]], None] = lambda stages: None  # called with all planned stages before any task
    deadline: float = math.inf  # of time.monotonic; no task is begun after it
    spent: dict[str, tuple[int, float]] = field(default_factory=dict)  # by stage: images of this worker, seconds

    def run(self, plans: Sequence[Plan]) -> None:
        """Run all stages, one after another, each until a plan finds no unfinished tasks, of other workers either."""
        stages = [self._plan(plan) for plan in plans]
        self.begin(stages)
        if self.claims.shard.index == 0:
            for position, stage in enumerate(stages):
                self._record(stage, position)  # so that `latentmix status` knows of all stages from the start
        for position, (plan, stage) in enumerate(zip(plans, stages, strict=True)):
            if self.claims.shard.count > 1 or self.spent:  # something may have changed since it was planned
                stage = self._plan(plan)
            self._record(stage, position)
            if not stage.tasks and stage.finished:
                say(f"{stage.name}: all {stage.finished} images are there already")
            while stage.tasks and not self._finish(stage):
                stage = self._plan(plan)
                self._record(stage, position)

    def _plan(self, plan: Plan) -> Stage:
        """Plan a stage in the batch size that the workers agreed on."""
        self.batch_size.refresh()
        self.claims.done.read_new()  # skip what is listed by now, as the plan finds its results itself
        self.before_planning()
        with timed("planning"):
            return plan(self.batch_size.value)

    def _record(self, stage: Stage, position: int) -> None:
        """Record a plan for `latentmix status`."""
        remaining = {name: task.items for name, task in self._tasks(stage).items()}
        record = {"place": position, "images": stage.items + stage.finished, "left": remaining}
        self.claims.record_stage(stage.name, record)

    def _tasks(self, stage: Stage) -> dict[str, Task]:
        """Return tasks by name. Workers have the same names if and only if their settings are the same."""
        prefix = key([self.settings, self.batch_size.value, stage.name])
        return {key([prefix, task.name]): task for task in stage.tasks}

    def _finish(self, stage: Stage) -> bool:
        """Run the stage. Return True only if this worker ran every task; otherwise the caller must plan again."""
        try:
            return self._run_tasks(stage)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            if self.batch_size.value == 1:
                raise UserError(
                    "not even one image fits into memory; lower model.size, set model.precision=bfloat16, or use a "
                    "device with more memory"
                ) from error
        if self.claims.shard.static:
            raise UserError(
                f"memory ran out, and --static shards must all use the same batch; give all of them batch="
                f"{self.batch_size.value // 2}"
            )
        self.batch_size.halve()  # not within `except`, where the error's frames still hold memory
        say(f"memory ran out; going on with {self.batch_size.value} images at once")
        return False

    def _run_tasks(self, stage: Stage) -> bool:
        remaining, own, work, images, seconds = self._tasks(stage), 0, 0, 0, 0.0
        self._check_time(remaining)
        try:
            with stage_bar(stage) as show, Prefetcher() as prefetcher:
                stop = self.batch_size.refresh  # if another worker halves the batch size, this plan is obsolete
                for task, duration in run_claimed(stage.name, self.claims, remaining, prefetcher, show, stop):
                    own, work, seconds = own + 1, work + (task.nfe or task.items), seconds + duration
                    images += task.items
                    self._check_time(remaining)
                show("", _items(remaining))
        except KeyboardInterrupt as stop:
            raise Interrupted(STOPPED, stop) from None
        if own:
            self.rates().remember(stage, self.batch_size.value, work, seconds)
            self.spent[stage.name] = images, seconds
        return own == len(stage.tasks)

    def _check_time(self, remaining: dict[str, Task]) -> None:
        """Raise OutOfTime if the time is up and tasks remain."""
        if remaining and time.monotonic() > self.deadline:
            raise OutOfTime(f"the time is up, and {len(remaining)} batches of this stage remain")


def run_claimed(
    stage: str,
    claims: Claims,
    remaining: dict[str, Task],
    prefetcher: Prefetcher,
    show: Show,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[tuple[Task, float]]:
    """Run the tasks that this worker claims, until other workers have finished the rest too, or `stop` returns True.

    Yield each task that was run with its duration in seconds. By then its results are on disk, and it is listed as
    done; its image files may still be pending, and any later plan writes them.
    """
    order = claims.order(remaining)
    for name in claims.claim_each(remaining):
        if stop():
            if name is not None:
                claims.release(name)
            return
        if name is None:
            show(f"waiting for {len(remaining)} batches of other workers", _items(remaining))
            continue
        task, start = remaining[name], time.monotonic()
        with claims.holding(name, f"{stage}: {task.label}"):
            show(task.label, _items(remaining))
            inputs = prefetcher.read(task)
            following = next((other for other in order if other in remaining and other != name), None)
            prefetcher.prefetch(None if following is None else remaining[following])
            write_back = task.compute(inputs)
        if write_back is not None:
            prefetcher.write_behind(write_back)
        del remaining[name]
        yield task, time.monotonic() - start


def _items(tasks: dict[str, Task]) -> int:
    return sum(task.items for task in tasks.values())
