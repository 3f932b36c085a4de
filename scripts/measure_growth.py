"""How time and memory grow with the number of draws, in mixing and in evaluating what was mixed.

    python scripts/measure_growth.py

Draws of N = 16 from a pool of 128 latents of 4 × 8 × 8, `tiny`'s, by the paper's six methods, are regenerated from
their seeds a block at a time; a fixed projection to 64 numbers stands for the networks between a mixture and its
features, and features go into moments that add up. Each number of draws has a process of its own, whose peak memory is
reported; that of the smallest is mostly torch.
"""

import argparse
import json
import resource
import subprocess
import sys
import time

import numpy as np
import torch

from latentmix.experiment.experiment import subset
from latentmix.metrics import Moments, frechet_of_moments
from latentmix.mixing import mixtures

METHODS = ("fix/0", "nin/0", "fix/m", "nin/m", "fix/chm", "nin/chm")
POOL, N, SHAPE, FEATURES, BLOCK = 128, 16, (4, 8, 8), 64, 500


def weights(draws: range) -> torch.Tensor:
    drawn = np.stack([subset(0, "star", draw, POOL)[:N] for draw in draws])
    return torch.zeros(len(draws), POOL).scatter_(1, torch.from_numpy(drawn), 1 / N)


def work(draws: int) -> dict[str, float]:
    """The seconds that so many draws take, and the peak of memory in MiB."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(POOL, *SHAPE, generator=generator) + 0.1
    network = torch.randn(z[0].numel(), FEATURES, generator=generator) / z[0].numel() ** 0.5
    real = Moments.of(z.flatten(1) @ network)
    start = time.perf_counter()
    made: dict[str, Moments] = {}
    for first in range(0, draws, BLOCK):
        w = weights(range(first, min(first + BLOCK, draws)))
        for method, mixed in zip(METHODS, mixtures(z, w, METHODS), strict=True):
            block = Moments.of(mixed.flatten(1) @ network)
            made[method] = made[method] + block if method in made else block
    distances = [frechet_of_moments(moments, real) for moments in made.values()]
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    return {"draws": draws, "seconds": seconds, "MiB": peak, "distance": distances[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--alone", action="store_true", help="Of one number of draws, as JSON, in this process.")
    given = parser.parse_args()
    if given.alone:
        print(json.dumps(work(given.draws[0])))
        return
    print("   draws   seconds   µs a draw   peak MiB   Fréchet distance of fix/0")
    for draws in given.draws:
        command = [sys.executable, __file__, "--alone", "--draws", str(draws)]
        of = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        each = of["seconds"] / draws * 1e6
        print(f"{draws:8,} {of['seconds']:9.2f} {each:11.0f} {of['MiB']:10.0f}   {of['distance']:.4f}")


if __name__ == "__main__":
    main()
