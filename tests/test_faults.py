"""Faults over the real command line: after each, the same command gives the bytes of an undisturbed run, or refuses.

LATENTMIX_KILLS says how many runs are killed (`make test-faults` kills 120), and LATENTMIX_SEED which.
"""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import pytest
from driver import assert_same, results
from PIL import Image
from warm import ALONE, Ended, Run, Warm

from latentmix import store

KILLS = int(os.environ.get("LATENTMIX_KILLS", "10"))
SEED = int(os.environ.get("LATENTMIX_SEED", "0"))

BASE = (
    "data.classes=[star,heart]",
    "n=[2,4]",
    "methods=[fix/0,fix/chm]",
    "metrics=[fid,clip_distance]",
    "pool=4",
    "draws=4",
    "data.reference=4",
    "steps=2",
    "batch=2",
    "keep=2",
    "launch.threads=1",
)
ONE = ("n=[2]", "methods=[fix/0]")
SCRIPTS: dict[str, list[list[str]]] = {  # commands that follow one another in the same folder
    "a sweep": [["sweep", *BASE]],
    "pictures first": [["generate", *BASE, *ONE], ["evaluate", *BASE, *ONE]],
    "latents alone": [["mix", *BASE], ["diagnose", *BASE]],
    "images of its own": [["sweep", *BASE, *ONE, "data=synthetic", "data.reference=4"]],
    "to and fro": [["reconstruct", *BASE], ["probe", *BASE, "--offsets", "0,0.4,0.8"]],
}
SHARES = dict.fromkeys(SCRIPTS, 1) | {"a sweep": 3}  # of the kills
STAGES = {  # in which a full suite must have killed at least once
    *(f"sweep.{name}" for name in ("_synthesize", "_measure_real", "_invert", "_mix", "_generate", "_measure_pictures")),
    *("reconstruct._reconstruct", "probe._generate"),
}


@pytest.fixture(scope="module")
def warm() -> Iterator[Warm]:
    process = Warm()
    yield process
    process.close()


@dataclass
class Bed:
    """Where runs of one script are made and disturbed."""

    warm: Warm
    folder: Path
    commands: Sequence[Sequence[str]]
    numbers: Iterator[int] = field(default_factory=count)

    def order(self, outputs: Path, **fault: object) -> Run:
        self.folder.mkdir(exist_ok=True)
        commands = [[*command, f"outputs={outputs}"] for command in self.commands]
        return Run(commands, str(self.folder / f"{next(self.numbers)}.log"), **fault)  # type: ignore[arg-type]

    def run(self, outputs: Path, **fault: object) -> Ended:
        (ended,) = self.warm.run(self.order(outputs, **fault))
        return ended

    def finish(self, outputs: Path) -> Ended:
        ended = self.run(outputs)
        assert ended.code == 0, ended.err
        return ended


@dataclass(frozen=True)
class Whole:
    """An undisturbed run."""

    outputs: Path
    ended: Ended

    @property
    def span(self) -> tuple[float, float]:
        """Seconds in which something happens."""
        times = [when for when, _, _ in self.ended.log]
        return times[0], times[-1]


@pytest.fixture(scope="module")
def wholes(warm: Warm, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Whole]:
    made: dict[str, Whole] = {}

    class Lazily(dict[str, Whole]):
        def __missing__(self, name: str) -> Whole:
            folder = tmp_path_factory.mktemp("whole")
            self[name] = Whole(folder / "outputs", Bed(warm, folder, SCRIPTS[name]).finish(folder / "outputs"))
            return self[name]

    return Lazily(made)


@pytest.fixture
def bed(warm: Warm, tmp_path: Path) -> Bed:
    return Bed(warm, tmp_path / "logs", SCRIPTS["a sweep"])


@pytest.fixture
def whole(wholes: dict[str, Whole]) -> Whole:
    return wholes["a sweep"]


def test_two_undisturbed_runs_are_the_same(bed: Bed, whole: Whole, tmp_path: Path) -> None:
    assert max(Counter(whole.ended.begun()).values()) == 1
    bed.finish(tmp_path / "outputs")
    assert_same(tmp_path / "outputs", whole.outputs)
    assert bed.finish(tmp_path / "outputs").begun() == []


# Killed


def moment(chance: random.Random, whole: Whole, share: float) -> dict[str, object]:
    """When a run is killed: by the clock or at a write, spread over the whole run by `share`, from 0 to 1."""
    first, last = whole.span
    if chance.random() < 0.5:
        return {"after": first + share * (last - first)}
    return {"at": (chance.choice(["midway", "whole", "moved"]), 1 + int(share * whole.ended.written()))}


def assert_little_is_lost(attempts: Sequence[Ended]) -> None:
    """No batch is begun again but that in which its run was killed."""
    for number, attempt in enumerate(attempts):
        again = set(attempt.begun()) & {batch for later in attempts[number + 1 :] for batch in later.begun()}
        assert again <= set(attempt.begun()[-1:])
        assert max(Counter(attempt.begun()).values(), default=1) == 1


@pytest.mark.parametrize("name", SCRIPTS)
def test_runs_killed_at_random_go_on_to_the_same_bytes(
    name: str, warm: Warm, wholes: dict[str, Whole], tmp_path: Path
) -> None:
    chance, whole = random.Random(f"{SEED} {name}"), wholes[name]
    bed, kills = Bed(warm, tmp_path / "logs", SCRIPTS[name]), round(KILLS * SHARES[name] / sum(SHARES.values()))
    killed, places = 0, count()
    attempts, outputs = list[Ended](), tmp_path / "0"
    while killed < kills:
        at = moment(chance, whole, chance.random())
        attempts.append(bed.run(outputs, **at))
        print(f"seed {SEED}, {name}, kill {killed + 1}: {at} -> {attempts[-1].code}, {stage(attempts[-1])}")
        if attempts[-1].code == -signal.SIGKILL:
            killed += 1
            continue
        assert attempts[-1].code == 0, attempts[-1].err  # it was through before its moment came
        assert_whole(attempts, outputs, whole)
        attempts, outputs = [], tmp_path / str(next(places) + 1)
    attempts.append(bed.finish(outputs))
    assert_whole(attempts, outputs, whole)


def assert_whole(attempts: Sequence[Ended], outputs: Path, whole: Whole) -> None:
    assert_same(outputs, whole.outputs)
    assert_little_is_lost(attempts)


def stage(ended: Ended) -> str:
    """What a run was at when it ended."""
    begun = ended.begun()
    return begun[-1].split(" ")[0].removeprefix("latentmix.") if begun else "nothing yet"


@pytest.mark.parametrize("share", [0.2, 0.6, 0.95])
def test_sigterm_ends_a_run_with_a_line(share: float, bed: Bed, whole: Whole, tmp_path: Path) -> None:
    at = {"after": whole.span[0] + share * (whole.span[1] - whole.span[0]), "signal": signal.SIGTERM}
    ended = bed.run(tmp_path / "outputs", **at)
    assert ended.code == 143, ended.err
    assert ended.line() == "latentmix: error: stopped; what is finished is kept, and the same command continues from there"
    assert not list((tmp_path / "outputs").rglob("*.part"))
    again = bed.finish(tmp_path / "outputs")
    assert_whole([ended, again], tmp_path / "outputs", whole)
