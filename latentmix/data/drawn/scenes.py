"""Base of the drawn data sets: scenes, colours, captions, pink texture, and images by class and index."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
from PIL import Image

from latentmix.data.decode import fitted
from latentmix.data.decoded_images import DECODED
from latentmix.data.protocol import Dataset, Source
from latentmix.errors import UserError

Array = np.ndarray
TRAINING_START = 1_000_000  # the embedded networks were trained on images from this index on; experiments stay below it
HUES = {"red": 0.0, "orange": 1 / 12, "yellow": 1 / 6, "green": 1 / 3, "cyan": 1 / 2, "blue": 2 / 3}
HUES |= {"purple": 0.77, "pink": 0.89}
COUNTS = {2: "two", 3: "three"}
PLURALS = {"cross": "crosses", "fish": "fish"}  # all others end in s


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


@dataclass(frozen=True)
class Placed:
    """An object's position in a frame from -1 to 1 whose y points down, its radius, angle in radians, and colours."""

    x: float
    y: float
    radius: float
    angle: float
    colours: tuple[Colour, ...]  # in order of paint
    mirrored: bool = False


@dataclass(frozen=True)
class Scene:
    """The contents of one image, and the generator that draws its texture and grain next."""

    ground: Colour
    roughness: float
    objects: tuple[Placed, ...]
    rng: np.random.Generator


def generator(*numbers: int) -> np.random.Generator:
    """Return the random generator that is seeded by these numbers."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(numbers)))


def caption(scene: Scene, noun: str) -> str:
    """Return what a scene shows, e.g. "two red stars on a dark blue ground"."""
    count, colour, ground = len(scene.objects), scene.objects[0].colours[0].name(), scene.ground.name()
    plural = PLURALS.get(noun, f"{noun}s")
    objects = f"{_a(colour)} {noun}" if count == 1 else f"{COUNTS[count]} {colour} {plural}"
    return f"{objects} on {_a(ground)} ground"


def _a(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def pink(white: Array, exponent: float) -> Array:
    """Return white noise [channels, n, n] filtered so that its amplitude falls as 1/f^exponent, of mean 0 and std 1."""
    noise = np.fft.irfft2(np.fft.rfft2(white.astype(float)) * _fall(white.shape[-1], exponent), s=white.shape[-2:])
    return noise / noise.std(axis=(1, 2), keepdims=True)


@cache
def _fall(size: int, exponent: float) -> Array:
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None])
    frequency[0, 0] = np.inf  # no constant part
    return frequency**-exponent


class Drawn(Dataset):
    """A data set without end, whose image `index` of a class is `draw(class, index)`.

    `light` makes the top of each image brighter by so many grey levels, and the bottom darker. All images then share a
    spatial bias, which subtracting a channel's mean does not remove.
    """

    names: tuple[str, ...]
    draw: Callable[[str, int], Array]

    def __init__(self, light: float = 0.0) -> None:
        self.light = light

    def classes(self) -> tuple[str, ...]:
        return self.names

    def images(self, class_id: str, count: int | None = None) -> list[Source]:
        class_id = self.resolve(class_id)
        if count is None or count > TRAINING_START:
            raise UserError(f"drawn images are unlimited; say how many of each class, up to {TRAINING_START}")
        lit = f" lit {self.light:g}" if self.light else ""
        return [Source(f"{class_id}/{index}{lit}", partial(self._pixels, class_id, index)) for index in range(count)]

    def home(self) -> str:
        return "are drawn by latentmix, so there is nothing to fetch"

    def _pixels(self, class_id: str, index: int, size: int | str) -> Array:
        image = fitted(self._drawn(class_id, index), size)
        slope = np.linspace(self.light, -self.light, len(image), dtype=np.float32)[:, None, None]
        return np.rint((image + slope).clip(0, 255)).astype(np.uint8)

    def _drawn(self, class_id: str, index: int) -> Image.Image:
        """Return an image at its own size, from memory if it was drawn before."""
        id_ = (type(self).__name__, class_id, index)
        image = DECODED.get(id_)
        if image is None:
            image = Image.fromarray(self.draw(class_id, index))
            DECODED.add(id_, image, used=True)
        return image
