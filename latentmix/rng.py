"""Random numbers by name: the same whatever else is drawn, in whatever order, batch or process."""

from hashlib import sha256

import numpy as np


def generator(seed: int, name: str, index: int) -> np.random.Generator:
    """Return the generator of the `index`-th item of a name, such as a class's draws."""
    word = int.from_bytes(sha256(name.encode()).digest()[:8])
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, word, index])))


def noise(seed: int, name: str, index: int, shape: tuple[int, ...]) -> np.ndarray:
    """Return standard Gaussian noise, float32."""
    return generator(seed, name, index).standard_normal(shape, dtype=np.float32)
