"""Distances between the features x [n, D] of generated images and y [m, D] of real ones, in float64."""

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from latentmix.metrics.intervals import Sample, mean

Features = Float[Tensor, "n D"]
Others = Float[Tensor, "m D"]
Values = Float[Tensor, " n"]
Kernel = Callable[[Tensor, Tensor], Tensor]


# --- Fréchet --------------------------------------------------------------------------------------------------------


def frechet_distance(x: Features, y: Float[Tensor, "m _"]) -> float:
    """Return ‖μx − μy‖² + Tr(Σx + Σy − 2(Σx Σy)^½), the Fréchet distance (Heusel et al.) of fitted Gaussians.

    With X and Y the centred features divided by √(n − 1), Σx = XᵀX and Tr(Σx Σy)^½ is the nuclear norm of X Yᵀ. This
    needs no square root of a matrix, and stays exact if fewer images than dimensions make Σ singular.
    Raises ValueError for fewer than two rows or different widths.
    """
    if min(len(x), len(y)) < 2 or x.shape[1] != y.shape[1]:
        raise ValueError(
            f"features must be [n, D] and [m, D] with n, m of at least 2, not {list(x.shape)}, {list(y.shape)}"
        )
    mean_x, root_x = _mean_and_root(x)
    mean_y, root_y = _mean_and_root(y)
    overlap = _nuclear_norm(root_x @ root_y.T)
    return ((mean_x - mean_y).square().sum() + root_x.square().sum() + root_y.square().sum() - 2 * overlap).item()


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


PARTS = 10  # of an extrapolation


def frechet_infinity(x: Features, y: Others, parts: int = PARTS) -> float:
    """Return FID∞ (Chong & Forsyth), the limit of the Fréchet distance as the number of generated images grows.

    The bias of the distance is linear in 1/n if n is well above D. With parts smaller than D, the result is no better
    than the plain distance. The distance of n, n/2, … n/`parts` rows of x to all of y is extrapolated to 1/n = 0. The
    bias that comes from m is not removed. NaN for fewer than four rows.
    """
    return extrapolated(partial(frechet_distance, y=y), x, parts)


