"""95 % intervals over draws, images or classes, and paired comparisons of methods.

Intervals are computed from pseudo-values: what each draw, or group of draws, contributes to a statistic. They are
Student's, or `bounded` ones where the values of draws not seen yet are bounded. docs/statistics.md has their coverage.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from latentmix.metrics.bounded import bounded_interval

Values = Float[Tensor, " n"]
Rows = Shaped[Tensor, "n ..."]
Ends = tuple[float | None, float | None]


@dataclass(frozen=True)
class Estimate:
    """A value, its 95 % interval, and the number of draws, pairs, images or classes (`over`) that these are over."""

    value: float
    low: float
    high: float
    count: int
    over: str = "draws"

    def within(self, limits: tuple[float, float]) -> "Estimate":
        """Return the estimate with an interval that lies within the limits of what is estimated.

        A value outside of them stays, and lies within its interval: an unbiased estimate may be negative.
        """
        low, high = limits
        return replace(self, low=max(self.low, min(low, self.value)), high=min(self.high, max(high, self.value)))


@dataclass(frozen=True)
class Sample:
    """A statistic of `count` rows, and its pseudo-values: independent parts that scatter as the statistic does.

    `unseen` are the least and the greatest part that a row not drawn yet may have. There, None stands for the least or
    the greatest part that was drawn. Without `unseen`, parts are taken to be normal.
    """

    value: float
    parts: Float[Tensor, " k"]
    count: int
    unseen: Ends | None = None
    by_row: bool = False  # each row has a part of its own, and the statistic is the mean of the parts

    def interval(self) -> Estimate:
        """Return an interval from the scatter of the parts: `bounded` or Student's; NaN for fewer than two parts."""
        return self._interval

    @cached_property
    def _interval(self) -> Estimate:
        if (k := len(self.parts)) < 2 or not self.parts.isfinite().all():
            return Estimate(self.value, math.nan, math.nan, self.count)
        if self.unseen is not None:
            parts = self.parts + (self.value - self.parts.mean())  # pseudo-values of a jackknife may be off
            low, high = bounded_interval(parts, *self.unseen)
            if not self.by_row:
                low, high = _widened(self.value, self.parts, low, high)
            return Estimate(self.value, low, high, self.count)
        half = _student(k - 1) * self.parts.std().item() / math.sqrt(k)
        return Estimate(self.value, self.value - half, self.value + half, self.count)


def mean(values: Values, unseen: Ends | None = None) -> Sample:
    """Return the mean of independent values, which are its parts. For `unseen` see `Sample`."""
    return Sample(values.double().mean().item(), values.double(), len(values), unseen, by_row=True)


def _widened(share: float, parts: Values, low: float, high: float) -> tuple[float, float]:
    """Return the least interval in [0, 1] that holds the one given and Student's of the share's logit, by a jackknife.

    `parts` are pseudo-values. Of shares that vary most where they are large, the logit varies alike everywhere.
    """
    n, edge = len(parts), 0.0025  # keeps logits finite
    shares = torch.cat([parts.new_tensor([share]), (n * share - parts) / (n - 1)]).clamp(0, 1)
    logits = ((shares + edge) / (1 - shares + edge)).log()
    half = _student(n - 1) * (n - 1) / math.sqrt(n) * logits[1:].std().item()
    ends = torch.sigmoid(torch.stack([logits[0] - half, logits[0] + half])) * (1 + 2 * edge) - edge
    return min(max(low, 0.0), max(ends[0].item(), 0.0)), max(min(high, 1.0), min(ends[1].item(), 1.0))


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

    If rare parts may be unseen it is shrunk by 2/n, as Newcombe does for shares: parts that agree in n draws may differ
    in the next one.
    """
    x, y = (sample.parts - sample.parts.mean() for sample in (a, b))
    scale = (x.norm() * y.norm()).item()
    correlation = (x @ y).item() / scale if scale > 0 else 0.0
    return correlation * (1 - 2 / len(x)) if a.unseen is not None else correlation


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
