"""What inverted latents have in common, and what becomes of it where N of them are mixed (Landolsi & Kahl, Sections 4.2
and 4.3).

A pool of P latents is taken as z = d + e: a bias d [C, h, w] that all share, and noise e of each latent's own, whose
variance, averaged over the latent, is v. The pool's mean estimates d, and carries v/P of noise, which every mean square
of it is here rid of.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import torch
from jaxtyping import Float, Int
from torch import Tensor

from latentmix.metrics import Estimate, mean_interval
from latentmix.mixing import mix

Latents = Float[Tensor, "P C h w"]
Values = tuple[float, ...]  # one for each channel

SURE = 0.95
LAGS = (1, 2)


@dataclass(frozen=True)
class Norms:
    """Of ‖z‖/√L, which is 1 for Gaussian noise."""

    mean: float
    std: float
    least: float
    most: float


@dataclass(frozen=True)
class Autocorrelation:
    """Of e at a lag along rows and columns; white noise gives 0, with a standard error of `null_error`."""

    lag: int
    channels: Values
    null_error: float


@dataclass(frozen=True)
class Bias:
    """The mean square of d, split in that of its channels' means and what varies in space, which no mean over a
    channel takes away. Unbiased, so one that is not there may come out a little below 0."""

    channels: float
    space: float


@dataclass(frozen=True)
class Terminal:
    """What α_T·z0, the signal that is left at the last level of the schedule, has to do with the bias.

    `channels` are its channels' means. `share` says how much of the mean square of the bias's goes when they are taken
    away: 1 is all, 0 is nothing, less than 0 is that they point elsewhere, and NaN that there is no bias.
    """

    alpha: float
    channels: Values
    share: float


@dataclass(frozen=True)
class Fit:
    """Lines through the origin by least squares; R² compares with a constant."""

    slopes: Values
    r2: Values


@dataclass(frozen=True)
class Growth:
    """The channels' means of `fix/0` centroids, averaged over draws: a row for each N in `sizes`.

    By eq. 9 they are √N·d, so the slopes of `root`, against √N, should be d. Those of `exact`, against the
    amplification that `gains` gives, should be d however large it is.
    """

    sizes: tuple[int, ...]
    means: tuple[Values, ...]
    root: Fit
    exact: Fit


@dataclass(frozen=True)
class Diagnosis:
    """`means` and `stds` are the channels', with intervals over images; `resolved` says which means differ from 0.
    `band` and `limit` are what the functions give."""

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
    limit: int | None


def diagnose(z: Tensor, clean: Tensor, alpha: float, sizes: Sequence[int], orders: Tensor) -> Diagnosis:
    """Latents at t = T and clean ones, both [P, C, h, w], and the α of the last level -> all that is said of them here.

    `orders` [K, P] says in which order each of K draws takes the latents; its first N are mixed, for each of `sizes`.
    Raises ValueError for fewer than two latents and for shapes or sizes that do not fit.
    """
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
        terminal=terminal(c, clean.double().mean((2, 3)), alpha, there=any(sure)),
        growth=growth(z, sizes, orders),
        band=band(*z.shape[1:]),
        limit=limit(x, sure),
    )


def norms(z: Latents) -> Norms:
    norm = z.flatten(1).norm(dim=1) / math.sqrt(z[0].numel())
    return Norms(norm.mean().item(), norm.std().item(), norm.min().item(), norm.max().item())


def channel_stds(z: Latents) -> tuple[Estimate, ...]:
    """About the channel's mean over all latents; the independent values are each latent's mean squares."""
    squares = (z - z.mean((0, 2, 3), keepdim=True)).square().mean((2, 3))  # [P, C]
    return tuple(_root(mean_interval(channel)) for channel in squares.T)


def _root(e: Estimate) -> Estimate:
    return Estimate(math.sqrt(e.value), math.sqrt(max(0, e.low)), math.sqrt(e.high), e.count)


def resolved(means: Float[Tensor, "P C"]) -> tuple[bool, ...]:
    """Whether the channels' means of the latents differ from 0 in common, by Student's t, at 5 % for all together."""
    from scipy.special import stdtrit

    images, channels = means.shape
    bound = float(stdtrit(images - 1, (1 + SURE ** (1 / channels)) / 2))
    return tuple((means.mean(0).abs() > bound * means.std(0) / math.sqrt(images)).tolist())


def autocorrelation(z: Latents, lag: int) -> Autocorrelation:
    """The mean product of pairs `lag` apart in a row or a column, over the variance.

    The mean over latents is taken away at each place, so what they have in common is no correlation, and covariances
    come out unbiased, as they do not where each latent's own mean is taken away. Products of distinct pairs of white
    noise are uncorrelated, whence the standard error 1/√((P − 1)·pairs).
    """
    e, (h, w) = z - z.mean(0), z.shape[2:]
    products = [e[..., lag:] * e[..., :-lag], e[..., lag:, :] * e[..., :-lag, :]]
    pairs = h * (w - lag) + (h - lag) * w
    covariance = sum(p.sum((2, 3)).mean(0) for p in products) / pairs
    values = covariance / e.square().mean((0, 2, 3))
    return Autocorrelation(lag, tuple(values.tolist()), 1 / math.sqrt((len(z) - 1) * pairs))


def common(x: Float[Tensor, "P ..."]) -> float:
    """The mean square of what rows have in common: that of their mean, less the noise in it."""
    return (x.mean(0).square() - x.var(0) / len(x)).mean().item()


def terminal(z: Float[Tensor, "P C"], clean: Float[Tensor, "P C"], alpha: float, there: bool) -> Terminal:
    """From the channels' means of latents at t = T and of clean ones; `there` says whether there is a bias."""
    signal = alpha * clean
    share = 1 - common(z - signal) / common(z) if there and common(z) > 0 else math.nan
    return Terminal(alpha, tuple(signal.mean(0).tolist()), share)


