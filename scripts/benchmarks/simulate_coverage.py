"""Simulate how often 95 % intervals hold the expected value: the tables of docs/statistics.md.

    python scripts/benchmarks/simulate_coverage.py [--repeats 300] [METRIC ...]

Features are Gaussian in 8 dimensions; there are 200 real images. The expected value is the mean of all repeats. With
300 repeats, the standard error of a coverage of 0.95 is 0.013.
"""

import argparse
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Generator, Tensor

from latentmix.experiment.results_table import over_classes
from latentmix.metrics import METRICS, Estimate, Sample, average, paired

Draw = Callable[[int, Generator], Tensor]  # number and random numbers -> features [n, 8]
Trial = Callable[[int, Generator], tuple[float, Callable[[], Estimate]]]  # -> a value, and how to get its interval

COUNTS = (10, 20, 100)  # draws


def gaussian(shift: float = 0, scale: float = 1) -> Draw:
    """Return a function that draws features at a distance of `shift` from those of real images."""
    return lambda n, rng: scale * torch.randn(n, 8, generator=rng, dtype=torch.float64) + shift * axis(0)


def mush(share: float, spread: float = 0.1) -> Draw:
    """Return a function that draws embeddings near axis 0, and a share of them near axis 1."""

    def draw(n: int, rng: Generator) -> Tensor:
        near = gaussian(0, spread)(n, rng)
        return near + torch.where(torch.rand(n, 1, generator=rng) < share, axis(1), axis(0))

    return draw


def two_groups(far: float) -> Draw:
    """Return a function that draws features like those of real images, and a share of them at a distance of 10."""

    def draw(n: int, rng: Generator) -> Tensor:
        return gaussian()(n, rng) + torch.where(torch.rand(n, 1, generator=rng) < far, 10.0, 0.0) * axis(0)

    return draw


def axis(index: int) -> Tensor:
    """Return a unit vector."""
    return torch.eye(8, dtype=torch.float64)[index]


PLACES = {
    "like real images": gaussian(),
    "2 away": gaussian(2),
    "4 away": gaussian(4),
    "6 away": gaussian(6),
    "far narrower": gaussian(0, 0.3),
    "twice as wide": gaussian(0, 2),
    "four times as wide": gaussian(0, 4),
}
SHARES = {f"{share:.0%} mush": mush(share) for share in (0, 0.02, 0.05, 0.1, 0.2)}
CASES = dict.fromkeys(("precision", "recall", "density", "coverage", "fid", "kid"), PLACES)
CASES["recall"] = PLACES | {f"{far:.0%} of them 10 away": two_groups(far) for far in (0.2, 0.5, 0.8)}
CASES |= dict.fromkeys(("clip_distance", "clip_score", "cmmd"), SHARES)


def real(name: str) -> Tensor:
    """Return the features that a metric compares with."""
    if METRICS[name].of_prompt:
        return axis(0)[None]
    draw = mush(0, 0.15) if CASES[name] is SHARES else gaussian()
    return draw(200, Generator().manual_seed(1))


def sample(name: str, draw: Draw, n: int, rng: Generator) -> Sample:
    """Return a metric of n draws."""
    return METRICS[name].sample(draw(n, rng), real(name))


def of_case(name: str, draw: Draw) -> Trial:
    """Return a trial of a metric in one class."""

    def trial(n: int, rng: Generator) -> tuple[float, Callable[[], Estimate]]:
        one = sample(name, draw, n, rng)
        return one.value, one.interval

    return trial


def of_difference(name: str, a: Draw, b: Draw) -> Trial:
    """Return a trial of the difference of two methods, whose draws have the same random numbers."""

    def trial(n: int, rng: Generator) -> tuple[float, Callable[[], Estimate]]:
        seed = int(torch.randint(1 << 40, (), generator=rng))
        x, y = (sample(name, draw, n, Generator().manual_seed(seed)) for draw in (a, b))
        return x.value - y.value, lambda: paired(x, y).difference

    return trial


def of_two_classes(name: str, a: Draw, b: Draw) -> Trial:
    """Return a trial of the average of two classes, whose interval is over draws."""

    def trial(n: int, rng: Generator) -> tuple[float, Callable[[], Estimate]]:
        both = [sample(name, draw, n, rng) for draw in (a, b)]
        return sum(one.value for one in both) / 2, lambda: average([one.interval() for one in both])

    return trial


def of_five_classes(name: str) -> Trial:
    """Return a trial of the average of five classes at random distances, whose interval is over classes."""

    def trial(n: int, rng: Generator) -> tuple[float, Callable[[], Estimate]]:
        shifts = 2 + torch.randn(5, generator=rng).clamp(-2, 2)
        values = [sample(name, gaussian(float(shift)), n, rng).value for shift in shifts]
        estimates = [Estimate(value, value, value, n) for value in values]
        return sum(values) / 5, lambda: over_classes(estimates).within(METRICS[name].limits)

    return trial


def trials(name: str) -> Mapping[str, Trial]:
    """Return the cases of a metric."""
    draws = CASES[name]
    first, _, third, *_ = draws.values()
    found = {case: of_case(name, draw) for case, draw in draws.items()}
    found["difference of the 1st and 3rd case"] = of_difference(name, first, third)
    found["average of the 1st and 3rd case"] = of_two_classes(name, first, third)
    if draws is not SHARES:
        found["average of 5 classes"] = of_five_classes(name)
    return found


def coverage(trial: Trial, n: int, repeats: int) -> tuple[float, float, float]:
    """Return the share of intervals that hold the expected value, this value, and the mean width of intervals."""
    found = [trial(n, Generator().manual_seed(1000 * n + seed)) for seed in range(repeats)]
    truth = sum(value for value, _ in found) / len(found)
    intervals = [interval() for _, interval in found]
    held = sum(e.low - 1e-12 <= truth <= e.high + 1e-12 for e in intervals)
    return held / repeats, truth, sum(e.high - e.low for e in intervals) / repeats


def rows(names: list[str], repeats: int) -> Iterator[str]:
    """Yield the lines of a table."""
    yield "| metric | case | expected value at n = 20 | n = 10 | n = 20 | n = 100 | mean width at n = 20 |"
    yield "|---|---|---|---|---|---|---|"
    for name in names:
        for case, trial in trials(name).items():
            shares, truths, widths = zip(*(coverage(trial, n, repeats) for n in COUNTS), strict=True)
            shown = " | ".join(f"{share:.2f}" for share in shares)
            yield f"| `{name}` | {case} | {truths[1]:.3g} | {shown} | {widths[1]:.2g} |"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("metrics", nargs="*", metavar="METRIC", help=f"of {', '.join(CASES)}; default all")
    parser.add_argument("--repeats", type=int, default=300)
    given = parser.parse_args()
    torch.set_num_threads(1)
    for line in rows(given.metrics or list(CASES), given.repeats):
        print(line, flush=True)
