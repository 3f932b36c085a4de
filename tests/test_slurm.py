"""Arrays of shards on a real Slurm of one node, preempted, out of time, told to go, and killed: in the end the bytes
are those of one undisturbed run. `make test-slurm` installs what is needed."""

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cluster import cluster, missing
from driver import assert_same, invoke

from latentmix import figures
from latentmix.commands.shared import session
from latentmix.compose import compose
from latentmix.config import result_settings
from latentmix.experiment.experiment import Experiment
from latentmix.experiment.stages import GENERATE, INVERT
from latentmix.runner.batch_agreement import BatchSize
from latentmix.runner.claims import LOST_AFTER, Claims
from latentmix.runner.executor import Executor
from latentmix.runner.status import workers

pytestmark = [pytest.mark.slurm, pytest.mark.skipif(bool(missing()), reason=missing())]
SWEEP = (
    "data.classes=[star,heart]",
    "n=[2]",
    "methods=[fix/0,fix/chm]",
    "metrics=[fid,clip_distance]",
    "pool=4",
    "draws=6",
    "data.reference=4",
    "steps=3",
    "batch=2",
    "keep=0",
    "name=small",
    "launch.threads=1",
)
ARRAY = ("launch=slurm", "launch.gpus=0", "launch.cpus=1", "launch.partition=test", "launch.timeout_min=60")


@pytest.fixture(scope="module", autouse=True)
def one_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with cluster(tmp_path_factory.mktemp("slurm"), cpus=4) as environment, pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", environment["SLURM_CONF"])
        yield
        subprocess.run(["scancel", "--full", "--user=root"], check=True, timeout=60)
        for _ in range(60):  # or what a failed test left would outlive the cluster
            if not queue():
                break
            time.sleep(0.5)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The outputs of one process that nothing disturbed."""
    outputs = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "draw_run", lambda _: [])
        assert invoke("sweep", *SWEEP, f"outputs={outputs}").code == 0
    return outputs


@pytest.fixture(scope="module")
def dead(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The outputs of two shards that are not requeued: one was told to go, and the other killed."""
    outputs = tmp_path_factory.mktemp("dead")
    with held(outputs):
        job = submit(outputs, "launch.shards=2", "launch.requeue=false")
        wait_for("both shards to begin", lambda: {"0/2", "1/2"} <= at_work(outputs).keys(), outputs)
        preempt_by_hand(f"{job}_0")
        wait_for("the one to leave", lambda: f"{job}_0" not in queue(), outputs)
        subprocess.run(["scancel", "--signal=KILL", f"{job}_1"], check=True, timeout=60)
        wait_for("the other to die", lambda: not queue(), outputs)
    return outputs


@contextmanager
def held(outputs: Path) -> Iterator[Callable[[str], None]]:
    """Be at the first batch of each stage of a run, so that its shards wait; gives what lets a stage go on."""
    experiment = Experiment(compose([*SWEEP, f"outputs={outputs}"]))
    with Claims(experiment.config.work) as member:
        size = BatchSize(int(experiment.config.batch), member, "test", lambda smaller: None)
        settings = result_settings(experiment.config.as_dict())
        executor = Executor(member, size, lambda: session.rates(experiment), settings)
        stages = [plan(size.value) for plan in session.plans(experiment, [INVERT, GENERATE])]
        first = {stage.name: next(iter(executor._tasks(stage))) for stage in stages}
        for name in first.values():
            assert member.claim(name)
        yield lambda stage: member.release(first[stage])
        for name in first.values():
            member.release(name)


def submit(outputs: Path, *more: str) -> str:
    """The number of the job that has the array."""
    said = invoke("sweep", *SWEEP, *ARRAY, f"outputs={outputs}", *more)
    assert said.code == 0, said.err
    return said.out.split("job ")[1].split(":")[0]