def growth(z: Latents, sizes: Sequence[int], orders: Int[Tensor, "K P"]) -> Growth:
    rows = []
    for n in sizes:
        weights = torch.zeros(orders.shape).scatter_(1, orders[:, :n], 1 / n)
        rows.append(mix(z, weights, "fix/0").mean((0, 2, 3)).double())
    means = torch.stack(rows)
    root, exact = _through_origin(torch.tensor(sizes).double().sqrt(), means), _through_origin(gains(z, sizes), means)
    return Growth(tuple(sizes), tuple(tuple(row) for row in means.tolist()), root, exact)


def gains(z: Latents, sizes: Sequence[int]) -> Float[Tensor, " sizes"]:
    """The amplification α of eq. 5 at each N, with ‖d‖² + L·v/N for the square of the mean's norm, which it is on
    average over draws; √N where d is small and v is 1."""
    x = z.double()
    return (common(x) + x.var(0).mean() / torch.tensor(sizes)).rsqrt()


def _through_origin(x: Float[Tensor, " n"], y: Float[Tensor, "n C"]) -> Fit:
    slopes = x @ y / x.square().sum()
    left = (y - x[:, None] * slopes).square().sum(0)
    return Fit(tuple(slopes.tolist()), tuple((1 - left / (y - y.mean(0)).square().sum(0)).tolist()))


def band(channels: int, h: int, w: int) -> float:
    """The bound that all channels' means of a random centroid keep within in 95 % of cases.

    The centroid of Gaussian latents is uniform on the sphere of radius √L whatever N is, so each of its channels' means
    is N(0, C/L).
    """
    return NormalDist().inv_cdf((1 + SURE ** (1 / channels)) / 2) / math.sqrt(h * w)


def limit(z: Latents, sure: Sequence[bool]) -> int | None:
    """The largest N whose `fix/0` centroids are expected to keep all channels' means within the `band`; None for any N.

    A channel's mean grows as α·d (see `gains`), and stays within the bound r while d²/(δ² + v/N) ≤ r², δ² being the
    mean square of d: up to N = v·r²/(d² − r²·δ²), which is eq. 9's (r/d)² where δ is small. No N is too large where δ
    stops the growth before the bound, nor is one known to be where no mean differs from 0 for `sure`.
    """
    r = band(*z.shape[1:])
    d = z.mean((0, 2, 3))[torch.tensor(sure)]
    over = d.square() - r**2 * common(z)
    most = (z.var(0).mean() * r**2 / over[over > 0]).tolist()
    return math.floor(min(most)) if most else None


def _check(z: Tensor, clean: Tensor, sizes: Sequence[int], orders: Tensor) -> None:
    if z.ndim != 4 or len(z) < 2:
        raise ValueError(f"latents must be [P, C, h, w] with P of at least 2, not {list(z.shape)}")
    if clean.shape != z.shape:
        raise ValueError(f"clean latents must be {list(z.shape)}, as the others, not {list(clean.shape)}")
    if orders.ndim != 2 or orders.shape[1] != len(z):
        raise ValueError(f"orders must be [K, {len(z)}] for {len(z)} latents, not {list(orders.shape)}")
    if not sizes or min(sizes) < 1 or max(sizes) > len(z):
        raise ValueError(f"sizes must be between 1 and {len(z)}, not {list(sizes)}")
