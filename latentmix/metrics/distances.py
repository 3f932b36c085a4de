"""Distances between two clouds of features, x [n, D] generated and y [m, D] real; all in float64."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

Features = Float[Tensor, "n D"]
Others = Float[Tensor, "m D"]
Values = Float[Tensor, " n"]
Kernel = Callable[[Tensor, Tensor], Tensor]


# --- Fréchet --------------------------------------------------------------------------------------------------------


def frechet_distance(x: Features, y: Float[Tensor, "m _"]) -> float:
    """‖μx − μy‖² + Tr(Σx + Σy − 2(Σx Σy)^½), the Fréchet distance (Heusel et al.) of Gaussians fitted to features.

    With X and Y the centred features over √(n − 1), Σx = XᵀX and Tr(Σx Σy)^½ is the nuclear norm of X Yᵀ: exact,
    without the square root of a matrix, and sound where fewer images than dimensions leave Σ singular.
    Raises ValueError for fewer than two rows or different widths.
    """
    if min(len(x), len(y)) < 2 or x.shape[1] != y.shape[1]:
        raise ValueError(
            f"features must be [n, D] and [m, D] with n, m of at least 2, not {list(x.shape)}, {list(y.shape)}"
        )
    return _frechet(*_mean_and_root(x), *_mean_and_root(y))


def frechet_infinity(x: Features, y: Others, parts: int = 10) -> float:
    """FID∞ (Chong & Forsyth): what the Fréchet distance of ever more generated images tends to.

    Its bias is linear in 1/n where n is well above D; it is taken for n, n/2, … n/`parts` rows of x against all of y
    and extrapolated to 1/n = 0. The bias that comes from m is not removed. NaN for fewer than four rows.
    """
    return extrapolated(partial(frechet_distance, y=y), x, parts)


def extrapolated(statistic: Callable[[Tensor], float], x: Features, parts: int = 10) -> float:
    """The value at 1/n = 0 of a line through a statistic of n rows, of n/2, … n/`parts`, by least squares.

    Each is averaged over the disjoint samples of its size, where the original draws one at random: every row counts,
    nothing is left to chance, and 1/n is evenly spaced. Samples keep at least two rows; NaN where that leaves no line.
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


@dataclass(frozen=True)
class Moments:
    """Number, mean and centred second moment Σ(x − μ)(x − μ)ᵀ of features; those of shards add up to those of all."""

    count: int
    mean: Float[Tensor, " D"]
    scatter: Float[Tensor, "D D"]

    @classmethod
    def of(cls, x: Features) -> "Moments":
        x = x.double()
        apart = x - x.mean(0)
        return cls(len(x), x.mean(0), apart.T @ apart)

    def __add__(self, other: "Moments") -> "Moments":
        """Chan, Golub & LeVeque: exact, and without the cancellation of Σxxᵀ − nμμᵀ."""
        count, apart = self.count + other.count, other.mean - self.mean
        share = other.count / count
        between = self.count * share * torch.outer(apart, apart)
        return Moments(count, self.mean + share * apart, self.scatter + other.scatter + between)

    @property
    def covariance(self) -> Float[Tensor, "D D"]:
        """Unbiased."""
        return self.scatter / (self.count - 1)


def frechet_of_moments(x: Moments, y: Moments) -> float:
    """`frechet_distance` where only moments were kept; of singular covariances to about 1e-7 of their traces."""
    return _frechet(x.mean, _root(x.covariance), y.mean, _root(y.covariance))


def _frechet(mean_x: Tensor, root_x: Tensor, mean_y: Tensor, root_y: Tensor) -> float:
    """From means [D] and roots R [r, D] of covariances, RᵀR = Σ."""
    overlap = torch.linalg.matrix_norm(root_x @ root_y.T, ord="nuc")
    return ((mean_x - mean_y).square().sum() + root_x.square().sum() + root_y.square().sum() - 2 * overlap).item()


def _mean_and_root(x: Features) -> tuple[Tensor, Tensor]:
    """The mean [D], and a root R [min(n, D), D] of the unbiased covariance, RᵀR = Σ."""
    x = x.double()
    mean = x.mean(0)
    root = (x - mean) / math.sqrt(len(x) - 1)
    return mean, torch.linalg.qr(root, mode="r").R if len(x) > x.shape[1] else root


def _root(covariance: Float[Tensor, "D D"]) -> Float[Tensor, "D D"]:
    values, vectors = torch.linalg.eigh(covariance)
    return values.clamp(min=0).sqrt()[:, None] * vectors.T


# --- Kernels --------------------------------------------------------------------------------------------------------


