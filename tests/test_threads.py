"""How many threads are used."""

import os
from pathlib import Path

import pytest
import torch

from latentmix import threads
from latentmix.threads import on_all_threads, usable_cores


@pytest.mark.parametrize(("quota", "cores"), [("max 100000", 8), ("250000 100000", 3), ("50000 100000", 1), ("", 8)])
def test_cores_are_those_of_the_affinity_and_of_the_quota(
    quota: str, cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpu.max").write_text(quota)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(threads, "CPU_MAX", tmp_path / "cpu.max")
    assert usable_cores() == cores
    monkeypatch.setattr(threads, "CPU_MAX", tmp_path / "gone")
    assert usable_cores() == 8


def test_results_come_in_order_and_an_error_goes_through() -> None:
    torch.set_num_threads(2)  # and conftest puts it back
    assert on_all_threads(lambda item: item * 2, range(20)) == list(range(0, 40, 2))
    with pytest.raises(ZeroDivisionError):
        on_all_threads(lambda item: 1 // item, range(20))
