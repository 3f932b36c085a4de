"""Threads: how many this process may use, and a parallel map over them."""

import math
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")
CPU_MAX = Path("/sys/fs/cgroup/cpu.max")


def usable_cores() -> int:
    """Return how many cores this process may use: by its affinity and its container's CPU quota, at least 1.

    `os.cpu_count` counts all cores of the machine; a container or a Slurm job may have fewer.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with suppress(OSError, ValueError):  # cgroup version 2 has "max 100000", or "200000 100000", which is 2 cores
        quota, period = map(int, CPU_MAX.read_text().split())
        cores = min(cores, math.ceil(quota / period))
    return max(1, cores)


def on_all_threads(work: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """Return `work(item)` for each item, in order, computed on all usable cores but on no more than torch may use.

    It saves time for work that releases Python's lock, such as reading, decoding and encoding of images.
    """
    with ThreadPoolExecutor(min(usable_cores(), torch.get_num_threads())) as threads:
        return list(threads.map(work, items))
