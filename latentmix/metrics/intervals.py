"""95 % intervals over draws, images or classes, and paired comparisons of methods.

Intervals are Student's, of pseudo-values: what each draw, or group of draws, contributes to a statistic. Two methods
that mixed the same draws are compared by the differences of their pseudo-values.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

Values = Float[Tensor, " n"]
Rows = Shaped[Tensor, "n ..."]


@dataclass(frozen=True)
class Estimate:
    """A value, its 95 % interval, and the number of draws, images or classes that it was computed from."""

    value: float
    low: float
    high: float
    count: int


@dataclass(frozen=True)
class Sample:
    """A statistic of `count` rows, and its pseudo-values: independent parts that scatter as the statistic does."""

    value: float
    parts: Float[Tensor, " k"]
    count: int

    @property
    def by_row(self) -> bool:
        """Return whether each row has a part of its own; the statistic is then the mean of the parts."""
        return len(self.parts) == self.count

    def interval(self) -> Estimate:
        """Return Student's interval from the scatter of the parts; NaN for fewer than two."""
        if (k := len(self.parts)) < 2:
            return Estimate(self.value, math.nan, math.nan, self.count)
        half = _student(k - 1) * self.parts.std().item() / math.sqrt(k)
        return Estimate(self.value, self.value - half, self.value + half, self.count)


def mean(values: Values) -> Sample:
    """Return the mean of independent values, which are its parts."""
    return Sample(values.double().mean().item(), values.double(), len(values))


def jackknifed(statistic: Callable[[Tensor], float], x: Rows, groups: int = 20) -> Sample:
    """Return a statistic with pseudo-values from leaving out one group of rows at a time (Tukey's jackknife).

    A bootstrap repeats rows, which shrinks a covariance and shifts a Fréchet distance. The jackknife does not.
    """
    n, value = len(x), statistic(x)
    groups = min(groups, n // 2)  # at least two rows are left
    if groups < 2:
        return Sample(value, torch.empty(0, dtype=torch.float64), n)
    group = torch.arange(n) % groups
    left_out = torch.tensor([statistic(x[group != g]) for g in range(groups)], dtype=torch.float64)
    return Sample(value, groups * value - (groups - 1) * left_out, n)


def mean_interval(values: Values) -> Estimate:
    """Return the mean of independent values with Student's interval, which is NaN for a single value."""
    return mean(values).interval()


@dataclass(frozen=True)
class Comparison:
    """The difference of two methods' values, and the share of draws in which the first is better."""

    difference: Estimate
    won: float


def paired(a: Sample, b: Sample, lower: bool = True) -> Comparison:
    """Return a − b of two methods on the same draws, with Student's interval from the differences of their parts.

    `lower` says whether lower values are better. A tie counts as half won. The share is NaN unless each draw has a part
    of its own. Raises ValueError if a and b are not of the same draws.
    """
    if (a.count, len(a.parts)) != (b.count, len(b.parts)):
        raise ValueError(f"{a.count} draws in {len(a.parts)} parts can't be paired with {b.count} in {len(b.parts)}")
    differences = a.parts - b.parts
    ahead = -differences if lower else differences
    won = ((ahead > 0).double() + 0.5 * (ahead == 0).double()).mean().item() if a.by_row else math.nan
    return Comparison(Sample(a.value - b.value, differences, a.count).interval(), won)


def _student(freedom: int) -> float:
    """Return the 97.5 % quantile of Student's t distribution."""
    from scipy.special import stdtrit  # scipy.stats takes a second to import

    return float(stdtrit(freedom, 0.975))
