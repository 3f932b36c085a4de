"""Precision and recall (Kynkäänniemi et al.), density and coverage (Naeem et al.).

They count points in balls that reach to the k-th nearest neighbour.
x [n, D] are features of generated images, y [m, D] those of real ones. Values depend on n, m and k, so only values with
the same three can be compared. k is at most the number of other rows.

A ball includes its surface, as in improved precision. prdc, the code of density and coverage, leaves the surface out;
the values differ only where features repeat, such as those of duplicate images.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from latentmix.metrics.distances import Features, Others, read
from latentmix.metrics.intervals import Sample, share


def precision(x: Features, y: Others, k: int = 3) -> Float[Tensor, " n"]:
    """Return 1 for each generated image within the ball of any real one, else 0. The mean is improved precision."""
    return _inside(x, y, k).any(1).double()


def density(x: Features, y: Others, k: int = 5) -> Float[Tensor, " n"]:
    """Return the number of real images' balls around each generated one, divided by k. The mean is density.

    It is 1 if x and y have the same distribution.
    """
    return _inside(x, y, k).sum(1).double() / min(k, len(y) - 1)


def recall(x: Features, y: Others, k: int = 3) -> Sample:
    """Return improved recall, the share of real images within the ball of any generated one.

    Its parts are those of a jackknife that leaves out one row of x at a time. Where this row was among the k nearest
    neighbours of another, that one's ball then reaches to its next neighbour.
    """
    n, within_x, to_y = len(x), _distances(x, x), _distances(x, y)
    radii, order = within_x.sort(1)
    k = min(k, n - 1)
    inside = to_y <= radii[:, k, None]  # [n, m]: whether the ball around a row of x contains a row of y
    gained = ((to_y <= radii[:, min(k + 1, n - 1), None]) & ~inside).int()  # the same once it is larger by a neighbour
    # [n, m]: how many balls contain a row of y without a row of x: minus its own ball, plus what its neighbours' gain.
    without = (inside.sum(0, dtype=torch.int32) - inside.int()).index_add(
        0, order[:, 1 : k + 1].flatten(), gained.repeat_interleave(k, 0)
    )
    return share(inside.any(0).double().mean().item(), (without > 0).double().mean(1))


def coverage(x: Features, y: Others, k: int = 5) -> Sample:
    """Return the share of real images whose ball contains any generated one. Its parts are those of `recall`."""
    inside = _inside(x, y, k)
    alone = inside & (inside.sum(0) == 1)
    covered = inside.any(0).double().mean()
    return share(covered.item(), covered - alone.double().mean(1))


def _inside(x: Features, y: Others, k: int) -> Bool[Tensor, "n m"]:
    """Return which rows of x lie in which balls around rows of y, their surface included."""
    radii = _distances(y, y).kthvalue(min(k, len(y) - 1) + 1, dim=1).values  # a row is its own nearest
    return _distances(x, y) <= radii


def _distances(x: Features, y: Others) -> Float[Tensor, "n m"]:
    x, y = read(x, y)
    return torch.cdist(x, y)
