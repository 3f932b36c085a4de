"""Time the paper's six methods beside the matrix product that they share.

    python scripts/benchmarks/time_mixing.py

There are 1000 draws at each of seven N, from a pool of 1300 latents of 4 × 64 × 64. The product is W [7000, 1300] @
Z [1300, 16384]; `mixtures` gets the same input. The two are timed in turn, on the same machine. Prints the median time
of each, and the median of their ratios.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from latentmix.mixing import mixtures
from latentmix.runner.process import set_up_process

METHODS = ("fix/0", "nin/0", "fix/m", "nin/m", "fix/chm", "nin/chm")
SIZES = (2, 4, 8, 16, 32, 48, 64)


def weights(draws: int, pool: int) -> Tensor:
    rows = torch.zeros(len(SIZES) * draws, pool)
    for row, n in zip(rows, (n for n in SIZES for _ in range(draws)), strict=True):
        row[torch.randperm(pool)[:n]] = 1 / n
    return rows


def seconds(work: Callable[[], object], device: torch.device) -> float:
    def settled() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    start = settled()
    made = work()
    end = settled()
    del made
    return end - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", type=torch.device, default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--repeat", type=int, default=7)
    given = parser.parse_args()
    set_up_process(None)
    torch.manual_seed(0)
    z, w = torch.randn(1300, 4, 64, 64).to(given.device), weights(1000, 1300).to(given.device)
    flat, times = z.flatten(1), []
    for _ in range(given.repeat + 1):  # the first warms up
        pair = seconds(lambda: w @ flat, z.device), seconds(lambda: mixtures(z, w, METHODS), z.device)
        times.append((*pair, pair[1] / pair[0]))
    product, mixing, ratio = (statistics.median(column) for column in zip(*times[1:], strict=True))
    print(
        f"{z.device}, torch {torch.__version__}: {product:.3f} s the product, {mixing:.3f} s six methods, {ratio:.2f} ×"
    )


if __name__ == "__main__":
    main()
