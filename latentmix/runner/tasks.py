"""Stages and tasks: what an executor runs. Nothing here knows what the items are.

A stage is planned from what is already finished, so every run resumes where an earlier one stopped. A task is one
batch of items. The plan alone decides how items are divided into batches, and every batch is padded to the same size.
So neither the order of work nor an interruption changes the results.
"""

import math
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

Item = TypeVar("Item")
WriteBack = Callable[[], None]  # writing that may be left to another thread, once the results are safe
Compute = Callable[[Any, int], WriteBack | None]  # what was read, and the size to pad it to


def _identity(items: Sequence[Item]) -> Sequence[Item]:
    return items


@dataclass(frozen=True)
class Task:
    """One batch of a stage.

    A task has two parts: `read` loads its inputs, and `compute` runs the networks and saves their results. Only
    `compute` uses the device, so the executor may call `read` ahead of time in another thread.
    """

    number: int  # position among all batches of the stage, finished ones included
    name: str  # unique within the stage
    label: str  # shown beside the progress bar
    items: int
    nfe: int  # number of function evaluations: calls of the diffusion network, summed over the items
    size: int  # of the padded batch
    read: Callable[[], Any]
    compute_batch: Compute

    def compute(self, inputs: Any) -> WriteBack | None:
        """Run the networks on `inputs` and save the results. Return what is left to write, if anything."""
        return self.compute_batch(inputs, self.size)


@dataclass
class Stage:
    """The unfinished tasks of one kind, and the number of items that are finished already."""

    name: str
    nfe_per_item: int = 0
    tasks: list[Task] = field(default_factory=list)
    finished: int = 0
    batches: int = 0  # so far, finished ones included
    bytes: int = 0  # that the unfinished tasks write to the disk, roughly

    @property
    def items(self) -> int:
        """Return the number of items in unfinished tasks."""
        return sum(task.items for task in self.tasks)

    @property
    def nfe(self) -> int:
        """Return the number of function evaluations that the unfinished tasks need."""
        return sum(task.nfe for task in self.tasks)

    def add(
        self,
        label: str,
        items: Sequence[Item],
        missing: Container[Item],
        batch_size: int,
        compute: Compute,
        read: Callable[[Sequence[Item]], Any] = _identity,
    ) -> None:
        """Divide `items` into batches, and add a task for each batch that contains an item in `missing`."""
        batches = split(items, batch_size)
        for index, batch in enumerate(batches):
            if any(item in missing for item in batch):
                name = f"{label} {index}/{len(batches)} of {len(items)}"
                counts = (len(batch), self.nfe_per_item * len(batch), len(batches[0]))
                self.tasks.append(Task(self.batches, name, label, *counts, partial(read, batch), compute))
            else:
                self.finished += len(batch)
            self.batches += 1


Plan = Callable[[int], Stage]  # batch size -> stage


def split(items: Sequence[Item], batch_size: int) -> list[Sequence[Item]]:
    """Split `items` into batches of equal size, at most `batch_size`; only the last batch may be smaller."""
    size = math.ceil(len(items) / math.ceil(len(items) / batch_size)) if items else 1
    return [items[start : start + size] for start in range(0, len(items), size)]
