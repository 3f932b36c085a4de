"""Random numbers of a thing's own: the same whatever else is drawn, in whatever order, batch or process."""

from hashlib import sha256

import numpy as np


def generator(seed: int, what: str, index: int) -> np.random.Generator:
    """The generator of the `index`-th of what a text names, such as a class's draws."""
    word = int.from_bytes(sha256(what.encode()).digest()[:8])
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, word, index])))


def noise(seed: int, what: str, index: int, shape: tuple[int, ...]) -> np.ndarray:
    """Standard Gaussian noise, float32."""
    return generator(seed, what, index).standard_normal(shape, dtype=np.float32)
