"""`latentmix sweep`: all stages of a run, by one or several workers, and then its results.

A worker first runs the tasks of its own shard, then those that other workers have not begun. The first one that finds
all tasks done writes the results. For several workers, the config is first frozen: written to the run's folder, from
which all of them read it.
"""

import math
import os
import platform
import subprocess
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.table import Table

from latentmix import checks
from latentmix.commands.shared import rounds, session, tracking
from latentmix.compose import of_a_run
from latentmix.config import Config, result_settings
from latentmix.errors import UserError
from latentmix.experiment.csv_files import three_digits
from latentmix.experiment.experiment import Experiment
from latentmix.experiment.results_table import AVERAGE, Result, evaluate, labels
from latentmix.experiment.sweep import SWEEP
from latentmix.metrics import METRICS
from latentmix.profiling import profiled, timed
from latentmix.runner import job_schedulers, local, slurm
from latentmix.runner.claims import Claims, DoneLists, Shard
from latentmix.runner.console import say, show_profile
from latentmix.runner.progress import is_shown
from latentmix.runner.records import write_record
from latentmix.storage import key, read_json, write_checked_json, write_json

RESULTS = "results"  # prefix of the task that writes them
METRICS_SHOWN = 2  # the first of a run's; metrics.csv has all


def run(config: Config, arguments: Sequence[str], shard: Shard | None, dry_run: bool, profile: bool) -> None:
    """Run a sweep as its config says: here, by several processes of this machine, or by Slurm jobs."""
    launch, config = config.launch, config if shard is None else on_own_gpu(config, job_schedulers.local_rank())
    tracking.require(config)
    if profile and (launch.name == "slurm" or launch.processes > 1):
        raise UserError("--profile measures one process; leave out launch=")
    if shard is not None and shard.static and config.batch == "auto":
        raise UserError("--static shards must all use the same batch; give all of them the same batch=N")
    if dry_run:
        session.report_plan(session.prepare(config), SWEEP)
        return

    if shard is None and launch.name == "slurm":
        for line in slurm.submit(config, partial(freeze, config, arguments), "latentmix.commands.sweep:work"):
            session.say(line)
        return

    def once(config: Config, deadline: float) -> None:
        if shard is None and launch.processes > 1:
            session.refuse_to_overwrite(config)
            local.run(launch, config.work, partial(freeze, config, arguments))
            # What remains is to write the results, or to do what the workers left.
        run_worker(session.prepare(config), arguments, shard, deadline=deadline)

    with profiled() if profile else nullcontext() as taken:
        rounds.run(config, once)
    if taken is not None:
        show_profile(taken)
        path = config.folder / "profile.json"
        write_json(path, {"seconds": taken.seconds, "whole": taken.whole, "in networks": taken.in_networks})
        session.say(str(path))


def parse_shard(text: str | None, static: bool) -> Shard | None:
    """Return the shard for "I/N" or "auto", None for None; raise UserError for anything else."""
    if text is None:
        if static:
            raise UserError("--static needs --shard I/N, or --shard auto")
        return None
    shard = job_schedulers.find_shard() if text == "auto" else Shard.parse(text)
    return replace(shard, static=static)


def on_own_gpu(config: Config, rank: int | None) -> Config:
    """Return the config with the GPU of the process of this rank on this machine, if there are several GPUs."""
    import torch

    if rank is None or config.device not in ("auto", "cuda") or (count := torch.cuda.device_count()) < 2:
        return config
    return replace(config, device=f"cuda:{rank % count}")


def run_worker(
    experiment: Experiment,
    arguments: Sequence[str],
    shard: Shard | None = None,
    results: bool = True,
    deadline: float = math.inf,
) -> None:
    """Run a shard's tasks, and those that others have not begun, until all are done. Then write the results, unless
    another worker does or `results` is False. Raises: OutOfTime at the deadline; no results are written then."""
    session.refuse_to_overwrite(experiment.config)
    began = time.time()
    with session.joined(experiment, SWEEP, "sweep", shard) as executor:
        executor.deadline = deadline
        executor.run(session.plans(experiment, SWEEP))
        if executor.spent:
            write_record(experiment.config.work, began, experiment.device_name, executor.spent)
        if not results:
            return
        claims = executor.claims
        tasks = sorted(name for name in DoneLists(claims.done.folder).read_new() if not name.startswith(RESULTS))
        # the task that writes the results of everything done so far
        task = f"{RESULTS}-{key([result_settings(experiment.config.as_dict()), tasks])}"
        if claims.shard.static and claims.shard.index:
            say("all is done; shard 0 writes the results")
            return
        if claims.shard.count > 1 and not _claim_results(experiment, claims, task):
            say("all is done; another worker wrote the results")
            return
        with claims.holding(task, RESULTS):
            session.refuse_to_overwrite(experiment.config)  # another run of this name may have ended meanwhile
            finish(experiment, arguments)