def extrapolated(statistic: Callable[[Tensor], float], x: Features, parts: int = PARTS) -> float:
    """Fit a line to a statistic of n, n/2, … n/`parts` rows by least squares, and return its value at 1/n = 0.

    Each value is the average over the disjoint samples of its size, where the original draws one sample at random. So
    every row counts, the result is deterministic, and 1/n is evenly spaced. Samples have at least two rows; the result
    is NaN if that leaves fewer than two sizes.
    """
    parts = min(parts, len(x) // 2)
    if parts < 2:
        return math.nan
    sizes = [len(x) // part for part in range(1, parts + 1)]
    values = [
        sum(statistic(x[start::part][:size]) for start in range(part)) / part for part, size in enumerate(sizes, 1)
    ]
    inverse = torch.tensor([1 / size for size in sizes], dtype=torch.float64)
    line = torch.linalg.lstsq(torch.stack([torch.ones_like(inverse), inverse], 1), inverse.new_tensor(values)[:, None])
    return line.solution[0].item()


def _mean_and_root(x: Features) -> tuple[Tensor, Tensor]:
    """Return the mean [D], and a root R [min(n, D), D] of the unbiased covariance: RᵀR = Σ."""
    x = x.double()
    mean = x.mean(0)
    root = (x - mean) / math.sqrt(len(x) - 1)
    return mean, torch.linalg.qr(root, mode="r").R if len(x) > x.shape[1] else root


# --- Kernels --------------------------------------------------------------------------------------------------------


def kid_contributions(x: Features, y: Others) -> Float[Tensor, " n"]:
    """Return what each row of x contributes to KID (Bińkowski et al.): MMD² with k(a, b) = (a·b / D + 1)³.

    KID is the mean of the contributions. It is unbiased, so it may be negative. All rows are used at once, where the
    original averages over random subsets. Raises ValueError for fewer than two rows.
    """
    return kid(x, y).parts


def kid(x: Features, y: Others) -> Sample:
    """Return KID. Its interval allows for draws like any row of x or y."""
    return _sample(*_mmd(_polynomial, x.double(), y.double()))


def cmmd_contributions(x: Features, y: Others) -> Float[Tensor, " n"]:
    """Return what each row of x contributes to CMMD (Jayasumana et al.), which is the mean of the contributions.

    CMMD is 1000 MMD² of CLIP embeddings at unit length, with a Gaussian kernel of σ = 10. It is unbiased, as the
    paper's formula is. Its authors' code has the biased estimator, which is larger by
    1000 ((1 − k̄x)/n + (1 − k̄y)/m), where k̄ is the mean of k between different rows.
    """
    return cmmd(x, y).parts


def cmmd(x: Features, y: Others) -> Sample:
    """Return CMMD. Its interval allows for draws like any row of x or y."""
    of_x, of_y = _mmd(_gaussian, *(functional.normalize(f.double(), dim=1) for f in (x, y)))
    return _sample(1000 * of_x, 1000 * of_y)


def _sample(of_x: Tensor, of_y: Tensor) -> Sample:
    return mean(of_x, (min(of_x.min(), of_y.min()).item(), max(of_x.max(), of_y.max()).item()))


def _polynomial(a: Tensor, b: Tensor) -> Tensor:
    return (a @ b.T / a.shape[1] + 1) ** 3


def _gaussian(a: Tensor, b: Tensor, sigma: float = 10) -> Tensor:
    """Return the Gaussian kernel of unit vectors, for which ‖a − b‖² = 2 − 2 a·b."""
    return torch.exp((a @ b.T - 1) / sigma**2)


def _mmd(kernel: Kernel, x: Features, y: Others) -> tuple[Float[Tensor, " n"], Float[Tensor, " m"]]:
    """Return what each row of x contributes to the unbiased MMD² (Gretton et al., eq. 3), which is their mean.

    The contributions are first-order (Hájek) projections, so their scatter gives the error of MMD² over x. The second
    result is what each row of y would contribute if it were one of x.
    """
    if min(len(x), len(y)) < 2:
        raise ValueError(f"an unbiased distance needs at least 2 rows of each, not {len(x)} and {len(y)}")
    near_x, near_y, across = _to_others(kernel(x, x)), _to_others(kernel(y, y)), kernel(x, y)
    of_both = near_y.mean() - near_x.mean()
    return 2 * near_x - 2 * across.mean(1) + of_both, 2 * across.mean(0) - 2 * near_y + of_both


def _to_others(k: Float[Tensor, "n n"]) -> Float[Tensor, " n"]:
    """Return the mean of k between each row and the others."""
    return (k.sum(1) - k.diagonal()) / (len(k) - 1)


# --- Cosine ---------------------------------------------------------------------------------------------------------


def cosine_distances(x: Features, y: Others, unit: bool = True) -> Float[Tensor, " n"]:
    """Return 1 − cos between each row of x and the mean of the rows of y, first normalised to length 1 if `unit`."""
    centre = (functional.normalize(y.double(), dim=1) if unit else y.double()).mean(0)
    return 1 - functional.normalize(x.double(), dim=1) @ functional.normalize(centre, dim=0)


def clip_scores(x: Features, text: Float[Tensor, "1 D"]) -> Float[Tensor, " n"]:
    """Return max(100 cos, 0) of each image and a text: CLIPScore (Hessel et al.), with a factor of 100 for its 2.5."""
    return 100 * (functional.normalize(x.double(), dim=1) @ functional.normalize(text[0].double(), dim=0)).clamp(min=0)


# --- Activations ----------------------------------------------------------------------------------------------------


def activation_distances(a: Sequence[Float[Tensor, "n _ _ _"]], b: Sequence[Float[Tensor, "n _ _ _"]]) -> Values:
    """Return LPIPS (Zhang et al.) of pairs of images, without its learned weights of channels.

    Each layer's activations [n, C, H, W] are normalised to unit length over channels. Squared differences are summed
    over channels, averaged over positions, and summed over layers.
    """
    ends = ((functional.normalize(x, dim=1), functional.normalize(y, dim=1)) for x, y in zip(a, b, strict=True))
    return torch.stack([(x - y).square().sum(1).mean((1, 2)) for x, y in ends]).sum(0)
