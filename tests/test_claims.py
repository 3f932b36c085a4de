"""Workers share tasks, do none twice, wait for each other, and take over from lost workers."""

import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from latentmix.errors import UserError
from latentmix.runner import claims
from latentmix.runner.claims import Claims, DoneLists, Shard, is_at_work, is_stuck
from latentmix.runner.status import workers


@dataclass(frozen=True)
class Piece:
    number: int


def pieces(count: int) -> dict[str, Any]:
    return {f"piece{number}": Piece(number) for number in range(count)}


def work(member: Claims, remaining: dict[str, Any], do: Callable[[str], None], doing: str = "working") -> int:
    """Work until nothing remains. Return how often the worker waited."""
    waited = 0
    for name in member.claim_each(remaining):
        if name is None:
            waited += 1
            continue
        with member.holding(name, doing):
            do(name)
        del remaining[name]
    return waited


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "POLL", 0.02)
    monkeypatch.setattr(claims, "HEARTBEAT", 0.05)
    monkeypatch.setattr(claims, "LOST_AFTER", 2.0)


@pytest.mark.parametrize("text", ["", "1", "3/3", "-1/3", "1/0", "a/b", "1/3/5", "1.0/3", "/3", "1/"])
def test_a_shard_is_i_of_n(text: str) -> None:
    with pytest.raises(UserError, match=r"0/3, 1/3 and 2/3"):
        Shard.parse(text)
    assert str(Shard.parse("2/3")) == "2/3" and Shard.parse("0/1") == Shard()


def test_a_single_worker_does_all_tasks_in_order(tmp_path: Path) -> None:
    done: list[str] = []
    with Claims(tmp_path) as member:
        assert work(member, pieces(5), done.append) == 0
    assert done == [f"piece{number}" for number in range(5)]
    assert not [*tmp_path.glob("claims/*"), *tmp_path.glob("workers/*.json")]


def test_a_shard_does_its_own_tasks_first_and_then_those_that_others_have_not_begun(tmp_path: Path) -> None:
    done: list[str] = []
    with Claims(tmp_path, Shard(1, 3)) as member:
        work(member, pieces(7), done.append)
    assert done == [f"piece{number}" for number in (1, 4, 6, 5, 3, 2, 0)]


