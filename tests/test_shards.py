"""Shards by the variables of schedulers, static shares, and rounds within a budget."""

import contextlib
import itertools
import os
import re
import shlex
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import driver
import pytest
import torch
import yaml
from driver import Said, invoke, leave_out_pages
from pipelines import SD

from latentmix.commands import sweep
from latentmix.commands.shared import rounds, session
from latentmix.compose import compose
from latentmix.errors import OutOfTime, UserError
from latentmix.experiment import draws, stages
from latentmix.experiment.experiment import Experiment
from latentmix.experiment.generation import Loaded
from latentmix.experiment.results_table import read_table
from latentmix.runner import claims as claiming
from latentmix.runner.claims import Shard, StaticClaims
from latentmix.runner.job_schedulers import find_shard, local_rank

pytestmark = pytest.mark.usefixtures("random_pipelines")
EXAMPLES = Path(__file__).parents[1] / "examples" / "cluster"

BASE = (
    *SD,
    *("data.classes=[star]", "n=2", "methods=[fix/0,fix/chm]", "pool=6", "draws=6", "data.reference=6"),
    *("steps=2", "batch=2", "keep=1", "metrics=[clip_distance,fid]", "name=small", "launch.threads=1"),
)


@pytest.fixture(autouse=True, scope="module")
def no_figures() -> Iterator[None]:
    """They take longer than all the rest, and are tested elsewhere."""
    with pytest.MonkeyPatch.context() as patch:
        leave_out_pages(patch)
        yield


