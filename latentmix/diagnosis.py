"""What inverted latents have in common, and how it grows if N of them are mixed (Landolsi & Kahl, Sections 4.2, 4.3).

A pool of P latents is modelled as z = d + e. The bias d [C, h, w] is common to all latents, and the noise e is
independent; v is the variance of e, averaged over the latent. The pool's mean estimates d with an error of variance
v/P, which is subtracted from its mean squares.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import NormalDist

import torch
from jaxtyping import Float, Int
from torch import Tensor

from latentmix.metrics import Estimate, mean_interval
from latentmix.mixing import mix
from latentmix.octaves import SURE, Octave, octaves, recommended, safe

Latents = Float[Tensor, "P C h w"]
Values = tuple[float, ...]  # one for each channel

LAGS = (1, 2)
DRAWS = 100  # a run's first, whether it has so many or not
SIZES = 12  # values of N, evenly spaced in √N


@dataclass(frozen=True)
class Norms:
    """Statistics of ‖z‖/√L, which is 1 for Gaussian noise."""

    mean: float
    std: float
    least: float
    most: float


@dataclass(frozen=True)
class Autocorrelation:
    """Autocorrelation of e at a lag along rows and columns. White noise gives 0 with standard error `null_error`."""

    lag: int
    channels: Values
    null_error: float


@dataclass(frozen=True)
class Bias:
    """The mean square of d in two parts: of its channels' means, and of its variation in space.

    Subtracting channel means leaves `space`. Both estimates are unbiased, so they may be negative if the bias is 0.
    """

    channels: float
    space: float


@dataclass(frozen=True)
class Terminal:
    """How much of the bias is explained by α_T·z0, the signal that is left at the last level of the schedule.

    `channels` are the channels' means of this signal. `share` is the part of the mean square of the bias's channel
    means that vanishes if they are subtracted: 1 is all, 0 is nothing, negative means that they point elsewhere, and
    NaN means that there is no bias. All are NaN where the clean latents are not known.
    """

    alpha: float
    channels: Values
    share: float


@dataclass(frozen=True)
class Fit:
    """Lines through the origin by least squares, one for each channel. R² compares with a constant."""

    slopes: Values
    r2: Values


@dataclass(frozen=True)
class Growth:
    """The channels' means of `fix/0` centroids, averaged over draws: a row for each N in `sizes`.

    By eq. 9 they are √N·d for small d, so the slopes of `root`, fitted against √N, should be d. The slopes of `exact`,
    fitted against the amplification from `gains`, should be d whatever its size.
    """

    sizes: tuple[int, ...]
    means: tuple[Values, ...]
    root: Fit
    exact: Fit


@dataclass(frozen=True, repr=False)
class Diagnosis:
    """The diagnosis of a pool. `means` and `stds` are those of the channels, with intervals over images.

    `resolved` says which means differ from 0. `band`, `octaves` and `safe` are the results of the functions of these
    names. Its text is a table of the octaves, and the method to take for each N.
    """

    images: int
    norms: Norms
    means: tuple[Estimate, ...]
    stds: tuple[Estimate, ...]
    resolved: tuple[bool, ...]
    autocorrelation: tuple[Autocorrelation, ...]
    bias: Bias
    terminal: Terminal
    growth: Growth
    band: float
    octaves: tuple[Octave, ...]
    safe: dict[str, int | None]

    def recommended(self, n: int) -> str:
        """Return the method to take for mixtures of N of these latents, such as "nin/pool"."""
        return recommended(self.safe, n)

    def verdict(self, n: int | None = None) -> str:
        """Return in a sentence how many latents can be mixed by which method, and the method for N, or for each N."""
        each = groupby(range(2, self.images + 1), self.recommended)
        take = [f"{method} up to N = {max(run)}" for method, run in each] if n is None else [self.recommended(n)]
        chosen = f"{'' if n is None else f'for N = {n} '}take {', '.join(take)}"
        if all(octave.limit is None for octave in self.octaves):
            return f"{self.images} images show no bias at any frequency; {chosen}"
        limits = [f"{limit_text(limit)} by {method}" for method, limit in self.safe.items()]
        return f"safe to mix: {', '.join(limits)} (half of the pool); {chosen}"

    def __repr__(self) -> str:
        lines = [f"{self.images} latents of mean norm {self.norms.mean:.3f}·√L"]
        lines += ["cycles per frame      bias²  ± error  variance  safe N"]
        for o in self.octaves:
            limit = limit_text(None if o.limit is None else int(o.limit))
            lines += [f"{o.low:>6} to {o.high:<6}{o.bias:11.4f}{o.error:9.4f}{o.variance:10.4f}{limit:>8}"]
        return "\n".join([*lines, self.verdict()])


def limit_text(limit: int | None) -> str:
    """Return up to which N a method is safe, as text."""
    return "any" if limit is None else str(limit) if limit > 1 else "none"


def diagnose(
    z: Tensor,
    clean: Tensor | None = None,
    alpha: float = math.nan,
    sizes: Sequence[int] | None = None,
    orders: Tensor | None = None,
) -> Diagnosis:
    """Return the diagnosis of latents z at t = T and clean latents, both [P, C, h, w], with α of the last level.

    `orders` [K, P] is the order in which each of K draws takes the latents, by default a random one. The first N are
    mixed, for each of `sizes`. Without clean latents, `terminal` is not known.
    Raises ValueError for fewer than two latents and for shapes or sizes that do not fit.
    """
    clean, sizes = z if clean is None else clean, sizes_of(len(z)) if sizes is None else sizes
    if orders is None:
        orders = torch.rand(DRAWS, len(z), generator=torch.Generator().manual_seed(0)).argsort(1)
    _check(z, clean, sizes, orders)
    x = z.double()
    c = x.mean((2, 3))  # [P, C]
    means, sure = [mean_interval(c[:, i]) for i in range(c.shape[1])], resolved(c)
    return Diagnosis(
        images=len(z),
        norms=norms(x),
        means=tuple(means),
        stds=channel_stds(x),
        resolved=sure,
        autocorrelation=tuple(autocorrelation(x, lag) for lag in LAGS if lag < min(x.shape[2:])),
        bias=Bias(common(c), common(x) - common(c)),
        terminal=terminal(c, clean.double().mean((2, 3)), alpha, biased=any(sure)),
        growth=growth(z, sizes, orders),
        band=band(*z.shape[1:]),
        octaves=(found := octaves(x)),
        safe=safe(found, len(z)),
    )


def norms(z: Latents) -> Norms:
    """Return statistics of the latents' norms, divided by √L."""
    norm = z.flatten(1).norm(dim=1) / math.sqrt(z[0].numel())
    return Norms(norm.mean().item(), norm.std().item(), norm.min().item(), norm.max().item())


