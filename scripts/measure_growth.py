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
from dataclasses import dataclass

import numpy as np
import torch

from latentmix.experiment.experiment import subset
from latentmix.mixing import mixtures

METHODS = ("fix/0", "nin/0", "fix/m", "nin/m", "fix/chm", "nin/chm")
POOL, N, SHAPE, FEATURES, BLOCK = 128, 16, (4, 8, 8), 64, 500


@dataclass(frozen=True)
class Moments:
    """Number, mean and centred second moment Σ(x − μ)(x − μ)ᵀ of features. Those of blocks add up to those of all."""

    count: int
    mean: torch.Tensor
    scatter: torch.Tensor

    def __add__(self, other: "Moments") -> "Moments":
        """Combine two blocks as Chan, Golub & LeVeque do, without the cancellation of Σxxᵀ − nμμᵀ."""
        count, difference = self.count + other.count, other.mean - self.mean
        share = other.count / count
        between = self.count * share * torch.outer(difference, difference)
        return Moments(count, self.mean + share * difference, self.scatter + other.scatter + between)

    def root(self) -> torch.Tensor:
        """Return R with RᵀR = Σ, the unbiased covariance."""
        values, vectors = torch.linalg.eigh(self.scatter / (self.count - 1))
        return values.clamp(min=0).sqrt()[:, None] * vectors.T


def moments(features: torch.Tensor) -> Moments:
    x = features.double()
    centred = x - x.mean(0)
    return Moments(len(x), x.mean(0), centred.T @ centred)


def frechet_distance(x: Moments, y: Moments) -> float:
    root_x, root_y = x.root(), y.root()
    overlap = torch.linalg.matrix_norm(root_x @ root_y.T, ord="nuc")
    return ((x.mean - y.mean).square().sum() + root_x.square().sum() + root_y.square().sum() - 2 * overlap).item()


def weights(draws: range) -> torch.Tensor:
    drawn = np.stack([subset(0, "star", draw, POOL)[:N] for draw in draws])
    return torch.zeros(len(draws), POOL).scatter_(1, torch.from_numpy(drawn), 1 / N)


def work(draws: int) -> dict[str, float]:
    """The seconds that so many draws take, and the peak of memory in MiB."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(POOL, *SHAPE, generator=generator) + 0.1
    network = torch.randn(z[0].numel(), FEATURES, generator=generator) / z[0].numel() ** 0.5
    real = moments(z.flatten(1) @ network)
    start = time.perf_counter()
    by_method: dict[str, Moments] = {}
    for first in range(0, draws, BLOCK):
        w = weights(range(first, min(first + BLOCK, draws)))
        for method, mixed in zip(METHODS, mixtures(z, w, METHODS), strict=True):
            block = moments(mixed.flatten(1) @ network)
            by_method[method] = by_method[method] + block if method in by_method else block
    distances = [frechet_distance(mixed, real) for mixed in by_method.values()]
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
        result = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        each = result["seconds"] / draws * 1e6
        print(f"{draws:8,} {result['seconds']:9.2f} {each:11.0f} {result['MiB']:10.0f}   {result['distance']:.4f}")


if __name__ == "__main__":
    main()
