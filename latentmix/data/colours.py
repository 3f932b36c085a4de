"""Colours and numbers of drawn objects, and their names in captions."""

from dataclasses import dataclass

import numpy as np

HUES = {
    "red": 0.0,
    "orange": 1 / 12,
    "yellow": 1 / 6,
    "green": 1 / 3,
    "cyan": 1 / 2,
    "blue": 2 / 3,
    "purple": 0.77,
    "pink": 0.89,
}
COUNTS = {2: "two", 3: "three"}


@dataclass(frozen=True)
class Colour:
    """A colour by hue (0 to 1 round the circle, 0 is red), saturation and value."""

    hue: float
    saturation: float
    value: float
    pale: float = 0.5  # the saturation below which its name says so

    def name(self) -> str:
        """Return the colour in words, e.g. "dark green"."""
        nearest = min(HUES, key=lambda hue: abs((self.hue - HUES[hue] + 0.5) % 1 - 0.5))
        return f"dark {nearest}" if self.value < 0.5 else f"pale {nearest}" if self.saturation < self.pale else nearest

    def rgb(self) -> np.ndarray:
        """Return red, green and blue, [3, 1, 1]; white is 1."""
        k = (np.array([5, 3, 1]) + self.hue * 6) % 6
        rgb = self.value - self.value * self.saturation * np.clip(np.minimum(k, 4 - k), 0, 1)
        return rgb[:, None, None]
