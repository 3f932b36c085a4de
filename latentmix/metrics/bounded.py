"""The 95 % interval of a mean of bounded values, which covers also where the sample lacks values that are rare.

Take the values x of n draws and one more value: the least or the greatest possible one, with probability ½ each. Weigh
these n + 1 values by Dirichlet(1, …, 1), as the Bayesian bootstrap (Rubin) does. The interval has the 2.5 % and 97.5 %
quantiles of the weighted mean. Of zeros and ones in the range [0, 1] it is the mid-P interval of a share
(Lancaster). With the greatest value alone, the upper quantile is Gaffke's bound of a mean.
"""

import math

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

    x = x.double()
    ends = x.new_tensor([x.min() if least is None else least, x.max() if greatest is None else greatest])
    values, counts = torch.cat([x, ends]).unique(return_counts=True)
    low, high = values[0].item(), values[-1].item()
    if high - low <= 1e-12 * max(abs(low), abs(high)):
        return low, high
    samples = [(values, counts - (values == end).int()) for end in ends]  # each has one of the ends
    samples = [(values[counts > 0], counts[counts > 0].double()) for values, counts in samples]
    edge, precision = 1e-9 * (high - low), 1e-4 * (high - low) / math.sqrt(len(x))

    def quantile(p: float) -> float:
        def excess(t: float) -> float:
            return sum(_below(*sample, t) for sample in samples) / 2 - p

        if excess(low + edge) >= 0:
            return low
        if excess(high - edge) <= 0:
            return high
        return float(brentq(excess, low + edge, high - edge, xtol=precision))

    return quantile(TAIL), quantile(1 - TAIL)


def _below(values: Values, counts: Values, t: float) -> float:
    """Return P(Σ wᵢ xᵢ ≤ t) for w ~ Dirichlet(1, …, 1), where x has each value as often as `counts` says.

    It equals P(Σ Eᵢ (xᵢ − t) ≤ 0) for standard exponential Eᵢ. The saddlepoint approximation of Lugannani & Rice, in
    Barndorff-Nielsen's form, puts the ends of intervals within 1 % of their width.
    """
    from scipy.optimize import brentq
    from scipy.special import log1p, ndtr

    u, times = (values - t).numpy(), counts.numpy()
    if u[0] >= 0 or u[-1] <= 0:
        return float(u[0] < 0)
    first, last = 1 / u[0], 1 / u[-1]
    margin = 1e-12 * (last - first)
    s = brentq(lambda s: (times * u / (1 - s * u)).sum(), first + margin, last - margin, xtol=margin, rtol=1e-6)
    r = math.copysign(math.sqrt(max(2 * (times @ log1p(-s * u)), 0)), s)
    q = s * math.sqrt(times @ (u / (1 - s * u)) ** 2)
    return float(ndtr(r + math.log(q / r) / r)) if abs(r) > 1e-5 else 0.5
