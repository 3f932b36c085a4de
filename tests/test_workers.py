"""One worker or several, on the one machine or on many, undisturbed or dying: what a sweep ends with is the same."""

import json
import os
import pickle
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import driver
import pytest
import torch
from driver import Said, invoke, leave_out_pages
from pipelines import SD
from submitit.core.job_environment import SignalHandler
from submitit.core.utils import DelayedSubmission, JobPaths
from submitit.slurm.slurm import SlurmJobEnvironment

from latentmix import compose as compose_module
from latentmix.commands import sweep
from latentmix.commands.shared import session
from latentmix.compose import compose
from latentmix.errors import Terminated, UserError
from latentmix.experiment import stages
from latentmix.experiment.batch_size import shared_batch_size
from latentmix.experiment.experiment import Experiment
from latentmix.experiment.generation import Loaded
from latentmix.experiment.sweep import SWEEP
from latentmix.runner import slurm
from latentmix.runner.claims import Claims, Shard
from latentmix.runner.status import progress, workers

pytestmark = pytest.mark.usefixtures("random_pipelines", "no_figures")

BASE = (
    *SD,
    "data.classes=[star,heart]",
    "n=[2]",
    "methods=[fix/0,fix/chm]",
    "metrics=[fid,clip_distance]",
    "pool=4",
    "draws=4",
    "data.reference=6",
    "steps=2",
    "batch=2",
    "keep=1",
    "name=small",
    "launch.threads=1",  # as in processes of their own: another number of threads rounds otherwise
)
BATCHES = 2 * 3 + 2 * 2 + 4 * 2  # of real images, inverted and generated


def run(outputs: Path, *more: str) -> Said:
    said = invoke("sweep", *BASE, f"outputs={outputs}", *more)
    assert said.code == 0, said.err
    return said


def assert_same(outputs: Path, whole: Path) -> None:
    driver.assert_same(outputs, whole)
    assert (outputs / "small" / "done.json").exists()


