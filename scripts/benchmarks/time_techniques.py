"""Time each technique of docs/performance.md: none of them, each alone, all, all but each, and the default.

python scripts/benchmarks/time_techniques.py [KEY=VALUE]... [--rounds N] [--cpu]

Each way has a process of its own. They take turns, on the same machine, and the best round counts.
"""

import argparse
import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import torch
from torch import Tensor

from latentmix.commands import bench as benchmark
from latentmix.commands.shared.session import prepare
from latentmix.compose import compose
from latentmix.experiment.experiment import Experiment

TECHNIQUES = {  # the settings that turn each on, and off
    "channels-last": ("speed.channels_last=true", "speed.channels_last=false"),
    "linear layers by oneDNN": ("speed.onednn=true", "speed.onednn=false"),
    "the shared prefix of guidance": ("speed.shared_prefix=true", "speed.shared_prefix=false"),
    "flash attention": ("speed.attention=auto", "speed.attention=math"),
}
COMPILED = "speed.compile=true"


def only(*names: str) -> list[str]:
    """Return the settings that turn these techniques on, and the others off."""
    return [on if name in names else off for name, (on, off) in TECHNIQUES.items()]


WAYS = {
    "none": only(),
    **{f"{name} alone": only(name) for name in TECHNIQUES},
    "compiled alone": [*only(), COMPILED],
    "the default": [],
    "all": only(*TECHNIQUES),
    **{f"all but {name}": only(*(other for other in TECHNIQUES if other != name)) for name in TECHNIQUES},
    "all, and compiled": [*only(*TECHNIQUES), COMPILED],
}
_work: Callable[[], Tensor]  # in the process of each way
_device: torch.device


def load(settings: list[str]) -> None:
    global _work, _device
    experiment = prepare(compose(settings))
    batch = benchmark._batch(experiment, int(experiment.config.batch))
    _work, _device = benchmark._ours(experiment, batch), experiment.device


def load_plain(settings: list[str]) -> None:
    global _work, _device
    experiment = Experiment(compose(settings))
    batch = benchmark._batch(experiment, int(experiment.config.batch))
    torch.set_num_threads(batch.threads)
    _work, _device = benchmark.plain(batch), experiment.device


def seconds(cpu: bool) -> float:
    """Return the time of one batch: by the clock or, if `cpu`, CPU time, which other processes hardly affect."""
    start = time.process_time()
    took = benchmark._seconds(_work, _device)
    return time.process_time() - start if cpu else took


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--cpu", action="store_true", help="count seconds of the CPU, for busy machines and one thread")
    given = parser.parse_args()
    settings = ["batch=32", "steps=20", *given.settings]
    spawn = multiprocessing.get_context("spawn")
    processes: dict[str, Any] = {"diffusers": ProcessPoolExecutor(1, spawn, load_plain, (settings,))}
    for name, more in WAYS.items():
        processes[name] = ProcessPoolExecutor(1, spawn, load, ([*settings, *more],))
    for process in processes.values():
        process.submit(seconds, given.cpu).result()  # loads, compiles and warms up
    times = list[dict[str, float]]()
    for _ in range(given.rounds):
        times.append({name: process.submit(seconds, given.cpu).result() for name, process in processes.items()})
    batch = compose(settings).batch
    best = {name: min(of[name] for of in times) for name in processes}
    print("| | images/s | of diffusers' |\n|---|---|---|")
    for name, took in best.items():
        print(f"| {name} | {int(batch) / took:.1f} | {best['diffusers'] / took:.2f} |")


if __name__ == "__main__":
    main()
