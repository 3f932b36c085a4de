"""Where the time went: sections within sections, other threads, and what a sweep says with --profile."""

import json
import threading
import time
from pathlib import Path

import pytest
from driver import invoke

from latentmix.profiling import NETWORKS, profiled, timed


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that tests set."""
    time_of = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: time_of[0])
    return time_of


def test_the_time_of_an_inner_section_is_its_own(now: list[float]) -> None:
    @timed("VAE")
    def decode() -> None:
        now[0] += 5

    with profiled() as profile:
        now[0] += 1
        with timed("diffusion"):
            now[0] += 10
            decode()
            now[0] += 20
        decode()
        now[0] += 2
    assert profile.seconds == {"other": 3, "diffusion": 30, "VAE": 10}
    assert profile.whole == 43
    assert profile.in_networks == 40 / 43


def test_an_error_leaves_the_section(now: list[float]) -> None:
    with profiled() as profile:
        with pytest.raises(ArithmeticError), timed("mixing"):
            now[0] += 3
            raise ArithmeticError
        now[0] += 4
    assert profile.seconds == {"mixing": 3, "other": 4}


def test_other_threads_are_not_counted_and_disturb_nothing(now: list[float]) -> None:
    def work() -> None:
        with timed("reading"):
            now[0] += 7

    with profiled() as profile, timed("writing"):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert profile.seconds == {"other": 0, "writing": 7}


def test_nothing_is_counted_when_nobody_asks(now: list[float]) -> None:
    with profiled() as profile:
        pass
    with timed("mixing"):
        now[0] += 1
    assert profile.whole == 0 == profile.in_networks


def test_a_sweep_says_where_its_time_went(tmp_path: Path) -> None:
    few = ("data.classes=[star]", "n=[2]", "methods=[fix/0]", "pool=4", "draws=4", "data.reference=4", "steps=2")
    start = time.perf_counter()
    said = invoke("sweep", "--profile", *few, "metrics=[clip_distance]", "launch.threads=1", f"outputs={tmp_path}")
    elapsed = time.perf_counter() - start
    assert said.code == 0, said.err
    profile = json.loads((tmp_path / "tiny-shapes" / "profile.json").read_text())
    assert said.out.splitlines()[-1].endswith("profile.json")
    assert {"diffusion", "VAE", "features", "mixing", "reading", "writing", "planning"} <= profile["seconds"].keys()
    assert 0.5 * elapsed < profile["whole"] <= elapsed
    in_networks = sum(profile["seconds"].get(name, 0) for name in NETWORKS)
    assert profile["in networks"] == pytest.approx(in_networks / profile["whole"])
    assert f"{profile['in networks']:.1%} of the time in networks" in said.out
