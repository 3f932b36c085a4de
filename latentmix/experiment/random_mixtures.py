"""Random mixtures for `latentmix augment`, with a random number of images and random weights."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

import numpy as np
import torch
from torch import Tensor

from latentmix.rng import generator

TRIES = 20  # random mixtures to try until one is new, before the first unused one is taken


@dataclass(frozen=True)
class Mixture:
    """The indices of the images of a class that are mixed, and their weights as `parts` of the sum of `parts`."""

    indices: tuple[int, ...]
    parts: tuple[int, ...]

    @property
    def weights(self) -> list[float]:
        """Return the weights of the images, which sum to 1."""
        return [part / sum(self.parts) for part in self.parts]


def random_mixtures(
    seed: int, class_id: str, count: int, sizes: Sequence[int], alpha: float, pool: int
) -> list[Mixture]:
    """Return `count` different random mixtures, or all if there are fewer.

    A mixture has a random number of images, one of `sizes`. Weights are from a symmetric Dirichlet distribution of
    concentration `alpha`, rounded to whole percents of at least 1, or equal if `alpha` is infinite. Two mixtures are
    the same if they have the same images with the same weights. A larger `count` only adds mixtures.
    """
    sizes, found = [size for size in sizes if size <= pool], dict[Mixture, None]()
    remaining = _all_mixtures(sizes, alpha, pool)
    for index in range(min(count, count_mixtures(sizes, alpha, pool))):
        rng = generator(seed, f"mixtures {class_id}", index)
        tried = (_random_mixture(rng, sizes, alpha, pool) for _ in range(TRIES))
        new = next((mixture for mixture in tried if mixture not in found), None)
        found[new or next(mixture for mixture in remaining if mixture not in found)] = None
    return list(found)


def count_mixtures(sizes: Sequence[int], alpha: float, pool: int) -> int:
    """Return how many different mixtures there are: subsets, times ways to split 100 percents among the images."""
    ways = {size: 1 if math.isinf(alpha) else math.comb(99, size - 1) for size in sizes}
    return sum(math.comb(pool, size) * ways[size] for size in sizes)


def mixture_weights(mixtures: Sequence[Mixture], pool: int) -> Tensor:
    """Return the weights [K, pool] of K mixtures."""
    weights = torch.zeros(len(mixtures), pool)
    for row, mixture in zip(weights, mixtures, strict=True):
        row[list(mixture.indices)] = torch.tensor(mixture.weights)
    return weights


def _random_mixture(rng: np.random.Generator, sizes: Sequence[int], alpha: float, pool: int) -> Mixture:
    size = int(rng.choice(sizes))
    chosen = tuple(sorted(rng.permutation(pool)[:size].tolist()))
    if math.isinf(alpha):
        return Mixture(chosen, (1,) * size)
    shares = rng.dirichlet([alpha] * size) * (100 - size)
    parts = 1 + shares.astype(int)
    parts[np.argsort(parts - 1 - shares)[: 100 - parts.sum()]] += 1  # the rest, to those that lost most by rounding
    return Mixture(chosen, tuple(parts.tolist()))


def _all_mixtures(sizes: Sequence[int], alpha: float, pool: int) -> Iterator[Mixture]:
    for size in sizes:
        for chosen in combinations(range(pool), size):
            if math.isinf(alpha):
                yield Mixture(chosen, (1,) * size)
                continue
            for cuts in combinations(range(1, 100), size - 1):
                yield Mixture(chosen, tuple(b - a for a, b in pairwise((0, *cuts, 100))))
