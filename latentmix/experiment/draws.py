"""Which images are mixed, by what weights, and for which points of the curves: pure functions of seed and counts."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from latentmix.mixing import Method
from latentmix.rng import generator, noise

NEVER = 1e-9  # if it is less probable that two draws of a cell are the same subset, draws are not compared
FIRST_ROUND = 50  # draws
GAUSS = "gauss:"  # before the name of a method that mixes Gaussian latents
NOISE = Method("noise", "0")  # marks the control that mixes nothing and generates from random latents, at n = 0


@dataclass(frozen=True, order=True)
class Cell:
    """One point of a curve before averaging over classes: a class, the number of latents that are mixed, a method.

    `gaussian` marks the control that mixes Gaussian latents in place of inverted ones, by the same draws and weights.
    """

    class_id: str
    n: int
    method: Method
    gaussian: bool = False

    @property
    def method_name(self) -> str:
        """Return the name of the method as tables have it."""
        return "noise" if self.method == NOISE else f"{GAUSS}{self.method}" if self.gaussian else str(self.method)

    def __str__(self) -> str:
        if self.method == NOISE:
            return f"{self.class_id}, noise"
        return f"{self.class_id}, N = {self.n}, {self.method_name}"


def in_rounds(draws: int) -> Iterator[slice]:
    """Yield draws in the rounds of `budget=`: the first 50, the next 50, then 100, 200, ..., up to `draws`."""
    start, stop = 0, FIRST_ROUND
    while start < draws:
        yield slice(start, min(stop, draws))
        start, stop = stop, 2 * stop


def draw_id(draw: int) -> str:
    """Return the name of a draw in the cache and of its image file."""
    return f"{draw:06d}"


def subset(seed: int, class_id: str, draw: int, pool: int) -> np.ndarray:
    """Return a random order of the pool's `pool` indices for one draw.

    Its first N indices are the draw's images. So draws are nested in N, and the same for every method.
    """
    return generator(seed, class_id, draw).permutation(pool)


@cache
def distinct_draws(seed: int, class_id: str, draws: int, n: int, pool: int) -> Sequence[int]:
    """Return the numbers of the first `draws` draws that are distinct: none has the same n images as an earlier one.

    A draw with the images of an earlier one is skipped, and the others keep their numbers. So more draws only add to
    fewer. If there are fewer subsets than `draws`, return a draw of each.
    """
    subsets = math.comb(pool, n)
    if draws**2 < NEVER * subsets:
        return range(draws)
    found, seen, draw = list[int](), set[frozenset[int]](), 0
    while len(found) < min(draws, subsets):
        chosen = frozenset(subset(seed, class_id, draw, pool)[:n].tolist())
        if chosen not in seen:
            seen.add(chosen)
            found.append(draw)
        draw += 1
    return tuple(found)


def uniform_weights(seed: int, class_id: str, draws: Sequence[int], n: int, pool: int) -> Tensor:
    """Return weights [K, pool] of K draws: 1/n for the n images of the draw, 0 for the others."""
    chosen = [subset(seed, class_id, draw, pool)[:n] for draw in draws]
    return torch.zeros(len(draws), pool).scatter_(1, torch.from_numpy(np.stack(chosen)), 1 / n)


def dirichlet_weights(seed: int, class_id: str, draws: Sequence[int], n: int, pool: int, alpha: float) -> Tensor:
    """Return weights [K, pool] of K draws: for a draw's n images from Dirichlet(alpha, …, alpha), 0 for the others.

    The ratio of two images' weights is the same for every n. Where `alpha` is so small that all shares are 0 in
    float64, the draw's first image has the whole weight.
    """
    weights = torch.zeros(len(draws), pool)
    for row, draw in zip(weights, draws, strict=True):
        shares = generator(seed, f"weights {class_id}", draw).gamma(alpha, size=pool)[:n]
        shares[0] += not shares.any()
        row[torch.from_numpy(subset(seed, class_id, draw, pool)[:n])] = torch.from_numpy(shares / shares.sum()).float()
    return weights


def random_latents(seed: int, name: str, draws: Iterable[int], shape: tuple[int, ...]) -> Tensor:
    """Return standard Gaussian latents [K, *shape], float32; each draw has its own random numbers."""
    return torch.from_numpy(np.stack([noise(seed, name, draw, shape) for draw in draws]))
