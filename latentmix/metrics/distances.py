"""Distances in float64 between features, tensors or arrays: x [n, D] of generated images, y [m, D] of real ones."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from latentmix.arrays import as_tensor
from latentmix.metrics.intervals import Sample

Features = Float[Any, "n D"]
Others = Float[Any, "m D"]
Values = Float[Tensor, " n"]
Kernel = Callable[[Tensor, Tensor], Tensor]


def read(*features: Any) -> list[Tensor]:
    """Return features [n, D], [m, D] as tensors of float64.

    Raises: ValueError for other shapes, and for NaN or infinity, which would count as far from everything.
    """
    found = [as_tensor(one).double() for one in features]
    if any(one.ndim != 2 for one in found) or len({one.shape[1] for one in found}) != 1:
        shapes = ", ".join(str(list(one.shape)) for one in found)
        raise ValueError(f"features must be [n, D] and [m, D] of one width D, not {shapes}")
    if not all(bool(one.isfinite().all()) for one in found):
        raise ValueError("features hold NaN or infinity; leave out the images that they are of")
    return found


def frechet_distance(x: Features, y: Float[Any, "m _"]) -> float:
    """Return ‖μx − μy‖² + Tr(Σx + Σy − 2(Σx Σy)^½), the Fréchet distance (Heusel et al.) of fitted Gaussians.

    With X and Y the centred features divided by √(n − 1), Σx = XᵀX and Tr(Σx Σy)^½ is the nuclear norm of X Yᵀ. This
    needs no square root of a matrix, and stays exact if fewer images than dimensions make Σ singular.
    Raises ValueError for fewer than two rows or different widths.
    """
    return frechet_distance_to(y)(x)


def frechet_distance_to(y: Float[Any, "m D"]) -> Callable[[Features], float]:
    """Return the Fréchet distance to y as a function of x, which fits a Gaussian to y once."""
    mean_y, root_y = _mean_and_root(*read(y))

    def distance(x: Features) -> float:
        (x,) = read(x)
        if x.shape[1] != len(mean_y):
            raise ValueError(f"features must be [n, D] and [m, D] of one width D, not {x.shape[1]} and {len(mean_y)}")
        mean_x, root_x = _mean_and_root(x)
        overlap = _nuclear_norm(root_x @ root_y.T)
        return ((mean_x - mean_y).square().sum() + root_x.square().sum() + root_y.square().sum() - 2 * overlap).item()

    return distance


def _nuclear_norm(x: Float[Tensor, "n m"]) -> Tensor:
    """Return the sum of the singular values.

    A GPU takes the roots of the eigenvalues of x xᵀ, which it finds many times as fast; they are exact to about 1e-8 of
    the largest.
    """
    if x.device.type != "cuda":
        return torch.linalg.matrix_norm(x, ord="nuc")
    return _by_eigenvalues(x)


def _by_eigenvalues(x: Float[Tensor, "n m"]) -> Tensor:
    gram = x @ x.T if len(x) <= x.shape[1] else x.T @ x
    return torch.linalg.eigvalsh(gram).clamp(min=0).sqrt().sum()


PARTS = 10  # sample sizes of an extrapolation


def frechet_infinity(x: Features, y: Others, parts: int = PARTS) -> float:
    """Return FID∞ (Chong & Forsyth), the limit of the Fréchet distance as the number of generated images grows.

    The distances of n, n/2, … n/`parts` rows of x to all of y are extrapolated to 1/n = 0. The bias that comes from m
    is not removed. The bias is linear in 1/n only if n is well above D, so if n/`parts` is smaller than D, the result
    is no better than the plain distance. NaN for fewer than four rows of x.
    """
    return extrapolated(frechet_distance_to(y), x, parts)


def extrapolated(statistic: Callable[[Tensor], float], x: Features, parts: int = PARTS) -> float:
    """Fit a line to a statistic of n, n/2, … n/`parts` rows by least squares, and return its value at 1/n = 0.

    Each value is the average over the disjoint samples of its size; Chong & Forsyth draw one sample at random. So every
    row counts, the result is deterministic, and 1/n is evenly spaced. Samples have at least two rows; the result is NaN
    if that leaves fewer than two sizes.
    """
    parts = min(parts, len(x) // 2)
    if parts < 2:
        return math.nan
    sizes = [len(x) // part for part in range(1, parts + 1)]
    values = [
        sum(statistic(x[start::part][:size]) for start in range(part)) / part for part, size in enumerate(sizes, 1)
    ]
    inverse = torch.tensor([1 / size for size in sizes], dtype=torch.float64, device="cpu")
    line = torch.linalg.lstsq(torch.stack([torch.ones_like(inverse), inverse], 1), inverse.new_tensor(values)[:, None])
    return line.solution[0].item()


def _mean_and_root(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean [D], and a root R [min(n, D), D] of the unbiased covariance: RᵀR = Σ. Raises: ValueError."""
    if len(x) < 2:
        raise ValueError(f"features must be [n, D] with n at least 2, not {list(x.shape)}")
    mean = x.mean(0)
    root = (x - mean) / math.sqrt(len(x) - 1)
    return mean, torch.linalg.qr(root, mode="r").R if len(x) > x.shape[1] else root


def kid(x: Features, y: Others) -> Sample:
    """Return KID (Bińkowski et al.): MMD² with k(a, b) = (a·b / D + 1)³.

    It is unbiased, so it may be negative. All rows are used at once; the original averages over random subsets. Its
    interval allows for draws like the row of x that contributes most. Raises ValueError for fewer than two rows.
    """
    x, y = read(x, y)
    return _mmd(lambda a, b: (a @ b.T / a.shape[1] + 1) ** 3, x, y)


