"""Pure functions of features: how far generated images are from real ones, and how sure one can be of it."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

Features = Float[Tensor, "n D"]


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval and the number of things it was computed from."""

    value: float
    low: float
    high: float
    count: int


def frechet_distance(x: Features, y: Float[Tensor, "m _"]) -> float:
    """‖μx − μy‖² + Tr(Σx + Σy − 2(Σx Σy)^½), the Fréchet distance (Heusel et al.) of Gaussians fitted to features.

    With X and Y the centred features over √(n − 1), Σx = XᵀX and Tr(Σx Σy)^½ is the nuclear norm of X Yᵀ: exact,
    without the square root of a matrix, and sound where fewer images than dimensions leave Σ singular. In float64.
    Raises ValueError for fewer than two rows or different widths.
    """
    if min(len(x), len(y)) < 2 or x.shape[1] != y.shape[1]:
        raise ValueError(
            f"features must be [n, D] and [m, D] with n, m of at least 2, not {list(x.shape)}, {list(y.shape)}"
        )
    mean_x, root_x = _moments(x)
    mean_y, root_y = _moments(y)
    overlap = torch.linalg.matrix_norm(root_x @ root_y.T, ord="nuc")
    return ((mean_x - mean_y).square().sum() + root_x.square().sum() + root_y.square().sum() - 2 * overlap).item()


def _moments(x: Features) -> tuple[Tensor, Tensor]:
    """The mean [D], and a root R [min(n, D), D] of the unbiased covariance, RᵀR = Σ."""
    x = x.double()
    mean = x.mean(0)
    root = (x - mean) / math.sqrt(len(x) - 1)
    return mean, torch.linalg.qr(root, mode="r").R if len(x) > x.shape[1] else root


def cosine_distances(x: Features, y: Float[Tensor, "m D"]) -> Float[Tensor, " n"]:
    """1 − cos between each row of `x` and the mean of the rows of `y`, each brought to unit length first."""
    unit_x, unit_y = (torch.nn.functional.normalize(f.double(), dim=1) for f in (x, y))
    return 1 - unit_x @ torch.nn.functional.normalize(unit_y.mean(0), dim=0)


def mean_interval(values: Float[Tensor, " n"]) -> Estimate:
    """The mean of independent values, with Student's interval; no interval (NaN) for a single one."""
    n, mean = len(values), values.double().mean().item()
    if n < 2:
        return Estimate(mean, math.nan, math.nan, n)
    half = _student(n - 1) * values.double().std().item() / math.sqrt(n)
    return Estimate(mean, mean - half, mean + half, n)


def jackknife_interval(statistic: Callable[[Features], float], x: Features, groups: int = 20) -> Estimate:
    """A statistic of a sample, with an interval from leaving out one group of rows at a time.

    The bootstrap would repeat rows, which shrinks a covariance and shifts a Fréchet distance; the jackknife does not.
    """
    n, value = len(x), statistic(x)
    groups = min(groups, n // 2)  # something must be left
    if groups < 2:
        return Estimate(value, math.nan, math.nan, n)
    group = torch.arange(n) % groups
    left_out = torch.tensor([statistic(x[group != g]) for g in range(groups)], dtype=torch.float64)
    error = math.sqrt((groups - 1) * left_out.var(correction=0).item())
    half = _student(groups - 1) * error
    return Estimate(value, value - half, value + half, n)


def _student(freedom: int) -> float:
    """The 97.5 % quantile of Student's t."""
    from scipy.stats import t

    return float(t.ppf(0.975, freedom))
