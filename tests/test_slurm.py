"""An array of shards on a real Slurm of one node: two of three are requeued mid-way, and the bytes are those of one
undisturbed run. `make test-slurm` installs what is needed."""

import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cluster import cluster, missing
from driver import invoke

from latentmix import figures, launch, status, sweep
from latentmix.bench import Bench
from latentmix.config import compose
from latentmix.crew import Crew

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
ARRAY = (
    "launch=slurm",
    "launch.shards=3",
    "launch.gpus=0",
    "launch.cpus=1",
    "launch.partition=test",
    "launch.timeout_min=60",  # far from its end, or submitit takes any signal for a time limit
)


@pytest.fixture
def slurm(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with cluster(tmp_path_factory.mktemp("slurm"), cpus=4) as environment:
        monkeypatch.setenv("SLURM_CONF", environment["SLURM_CONF"])
        yield
        subprocess.run(["scancel", "--full", "--user=root"], env=environment, check=True, timeout=60)


def wait_for(what: str, holds: Callable[[], bool], outputs: Path) -> None:
    deadline = time.monotonic() + 900
    while not holds():
        if time.monotonic() > deadline:
            said = [f"{path.name}: {path.read_text()[-1500:]}" for path in outputs.glob("small/work/slurm/*/*.err")]
            pytest.fail(f"waited in vain for {what}\n" + "\n".join(said))
        time.sleep(0.2)


def at_work(outputs: Path) -> dict[str, str]:
    """Of each shard, which process it is at present."""
    return {member.shard: member.name for member in status.workers(outputs / "small" / "work")}


def queue() -> str:
    done = subprocess.run(["squeue", "-h", "-o", "%i %T"], capture_output=True, text=True, check=True, timeout=60)
    return done.stdout


def results(outputs: Path) -> dict[str, bytes]:
    tables = [outputs / "small" / name for name in ("metrics.csv", "pairs.csv", "images.parquet")]
    kept = [path for path in (outputs / "cache").rglob("*") if path.is_file() and path.name != "rates.json"]
    return {path.relative_to(outputs).as_posix(): path.read_bytes() for path in (*tables, *kept)}


def test_shards_that_are_requeued_end_with_the_bytes_of_one(
    slurm: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs, whole = tmp_path / "array", tmp_path / "whole"
    bench = Bench(compose([*SWEEP, f"outputs={outputs}"]))
    batches = {stage.name: list(launch._named(bench, stage)) for stage in (sweep.inversion(bench), generation(bench))}
    with Crew(bench.config.work) as member:  # which holds the others up, so that all are there when two are stopped
        for names in batches.values():
            assert member.claim(names[0])
        said = invoke("sweep", *SWEEP, *ARRAY, f"outputs={outputs}")
        assert said.code == 0, said.err
        job = said.out.split("job ")[1].split(":")[0]
        wait_for("all shards to begin", lambda: {"0/3", "1/3", "2/3"} <= at_work(outputs).keys(), outputs)
        assert "4 at work" in invoke("status", str(outputs / "small")).out
        first = at_work(outputs)

        def is_back(shard: str) -> bool:
            return at_work(outputs).get(shard, first[shard]) != first[shard]

        member.release(batches["invert"][0])
        subprocess.run(["scontrol", "requeue", f"{job}_1"], check=True, timeout=60)
        for signal in ("TERM", "USR2"):  # as preemption does it
            subprocess.run(["scancel", f"--signal={signal}", f"{job}_2"], check=True, timeout=60)
        wait_for("the two to come back", lambda: is_back("1/3") and is_back("2/3"), outputs)
        assert not (outputs / "small" / "metrics.csv").exists()
        member.release(batches["generate"][0])
    wait_for("all shards to end", lambda: not queue(), outputs)
    assert "finished" in invoke("status", str(outputs / "small")).out
    monkeypatch.setattr(figures, "draw_run", lambda _: [])
    assert invoke("sweep", *SWEEP, f"outputs={whole}").code == 0
    assert results(outputs) == results(whole)


def generation(bench: Bench) -> sweep.Stage:
    return sweep.generation(bench, bench.pictures, measure=True)
