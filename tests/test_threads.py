"""How many threads are used."""

import os
from pathlib import Path

import pytest
import torch

from latentmix import threads
from latentmix.threads import on_all_threads, usable_cores


@pytest.mark.parametrize(
    ("own", "job", "cores"),
    [("max 100000", "max 100000", 8), ("max 100000", "250000 100000", 3), ("50000 100000", "400000 100000", 1)],
)
def test_cores_are_those_of_the_affinity_and_of_the_least_quota_above(
    own: str, job: str, cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "job" / "step").mkdir(parents=True)
    (tmp_path / "job" / "step" / "cpu.max").write_text(f"{own}\n")
    (tmp_path / "job" / "cpu.max").write_text(f"{job}\n")
    (tmp_path / "cgroup").write_text("1:name=systemd:/\n0::/job/step\n")
    quota = threads._quota
    monkeypatch.setattr(threads, "_quota", lambda: quota(tmp_path / "cgroup", tmp_path))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert usable_cores() == cores


def test_without_cgroups_there_is_no_quota(tmp_path: Path) -> None:
    assert threads._quota(tmp_path / "gone", tmp_path) == float("inf")
    (tmp_path / "cgroup").write_text("0::/\n")
    assert threads._quota(tmp_path / "cgroup", tmp_path) == float("inf")


def test_results_come_in_order_and_an_error_goes_through() -> None:
    torch.set_num_threads(2)  # and conftest puts it back
    assert on_all_threads(lambda item: item * 2, range(20)) == list(range(0, 40, 2))
    with pytest.raises(ZeroDivisionError):
        on_all_threads(lambda item: 1 // item, range(20))