def kid(x: Features, y: Others) -> float:
    """The kernel distance of Bińkowski et al., MMD² with k(a, b) = (a·b / D + 1)³: unbiased, so it may be negative.

    Of all rows at once, which subsets only approximate. Raises ValueError for fewer than two rows.
    """
    return kid_contributions(x, y).mean().item()


def kid_contributions(x: Features, y: Others) -> Float[Tensor, " n"]:
    """What each row of x contributes to `kid`, which is their mean."""
    return _mmd(_polynomial, x.double(), y.double())


def kid_subsets(x: Features, y: Others, size: int, subsets: int = 100, seed: int = 0) -> Float[Tensor, " subsets"]:
    """KID of random subsets of `size` rows of each, without replacement, as torchmetrics and the original take it."""
    if not 2 <= size <= min(len(x), len(y)):
        raise ValueError(f"subsets must have 2 to {min(len(x), len(y))} rows, not {size}")
    generator = torch.Generator().manual_seed(seed)
    values = []
    for _ in range(subsets):
        some_y, some_x = (f[torch.randperm(len(f), generator=generator)[:size]] for f in (y, x))
        values.append(kid(some_x, some_y))
    return torch.tensor(values, dtype=torch.float64)


def cmmd(x: Features, y: Others) -> float:
    """CMMD (Jayasumana et al.): 1000 MMD² of CLIP embeddings at unit length, with a Gaussian kernel of σ = 10.

    Unbiased, as the paper's formula is; its authors' code has the biased estimator, which is larger by
    1000 ((1 − k̄x)/n + (1 − k̄y)/m), k̄ being the mean of k between different rows.
    """
    return cmmd_contributions(x, y).mean().item()


def cmmd_contributions(x: Features, y: Others) -> Float[Tensor, " n"]:
    """What each row of x contributes to `cmmd`, which is their mean."""
    return 1000 * _mmd(_gaussian, *(functional.normalize(f.double(), dim=1) for f in (x, y)))


def _polynomial(a: Tensor, b: Tensor) -> Tensor:
    return (a @ b.T / a.shape[1] + 1) ** 3


def _gaussian(a: Tensor, b: Tensor, sigma: float = 10) -> Tensor:
    """Of unit vectors, ‖a − b‖² = 2 − 2 a·b."""
    return torch.exp((a @ b.T - 1) / sigma**2)


def _mmd(kernel: Kernel, x: Features, y: Others) -> Float[Tensor, " n"]:
    """Contributions of the rows of x to the unbiased MMD² (Gretton et al., eq. 3), their mean.

    A row counts in pairs with two of x, so they are its first-order (Hájek's) projections: their scatter gives the
    error of MMD² over x.
    """
    if min(len(x), len(y)) < 2:
        raise ValueError(f"an unbiased distance needs at least 2 rows of each, not {len(x)} and {len(y)}")
    near_x, near_y = _to_others(kernel(x, x)), _to_others(kernel(y, y))
    return 2 * near_x - near_x.mean() - 2 * kernel(x, y).mean(1) + near_y.mean()


def _to_others(k: Float[Tensor, "n n"]) -> Float[Tensor, " n"]:
    """The mean of k between each row and the others."""
    return (k.sum(1) - k.diagonal()) / (len(k) - 1)


# --- Cosine ---------------------------------------------------------------------------------------------------------


def cosine_distances(x: Features, y: Others, unit: bool = True) -> Float[Tensor, " n"]:
    """1 − cos between each row of `x` and the mean of the rows of `y`, each brought to `unit` length before or not."""
    centre = (functional.normalize(y.double(), dim=1) if unit else y.double()).mean(0)
    return 1 - functional.normalize(x.double(), dim=1) @ functional.normalize(centre, dim=0)


def clip_scores(x: Features, text: Float[Tensor, "1 D"]) -> Float[Tensor, " n"]:
    """max(100 cos, 0) of each image and a text: the CLIPScore of Hessel et al., whose own factor is 2.5, not 100."""
    return 100 * (functional.normalize(x.double(), dim=1) @ functional.normalize(text[0].double(), dim=0)).clamp(min=0)


# --- Activations ----------------------------------------------------------------------------------------------------


def activation_distances(a: Sequence[Float[Tensor, "n _ _ _"]], b: Sequence[Float[Tensor, "n _ _ _"]]) -> Values:
    """Between two images through what a network's layers make of them, [n, C, H, W] each: channels are brought to unit
    length, and squared differences summed over channels, averaged over places, and summed over layers.

    It is LPIPS (Zhang et al.) without the weights of channels that LPIPS learned from people's judgements.
    """
    ends = ((functional.normalize(x, dim=1), functional.normalize(y, dim=1)) for x, y in zip(a, b, strict=True))
    return torch.stack([(x - y).square().sum(1).mean((1, 2)) for x, y in ends]).sum(0)
