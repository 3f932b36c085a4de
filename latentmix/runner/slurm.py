"""Run a sweep as an array of Slurm jobs, by submitit: one job for each shard.

A job that is preempted or out of time goes back into the queue, and then continues where it stopped. A job handles
signals only after submitit has imported this module, so slow imports are inside functions.
"""

import importlib
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentmix.errors import Terminated, UserError, retry_lost_rows

if TYPE_CHECKING:
    from submitit.core.utils import DelayedSubmission

    from latentmix.config import Config, LaunchConfig

WARNING_S = 120  # seconds before its end at which Slurm signals a job; it may do so up to a minute earlier
MIN_TIMEOUT = 5  # minutes; in a shorter job the signal would come at once
MAX_TIMEOUTS = 1000  # how often a job that runs out of time is requeued
# A signal of preemption ends a Python process that does not handle it yet, and the job counts as failed. If it is
# ignored until then, Slurm kills the job at the end of its grace time, and requeues it.
IGNORE_SIGNALS = """sh -c 'trap "" TERM USR2; exec "$0" "$@"'"""


@dataclass(frozen=True)
class Job:
    """One shard, as submitit pickles it: the function to call ("module:name"), and its arguments."""

    function: str
    config: str
    shard: str
    requeue: bool

    def __call__(self) -> None:
        module, _, name = self.function.partition(":")
        work = getattr(importlib.import_module(module), name)
        retry_lost_rows(lambda: work(Path(self.config), self.shard))

    def checkpoint(self) -> "DelayedSubmission":
        """Return the same job, to be requeued after a preemption or a time limit.

        Raises: Terminated if it is not to be requeued. submitit would raise a RuntimeError, which code that is running
        might catch, and the job would run until it is killed.
        """
        from submitit.helpers import DelayedSubmission

        if not self.requeue:
            raise Terminated
        return DelayedSubmission(self)


def submit(config: "Config", freeze: Callable[[int], Path], function: str) -> Iterator[str]:
    """Submit an array of jobs that call `function` with the file of the frozen config and their shard.

    `freeze` takes a number of threads, writes the config of workers with as many, and returns its file. Yield lines on
    what to do next; raise UserError if Slurm refuses.
    """
    import submitit
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    if shutil.which("sbatch") is None or shutil.which("srun") is None:
        raise UserError("launch=slurm needs Slurm's sbatch and srun, which are not on this machine's PATH")
    launch = config.launch
    if launch.timeout_min < MIN_TIMEOUT:
        raise UserError(
            f"launch.timeout_min={launch.timeout_min} is too short: Slurm warns a job two to three minutes before its "
            f"end, and the job stops then; give it {MIN_TIMEOUT} minutes at least"
        )
    frozen = freeze(launch.threads or launch.cpus).resolve()
    folder = frozen.parent / "slurm"  # one for all jobs, as submitit may create a folder of a job after its start
    python = f"{IGNORE_SIGNALS} {shlex.quote(sys.executable)}"
    executor = submitit.SlurmExecutor(folder, max_num_timeout=MAX_TIMEOUTS, python=python)
    executor.update_parameters(**_parameters(config.name, launch))
    shards = [f"{index}/{launch.shards}" for index in range(launch.shards)]
    try:
        with executor.batch():
            jobs = [executor.submit(Job(function, str(frozen), shard, launch.requeue)) for shard in shards]
    except (FailedJobError, FailedSubmissionError, subprocess.CalledProcessError, OSError) as error:
        raise UserError(f"Slurm did not take the job: {_reason(error)}") from error
    number = jobs[0].job_id.partition("_")[0]
    yield f"job {number}: {launch.shards} shards of {config.folder}; their output is in {folder}"
    yield f"how far it is:  latentmix status {config.folder}"
    yield f"to stop it:     scancel {number}"
    yield "The results are written by the shard that is ready first; the same command without launch= writes them too."


def _reason(error: Exception) -> str:
    """Return what sbatch wrote to stderr, or else to stdout, in one line; its exit code if it wrote nothing."""
    cause = error.__cause__ if isinstance(error.__cause__, subprocess.CalledProcessError) else error
    written = (getattr(cause, "stderr", None), getattr(cause, "output", None), str(error))
    said = next((" ".join(str(text).split()) for text in written if text), "")
    return said.removeprefix("sbatch: ") or f"sbatch said nothing (exit code {getattr(cause, 'returncode', 'unknown')})"


def _parameters(name: str, launch: "LaunchConfig") -> dict[str, Any]:
    """Return the settings by submitit's names, without submitit's default accounting key (wckey)."""
    extra = launch.extra or {}
    names_gpus = any(name.startswith(("gres", "gpus")) for name in extra)
    parameters = {
        "job_name": f"latentmix-{name}",
        "time": launch.timeout_min,
        **{name: getattr(launch, name) for name in ("partition", "account", "qos", "constraint")},
        "cpus_per_task": launch.cpus,
        "gpus_per_node": None if names_gpus else launch.gpus or None,
        "mem": f"{launch.mem_gb}GB" if launch.mem_gb else None,
        "array_parallelism": launch.at_once,
        "signal_delay_s": WARNING_S,
        "setup": list(launch.setup) or None,
        "additional_parameters": {"requeue" if launch.requeue else "no-requeue": True, **extra},
    }
    return {name: value for name, value in parameters.items() if value is not None} | {"wckey": None}
