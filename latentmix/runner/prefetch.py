"""Read the next batch and write the last one in other threads, while the networks compute the current one.

Prefetching takes no claim: if another worker claims the prefetched batch, its data are discarded. Only image files are
written behind, of one batch at most: their pixels are already on disk in a pending file (see `images`).
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any

from latentmix.profiling import timed
from latentmix.runner.tasks import Task


class Prefetcher(AbstractContextManager["Prefetcher"]):
    """One thread that reads and one that writes. Leaving the context waits for the writer."""

    def __init__(self) -> None:
        self._reader, self._writer = (ThreadPoolExecutor(1, name) for name in ("reader", "writer"))
        self._prefetched: tuple[Task, Future[Any]] | None = None
        self._writing: Future[None] | None = None

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Wait for the writer. Raise its error unless another one is being raised."""
        self._reader.shutdown(cancel_futures=True)
        self._writer.shutdown()
        if kind is None:
            self._finish_writing()

    def prefetch(self, task: Task | None) -> None:
        """Start to read what a task needs; None prefetches nothing."""
        self._prefetched = None if task is None else (task, self._reader.submit(task.read))

    @timed("reading")
    def read(self, task: Task) -> Any:
        """Return what a task needs, prefetched or read now. Raises what `task.read` raises."""
        if self._prefetched is not None and self._prefetched[0] is task:
            return self._prefetched[1].result()
        return task.read()

    def write_behind(self, write: Callable[[], None]) -> None:
        """Call `write` in the writing thread, after the previous call has finished. Raises that call's error."""
        self._finish_writing()
        self._writing = self._writer.submit(write)

    @timed("writing")
    def _finish_writing(self) -> None:
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()