def limit(job: str, minutes: int) -> None:
    """The time that Slurm gives it in all, from now on."""
    subprocess.run(["scontrol", "update", f"JobId={job}", f"TimeLimit={minutes}"], check=True, timeout=60)


def preempt_by_hand(job: str) -> None:
    """As clusters do it whose preempt_send_user_signal is on."""
    for signal in ("TERM", "USR2"):
        subprocess.run(["scancel", f"--signal={signal}", job], check=True, timeout=60)


def wait_for(what: str, holds: Callable[[], bool], outputs: Path) -> None:
    deadline = time.monotonic() + 900
    while not holds():
        if time.monotonic() > deadline:
            pytest.fail(f"waited in vain for {what}, with {queue()} in the queue\n{errors(outputs)[-6000:]}")
        time.sleep(0.2)


def errors(outputs: Path, job: str = "*") -> str:
    return "\n".join(path.read_text() for path in sorted(outputs.glob(f"small/work/slurm/{job}_*_log.err")))


def at_work(outputs: Path) -> dict[str, str]:
    """Of each shard, which process it is at present."""
    return {member.shard: member.name for member in workers(outputs / "small" / "work") if not member.lost}


def queue() -> str:
    """Each job of an array on a line of its own."""
    done = subprocess.run(["squeue", "-h", "-r", "-o", "%i"], capture_output=True, text=True, check=True, timeout=60)
    return done.stdout


def test_shards_that_come_and_go_end_with_the_bytes_of_one(
    dead: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """One comes to its time limit, the other is preempted. (`dead` is here to fall silent meanwhile.)"""
    with held(tmp_path) as go_on:
        job, start = submit(tmp_path, "launch.shards=2"), time.monotonic()
        preempted, short = f"{job}_0", f"{job}_1"
        wait_for("both shards to begin", lambda: {"0/2", "1/2"} <= at_work(tmp_path).keys(), tmp_path)
        assert "3 at work" in invoke("status", str(tmp_path / "small")).out
        first = at_work(tmp_path)
        go_on("invert")
        limit(short, minutes=int(time.monotonic() - start) // 60 + 2)  # that is less than a job is warned of
        wait_for("its time to end", lambda: "Caught signal SIGUSR2" in errors(tmp_path, short), tmp_path)
        limit(short, minutes=60)
        subprocess.run(["sbatch", "--partition=urgent", "--exclusive", "--output=/dev/null", "--wrap=:"], check=True)
        whole: Path = request.getfixturevalue("whole")  # made here, where there is nothing but to wait

        def are_back() -> bool:
            now = at_work(tmp_path)
            return all(now.get(shard, first[shard]) != first[shard] for shard in ("0/2", "1/2"))

        wait_for("both to come back", are_back, tmp_path)
        assert "DUE TO PREEMPTION" in errors(tmp_path, preempted)
        assert "DUE TO JOB REQUEUE" in errors(tmp_path, short)
        assert not (tmp_path / "small" / "metrics.csv").exists()
        go_on("generate")
    wait_for("all shards to end", lambda: not queue(), tmp_path)
    assert "finished" in invoke("status", str(tmp_path / "small")).out
    assert_same(tmp_path, whole, but="small/fig")


def test_what_dead_shards_leave_is_done_by_the_same_command(dead: Path, whole: Path) -> None:
    (killed,) = workers(dead / "small" / "work")  # the other took its pulse away
    assert killed.shard == "1/2"
    wait_for("two minutes of silence", lambda: "lost" in invoke("status", str(dead / "small")).out, dead)
    (killed,) = workers(dead / "small" / "work")
    assert killed.silent > LOST_AFTER
    assert "stopped" in invoke("status", str(dead / "small")).out
    submit(dead, "launch.shards=2", "launch.requeue=false")
    wait_for("all shards to end", lambda: not queue(), dead)
    assert "finished" in invoke("status", str(dead / "small")).out
    assert_same(dead, whole, but="small/fig")