def channel_stds(z: Latents) -> tuple[Estimate, ...]:
    """Return each channel's standard deviation about its mean over all latents, with an interval over latents."""
    squares = (z - z.mean((0, 2, 3), keepdim=True)).square().mean((2, 3))  # [P, C]
    found = map(mean_interval, squares.T)
    return tuple(Estimate(math.sqrt(e.value), math.sqrt(max(0, e.low)), math.sqrt(e.high), e.count) for e in found)


def resolved(means: Float[Tensor, "P C"]) -> tuple[bool, ...]:
    """Return which channels' means differ from 0, by Student's t test at 5 % for all channels together."""
    from scipy.special import stdtrit

    images, channels = means.shape
    bound = float(stdtrit(images - 1, (1 + SURE ** (1 / channels)) / 2))
    return tuple((means.mean(0).abs() > bound * means.std(0) / math.sqrt(images)).tolist())


def autocorrelation(z: Latents, lag: int) -> Autocorrelation:
    """Return the mean product of pairs `lag` apart in a row or a column, divided by the variance.

    The mean over latents is subtracted at each position, so the bias does not count as correlation. Subtracting each
    latent's own mean would bias the covariances. For white noise, products of different pairs are uncorrelated, so the
    standard error is 1/√((P − 1)·pairs).
    """
    e, (h, w) = z - z.mean(0), z.shape[2:]
    products = [e[..., lag:] * e[..., :-lag], e[..., lag:, :] * e[..., :-lag, :]]
    pairs = h * (w - lag) + (h - lag) * w
    covariance = sum(p.sum((2, 3)).mean(0) for p in products) / pairs
    values = covariance / e.square().mean((0, 2, 3))
    return Autocorrelation(lag, tuple(values.tolist()), 1 / math.sqrt((len(z) - 1) * pairs))


