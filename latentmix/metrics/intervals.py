"""How sure one can be of a number: intervals over draws, images or classes, and paired comparisons.

Student's intervals and the jackknife's rest on pseudo-values, what each draw or group of draws contributes to a
statistic. Two methods that were given the same draws are compared through the differences of theirs.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

Values = Float[Tensor, " n"]
Rows = Shaped[Tensor, "n ..."]


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval and the number of things it was computed from."""

    value: float
    low: float
    high: float
    count: int


@dataclass(frozen=True)
class Sample:
    """A statistic of `count` rows, and its pseudo-values: independent parts whose scatter is that of the statistic."""

    value: float
    parts: Float[Tensor, " k"]
    count: int

    @property
    def by_row(self) -> bool:
        """Whether each row has a part of its own, so that the statistic is the parts' mean."""
        return len(self.parts) == self.count

    def interval(self) -> Estimate:
        """Student's, from the scatter of the parts; none (NaN) with fewer than two."""
        if (k := len(self.parts)) < 2:
            return Estimate(self.value, math.nan, math.nan, self.count)
        half = _student(k - 1) * self.parts.std().item() / math.sqrt(k)
        return Estimate(self.value, self.value - half, self.value + half, self.count)


def mean(values: Values) -> Sample:
    """The mean of independent values."""
    return Sample(values.double().mean().item(), values.double(), len(values))


def jackknifed(statistic: Callable[[Tensor], float], x: Rows, groups: int = 20) -> Sample:
    """A statistic with pseudo-values from leaving out one group of rows at a time (Tukey).

    The bootstrap would repeat rows, which shrinks a covariance and shifts a Fréchet distance; the jackknife does not.
    """
    n, value = len(x), statistic(x)
    groups = min(groups, n // 2)  # something must be left
    if groups < 2:
        return Sample(value, torch.empty(0, dtype=torch.float64), n)
    group = torch.arange(n) % groups
    left_out = torch.tensor([statistic(x[group != g]) for g in range(groups)], dtype=torch.float64)
    return Sample(value, groups * value - (groups - 1) * left_out, n)


def mean_interval(values: Values) -> Estimate:
    """The mean of independent values, with Student's interval; no interval (NaN) for a single one."""
    return mean(values).interval()


def jackknife_interval(statistic: Callable[[Tensor], float], x: Rows, groups: int = 20) -> Estimate:
    """A statistic of a sample, with the interval of its jackknife."""
    return jackknifed(statistic, x, groups).interval()


def bootstrap_interval(values: Values, resamples: int = 2000, seed: int = 0) -> Estimate:
    """The mean of values of images, or of classes, with the interval that 95 % of resamples' means lie in (Efron).

    It takes no distribution for granted, but is too narrow for few values, by √(1 − 1/n) and more: Student's is the
    better for fewer than about 20.
    """
    means = _resampled(values.double(), resamples, torch.Generator().manual_seed(seed))
    return _percentiles(values.double().mean(), means, len(values))


def class_bootstrap_interval(classes: Sequence[Values], resamples: int = 2000, seed: int = 0) -> Estimate:
    """The mean over classes of their means over images; classes are drawn anew, and images within each drawn class."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(len(classes), (resamples, len(classes)), generator=generator)
    means = torch.empty(drawn.shape, dtype=torch.float64)
    for index, values in enumerate(classes):
        here = drawn == index
        means[here] = _resampled(values.double(), int(here.sum()), generator)
    average = torch.stack([values.double().mean() for values in classes]).mean()
    return _percentiles(average, means.mean(1), len(classes))


def _resampled(values: Values, resamples: int, generator: torch.Generator) -> Float[Tensor, " resamples"]:
    """Means of as many values as there are, drawn with replacement."""
    return values[torch.randint(len(values), (resamples, len(values)), generator=generator)].mean(1)


def _percentiles(value: Tensor, means: Float[Tensor, " resamples"], count: int) -> Estimate:
    low, high = means.quantile(means.new_tensor([0.025, 0.975])).tolist() if count > 1 else (math.nan, math.nan)
    return Estimate(value.item(), low, high, count)


@dataclass(frozen=True)
class Comparison:
    """How much larger one method's value is than another's, and the share of draws in which it is the better."""

    difference: Estimate
    won: float


def paired(a: Sample, b: Sample, lower: bool = True) -> Comparison:
    """Two methods on the same draws: a − b with Student's interval from the differences of their parts.

    `lower` values are better, or higher ones; a tie is half won. No share (NaN) where draws have no parts of their own.
    Raises ValueError where a and b are not of the same draws.
    """
    if (a.count, len(a.parts)) != (b.count, len(b.parts)):
        raise ValueError(f"{a.count} draws in {len(a.parts)} parts can't be paired with {b.count} in {len(b.parts)}")
    apart = a.parts - b.parts
    ahead = -apart if lower else apart
    won = ((ahead > 0).double() + 0.5 * (ahead == 0).double()).mean().item() if a.by_row else math.nan
    return Comparison(Sample(a.value - b.value, apart, a.count).interval(), won)


def _student(freedom: int) -> float:
    """Return the 97.5 % quantile of Student's t distribution."""
    from scipy.special import stdtrit  # scipy.stats takes a second to import

    return float(stdtrit(freedom, 0.975))
