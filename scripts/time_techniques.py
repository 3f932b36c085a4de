"""What each technique saves: images a second with all of them, without each in turn, without any, and compiled.

python scripts/time_techniques.py [KEY=VALUE]... [--rounds N] [--cpu]

Each way has a process of its own, and they take turns, so that all see the same machine; the best round counts.
"""

import argparse
import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import torch
from torch import Tensor

from latentmix import benchmark, launch
from latentmix.bench import Bench
from latentmix.config import compose
from latentmix.models import pipeline, unet, vae


class _Contiguous:
    """torch, but that its channels-last is the usual layout."""

    channels_last = torch.contiguous_format

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


# And what takes each of them away: names, and what they then mean.
TECHNIQUES: dict[str, list[tuple[Any, str, Any]]] = {
    "channels-last": [(unet, "torch", _Contiguous()), (vae, "torch", _Contiguous())],
    "linear layers by oneDNN": [(pipeline, "by_onednn", lambda network: network)],
    "the shared half of guidance": [(unet, "before_the_prompt", lambda network: iter(()))],
    "prompts read once": [(unet, "read_prompts_once", lambda network: None)],
    "divisions by 1 left out": [(unet, "divide_by_no_one", lambda network: None)],
    "freed memory kept": [(launch, "_keep_freed_memory", lambda: None)],
}
WAYS: dict[str, tuple[list[str], list[str]]] = {  # the techniques that are left out, and settings
    "all": ([], []),
    **{f"without {name}": ([name], []) for name in TECHNIQUES},
    "without any": (list(TECHNIQUES), []),
    "all, and compile=true": ([], ["compile=true"]),
    "compile=true alone": (list(TECHNIQUES), ["compile=true"]),
}
_work: Callable[[], Tensor]  # in the process of each way
_device: torch.device


def load(settings: list[str], left_out: list[str]) -> None:
    global _work, _device
    for name in left_out:
        for change in TECHNIQUES[name]:
            setattr(*change)
    config = compose(settings)
    launch.prepare(config.launch)
    bench = Bench(config)
    _work, _device = benchmark._ours(bench), bench.device


def load_plain(settings: list[str]) -> None:
    global _work, _device
    bench = Bench(compose(settings))
    batch = benchmark._batch(bench)
    torch.set_num_threads(batch.threads)
    _work, _device = benchmark.plain(batch), bench.device


def seconds(cpu: bool) -> float:
    """By the clock on the wall, or of the CPU alone, which does not mind who else is at work."""
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
    for name, (left_out, more) in WAYS.items():
        processes[name] = ProcessPoolExecutor(1, spawn, load, ([*settings, *more], left_out))
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
