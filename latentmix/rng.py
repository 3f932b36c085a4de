"""Random numbers by seed and name, independent of what else is drawn, and of order, batch and process."""

from hashlib import sha256

import numpy as np


def generator(seed: int, name: str, index: int) -> np.random.Generator:
    """Return the random generator of item `index` of a name, for example of a draw of a class."""
    word = int.from_bytes(sha256(name.encode()).digest()[:8])
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, word, index])))


def noise(seed: int, name: str, index: int, shape: tuple[int, ...]) -> np.ndarray:
    """Return standard Gaussian noise of a shape, float32; the other arguments are those of `generator`."""
    return generator(seed, name, index).standard_normal(shape, dtype=np.float32)