def common(x: Float[Tensor, "P ..."]) -> float:
    """Return the mean square of what rows have in common: that of their mean, minus the noise in it."""
    return (x.mean(0).square() - x.var(0) / len(x)).mean().item()


def terminal(z: Float[Tensor, "P C"], clean: Float[Tensor, "P C"], alpha: float, biased: bool) -> Terminal:
    """Return what the terminal signal explains, from the channels' means of latents at t = T and of clean ones."""
    signal = alpha * clean
    share = 1 - common(z - signal) / common(z) if biased and common(z) > 0 else math.nan
    return Terminal(alpha, tuple(signal.mean(0).tolist()), share)


def growth(z: Latents, sizes: Sequence[int], orders: Int[Tensor, "K P"]) -> Growth:
    """Return how the channels' means of `fix/0` centroids grow with N."""
    rows = []
    for n in sizes:
        weights = torch.zeros(orders.shape).scatter_(1, orders[:, :n], 1 / n)
        rows.append(mix(z, weights, "fix/0").mean((0, 2, 3)).double())
    means = torch.stack(rows)
    root, exact = _through_origin(torch.tensor(sizes).double().sqrt(), means), _through_origin(gains(z, sizes), means)
    return Growth(tuple(sizes), tuple(tuple(row) for row in means.tolist()), root, exact)


def gains(z: Latents, sizes: Sequence[int]) -> Float[Tensor, " sizes"]:
    """Return the amplification α of eq. 5 at each N; it is √N if d is small and v is 1.

    The square of the mean's norm is replaced by its average over draws, ‖d‖² + L·v/N.
    """
    x = z.double()
    return (common(x) + x.var(0).mean() / torch.tensor(sizes)).rsqrt()


def _through_origin(x: Float[Tensor, " n"], y: Float[Tensor, "n C"]) -> Fit:
    slopes = x @ y / x.square().sum()
    left = (y - x[:, None] * slopes).square().sum(0)
    return Fit(tuple(slopes.tolist()), tuple((1 - left / (y - y.mean(0)).square().sum(0)).tolist()))


def sizes_of(pool: int) -> list[int]:
    """Return values of N from 1 to the whole pool."""
    step = (math.sqrt(pool) - 1) / (SIZES - 1)
    return sorted({round((1 + i * step) ** 2) for i in range(SIZES)})


def band(channels: int, h: int, w: int) -> float:
    """Return the bound within which all channels' means of 95 % of random centroids lie, in absolute value.

    The centroid of Gaussian latents is uniform on the sphere of radius √L for every N, so each of its channels' means
    is distributed as N(0, C/L).
    """
    return NormalDist().inv_cdf((1 + SURE ** (1 / channels)) / 2) / math.sqrt(h * w)


def _check(z: Tensor, clean: Tensor, sizes: Sequence[int], orders: Tensor) -> None:
    if z.ndim != 4 or len(z) < 2:
        raise ValueError(f"latents must be [P, C, h, w] with P of at least 2, not {list(z.shape)}")
    if clean.shape != z.shape:
        raise ValueError(f"clean latents must be {list(z.shape)}, as the others, not {list(clean.shape)}")
    if orders.ndim != 2 or orders.shape[1] != len(z):
        raise ValueError(f"orders must be [K, {len(z)}] for {len(z)} latents, not {list(orders.shape)}")
    if not sizes or min(sizes) < 1 or max(sizes) > len(z):
        raise ValueError(f"sizes must be between 1 and {len(z)}, not {list(sizes)}")
