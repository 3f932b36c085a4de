"""`--shard auto`: the shard of this process, from the environment variables of its launcher or scheduler.

LATENTMIX_SHARDS is the number of shards if the scheduler sets none.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from latentmix.errors import UserError
from latentmix.runner.claims import Shard


@dataclass(frozen=True)
class Scheduler:
    """The names of a scheduler's environment variables for the index of a process and the range of indices."""

    name: str
    index: str
    count: str = "LATENTMIX_SHARDS"
    first: str = ""  # the lowest index; 0 without a variable
    last: str = ""  # the highest index
    step: str = ""  # between two indices; 1 without a variable
    alone: bool = False  # index 0 without a count is a single process


# The first one whose index is set is taken, so launchers inside a job come before the job's scheduler.
SCHEDULERS = (
    Scheduler("torchrun", "RANK", "WORLD_SIZE"),
    Scheduler(
        "Slurm's arrays",
        "SLURM_ARRAY_TASK_ID",
        "SLURM_ARRAY_TASK_COUNT",
        "SLURM_ARRAY_TASK_MIN",
        "SLURM_ARRAY_TASK_MAX",
        "SLURM_ARRAY_TASK_STEP",
    ),
    Scheduler("Slurm", "SLURM_PROCID", "SLURM_NTASKS", alone=True),  # a job without srun and without -n has no count
    Scheduler("SkyPilot's jobs", "SKYPILOT_JOB_RANK", "SKYPILOT_NUM_JOBS"),
    Scheduler("SkyPilot's nodes", "SKYPILOT_NODE_RANK", "SKYPILOT_NUM_NODES"),
    Scheduler("Kubernetes", "JOB_COMPLETION_INDEX"),
    Scheduler("PBS", "PBS_ARRAY_INDEX"),
    Scheduler("Torque", "PBS_ARRAYID"),
    Scheduler("SGE", "SGE_TASK_ID", "", "SGE_TASK_FIRST", "SGE_TASK_LAST", "SGE_TASK_STEPSIZE"),
)
LOCAL_RANKS = ("LOCAL_RANK", "SLURM_LOCALID")  # the index of a process among those of its machine


def find_shard(environment: Mapping[str, str] = os.environ) -> Shard:
    """Return the shard of this process. Raises UserError if its index or the number of shards is not known."""
    for scheduler in SCHEDULERS:
        if (index := _number(environment, scheduler.index)) is not None:
            return _shard(scheduler, index, environment)
    names = ", ".join(scheduler.index for scheduler in SCHEDULERS)
    raise UserError(f"--shard auto finds none of the variables {names}; give --shard I/N")


def _shard(scheduler: Scheduler, index: int, environment: Mapping[str, str]) -> Shard:
    count, first, last, step = (
        _number(environment, name) for name in (scheduler.count, scheduler.first, scheduler.last, scheduler.step)
    )
    first, step = first or 0, step or 1
    if last is not None:
        evenly_spaced = (last - first) // step + 1
        if count not in (None, evenly_spaced):  # indices with gaps, so positions can't be computed
            raise UserError(f"{scheduler.name} has {count} indices from {first} to {last}; number them 0-{count - 1}")
        count = evenly_spaced
    if count is None and scheduler.alone and index == 0:
        count = 1
    place = (index - first) // step
    if count is None or place >= count:
        raise UserError(
            f"{scheduler.name} says that this is process {scheduler.index}={index}, but not of how many; number the N "
            f"processes from 0 to N-1, and set {scheduler.count}=N"
        )
    return Shard(place, count)


def local_rank(environment: Mapping[str, str] = os.environ) -> int | None:
    """Return the index of this process among those of its machine; None if no launcher sets it."""
    return next((rank for name in LOCAL_RANKS if (rank := _number(environment, name)) is not None), None)


def _number(environment: Mapping[str, str], name: str) -> int | None:
    text = environment.get(name, "")
    return int(text) if text.isdecimal() else None  # SGE says "undefined" outside of arrays
