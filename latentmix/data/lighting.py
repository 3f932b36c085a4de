"""A light from above on drawn images: a bias in space that all of them share, which no mean of a channel removes."""

import numpy as np

from latentmix.data.protocol import Source

Array = np.ndarray


def lit(source: Source, light: float) -> Source:
    """Return an image whose top is `light` grey levels brighter than before, and whose bottom is as much darker."""
    return (
        Source(f"{source.id} lit {light:g}", lambda size: brightened(source.pixels(size), light)) if light else source
    )


def brightened(image: Array, light: float) -> Array:
    """Return an image, uint8 [H, W, 3], with a slope added from top to bottom."""
    slope = np.linspace(light, -light, len(image), dtype=np.float32)[:, None, None]
    return np.rint((image + slope).clip(0, 255)).astype(np.uint8)
