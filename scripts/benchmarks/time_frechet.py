"""Time the Fréchet distance by the nuclear norm, as latentmix computes it, and by scipy's matrix square root.

    python scripts/benchmarks/time_frechet.py

The input is 1000 generated and 1000 real feature vectors of 2048 correlated Gaussian numbers, whose covariances are
singular. With --full, a second comparison has enough vectors for regular covariances, where both values must agree. The
two are timed in turn, on the same machine. Prints the median time of each, their ratio, and the relative difference of
the values.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from scipy.linalg import sqrtm
from torch import Tensor

from latentmix.metrics import frechet_distance


def by_scipy(x: Tensor, y: Tensor) -> float:
    """Return the distance as pytorch-fid computes it, from covariances in float64."""
    a, b = (np.cov(f.numpy(), rowvar=False) for f in (x, y))
    apart = x.numpy().mean(0) - y.numpy().mean(0)
    return float(apart @ apart + np.trace(a) + np.trace(b) - 2 * np.trace(np.real(sqrtm(a @ b))))


def timed(work: Callable[[Tensor, Tensor], float], x: Tensor, y: Tensor) -> tuple[float, float]:
    start = time.perf_counter()
    value = work(x, y)
    return value, time.perf_counter() - start


def compare(n: int, m: int, width: int, repeat: int) -> None:
    spread = torch.randn(width, width, dtype=torch.float64) / width**0.5
    x, y = (
        torch.randn(n, width, dtype=torch.float64) @ spread,
        torch.randn(m, width, dtype=torch.float64) @ spread + 0.1,
    )
    ours, theirs = zip(*((timed(frechet_distance, x, y), timed(by_scipy, x, y)) for _ in range(repeat)), strict=True)
    short, long = (statistics.median(seconds for _, seconds in runs) for runs in (ours, theirs))
    apart = abs(ours[0][0] / theirs[0][0] - 1)
    print(
        f"{n} and {m} × {width}: {short:.2f} s, scipy {long:.2f} s, {long / short:.0f} times as long; apart {apart:.1e}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--full", action="store_true", help="Also 2.5 times as many images as there are dimensions.")
    given = parser.parse_args()
    torch.manual_seed(0)
    compare(1000, 1000, given.width, given.repeat)
    if given.full:
        compare(given.width * 5 // 2, given.width * 5 // 2, given.width, given.repeat)


if __name__ == "__main__":
    main()