def run(outputs: Path, *more: str) -> Said:
    said = invoke("sweep", *BASE, f"outputs={outputs}", *more)
    assert said.code == 0, said.err
    return said


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The outputs of one worker; tests read them and leave them as they are."""
    outputs = tmp_path_factory.mktemp("whole")
    run(outputs)
    return outputs


# Schedulers


@pytest.mark.parametrize(
    ("variables", "shard"),
    [
        ("RANK=3 WORLD_SIZE=8 LOCAL_RANK=1 SLURM_PROCID=0 SLURM_NTASKS=2", "3/8"),
        ("SLURM_ARRAY_TASK_ID=5 SLURM_ARRAY_TASK_COUNT=4 SLURM_ARRAY_TASK_MIN=1 SLURM_ARRAY_TASK_STEP=2", "2/4"),
        ("SLURM_ARRAY_TASK_ID=0 SLURM_ARRAY_TASK_COUNT=8 SLURM_ARRAY_TASK_MIN=0 SLURM_PROCID=0", "0/8"),
        (
            "SLURM_ARRAY_TASK_ID=7 SLURM_ARRAY_TASK_COUNT=4 SLURM_ARRAY_TASK_MIN=1 SLURM_ARRAY_TASK_MAX=8 "
            "SLURM_ARRAY_TASK_STEP=2",
            "3/4",
        ),  # --array=1-8:2, whose highest index is 7
        ("SLURM_PROCID=1 SLURM_NTASKS=2", "1/2"),
        ("SLURM_PROCID=0", "0/1"),  # sbatch without srun and without -n
        ("SKYPILOT_NODE_RANK=1 SKYPILOT_NUM_NODES=2", "1/2"),
        ("SKYPILOT_JOB_RANK=4 SKYPILOT_NUM_JOBS=5 SKYPILOT_NODE_RANK=0 SKYPILOT_NUM_NODES=1", "4/5"),
        ("JOB_COMPLETION_INDEX=2 LATENTMIX_SHARDS=4", "2/4"),
        ("PBS_ARRAY_INDEX=0 LATENTMIX_SHARDS=4", "0/4"),
        ("PBS_ARRAYID=3 LATENTMIX_SHARDS=4", "3/4"),
        ("SGE_TASK_ID=7 SGE_TASK_FIRST=1 SGE_TASK_LAST=8 SGE_TASK_STEPSIZE=2", "3/4"),
    ],
)
def test_a_shard_is_what_the_scheduler_says(variables: str, shard: str) -> None:
    assert str(find_shard(dict(entry.split("=") for entry in variables.split()))) == shard


@pytest.mark.parametrize(
    ("variables", "part"),
    [
        ({}, "give --shard I/N"),
        ({"SGE_TASK_ID": "undefined"}, "give --shard I/N"),
        ({"JOB_COMPLETION_INDEX": "2"}, "number the N processes from 0 to N-1, and set LATENTMIX_SHARDS=N"),
        ({"PBS_ARRAY_INDEX": "4", "LATENTMIX_SHARDS": "4"}, "and set LATENTMIX_SHARDS=N"),
        ({"RANK": "1"}, "and set WORLD_SIZE=N"),
        (
            {f"SLURM_ARRAY_TASK_{name}": n for name, n in (("ID", "0"), ("COUNT", "3"), ("MIN", "0"), ("MAX", "7"))},
            "Slurm's arrays has 3 indices from 0 to 7; number them 0-2",
        ),
    ],
)
def test_what_no_scheduler_says_is_asked_for(variables: dict[str, str], part: str) -> None:
    with pytest.raises(UserError, match=re.escape(part)):
        find_shard(variables)


def test_processes_of_one_machine_take_a_gpu_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [local_rank({"LOCAL_RANK": "1"}), local_rank({"SLURM_LOCALID": "3"}), local_rank({})] == [1, 3, None]
    config = compose([])
    assert [sweep.on_own_gpu(config, rank).device for rank in (None, 0, 1, 2)] == ["auto", "cuda:0", "cuda:1", "cuda:0"]
    assert sweep.on_own_gpu(compose(["device=cpu"]), 1).device == "cpu"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert sweep.on_own_gpu(config, 1).device == "auto"


def test_every_scheduler_has_a_job_file_whose_command_can_be_run() -> None:
    files = {path.name: path.read_text() for path in EXAMPLES.iterdir()}
    assert {"slurm.sh", "torchrun.sh", "kubernetes.yaml", "pbs.sh", "sge.sh", "skypilot.yaml"} <= files.keys()
    for name, text in files.items():
        if name.endswith(".yaml"):
            assert all(isinstance(part, dict) for part in yaml.safe_load_all(text))
        (line,) = [
            line for line in text.replace("\\\n", " ").splitlines() if "latentmix sweep" in line and "--shard" in line
        ]
        words = shlex.split(line.partition("latentmix sweep")[2])
        assert words[words.index("--shard") + 1] == "auto", name
        compose([word for word in words if "=" in word])


# Static shares


class Waiting(Exception):
    """A shard has nothing to do until another one has done its part."""


def test_static_shards_end_with_the_bytes_of_one_and_leave_no_claims(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whenever the first one waits, the second one works until it waits in turn."""
    done: dict[int, set[str]] = {0: set(), 1: set()}
    working, invert = [0], stages._invert

    def noted(experiment: Experiment, class_id: str, images: Loaded[str], size: int) -> None:
        done[working[-1]].update(images.ids)
        invert(experiment, class_id, images, size)

    def work(index: int) -> None:
        config = compose([*BASE, f"outputs={tmp_path}"])
        sweep.run(config, ["sweep"], Shard(index, 2, static=True), False, False)

    def wait(_: float) -> None:
        if working[-1] == 1:
            raise Waiting
        working.append(1)
        with contextlib.suppress(Waiting):
            work(1)
        working.pop()

    monkeypatch.setattr(stages, "_invert", noted)
    monkeypatch.setattr(claiming, "time", SimpleNamespace(sleep=wait))
    work(0)
    driver.assert_same(tmp_path, whole)
    assert (tmp_path / "small" / "done.json").exists() and not (tmp_path / "small" / "work").exists()
    assert done[0] and done[1] and not done[0] & done[1]
    written = (tmp_path / "small" / "done.json").stat().st_mtime_ns
    work(1)  # for which nothing is left to do
    assert (tmp_path / "small" / "done.json").stat().st_mtime_ns == written


