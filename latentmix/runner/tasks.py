"""Stages and tasks: what an executor runs. Nothing here knows what the items are.

A stage is planned from what is already finished, so every run resumes where an earlier one stopped. A task is one
batch of items. The plan alone decides how items are divided into batches, and every batch is padded to the same size.
So neither the order of work nor an interruption changes the results.
"""

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

Item = TypeVar("Item")
WriteBack = Callable[[], None]  # writes files from results that are already on disk, so another thread may call it
Compute = Callable[[Any, int], WriteBack | None]  # takes what was read, and the number of items to pad it to


@dataclass(frozen=True)
class Task:
    """One batch of a stage.

    A task has two parts: `read` loads its inputs; `compute` runs the networks on them, saves the results, and may
    return a function that writes further files. Only `compute` uses the device, so the executor may call `read` ahead
    of time in another thread.
    """

    number: int  # position among all batches of the stage, finished ones included
    name: str  # unique within the stage
    label: str  # shown beside the progress bar
    items: int
    nfe: int  # number of function evaluations: calls of the diffusion network, summed over the items
    read: Callable[[], Any]
    compute: Callable[[Any], WriteBack | None]


@dataclass
class Stage:
    """The unfinished tasks of one kind, and the number of items that are finished already."""

    name: str
    nfe_per_item: int = 0
    tasks: list[Task] = field(default_factory=list)
    finished: int = 0
    batches: int = 0  # number of batches, finished ones included
    bytes: int = 0  # roughly what the unfinished tasks write to the disk

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
        missing: Collection[Item],
        batch_size: int,
        compute: Compute,
        read: Callable[[Sequence[Item]], Any] = lambda items: items,
        bytes_each: int = 0,
    ) -> None:
        """Divide `items` into batches, and add a task for each batch that contains an item in `missing`.

        `read` loads a batch of items, and `compute` takes what it returns. Each missing item writes `bytes_each`.
        """
        batches = split(items, batch_size)

        def compute_padded(inputs: Any) -> WriteBack | None:
            return compute(inputs, len(batches[0]))

        self.bytes += bytes_each * len(missing)
        for index, batch in enumerate(batches):
            if any(item in missing for item in batch):
                name, count = f"{label} {index}/{len(batches)} of {len(items)}", len(batch)
                nfe = self.nfe_per_item * count
                self.tasks.append(Task(self.batches, name, label, count, nfe, partial(read, batch), compute_padded))
            else:
                self.finished += len(batch)
            self.batches += 1


Plan = Callable[[int], Stage]  # batch size -> stage


def split(items: Sequence[Item], batch_size: int) -> list[Sequence[Item]]:
    """Split `items` into batches of equal size, at most `batch_size`; only the last batch may be smaller."""
    size = math.ceil(len(items) / math.ceil(len(items) / batch_size)) if items else 1
    return [items[start : start + size] for start in range(0, len(items), size)]
