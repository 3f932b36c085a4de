"""The 95 % interval of a mean of bounded values. It also covers where rare values are missing from the sample.

Take the values x of n draws and one more value: the least or the greatest possible one, with probability ½ each. Weigh
these n + 1 values by Dirichlet(1, …, 1), as the Bayesian bootstrap (Rubin) does. The interval goes from the 2.5 % to
the 97.5 % quantile of the weighted mean. For zeros and ones, in the range [0, 1], it is the mid-P interval of a share
(Lancaster). With the greatest value alone, the upper quantile is Gaffke's bound of a mean.
"""

import math
from functools import cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

Values = Float[Tensor, " k"]

TAIL = 0.025


def bounded_interval(
    x: Float[Tensor, " n"], least: float | None = None, greatest: float | None = None
) -> tuple[float, float]:
    """Return the interval of the mean of values like x, which lie between `least` and `greatest`.

    None stands for the least or the greatest of x. Values of x may lie outside.
    """
    from scipy.optimize import brentq
    from scipy.special import ndtri

    x = x.double()
    ends = x.new_tensor([x.min() if least is None else least, x.max() if greatest is None else greatest])
    values, counts = torch.cat([x, ends]).unique(return_counts=True)
    low, high = values[0].item(), values[-1].item()
    if high - low <= 1e-12 * max(abs(low), abs(high)):
        return low, high
    samples = [(values, counts - (values == end).int()) for end in ends]  # each has one of the ends
    samples = [(values[counts > 0], counts[counts > 0].double()) for values, counts in samples]
    both = torch.cat([x, ends])
    mean, spread = both.mean().item(), both.std().item() / math.sqrt(len(both))
    edge, precision = 1e-9 * (high - low), 1e-4 * (high - low) / math.sqrt(len(x))

    @cache
    def below(t: float) -> float:
        return min(max(sum(_below(*sample, t) for sample in samples) / 2, 1e-300), 1 - 1e-16)

    def quantile(p: float) -> float:
        if below(low + edge) >= p:
            return low
        if below(high - edge) <= p:
            return high
        far = min(max(mean + math.copysign(5 * spread, p - 0.5), low + edge), high - edge)
        bracket = sorted((mean, far))
        if not below(bracket[0]) < p < below(bracket[1]):
            bracket = [low + edge, high - edge]
        # Normal scores are nearly linear in t, so few steps find the root.
        return float(brentq(lambda t: ndtri(below(t)) - ndtri(p), *bracket, xtol=precision))

    return quantile(TAIL), quantile(1 - TAIL)


def _below(values: Values, counts: Values, t: float) -> float:
    """Return P(Σ wᵢ xᵢ ≤ t) for w ~ Dirichlet(1, …, 1), where x has each value as often as `counts` says.

    It equals P(Σ Eᵢ (xᵢ − t) ≤ 0) for standard exponential Eᵢ. The saddlepoint approximation of Lugannani & Rice, in
    Barndorff-Nielsen's form, puts the ends of intervals within 1 % of their width.
    """
    from scipy.special import log1p, ndtr

    u, times = (values - t).numpy(), counts.numpy()
    if u[0] >= 0 or u[-1] <= 0:
        return float(u[0] < 0)
    s = _saddlepoint(u, times)
    r = math.copysign(math.sqrt(max(2 * (times @ log1p(-s * u)), 0)), s)
    q = s * math.sqrt(times @ (u / (1 - s * u)) ** 2)
    return float(ndtr(r + math.log(q / r) / r)) if abs(r) > 1e-5 else 0.5


def _saddlepoint(u: Any, counts: Any) -> float:
    """Return the s between 1 / u[0] < 0 and 1 / u[-1] > 0 where Σ countsᵢ uᵢ / (1 − s uᵢ), which grows with s, is 0.

    `u` and `counts` are arrays of numpy. Newton's method, with bisection where it would leave the bracket.
    """
    low, high, s = 1 / u[0], 1 / u[-1], 0.0
    for _ in range(100):
        terms = u / (1 - s * u)
        excess = counts @ terms
        low, high = (low, s) if excess > 0 else (s, high)
        before, s = s, s - excess / (counts @ (terms * terms))
        if not low < s < high:
            s = (low + high) / 2
        if abs(s - before) <= 1e-7 * abs(s):
            break
    return float(s)
