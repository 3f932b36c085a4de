"""95 % intervals over draws, images or classes, and paired comparisons of methods.

Most intervals are computed from pseudo-values: what each draw, or group of draws, contributes to a statistic. They are
Student's, or those of `bounded` where the values of draws are bounded. KID and CMMD have a bootstrap of their own in
`distances.py`. docs/statistics.md has the coverage of all.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from latentmix.arrays import as_tensor
from latentmix.metrics.bounded import bounded_interval

Values = Float[Tensor, " n"]
Given = Float[Any, " n"]  # a tensor or an array
Rows = Shaped[Any, "n ..."]
Ends = tuple[float | None, float | None]  # see `mean`


@dataclass(frozen=True)
class Estimate:
    """A value, its 95 % interval, and the number of draws, pairs, images or classes (`over`) that it was taken over."""

    value: float
    low: float
    high: float
    count: int
    over: str = "draws"

    def within(self, limits: tuple[float, float]) -> "Estimate":
        """Return the estimate with its interval cut to the limits of what is estimated.

        A value outside the limits stays, as an unbiased estimate may be negative. The interval still contains it.
        """
        low, high = limits
        return replace(self, low=max(self.low, min(low, self.value)), high=min(self.high, max(high, self.value)))


@dataclass(frozen=True)
class Sample:
    """A statistic of `count` rows, its 95 % interval, and its pseudo-values `parts`, whose scatter tells its error.

    The interval is NaN where it is not known, as with fewer than two rows.
    """

    value: float
    parts: Float[Tensor, " k"]
    count: int
    low: float = math.nan
    high: float = math.nan
    by_row: bool = False  # each row has a part of its own, and the statistic is the mean of the parts
    rare: bool = False  # the interval allows for rows that are unlike all that were drawn

    def interval(self) -> Estimate:
        """Return the value with its interval."""
        return Estimate(self.value, self.low, self.high, self.count)


def mean(values: Given, unseen: Ends | None = None) -> Sample:
    """Return the mean of independent values, which are its parts.

    `unseen` are the least and the greatest value that another draw could have; None stands for the least or the
    greatest that was drawn. Without `unseen`, values are taken to be normal, and the interval is Student's.
    """
    values = as_tensor(values).double().cpu()
    value = values.mean().item()
    if len(values) < 2 or not values.isfinite().all():
        low = high = math.nan
    else:
        low, high = _students(value, values) if unseen is None else bounded_interval(values, *unseen)
    return Sample(value, values, len(values), low, high, by_row=True, rare=unseen is not None)


def _students(value: float, parts: Values) -> tuple[float, float]:
    """Return Student's interval from the scatter of two parts or more."""
    half = _student(len(parts) - 1) * parts.std().item() / math.sqrt(len(parts))
    return value - half, value + half


def share(value: float, without: Values) -> Sample:
    """Return a share of real images that draws reach, with its interval from a jackknife.

    `without` [n] are the shares without each of the n draws. Their pseudo-values are treated as values between 0 and 1.
    The interval is widened to contain Student's interval of the logit from the same jackknife: where a share scatters
    the more the larger it is, the scatter of its logit is nearly constant.
    """
    n, without = len(without), without.double().cpu()
    parts = n * value - (n - 1) * without
    if n < 2:
        return Sample(value, parts, n, rare=True)
    low, high = bounded_interval(parts + (value - parts.mean()), 0.0, 1.0)
    edge = 0.0025  # keeps logits finite
    logits = [((x + edge) / (1 - x + edge)).log() for x in (without.new_tensor(value), without)]
    half = _student(n - 1) * (n - 1) / math.sqrt(n) * logits[1].std().item()
    ends = torch.sigmoid(torch.stack([logits[0] - half, logits[0] + half])) * (1 + 2 * edge) - edge
    low, high = min(max(low, 0.0), max(ends[0].item(), 0.0)), max(min(high, 1.0), min(ends[1].item(), 1.0))
    return Sample(value, parts, n, low, high, rare=True)


def jackknifed(statistic: Callable[[Tensor], float], x: Rows, groups: int = 20) -> Sample:
    """Return a statistic with pseudo-values from leaving out one group of rows at a time (Tukey's jackknife).

    A bootstrap repeats rows, which shrinks a covariance and shifts a Fréchet distance. The jackknife does not.
    """
    x = as_tensor(x)
    n, value = len(x), statistic(x)
    groups = min(groups, n // 2)  # at least two rows are left
    if groups < 2:
        return Sample(value, torch.empty(0, dtype=torch.float64, device="cpu"), n)
    group = torch.arange(n, device="cpu") % groups
    left_out = torch.tensor([statistic(x[group != g]) for g in range(groups)], dtype=torch.float64, device="cpu")
    parts = groups * value - (groups - 1) * left_out
    return Sample(value, parts, n, *_students(value, parts))


def mean_interval(values: Given) -> Estimate:
    """Return the mean of independent values with Student's interval, which is NaN for a single value."""
    return mean(values).interval()


@dataclass(frozen=True)
class Comparison:
    """The difference of two methods' values, and the share of draws in which the first is better."""

    difference: Estimate
    won: float


def paired(a: Sample, b: Sample, lower: bool = True) -> Comparison:
    """Return a − b of two methods on the same draws, with an interval from those of a and b.

    The interval is that of Zou & Donner (MOVER). Between Student's intervals it is Student's paired interval.
    `lower` says whether lower values are better. A tie counts as half won. The share is NaN unless each draw has a part
    of its own. Raises ValueError if a and b are not of the same draws.
    """
    if (a.count, len(a.parts)) != (b.count, len(b.parts)):
        raise ValueError(f"{a.count} draws in {len(a.parts)} parts can't be paired with {b.count} in {len(b.parts)}")
    differences = a.parts - b.parts
    ahead = -differences if lower else differences
    won = ((ahead > 0).double() + 0.5 * (ahead == 0).double()).mean().item() if a.by_row else math.nan
    correlation, x, y = _correlation(a, b), a.interval(), b.interval()
    below, above = (
        math.sqrt(max(p * p + q * q - 2 * correlation * p * q, 0.0))
        for p, q in ((x.value - x.low, y.high - y.value), (x.high - x.value, y.value - y.low))
    )
    value = a.value - b.value
    return Comparison(Estimate(value, value - below, value + above, a.count), won)


def _correlation(a: Sample, b: Sample) -> float:
    """Return the correlation of the parts; 0 if one has no scatter.

    If the samples allow for rare rows, it is reduced by the factor 1 − 2/n, as Newcombe does for shares: parts that
    agree in n draws may differ in the next one.
    """
    x, y = (sample.parts - sample.parts.mean() for sample in (a, b))
    scale = (x.norm() * y.norm()).item()
    correlation = (x @ y).item() / scale if scale > 0 else 0.0
    return correlation * (1 - 2 / len(x)) if a.rare else correlation


def average(estimates: Sequence[Estimate]) -> Estimate:
    """Return the mean of independent estimates, with an interval from theirs (Zou & Donner). `count` is their sum."""
    value = sum(e.value for e in estimates) / len(estimates)
    below = math.sqrt(sum((e.value - e.low) ** 2 for e in estimates)) / len(estimates)
    above = math.sqrt(sum((e.high - e.value) ** 2 for e in estimates)) / len(estimates)
    return Estimate(value, value - below, value + above, sum(e.count for e in estimates), estimates[0].over)


def _student(freedom: int) -> float:
    """Return the 97.5 % quantile of Student's t distribution."""
    from scipy.special import stdtrit  # scipy.stats takes a second to import

    return float(stdtrit(freedom, 0.975))
