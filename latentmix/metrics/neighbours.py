"""Precision, recall, density and coverage, by balls that reach to the k-th nearest neighbour.

x [n, D] are features of generated images, y [m, D] those of real ones. Values depend on n, m and k, so only values with
the same three can be compared. k is at most the number of other rows.

A ball includes its surface, as in improved precision. prdc, the code of density and coverage, leaves the surface out;
the values differ only where features repeat, such as those of duplicate images.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from latentmix.metrics.distances import Features, Others
from latentmix.metrics.intervals import Sample, jackknifed


def precision(x: Features, y: Others, k: int = 3) -> Float[Tensor, " n"]:
    """Return 1 for each generated image within the ball of any real one, 0 for others.

    The mean is improved precision (Kynkäänniemi et al.).
    """
    return _inside(x, y, k).any(1).double()


def density(x: Features, y: Others, k: int = 5) -> Float[Tensor, " n"]:
    """Return the number of real images' balls that contain each generated image, divided by k.

    The mean is density (Naeem et al.). It is 1 if x and y have the same distribution.
    """
    return _inside(x, y, k).sum(1).double() / min(k, len(y) - 1)


def recall(x: Features, y: Others, k: int = 3) -> Sample:
    """Return the share of real images within the ball of any generated one: improved recall (Kynkäänniemi et al.).

    The jackknife is over x. Distances are computed once.
    """
    within_x, from_y = _distances(x, x), _distances(y, x)

    def share(rows: Tensor) -> float:
        return (from_y[:, rows] <= _radii(within_x[rows][:, rows], k)).any(1).double().mean().item()

    return jackknifed(share, torch.arange(len(x)))


def coverage(x: Features, y: Others, k: int = 5) -> Sample:
    """Return the share of real images whose ball contains any generated one (Naeem et al.), with a jackknife over x."""
    return jackknifed(_covered, _inside(x, y, k))


def _covered(inside: Bool[Tensor, "n m"]) -> float:
    return inside.any(0).double().mean().item()


def _inside(x: Features, y: Others, k: int) -> Bool[Tensor, "n m"]:
    """Return which rows of x lie in which balls around rows of y, their surface included."""
    return _distances(x, y) <= _radii(_distances(y, y), k)


def _distances(x: Features, y: Others) -> Float[Tensor, "n m"]:
    return torch.cdist(x.double(), y.double())


def _radii(within: Float[Tensor, "n n"], k: int) -> Float[Tensor, " n"]:
    """Return the distance from each row to the k-th nearest other row. A row is its own nearest."""
    return within.kthvalue(min(k, len(within) - 1) + 1, dim=1).values
