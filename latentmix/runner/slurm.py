"""A sweep as an array of Slurm jobs, by submitit: a job for each shard. One that is preempted or out of time goes back
into the queue and, as every run does, goes on where it was.

A job hears signals once submitit has imported this module, so whatever takes long to import is imported inside.
"""

import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentmix.errors import UserError

if TYPE_CHECKING:
    from submitit.core.utils import DelayedSubmission

    from latentmix.config import Config, LaunchConfig

WARNING = 120  # seconds before the end of a job's time at which Slurm tells it, or up to a minute earlier
SHORTEST = 5  # minutes of a job, or the warning leaves it none to work
REQUEUES = 1000  # for want of time, at most
# A signal that says "you are preempted" would end a Python that does not listen yet, and the job would count as failed.
# Ignored, it is followed by the kill at the end of the job's grace, after which Slurm puts the job back itself.
DEAF = """sh -c 'trap "" TERM USR2; exec "$0" "$@"'"""


@dataclass(frozen=True)
class Job:
    """A shard's work, as submitit keeps it: where the config is, and nothing that could be composed anew."""

    config: str
    shard: str
    requeue: bool

    def __call__(self) -> None:
        from latentmix.commands.sweep import work
        from latentmix.runner.claims import Shard

        work(Path(self.config), Shard.parse(self.shard))

    def checkpoint(self) -> "DelayedSubmission | None":
        """What is to be done after a preemption or a time limit: the same; None does not requeue."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self) if self.requeue else None


def submit(config: "Config") -> Iterator[str]:
    """Freeze the config and hand an array of shards to Slurm; lines on what to do next. UserError where it refuses."""
    import submitit
    from submitit.core.utils import FailedJobError

    from latentmix.commands.sweep import freeze

    if shutil.which("sbatch") is None or shutil.which("srun") is None:
        raise UserError("launch=slurm needs Slurm's sbatch and srun, which are not on this machine's PATH")
    launch = config.launch
    if launch.timeout_min < SHORTEST:
        raise UserError(
            f"launch.timeout_min={launch.timeout_min} is too short: Slurm tells a job of its end two to three minutes "
            f"before, and it leaves then; give it {SHORTEST} minutes at least"
        )
    frozen = freeze(replace(config, launch=replace(launch, threads=launch.threads or launch.cpus))).resolve()
    python = f"{DEAF} {shlex.quote(sys.executable)}"
    folder = frozen.parent / "slurm"  # of all jobs: one of its own may come after the job, which can't do without
    executor = submitit.SlurmExecutor(folder, max_num_timeout=REQUEUES, python=python)
    executor.update_parameters(**_parameters(config.name, launch))
    shards = [f"{index}/{launch.shards}" for index in range(launch.shards)]
    try:
        with executor.batch():
            jobs = [executor.submit(Job(str(frozen), shard, launch.requeue)) for shard in shards]
    except (FailedJobError, subprocess.CalledProcessError, OSError) as error:
        raise UserError(f"Slurm did not take the job: {' '.join(str(error).split())}") from error
    number = jobs[0].job_id.partition("_")[0]
    yield f"job {number}: {launch.shards} shards of {config.folder}; what they say is in {folder}"
    yield f"how far it is:  latentmix status {config.folder}"
    yield f"to stop it:     scancel {number}"
    yield "The results are written by the shard that is ready first; the same command without launch= writes them too."


def _parameters(name: str, launch: "LaunchConfig") -> dict[str, Any]:
    """In submitit's words."""
    wanted = {
        "job_name": f"latentmix-{name}",
        "time": launch.timeout_min,
        "partition": launch.partition,
        "account": launch.account,
        "qos": launch.qos,
        "constraint": launch.constraint,
        "cpus_per_task": launch.cpus,
        "gpus_per_node": launch.gpus or None,
        "mem": f"{launch.mem_gb}GB" if launch.mem_gb else None,
        "array_parallelism": launch.at_once,
        "signal_delay_s": WARNING,
        "setup": list(launch.setup) or None,
        "additional_parameters": {"requeue" if launch.requeue else "no-requeue": True},
    }
    return {name: value for name, value in wanted.items() if value is not None}
