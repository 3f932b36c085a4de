"""Threads beside the one that computes: the next batch is read and the last one written while networks are at this one,
so that a fast device does not wait for files.

What is read ahead is a guess, and claims nothing: if another worker takes that batch, it is let go. What is written
behind are pictures whose negatives are safe, of one batch at most.
"""

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from latentmix.experiment.stages import Later, Task
from latentmix.profiling import timed


class Prefetcher:
    def __init__(self) -> None:
        self._reader, self._writer = (ThreadPoolExecutor(1, name) for name in ("reader", "writer"))
        self._ahead: tuple[Task, Future[Any]] | None = None
        self._behind: Future[None] | None = None

    def __enter__(self) -> "Prefetcher":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """What is being written is finished, whatever happened; if nothing else did, its errors come up here."""
        self._reader.shutdown(cancel_futures=True)
        self._writer.shutdown()
        if kind is None:
            self._written()

    def read_ahead(self, task: Task | None) -> None:
        """Begin to read what is likely to be needed next."""
        self._ahead = None if task is None else (task, self._reader.submit(task.read))

    @timed("reading")
    def read(self, task: Task) -> Any:
        """What a task needs, which may be here already; errors of reading come up where it is needed."""
        if self._ahead is not None and self._ahead[0] is task:
            return self._ahead[1].result()
        return task.read()

    def write(self, later: Later) -> None:
        """Do this while the caller goes on; errors of the batch before come up here."""
        self._written()
        self._behind = self._writer.submit(later)

    @timed("writing")
    def _written(self) -> None:
        before, self._behind = self._behind, None
        if before is not None:
            before.result()