def test_a_static_shard_does_its_own_part_and_looks_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claiming, "POLL", 0.0)
    with StaticClaims(tmp_path, Shard(1, 3, static=True)) as claims:
        tasks: dict[str, Any] = {str(number): SimpleNamespace(number=number) for number in range(7)}
        assert list(claims.claim_each(tasks)) == ["1", "4", None]
        assert list(claims.claim_each({"1": tasks["1"]})) == ["1"]
        assert not claims.claim("results")
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("more", "part"),
    [
        (["--static"], "--static needs --shard"),
        (["--static", "--shard", "0/2", "batch=auto"], "the same batch=N"),
    ],
)
def test_static_shards_that_can_not_be(tmp_path: Path, more: list[str], part: str) -> None:
    said = invoke("sweep", *BASE, f"outputs={tmp_path}", *more)
    assert said.code == 2 and part in said.err


def test_memory_that_runs_out_in_a_static_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError("no more memory")

    monkeypatch.setattr(stages, "_invert", fail)
    said = invoke("sweep", *BASE, f"outputs={tmp_path}", "--static", "--shard", "0/1")
    assert said.code == 2 and "give all of them batch=1" in said.err


# Rounds


@pytest.mark.parametrize(
    ("given", "seconds"), [("12h", 43200), ("1h30m", 5400), ("90min", 5400), ("45s", 45), ("1.5d", 129600), ("60", 60)]
)
def test_a_budget_is_a_time(given: str, seconds: float) -> None:
    assert compose([f"budget={given}"]).budget == seconds


@pytest.mark.parametrize("given", ["soon", "0h", "-3h", "12 parsecs"])
def test_a_budget_that_is_none(given: str) -> None:
    with pytest.raises(UserError, match="budget"):
        compose([f"budget={given}"])


def test_rounds_double() -> None:
    assert [part.stop for part in draws.in_rounds(1000)] == [50, 100, 200, 400, 800, 1000]
    assert [*draws.in_rounds(50)] == [slice(0, 50)] and [*draws.in_rounds(8)] == [slice(0, 8)]


