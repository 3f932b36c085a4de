"""Fidelity and diversity apart, by balls that reach to the k-th nearest neighbour; x [n, D] generated, y [m, D] real.

They depend on n and m, and on k, so compare only where all three are the same. k is at most the number of other rows.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from latentmix.metrics.distances import Features, Others
from latentmix.metrics.intervals import Sample, jackknifed


def precision(x: Features, y: Others, k: int = 3) -> Float[Tensor, " n"]:
    """1 for each generated image within the ball of any real one, 0 for others; improved precision (Kynkäänniemi et
    al.) is the mean."""
    return _inside(x, y, k).any(1).double()


def recall(x: Features, y: Others, k: int = 3) -> float:
    """The share of real images within the ball of any generated one: improved recall (Kynkäänniemi et al.)."""
    return precision(y, x, k).mean().item()


def density(x: Features, y: Others, k: int = 5) -> Float[Tensor, " n"]:
    """In how many real images' balls each generated one lies, over k; density (Naeem et al.) is the mean, 1 where both
    are alike."""
    return _inside(x, y, k).sum(1).double() / min(k, len(y) - 1)


def coverage(x: Features, y: Others, k: int = 5) -> float:
    """The share of real images with any generated one in their ball: coverage (Naeem et al.)."""
    return _covered(_inside(x, y, k))


def recall_sample(x: Features, y: Others, k: int = 3) -> Sample:
    """`recall` with its jackknife over x; distances are taken once."""
    among, across = _apart(x, x), _apart(y, x)

    def of(rows: Tensor) -> float:
        return (across[:, rows] <= _radii(among[rows][:, rows], k)).any(1).double().mean().item()

    return jackknifed(of, torch.arange(len(x)))


def coverage_sample(x: Features, y: Others, k: int = 5) -> Sample:
    """`coverage` with its jackknife over x."""
    return jackknifed(_covered, _inside(x, y, k))


def _covered(inside: Bool[Tensor, "n m"]) -> float:
    return inside.any(0).double().mean().item()


def _inside(x: Features, y: Others, k: int) -> Bool[Tensor, "n m"]:
    """Which rows of x lie in which balls around rows of y, their surface included."""
    return _apart(x, y) <= _radii(_apart(y, y), k)


def _apart(x: Features, y: Others) -> Float[Tensor, "n m"]:
    return torch.cdist(x.double(), y.double())


def _radii(among: Float[Tensor, "n n"], k: int) -> Float[Tensor, " n"]:
    """From each row to the k-th nearest of the others; it is itself the first of all."""
    return among.kthvalue(min(k, len(among) - 1) + 1, dim=1).values