def cmmd(x: Features, y: Others) -> Sample:
    """Return CMMD (Jayasumana et al.): 1000 MMD² of CLIP embeddings at unit length, with a Gaussian kernel of σ = 10.

    It is unbiased, as the paper's formula is. Its authors' code has the biased estimator, which is larger by
    1000 ((1 − k̄x)/n + (1 − k̄y)/m), where k̄ is the mean of k between different rows. Its interval allows for draws at
    right angles to all others, which resemble no real image.
    """
    x, y = (functional.normalize(f, dim=1) for f in read(x, y))
    return _mmd(_gaussian, x, y, unlike=1000 * math.exp(-1 / SIGMA**2))


SIGMA = 10
WEIGHTS = 1000  # samples of the bootstrap


def _gaussian(a: Tensor, b: Tensor) -> Tensor:
    """Return 1000 times the Gaussian kernel of unit vectors, for which ‖a − b‖² = 2 − 2 a·b."""
    return 1000 * torch.exp((a @ b.T - 1) / SIGMA**2)


def _mmd(kernel: Kernel, x: Features, y: Others, unlike: float | None = None) -> Sample:
    """Return the unbiased MMD² (Gretton et al., eq. 3).

    Its parts are first-order (Hájek) projections; it is their mean. Their scatter would give too narrow an interval
    where few rows decide: MMD² grows with the square of the share of far rows, and parts only with the share. So the
    interval is the Bayesian bootstrap's, of the quadratic form, with one row more than x has. This unseen row is either
    like the real ones, or its kernel with them is `unlike`, and its kernel with a row of x is the larger, the further
    that row is from the real ones. Without `unlike`, it is like the row of x that contributes most.
    """
    if min(len(x), len(y)) < 2:
        raise ValueError(f"an unbiased distance needs at least 2 rows of each, not {len(x)} and {len(y)}")
    k_x, k_y, across = kernel(x, x), kernel(y, y), kernel(x, y)
    near_x, near_y = _to_others(k_x), _to_others(k_y)
    parts = 2 * near_x - 2 * across.mean(1) + near_y.mean() - near_x.mean()
    nearest, furthest = int((near_y - across.mean(0)).argmax()), int(parts.argmax())
    unseen = [(across[:, nearest], near_y[nearest], k_y[nearest, nearest])]
    if unlike is None:
        unseen.append((k_x[:, furthest].clone(), across[furthest].mean(), k_x[furthest, furthest].clone()))
    else:
        unseen.append((k_x[0, 0] + unlike - across.mean(1), across.new_tensor(unlike), k_x[0, 0].clone()))
    weights = torch.empty(WEIGHTS, len(x) + 1, dtype=torch.float64, device="cpu")
    weights = weights.exponential_(generator=torch.Generator().manual_seed(0)).to(x.device)
    weights /= weights.sum(1, keepdim=True)
    drawn, new = weights[:, :-1], weights[:, -1]
    others = 1 - drawn.square().sum(1)  # the weight of pairs of different rows; the unseen row stands for many rows
    k_x.fill_diagonal_(0)
    pairs, to_real = ((drawn @ k_x) * drawn).sum(1), drawn @ across.mean(1)
    values = []
    for row, to_y, own in unseen:
        within = (pairs + 2 * new * (drawn @ row) + own * new**2) / others
        values.append(within - 2 * (to_real + new * to_y) + near_y.mean())
    low, high = torch.cat(values).quantile(weights.new_tensor([0.025, 0.975])).tolist()
    value = parts.mean().item()
    return Sample(value, parts.cpu(), len(x), min(low, value), max(high, value), by_row=True, rare=True)


def _to_others(k: Float[Tensor, "n n"]) -> Float[Tensor, " n"]:
    """Return the mean of k between each row and the others."""
    return (k.sum(1) - k.diagonal()) / (len(k) - 1)


def cosine_distances(x: Features, y: Others, unit: bool = True) -> Float[Tensor, " n"]:
    """Return 1 − cos between each row of x and the mean of the rows of y, first normalised to length 1 if `unit`."""
    x, y = read(x, y)
    centre = (functional.normalize(y, dim=1) if unit else y).mean(0)
    return 1 - functional.normalize(x, dim=1) @ functional.normalize(centre, dim=0)


def clip_scores(x: Features, text: Float[Any, "1 D"]) -> Float[Tensor, " n"]:
    """Return max(100 cos, 0) of each image and a text: CLIPScore (Hessel et al.) with a factor of 100, not 2.5."""
    x, text = read(x, text)
    return 100 * (functional.normalize(x, dim=1) @ functional.normalize(text[0], dim=0)).clamp(min=0)


def activation_distances(a: Sequence[Float[Any, "n _ _ _"]], b: Sequence[Float[Any, "n _ _ _"]]) -> Values:
    """Return LPIPS (Zhang et al.) of pairs of images, without its learned weights of channels.

    Each layer's activations [n, C, H, W] are normalised to unit length over channels. Squared differences are summed
    over channels, averaged over positions, and summed over layers.
    """
    ends = ([functional.normalize(as_tensor(x), dim=1) for x in pair] for pair in zip(a, b, strict=True))
    return torch.stack([(x - y).square().sum(1).mean((1, 2)) for x, y in ends]).sum(0)
