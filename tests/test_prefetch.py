"""Files are read and written beside the networks: what is listed is there, errors come up, and nothing else changes."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from latentmix.errors import UserError
from latentmix.runner.claims import Claims, DoneLists, Shard
from latentmix.runner.console import stage_bar
from latentmix.runner.executor import run_claimed
from latentmix.runner.prefetch import Prefetcher
from latentmix.runner.tasks import Stage, Task, WriteBack

PATIENCE = 60.0  # seconds after which a thread that should have come is not waited for


@dataclass
class Work:
    """Batches that do what a test tells them, at a run of their own, and note what they do."""

    folder: Path
    count: int = 3
    shard: Shard = field(default_factory=Shard)
    read: Callable[[int], Any] = lambda number: number
    make: Callable[[int], None] = lambda number: None
    save: Callable[[int], None] = lambda number: None
    log: list[str] = field(default_factory=list)

    def run(self) -> None:
        stage = Stage("work", tasks=[self.task(number) for number in range(self.count)])
        left = {task.name: task for task in stage.tasks}
        with Claims(self.folder, self.shard) as claims, stage_bar(stage) as bar, Prefetcher() as prefetcher:
            for task, _ in run_claimed(stage.name, claims, left, prefetcher, bar):
                self.log.append(f"{task.name} over")

    def task(self, number: int) -> Task:
        def work(needed: Any) -> WriteBack:
            assert needed == number
            self.make(number)
            self.log.append(f"batch{number} made")

            def later() -> None:
                self.save(number)
                self.log.append(f"batch{number} written")

            return later

        return Task(number, f"batch{number}", "label", 1, 1, lambda: self.read(number), work)

    @property
    def listed(self) -> set[str]:
        return DoneLists(self.folder / "workers").read_new()

    @property
    def claimed(self) -> set[str]:
        return {path.name for path in self.folder.glob("claims/*")}


def test_a_batch_is_written_while_the_next_is_made(tmp_path: Path) -> None:
    begun = [threading.Event() for _ in range(3)]

    def save(number: int) -> None:
        assert number == 2 or begun[number + 1].wait(PATIENCE)

    work = Work(tmp_path, make=lambda number: begun[number].set(), save=save)
    work.run()
    assert [line for line in work.log if "written" in line] == ["batch0 written", "batch1 written", "batch2 written"]
    assert work.log.index("batch0 written") < work.log.index("batch1 over")  # never more than one behind


def test_a_batch_is_read_while_the_one_before_is_made(tmp_path: Path) -> None:
    read = [threading.Event() for _ in range(3)]

    def make(number: int) -> None:
        assert number == 2 or read[number + 1].wait(PATIENCE)

    def note(number: int) -> int:
        read[number].set()
        return number

    Work(tmp_path, read=note, make=make).run()


def test_a_batch_is_claimed_until_it_is_made_and_listed_then(tmp_path: Path) -> None:
    seen: list[tuple[bool, bool]] = []

    def look(number: int) -> None:
        name = f"batch{number}"
        seen.append((name in work.claimed, name in work.listed))

    work = Work(tmp_path, make=look)
    work.run()
    assert seen == [(True, False)] * 3
    assert work.listed == {"batch0", "batch1", "batch2"} and not work.claimed


@pytest.mark.parametrize("broken", [0, 2])  # while another is made, and when there is no other
def test_an_error_of_writing_comes_up_and_ends_it(broken: int, tmp_path: Path) -> None:
    def save(number: int) -> None:
        if number == broken:
            raise UserError("the disk is full")

    work = Work(tmp_path, save=save)
    with pytest.raises(UserError, match="the disk is full"):
        work.run()
    assert f"batch{broken} written" not in work.log and not work.claimed
    assert [line for line in work.log if line.endswith("over")][broken + 1 :] == []


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), ArithmeticError()])
def test_what_is_being_written_is_finished_whatever_happens_to_the_next(stop: BaseException, tmp_path: Path) -> None:
    stopped = threading.Event()

    def make(number: int) -> None:
        if number == 1:
            stopped.set()
            raise stop

    work = Work(tmp_path, make=make, save=lambda number: assert_set(stopped))
    with pytest.raises(type(stop)):
        work.run()
    assert work.log[-1] == "batch0 written"
    assert work.listed == {"batch0"} and not work.claimed


def assert_set(event: threading.Event) -> None:
    assert event.wait(PATIENCE)


def test_an_error_of_reading_comes_up_at_its_own_batch(tmp_path: Path) -> None:
    def read(number: int) -> int:
        if number == 1:
            raise UserError("1.png can't be read")
        return number

    work = Work(tmp_path, read=read)
    with pytest.raises(UserError, match=r"1\.png"):
        work.run()
    assert work.listed == {"batch0"} and not work.claimed


def test_what_was_read_in_vain_disturbs_nothing(tmp_path: Path) -> None:
    """Another worker takes the batch that is read ahead, which can't be read."""
    tried = threading.Event()

    def read(number: int) -> int:
        if number == 1:
            tried.set()
            raise UserError("1.png can't be read")
        return number

    def make(number: int) -> None:
        if number == 0:
            assert tried.wait(PATIENCE) and other.claim("batch1")
            with other.holding("batch1", "the same"):
                pass

    with Claims(tmp_path) as other:
        work = Work(tmp_path, read=read, make=make)
        work.run()
    assert [line for line in work.log if "made" in line] == ["batch0 made", "batch2 made"]
    assert work.listed == {"batch0", "batch1", "batch2"} and not work.claimed


def test_a_shard_reads_ahead_what_it_takes_next(tmp_path: Path) -> None:
    """Each batch is read once: no guess is wrong where nobody else is at work."""
    read: list[int] = []

    def note(number: int) -> int:
        read.append(number)
        return number

    Work(tmp_path, 5, Shard(1, 2), read=note).run()
    assert read == [1, 3, 4, 2, 0]
