"""Share tasks by their numbers alone, for folders where files can't be created exclusively, such as object stores."""

import time
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from typing import Any

from latentmix.runner.claims import LONGEST_POLL, POLL, Claims
from latentmix.runner.tasks import Task


class StaticClaims(Claims):
    """A worker that does every N-th task, and writes nothing but results: no claims, no heartbeat, no lists.

    Nobody does the tasks of a worker that died. It must be started again, as most schedulers do.
    """

    _pause = POLL  # seconds before the next look at what others have done

    def claim_each(self, remaining: MutableMapping[str, Task]) -> Iterator[str | None]:
        """Yield the names of the shard's own tasks. Wait before returning if those of others remain: the caller then
        looks again at what is there."""
        own = [name for name in self.order(remaining) if self._is_own(remaining[name])]
        yield from own
        if any(not self._is_own(task) for task in remaining.values()):
            yield None
            self._pause = min(2 * self._pause, LONGEST_POLL) if not own else POLL
            time.sleep(self._pause)

    def _is_own(self, task: Task) -> bool:
        return task.number % self.shard.count == self.shard.index

    def claim(self, name: str) -> bool:
        """Return whether this is the shard that does what only one may do, such as writing the results."""
        return self.shard.index == 0

    @contextmanager
    def alone(self, name: str) -> Iterator[None]:
        """Keep nobody out: what several workers do at the same time has the same result."""
        yield

    def release(self, name: str) -> None:
        """Do nothing."""

    @contextmanager
    def holding(self, name: str, doing: str) -> Iterator[None]:
        """Do a task in this context."""
        yield

    def record_stage(self, stage: str, about: Mapping[str, Any]) -> None:
        """Do nothing."""
