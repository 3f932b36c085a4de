"""Norms: how latents without their means, e, are mixed, and at which norm. One line each in `NORMS`.

Most norms scale the weighted mean m = Σ w e. The others are functions of all of e, here called paths.
Shapes: K mixtures of N latents of L = C·H·W numbers.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from latentmix.mixing.iterative import Latents, Mixtures, Weights, adain, nao, slerp
from latentmix.plugins import Table


@dataclass(frozen=True)
class Lengths:
    """The inputs of a norm's `scale`."""

    w: Weights
    squares: Float[Tensor, " K"]  # the variance of m in units of that of e: Σw² for independent e
    e: Float[Tensor, " N"]  # ‖e‖ of each latent
    m: Float[Tensor, " K"]  # ‖m‖ of each weighted mean
    L: int


@dataclass(frozen=True)
class Norm:
    """f_norm(E, w), by one of two functions: a scale s [K] with f = s·m, or a path (e, w, m) -> f [K, C, H, W]."""

    scale: Callable[[Lengths], Float[Tensor, " K"]] | None = None
    path: Callable[[Latents, Weights, Mixtures], Mixtures] | None = None
    label: str = ""  # in words, for the report
    version: int = 1  # part of cache keys; raise it when the same inputs give another result

    def __post_init__(self) -> None:
        if (self.scale is None) == (self.path is None):
            raise ValueError("a norm needs either a scale or a path")


def divide(a: Tensor | float, b: Tensor) -> Tensor:
    """Return a / b, and 0 where b is 0: a latent that equals its own mean has no direction."""
    return torch.where(b > 0, a / torch.where(b > 0, b, 1), 0)


NORMS: Mapping[str, Norm] = Table(
    "norms",
    {
        # eq. 1: the weighted mean, whose norm falls as N grows
        "lin": Norm(lambda x: torch.ones_like(x.m), label="the plain mean"),
        # eq. 2: the norm √L, which Gaussian noise has
        "fix": Norm(lambda x: divide(math.sqrt(x.L), x.m), label="its norm restored to √L, that of Gaussian noise"),
        # eq. 4: the weighted mean of the inputs' norms
        "nin": Norm(lambda x: divide(x.w @ x.e, x.m), label="its norm restored to that of the inputs"),
        # Bodin et al., "Linear combinations of latents": the variance of noise
        "lol": Norm(lambda x: x.squares.rsqrt(), label="divided by √Σw², which restores the variance of noise"),
        # eq. 3 for any N
        "slerp": Norm(path=slerp, label="the mean on the sphere, at the norm of the inputs"),
        "adain": Norm(path=adain, label="the mean on the sphere, each channel at the inputs' mean and deviation"),
        "nao": Norm(path=nao, label="found by an optimisation that keeps to the norms of noise"),
    },
    kind=Norm,
)