def listed(outputs: Path) -> list[str]:
    """What workers say they have done."""
    lists = [path.read_text().split() for path in outputs.glob("small/work/workers/*.done")]
    return [name for names in lists for name in names if not name.startswith(sweep.RESULTS)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The outputs of one worker that nothing disturbed; tests read them and leave them as they are."""
    outputs = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        leave_out_pages(patch)
        run(outputs)
    names = driver.results(outputs)
    assert sum("/features-" in name and name.endswith(".safetensors") for name in names) == 4 * 2 * 2
    assert len(listed(outputs)) == BATCHES
    return outputs


# The command line in processes of their own that work at the same time, forked when all imports are done. One may kill
# itself just after its k-th write of a path that has a word in it. The others begin together, however long each takes
# to get there, and a batch takes so long at least that nobody does all of them while others look away.
DRIVER = """
import json, multiprocessing, os, signal, sys, time
from latentmix import storage as store

where, count, write = "", 0, store.write_atomic

def fatal_write(path, content):
    global count
    write(path, content)
    count -= where in path.as_posix()
    if where and count == 0 and where in path.as_posix():
        os.kill(os.getpid(), signal.SIGKILL)

store.write_atomic = fatal_write  # before it is imported by name
from latentmix import cli, figures, report
from latentmix.runner.claims import Claims
from latentmix.commands import sweep
import diffusers, hydra, open_clip, pandas, pyarrow.parquet, scipy.stats, transformers
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer
figures.draw_run, report.write_report = lambda _: [], lambda runs: runs[0]
begin, beat = Claims._begin, Claims._beat

def begin_together(claims):
    if not where and not claims._thread.is_alive():
        together.wait(600)
    begin(claims)

def slow_beat(claims):
    time.sleep(0.5 if claims.doing else 0)
    beat(claims)

Claims._begin, Claims._beat = begin_together, slow_beat
for orders in json.loads(sys.argv[1]):
    together = multiprocessing.Barrier(sum(not where for _, where, _ in orders))
    for arguments, where, count in orders:
        if (child := os.fork()) == 0:
            sys.argv = ["latentmix", *arguments]
            try:
                cli.main()
            except SystemExit as stop:
                os._exit(stop.code or 0)
            finally:
                os._exit(1)
        if where:  # what it does before it dies does not hang on who is first
            os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    ends = []
    try:
        while True:
            ends.append(os.waitstatus_to_exitcode(os.wait()[1]))
    except ChildProcessError:
        print("ended", *sorted(ends), flush=True)
        print("done", file=sys.stderr, flush=True)
"""
DEATHS = {"none": [("", 0)] * 3, "one": [("cache/latents/", 1), ("", 0), ("", 0)]}  # at which write a shard dies


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, str]]:
    """Return the outputs of shards that ran at the same time, and what they said; those that die do so first."""
    places = {name: tmp_path_factory.mktemp("shards") for name in DEATHS}
    groups = [
        [
            (["sweep", *BASE, f"outputs={places[name]}", "--shard", f"{index}/{len(deaths)}"], *death)
            for index, death in enumerate(deaths)
        ]
        for name, deaths in DEATHS.items()
    ]
    # One thread, so that there are none to be lost in a fork.
    alone = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, json.dumps(groups)], env=alone, capture_output=True, text=True, timeout=900
    )
    ends = [line for line in done.stdout.splitlines() if line.startswith("ended")]
    assert ends == ["ended 0 0 0", "ended -9 0 0"], done.stdout + done.stderr
    return dict(zip(DEATHS, zip(places.values(), done.stderr.split("done\n"), strict=False), strict=True))


def test_three_shards_end_with_the_bytes_of_one(whole: Path, shards: dict[str, tuple[Path, str]]) -> None:
    outputs, _ = shards["none"]
    assert_same(outputs, whole)
    assert len(listed(outputs)) == len(set(listed(outputs))) == BATCHES
    assert len(list(outputs.glob("small/work/workers/*.done"))) == 3  # each of them did something
    assert not [*outputs.glob("small/work/claims/*"), *outputs.glob("small/work/workers/*.json")]


def test_what_a_dead_shard_leaves_is_done_by_the_others(whole: Path, shards: dict[str, tuple[Path, str]]) -> None:
    outputs, said = shards["one"]
    assert_same(outputs, whole)
    assert "is gone; its batch is done by others" in said
    assert BATCHES <= len(listed(outputs)) <= BATCHES + 1


def test_a_shard_whose_others_never_come_does_it_all_and_a_sweep_after_it_has_nothing_left_to_do(
    whole: Path, tmp_path: Path
) -> None:
    run(tmp_path, "--shard", "1/3")
    assert_same(tmp_path, whole)
    for name in ("metrics.csv", "done.json"):
        (tmp_path / "small" / name).unlink()
    before = len(listed(tmp_path))
    said = run(tmp_path)
    assert "generate: all 16 images are there already" in said.err
    assert len(listed(tmp_path)) == before == BATCHES
    assert_same(tmp_path, whole)


def test_results_are_written_once_unless_they_are_missing_or_of_other_settings(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    written, finish = list[str](), sweep.finish

    def count(experiment: Experiment, arguments: Sequence[str]) -> None:
        written.append(experiment.config.name)
        finish(experiment, arguments)

    monkeypatch.setattr(sweep, "finish", count)
    assert "another worker wrote the results" in run(tmp_path, "--shard", "0/2").err
    assert not written
    (tmp_path / "small" / "metrics.csv").unlink()
    run(tmp_path, "--shard", "0/2")
    assert len(written) == 1
    assert_same(tmp_path, whole)
    run(tmp_path, "--shard", "0/2", "metrics=[fid]", "overwrite=true")
    assert len(written) == 2
    run(tmp_path, "--shard", "0/2", "overwrite=true")  # the results there are of other settings
    assert len(written) == 3
    run(tmp_path)  # which always does
    assert len(written) == 4


def test_shards_agree_on_a_batch_and_so_does_who_comes_after(tmp_path: Path) -> None:
    experiment = Experiment(compose([*BASE, "batch=auto", f"outputs={tmp_path}"]))
    for index in range(2):
        with Claims(experiment.config.work, Shard(index, 2)) as claims:
            size = shared_batch_size(experiment, claims).value
            (agreement,) = experiment.config.work.glob("batch-*.json")
            assert size == json.loads(agreement.read_text()) == (32 if index == 0 else 7)
            agreement.write_text("7")
    with Claims(experiment.config.work) as claims:
        assert shared_batch_size(experiment, claims).value == 7


def test_a_batch_that_was_agreed_on_between_look_and_claim_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = Experiment(compose([*BASE, "batch=auto", f"outputs={tmp_path}"]))
    claim = Claims.claim

    def claim_after_another(claims: Claims, name: str) -> bool:
        (claims.folder / f"{name}.json").write_text("7")
        return claim(claims, name)

    late.config.work.mkdir(parents=True)
    monkeypatch.setattr(Claims, "claim", claim_after_another)
    with Claims(late.config.work, Shard(1, 2)) as claims:
        assert shared_batch_size(late, claims).value == 7


def test_shards_go_on_together_when_memory_runs_out_in_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of two are too many for the first; a shard that comes later takes batches of one from the start."""
    invert, sizes = stages._invert, list[int]()

    def small(experiment: Experiment, class_id: str, images: Loaded[str], size: int) -> None:
        sizes.append(size)
        if size > 1:
            raise torch.OutOfMemoryError("no more memory")
        invert(experiment, class_id, images, size)

    monkeypatch.setattr(stages, "_invert", small)
    said = run(tmp_path, "--shard", "0/2")
    assert "going on with 1 images at once" in said.err
    assert sizes == [2] + [1] * 8
    late = Experiment(compose([*BASE, f"outputs={tmp_path}"]))
    with session.joined(late, SWEEP, "sweep", Shard(1, 2)) as executor:
        executor.run(session.plans(late, SWEEP))
    assert executor.batch_size.value == 1 and len(sizes) == 9


@pytest.mark.parametrize("shard", ["3/3", "one"])
def test_a_shard_that_is_none(shard: str) -> None:
    said = invoke("sweep", *BASE, "--shard", shard)
    assert said.code == 2 and f"--shard={shard} is not I/N" in said.err


# Several processes on one machine


def kill_one(outputs: Path, killed: list[int]) -> None:
    """The first worker that is seen inverting."""
    deadline = time.monotonic() + 600
    while not killed and time.monotonic() < deadline:
        for member in workers(outputs / "small" / "work"):
            if member.doing.startswith("invert"):
                killed.append(int(member.name.split("-")[-2]))
                os.kill(killed[0], signal.SIGKILL)
                return
        time.sleep(0.005)


def test_a_worker_of_this_machine_dies_and_its_work_goes_on(whole: Path, tmp_path: Path) -> None:
    killed = list[int]()
    killer = threading.Thread(target=kill_one, args=(tmp_path, killed))
    killer.start()
    said = run(tmp_path, "launch.workers=2")
    killer.join()
    assert killed and "died" in said.err
    assert_same(tmp_path, whole)
    assert BATCHES <= len(listed(tmp_path)) <= BATCHES + 1


def test_workers_that_all_fail_say_why(tmp_path: Path) -> None:
    said = invoke("sweep", *BASE, f"outputs={tmp_path}", "launch.workers=2", "device=nowhere")
    assert said.code == 2
    (line,) = [line for line in said.err.splitlines() if line.startswith("latentmix: error: ")]
    assert "worker 0/2" in line and "device=nowhere can't be used here; give device=auto" in line


def test_more_gpus_than_there_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    said = invoke("sweep", *BASE, f"outputs={tmp_path}", "launch.gpus=2")
    assert said.code == 2 and "launch.gpus=2, and this machine shows 1" in said.err


# How far it is


def test_status_of_a_run_from_its_files(whole: Path) -> None:
    said = invoke("status", str(whole / "small"))
    assert said.code == 0 and "finished" in said.out
    rows = [line.split("│")[1:-1] for line in said.out.splitlines() if line.startswith("│")]
    table = {name.strip(): [int(value) for value in values] for name, *values in rows}
    assert table == {"real images": [12, 0, 0], "invert": [8, 0, 0], "generate": [16, 0, 0]}


def counts(work: Path) -> dict[str, tuple[int, int, int]]:
    """Images of each stage that are finished, running and left."""
    return {stage.stage: (stage.finished, stage.running, stage.left) for stage in progress(work)}


def test_status_tells_what_is_done_running_and_left(tmp_path: Path) -> None:
    made = Experiment(compose([*BASE, f"outputs={tmp_path}"]))
    with session.joined(made, SWEEP, "sweep") as executor:
        claims = executor.claims
        for position, plan in enumerate(session.plans(made, SWEEP)):
            stage = executor._plan(plan)
            executor._record(stage, position)
            if stage.name == "real images":
                first, second, *_ = executor._tasks(stage)
        assert claims.claim(first)
        with claims.holding(first, "real images: star"):
            pass
        assert claims.claim(second)
        found = counts(made.config.work)
        assert found["real images"] == (2, 2, 8)
        assert found["generate"] == (0, 0, 16)
        assert "1 at work" in invoke("status", str(made.config.folder)).out
        claims._stop.set()
        claims._thread.join()
        os.utime(claims._heartbeat_file(claims.name), (1, 1))  # no sign of life since 1970
        lost = invoke("status", str(made.config.folder)).out
        assert "stopped" in lost and f"{claims.name}" in lost and "lost; other workers take over its task" in lost
        found = counts(made.config.work)
        assert found["real images"] == (2, 0, 10)
        claims.release(second)
    assert "stopped" in invoke("status", str(made.config.folder)).out


def test_status_needs_a_run(tmp_path: Path) -> None:
    assert "there is no run" in invoke("status", str(tmp_path / "nothing")).err
    said = invoke("status", str(tmp_path))
    assert said.code == 2 and "has been planned" in said.err


def test_a_run_is_found_by_name_wherever_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATENTMIX_CACHE", str(tmp_path / "user"))
    monkeypatch.chdir(tmp_path)
    for outputs, name in (("there", "one"), ("there", "two"), ("elsewhere", "two")):
        experiment = Experiment(compose([*BASE, f"outputs={outputs}", f"name={name}"]))
        with session.joined(experiment, SWEEP, "sweep") as executor:
            executor.claims.record_stage("invert", {"images": 0, "left": {}})
    monkeypatch.chdir("/")
    assert f"{tmp_path}/there/one: " in invoke("status", "one").out
    line = invoke("status", "two").err
    assert "several runs 'two'" in line and f"{tmp_path}/there/two" in line and f"{tmp_path}/elsewhere/two" in line
    monkeypatch.setenv("LATENTMIX_OUTPUTS", str(tmp_path / "elsewhere"))
    assert f"{tmp_path}/elsewhere/two: " in invoke("status", "two").out
    assert compose([]).outputs == tmp_path / "elsewhere"


def test_status_loads_no_network() -> None:
    code = (
        "import sys; import latentmix.runner.status; print('diffusers' in sys.modules, 'transformers' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600)
    assert done.stdout.split() == ["False", "False"], done.stderr


# Slurm, as far as it goes without one; tests/test_slurm.py has the rest


SBATCH = '#!/bin/sh\ncp "$1" "$0.script"\necho Submitted batch job 4711\n'


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Commands that take whatever is submitted, and leave the script."""
    for name, text in (("sbatch", SBATCH), ("srun", "#!/bin/sh\n")):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return tmp_path


def test_a_job_is_submitted_with_all_that_is_asked_for(cluster: Path) -> None:
    more = ("launch=slurm", "launch.shards=3", "launch.partition=big", "launch.account=ours", "launch.at_once=2")
    wanted = (
        "launch.extra={gres: 'gpu:a100:1', reservation: x, exclusive: true}",
        "launch.timeout_min=90",
        "launch.mem_gb=24",
        "launch.setup=['module load cuda']",
        "launch.qos=low",
    )
    said = run(cluster, *more, *wanted)
    assert "job 4711: 3 shards" in said.out and f"latentmix status {cluster / 'small'}" in said.out
    script = (cluster / "sbatch.script").read_text()
    lines = script.splitlines()
    for line in (
        "--array=0-2%2",
        "--partition=big",
        "--account=ours",
        "--qos=low",
        "--time=90",
        "--mem=24GB",
        "--gres=gpu:a100:1",
        "--reservation=x",
        "--exclusive",
        "--cpus-per-task=4",
        "--requeue",
        "--signal=USR2@120",
        "--job-name=latentmix-small",
    ):
        assert f"#SBATCH {line}" in lines
    assert "module load cuda" in lines
    assert not any("wckey" in line or "gpus-per-node" in line for line in lines)
    (output,) = (line.partition("=")[2] for line in lines if line.startswith("#SBATCH --output="))
    assert Path(output).parent.is_dir()  # or a job that begins before submitit is through can't say anything, and fails
    assert len(list(cluster.glob("small/work/slurm/*.pkl"))) == 3


def test_a_job_takes_the_frozen_config_and_composes_none(
    cluster: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs = cluster / "outputs"
    run(
        outputs,
        "launch=slurm",
        "launch.shards=2",
        "launch.gpus=0",
        "launch.requeue=false",
        "launch.extra={wckey: ours}",
    )
    lines = (cluster / "sbatch.script").read_text().splitlines()
    assert "#SBATCH --no-requeue" in lines and not any("gpus" in line for line in lines)
    assert "#SBATCH --wckey=ours" in lines
    monkeypatch.setattr(compose_module, "compose", None)
    path = sorted(outputs.glob("small/work/slurm/*.pkl"))[0]
    job = pickle.loads(path.read_bytes()).function
    assert isinstance(job, slurm.Job)
    with pytest.raises(Terminated):
        job.checkpoint()
    job()
    assert_same(outputs, whole)


def test_a_job_that_is_stopped_goes_back_into_the_queue_as_it_was() -> None:
    job = slurm.Job("module:function", "config.json", "0/3", requeue=True)
    again = job.checkpoint()
    assert again.function == job


def test_a_job_that_is_not_requeued_leaves_even_from_code_that_catches_errors(tmp_path: Path) -> None:
    """As libraries do while they are imported, which is when a signal that comes early finds them."""
    job = slurm.Job("module:function", "config.json", "0/3", requeue=False)
    delayed = DelayedSubmission(job)
    delayed.set_timeout(60, 3)
    handler = SignalHandler(SlurmJobEnvironment(), JobPaths(tmp_path, job_id="1_0", task_id=0), delayed)
    with pytest.raises(Terminated):
        try:
            handler.checkpoint_and_try_requeue(signal.SIGUSR2)
        except Exception:
            pytest.fail("such code goes on")


def test_slurm_that_is_not_there_or_refuses(cluster: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for does, reason in (
        ("echo 'sbatch: error: invalid partition' >&2; exit 1", "error: invalid partition"),
        ("printf 'sbatch: ' >&2; sleep 0.1; echo 'error: no controller' >&2; exit 1", "error: no controller"),
        ("echo 'no controller'; exit 1", "no controller"),
        ("exit 7", "sbatch said nothing (exit code 7)"),
        ("echo nonsense", 'Could not make sense of sbatch output "nonsense"'),
    ):
        (cluster / "sbatch").write_text(f"#!/bin/sh\n{does}\n")
        said = invoke("sweep", *BASE, f"outputs={cluster}", "launch=slurm", "launch.shards=2")
        assert said.code == 2 and f"Slurm did not take the job: {reason}" in said.err, said.err
    monkeypatch.setenv("PATH", "/nowhere")
    said = invoke("sweep", *BASE, f"outputs={cluster}", "launch=slurm")
    assert said.code == 2 and "sbatch and srun" in said.err


def test_a_time_limit_that_is_all_warning(cluster: Path) -> None:
    said = invoke("sweep", *BASE, f"outputs={cluster}", "launch=slurm", "launch.timeout_min=4")
    assert said.code == 2 and "launch.timeout_min=4 is too short" in said.err and "5 minutes at least" in said.err
    assert not (cluster / "sbatch.script").exists()


def test_a_job_that_has_not_begun_to_listen_is_not_ended_by_a_preemption(cluster: Path) -> None:
    """What srun is to start, with another Python in place of the shard's."""
    run(cluster, "launch=slurm", "launch.shards=2")
    line = (cluster / "sbatch.script").read_text().strip().splitlines()[-1]
    started, _, _ = line[line.index(slurm.IGNORE_SIGNALS) :].partition(" -u -m submitit")
    code = "import os, signal; [os.kill(os.getpid(), s) for s in (signal.SIGTERM, signal.SIGUSR2)]; print('alive')"
    done = subprocess.run([*shlex.split(started), "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "alive\n")


def test_a_job_hears_signals_before_it_loads_torch() -> None:
    code = "import sys; import latentmix.runner.slurm; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600)
    assert done.stdout.strip() == "False", done.stderr


def test_a_frozen_config_that_is_damaged(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json can't be read"):
        sweep.work(tmp_path / "config.json", "0/1")


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (("launch.gpus=2", "launch.workers=2"), "launch.workers"),
        (("launch=slurm", "launch.gpus=2"), "more launch.shards"),
        (("launch.workers=0",), "launch.workers=0"),
        (("launch=slurm", "launch.timeout_min=0"), "launch.timeout_min=0"),
        (("launch=slurm", "launch.extra={mem: 3}"), r"give launch\.mem_gb="),
    ],
)
def test_launches_that_can_not_be(overrides: tuple[str, ...], reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        compose([*BASE, *overrides])