def test_several_workers_do_every_task_once(tmp_path: Path) -> None:
    done: list[str] = []

    def do(name: str) -> None:
        time.sleep(0.002)
        done.append(name)

    def member(index: int) -> None:
        with Claims(tmp_path, Shard(index, 4)) as one:
            work(one, pieces(60), do)

    threads = [threading.Thread(target=member, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Counter(done) == Counter(list(pieces(60)))


def test_a_worker_that_is_ready_waits_for_the_others(tmp_path: Path) -> None:
    with Claims(tmp_path, Shard(0, 2)) as one, Claims(tmp_path, Shard(1, 2)) as other:
        assert one.claim("piece0")
        remaining, done = pieces(2), list[str]()
        waiter = threading.Thread(target=work, args=(other, remaining, done.append))
        waiter.start()
        time.sleep(2.5)  # longer than LOST_AFTER, but the heartbeat goes on
        assert waiter.is_alive() and done == ["piece1"]
        with one.holding("piece0", "long work"):
            pass
        waiter.join(10)
        assert not waiter.is_alive() and done == ["piece1"] and not remaining


def test_a_failed_task_is_not_listed_and_free_for_others(tmp_path: Path) -> None:
    with Claims(tmp_path) as one, Claims(tmp_path) as other:
        assert one.claim("piece0") and not other.claim("piece0")
        with pytest.raises(ZeroDivisionError), one.holding("piece0", "working"):
            raise ZeroDivisionError
        assert not DoneLists(tmp_path / "workers").read_new()
        assert other.claim("piece0")


def test_a_task_listed_before_the_plan_is_done_again_if_the_plan_has_it(tmp_path: Path) -> None:
    done: list[str] = []
    with Claims(tmp_path) as one, Claims(tmp_path) as other:
        work(one, pieces(1), done.append)
        other.done.read_new()
        work(other, pieces(1), done.append)  # planned after the lists were read: its file must have been damaged
    assert done == ["piece0", "piece0"]


def test_a_silent_worker_is_lost_by_the_watchers_own_clock(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """On another machine, whose clock may say anything."""
    with Claims(tmp_path) as member:
        assert member.claim("another")
        heartbeat, claim = tmp_path / "workers" / "elsewhere-1-abcdef.json", tmp_path / "claims" / "piece0"
        claim.write_text(heartbeat.stem)
        for beat in range(3):
            heartbeat.write_text(f'{{"beats": {beat}}}')
            os.utime(heartbeat, (1, 1))
            assert not member.claim("piece0")
            time.sleep(1.1)
        os.utime(heartbeat, (2e9, 2e9))
        assert not member.claim("piece0")
        time.sleep(1.1)
        assert member.claim("piece0")
    assert "elsewhere-1-abcdef is gone" in capfd.readouterr().err


@pytest.fixture
def hung(tmp_path: Path) -> Iterator[Callable[[str], Claims]]:
    """A worker that holds the claim of a task and never ends it, as in a call that hangs, with its heartbeat alive."""
    with ExitStack() as ends:
        go_on = threading.Event()

        def begin(doing: str) -> Claims:
            member = ends.enter_context(Claims(tmp_path, Shard(0, 2)))
            assert member.claim("slow")

            def hang() -> None:
                with member.holding("slow", doing):
                    go_on.wait(60)

            thread = threading.Thread(target=hang)
            thread.start()
            ends.callback(thread.join)
            ends.callback(go_on.set)
            return member

        yield begin


def patience(monkeypatch: pytest.MonkeyPatch, shortest: float, longest: float) -> None:
    monkeypatch.setattr(claims, "SHORTEST_PATIENCE", shortest)
    monkeypatch.setattr(claims, "LONGEST_PATIENCE", longest)


def test_a_task_that_takes_many_times_the_usual_is_done_by_others(
    tmp_path: Path, hung: Callable[[str], Claims], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    patience(monkeypatch, shortest=0.3, longest=60)
    stuck, done = hung("generate: star"), list[str]()
    with Claims(tmp_path, Shard(1, 2)) as member:
        assert work(member, {"slow": Piece(0), "quick": Piece(1)}, done.append, "generate: heart") > 2
        assert done == ["quick", "slow"] and stuck._thread.is_alive()
        time.sleep(0.3)  # a heartbeat later
        (lost,) = [worker for worker in workers(tmp_path) if worker.lost]
        assert lost.name == stuck.name and lost.stuck and lost.silent < 1
    assert f"{stuck.name} makes no progress" in capfd.readouterr().err


def test_a_slow_task_is_not_lost_before_one_of_its_kind_was_done_or_hours_have_passed(
    tmp_path: Path, hung: Callable[[str], Claims], monkeypatch: pytest.MonkeyPatch
) -> None:
    patience(monkeypatch, shortest=0.2, longest=1.0)
    start = time.monotonic()
    stuck = hung("generate: star")
    with Claims(tmp_path, Shard(1, 2)) as member:
        work(member, {"other": Piece(1)}, lambda _: None, "invert: star")  # which says nothing of another kind
        time.sleep(0.5)
        assert not member.claim("slow")
        while not member.claim("slow"):
            time.sleep(0.02)
        assert 1.0 < time.monotonic() - start < 5
    assert stuck.doing == "generate: star"


def test_a_task_is_not_stuck_that_takes_less_than_many_times_the_slowest(tmp_path: Path) -> None:
    """The slowest may have loaded weights or compiled, as the one that is watched may do."""
    (tmp_path / "workers").mkdir()
    beat = {"doing": "generate: star", "seconds": 3000.0}
    for slowest, stuck in ((None, False), (1.0, True), (149.0, True), (151.0, False)):
        other = {"slowest": {"invert": 1.0} | ({} if slowest is None else {"generate": slowest})}
        (tmp_path / "workers" / "other.json").write_text(json.dumps(other))
        assert is_stuck(beat, tmp_path) == stuck
        assert not is_stuck(beat | {"seconds": 1799.0}, tmp_path)
        assert is_stuck(beat | {"seconds": 22000.0}, tmp_path)


def test_a_worker_that_died_on_this_machine_is_lost_at_once(tmp_path: Path) -> None:
    code = f"""
import os, signal
from pathlib import Path
from latentmix.runner.claims import Claims
with Claims(Path({str(tmp_path)!r})) as member:
    member.claim("piece0")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == -9
    assert list(tmp_path.glob("workers/*.json"))
    assert not is_at_work(tmp_path)
    with Claims(tmp_path) as member:
        assert member.claim("piece0") and is_at_work(tmp_path)
        assert [path.stem for path in tmp_path.glob("workers/*.json")] == [member.name]


def test_a_run_is_at_work_while_a_worker_is_alive(tmp_path: Path) -> None:
    assert not is_at_work(tmp_path)
    with Claims(tmp_path) as member:
        assert not is_at_work(tmp_path)
        assert member.claim("piece0") and is_at_work(tmp_path)
    assert not is_at_work(tmp_path)
    heartbeat = tmp_path / "workers" / "elsewhere-1-abcdef.json"
    heartbeat.touch()
    assert is_at_work(tmp_path)
    os.utime(heartbeat, (1, 1))
    assert not is_at_work(tmp_path)


def test_a_claim_without_a_name_expires(tmp_path: Path) -> None:
    with Claims(tmp_path) as member:
        assert member.claim("another")
        (tmp_path / "claims" / "piece0").touch()
        assert not member.claim("piece0")
        time.sleep(2.1)
        assert member.claim("piece0")


def test_lists_are_read_on_from_where_they_were_and_by_whole_lines(tmp_path: Path) -> None:
    lists, path = DoneLists(tmp_path), tmp_path / "one.done"
    assert not lists.read_new()
    path.write_text("a\nb\nc")
    assert lists.read_new() == {"a", "b"}
    assert not lists.read_new()
    with path.open("a") as file:
        file.write("d\n")
    (tmp_path / "other.done").write_text("e\n")
    assert lists.read_new() == {"cd", "e"}
    assert DoneLists(tmp_path, lists.read).read_new() == set()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file.*outputs="), Claims(tmp_path / "file") as member:
        member.claim("piece0")


def test_a_worker_without_claims_writes_nothing(tmp_path: Path) -> None:
    with Claims(tmp_path / "work"):
        pass
    assert not (tmp_path / "work").exists()