def _claim_results(experiment: Experiment, claims: Claims, task: str) -> bool:
    """Claim the task that writes the results. Return False if the results are written already."""
    claims.wait_for(task)
    config = experiment.config
    written = rounds.finished_draws(config)
    if written > config.draws or (written == config.draws and task in DoneLists(claims.done.folder).read_new()):
        claims.release(task)
        return False
    return True


def finish(experiment: Experiment, arguments: Sequence[str]) -> None:
    """Write tables, figures, the config, `done.json` and the report, from features in the cache."""
    from latentmix.figures import draw_run
    from latentmix.report import write_report

    with timed("evaluating"):
        results = evaluate(experiment)
    with timed("drawing"):
        figures = draw_run(experiment)
    config, folder = experiment.config.as_dict(), experiment.config.folder
    session.remove_other_latents(experiment.config, "sweep")
    session.write_config(folder, config)
    about = {
        "config": config,
        "arguments": list(arguments),
        "model": experiment.model.identity,
        "inputs": session.inputs(experiment),
        "versions": checks.versions(),
        "python": platform.python_version(),
        "commit": _commit(),
    }
    session.note_folders(experiment, "sweep")
    write_checked_json(folder / "done.json", about)
    with timed("writing the report"):
        report = write_report([str(folder)])
    _show_results(experiment, results, [*figures, report])
    tracking.send(experiment.config, results, figures)


def _commit() -> str | None:
    """Return the commit of latentmix's own repository; None if it was installed without one."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _show_results(experiment: Experiment, results: Sequence[Result], figures: Sequence[Path]) -> None:
    """Print the averages of the first metrics, and where everything is."""
    folder, console = experiment.config.folder, Console(quiet=not is_shown())
    ns = experiment.config.n
    for name, label in list(labels(experiment).items())[:METRICS_SHOWN]:
        rows = [result for result in results if (result.class_id, result.metric) == (AVERAGE, label)]
        title = f"{label}, average over classes ({METRICS[name].direction})"
        table = Table("method", *(f"N = {n}" for n in ns), title=title)
        for method in dict.fromkeys(row.method for row in rows):
            values = {row.n: row.estimate.value for row in rows if row.method == method}
            table.add_row(method, *(three_digits(values[n if n in values else 0]) for n in ns))  # controls have n = 0
        console.print(table)
    for path in (*(folder / name for name in ("metrics.csv", "pairs.csv", "config.yaml")), *figures):
        console.print(str(path), soft_wrap=True, highlight=False, markup=False)


def freeze(config: Config, arguments: Sequence[str], threads: int) -> Path:
    """Write a config with a number of threads into the folder of its run, for its workers. Return the file."""
    frozen = replace(config, launch=replace(config.launch, threads=threads))
    content = {"config": frozen.as_dict(), "arguments": list(arguments)}
    path = config.work / f"config-{key(content)}.json"  # workers of another run of this name may still need theirs
    write_json(path, content)
    return path


def work(frozen: Path, shard: str, results: bool = True) -> None:
    """Run a shard, such as "0/3", of the run whose config `freeze` wrote; raise UserError if it can't be read."""
    content = read_json(frozen)
    if content.keys() != {"config", "arguments"}:
        raise UserError(f"{frozen} can't be read; give the command that started the run again")

    def once(config: Config, deadline: float) -> None:
        run_worker(session.prepare(config), content["arguments"], Shard.parse(shard), results, deadline)

    config = of_a_run(content["config"])
    rounds.run(config, once, _time_spent(config.work) if config.launch.name == "slurm" else 0.0)


def _time_spent(folder: Path) -> float:
    """Return the seconds since this Slurm job first began. The start is kept in `folder`, as a job may be requeued."""
    note = folder / "slurm" / f"began-{os.environ.get('SLURM_JOB_ID')}.json"
    began = read_json(note).get("began")
    if began is None:
        write_json(note, {"began": (began := time.time())})
    return max(0.0, time.time() - began)  # clocks may be set back