def test_further_draws_are_added_to_the_end_of_a_stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a round computes no more than one batch again."""
    streams: dict[int, list[object]] = {50: [], 100: []}
    for count, items in streams.items():
        monkeypatch.setattr(
            "latentmix.runner.tasks.Stage.add", lambda _, __, drawn, *___, items=items: items.extend(drawn)
        )
        experiment = Experiment(compose([*BASE, "pool=64", f"outputs={tmp_path}", f"draws={count}", "controls=[]"]))
        stages.GENERATE.plan(experiment, 8)
    cells = len(experiment.cells.mixed)
    assert len(streams[50]) == 50 * cells and len(streams[100]) == 100 * cells
    size = 50 * len(experiment.cells.of(experiment.classes[0]))
    assert streams[100][:size] == streams[50][:size]


def draws_of(outputs: Path) -> int:
    """The draws of the results."""
    config = yaml.safe_load((outputs / "small" / "config.yaml").read_text())
    assert {r.estimate.count for r in read_table(outputs / "small" / "metrics.csv") if r.n and r.class_id != "all"} == {
        config["draws"]
    }
    return int(config["draws"])


@pytest.fixture
def small_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draws, "FIRST_ROUND", 2)


@pytest.mark.usefixtures("small_rounds")
def test_all_rounds_end_with_the_numbers_of_one_run(whole: Path, tmp_path: Path) -> None:
    run(tmp_path, "budget=1h")
    assert draws_of(tmp_path) == 6
    one, other = (read_table(outputs / "small" / "metrics.csv") for outputs in (tmp_path, whole))
    for a, b in zip(one, other, strict=True):
        assert a.estimate.value == pytest.approx(b.estimate.value, rel=1e-3)


@pytest.mark.usefixtures("small_rounds")
def test_when_the_time_is_up_the_results_are_those_of_the_last_whole_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save, clock, late = stages._save_features, time.monotonic, itertools.count()

    def slow(*arguments: object) -> None:
        """The time is up in the second round, once it has done something."""
        save(*arguments)  # type: ignore[arg-type]
        if finished and next(late) == 0:
            monkeypatch.setattr(time, "monotonic", lambda: clock() + 3600)

    finished = list[int]()
    finish = sweep.finish

    def noted(experiment: Experiment, arguments: list[str]) -> None:
        finish(experiment, arguments)
        finished.append(experiment.config.draws)

    monkeypatch.setattr(stages, "_save_features", slow)
    monkeypatch.setattr(sweep, "finish", noted)
    said = run(tmp_path, "budget=1h")
    assert "the time is up in the round of 4 draws; the results are those of 2 draws" in said.out
    assert finished == [2] and draws_of(tmp_path) == 2
    monkeypatch.setattr(time, "monotonic", clock)
    run(tmp_path, "budget=1h")  # continues, without the first round
    assert finished == [2, 4, 6] and draws_of(tmp_path) == 6
    monkeypatch.setattr(draws, "FIRST_ROUND", 100)
    assert run(tmp_path, "budget=1h").out == ""  # there is nothing left to do
    said = invoke("sweep", *BASE, f"outputs={tmp_path}", "draws=4")
    assert said.code == 2 and "draws=6 there, 4 here" in said.err


def test_no_results_before_the_first_round_is_whole(tmp_path: Path) -> None:
    said = run(tmp_path, "budget=0.001s")
    assert "no round is whole, so there are no results" in said.out
    assert not (tmp_path / "small" / "metrics.csv").exists()


@pytest.mark.usefixtures("small_rounds")
def test_rounds_end_when_intervals_are_narrow(tmp_path: Path) -> None:
    said = run(tmp_path, "until=1000")
    assert draws_of(tmp_path) == 2 and "all intervals are within" in said.out and "by 2 draws" in said.out
    run(tmp_path, "until=0.0001")
    assert draws_of(tmp_path) == 6
    widest = rounds.widest_interval(compose([*BASE, f"outputs={tmp_path}"]))
    rows = [r for r in read_table(tmp_path / "small" / "metrics.csv") if r.metric == "clip_distance_embedded"]
    widths = [(r.estimate.high - r.estimate.low) / 2 / r.estimate.value for r in rows if r.n and r.class_id != "all"]
    assert widest == pytest.approx(max(widths))


@pytest.mark.usefixtures("small_rounds")
def test_a_worker_that_is_late_does_not_write_the_results_of_an_earlier_round(tmp_path: Path) -> None:
    run(tmp_path)
    before = (tmp_path / "small" / "metrics.csv").read_bytes()
    late = compose([*BASE, f"outputs={tmp_path}", "draws=4", "budget=1h"])
    sweep.run_worker(Experiment(late), [], Shard(0, 2))
    assert (tmp_path / "small" / "metrics.csv").read_bytes() == before


@pytest.mark.usefixtures("small_rounds")
def test_shards_and_processes_share_rounds(tmp_path: Path) -> None:
    run(tmp_path / "shard", "budget=1h", "--shard", "1/2")
    assert draws_of(tmp_path / "shard") == 6
    frozen = sweep.freeze(compose([*BASE, f"outputs={tmp_path / 'process'}", "budget=1h"]), ["sweep"], 1)
    sweep.work(frozen, "0/1", results=False)
    assert not (tmp_path / "process" / "small" / "metrics.csv").exists()
    sweep.work(frozen, "0/1")
    assert draws_of(tmp_path / "process") == 6


def test_a_requeued_slurm_job_has_what_is_left_of_its_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = compose([*BASE, f"outputs={tmp_path}", "budget=1h", "launch=slurm"])
    frozen, now, left = sweep.freeze(config, ["sweep"], 1), time.time(), []
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setattr(session, "prepare", lambda config: config)
    monkeypatch.setattr(sweep, "run_worker", lambda *given: left.append(given[-1] - time.monotonic()))
    for later in (0, 1800):
        monkeypatch.setattr(time, "time", lambda later=later: now + later)
        sweep.work(frozen, "0/1")
    monkeypatch.setenv("SLURM_JOB_ID", "8")  # the same command, submitted again
    sweep.work(frozen, "0/1")
    assert left == pytest.approx([3600, 1800, 3600], abs=60)


def test_time_that_is_up_is_no_failure() -> None:
    assert OutOfTime("x").exit_code == 0 and "SLURM_JOB_ID" not in os.environ
