"""data=shapes: the embedded data set, ten kinds of drawn shape with the statistics of photographs.

Centred shapes on smooth grounds would leave most of the latent space empty: their inverted latents have norms far below
√L, and mixtures of them do not behave like mixtures of photographs. Two choices avoid that:

- Every image is filled with 1/f ("pink") texture, as photographs are. A class has its palette in the ground, and one to
  three shapes of a contrasting hue at any place, size and angle. Fine grain lies over everything.
- The plane repeats: what leaves the frame on one side comes in on the other, so a class's mean image is one flat
  colour. Shapes that keep to the middle leave a mean image with a rim. All latents would have that spatial pattern in
  common, and no mean over a channel could take it away. The many objects of photographs leave hardly any.

An image depends on (class, index) alone. The embedded networks were trained on indices from `TRAINING_START` on;
experiments stay below it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from PIL import Image

from latentmix.data.colours import Colour, caption
from latentmix.data.lighting import lit
from latentmix.data.protocol import Dataset, Source
from latentmix.data.settings import DataConfig
from latentmix.errors import UserError
from latentmix.images import fitted

Array = np.ndarray
SIZE = 64  # pixels, square
TRAINING_START = 1_000_000
GRAIN = 0.02  # standard deviation of the grain, in units where white is 1


@dataclass(frozen=True)
class Placed:
    """A shape's position in a frame from -1 to 1 whose y points down, its radius, angle in radians, and colour."""

    x: float
    y: float
    radius: float
    angle: float
    colour: Colour


@dataclass(frozen=True)
class Scene:
    """The contents of one image, apart from its texture and grain."""

    ground: Colour
    roughness: float
    shapes: tuple[Placed, ...]


def draw(class_name: str, index: int) -> Array:
    """Return image number `index` of a class, uint8 [64, 64, 3], RGB. Raises KeyError for a class not in `SHAPES`."""
    shown, rng = _scene(class_name, index)
    texture = pink(rng, 3)
    image = shown.ground.rgb() * np.exp(shown.roughness * texture[:1]) + 0.06 * texture
    for shape in shown.shapes:
        mask, light = _cover(shape, SHAPES[class_name])
        image = image * (1 - mask) + shape.colour.rgb() * np.exp(0.15 * pink(rng, 1)) * light * mask
    image = image + GRAIN * rng.standard_normal(image.shape)
    return np.rint(image.clip(0, 1).transpose(1, 2, 0) * 255).astype(np.uint8)


def describe(class_name: str, index: int) -> str:
    """Return a description of image number `index`, e.g. "two red stars on a dark blue ground"."""
    shown = scene(class_name, index)
    plural = "crosses" if class_name == "cross" else f"{class_name}s"
    return caption(len(shown.shapes), class_name, plural, shown.shapes[0].colour.name(), shown.ground.name())


def scene(class_name: str, index: int) -> Scene:
    """Return the contents of image number `index` of a class. Raises KeyError for a class not in `SHAPES`."""
    return _scene(class_name, index)[0]


def _scene(class_name: str, index: int) -> tuple[Scene, np.random.Generator]:
    """Return the scene of (class, index), and the random generator that draws its textures next."""
    if class_name not in SHAPES:
        raise KeyError(f"no shape is called {class_name!r}; there are {', '.join(SHAPES)}")
    kind = list(SHAPES).index(class_name)
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence([kind, index])))
    hue, bright = kind / len(SHAPES), rng.uniform(0.3, 0.85)
    ground = Colour((hue + 0.07 * rng.standard_normal()) % 1, rng.uniform(0.25, 0.8), bright)
    count = 1 + int(rng.random() < 0.6) + int(rng.random() < 0.3)
    shapes = tuple(_placed(rng, hue, (0.2, 0.5) if bright > 0.55 else (0.7, 1.0)) for _ in range(count))
    return Scene(ground, rng.uniform(0.12, 0.35), shapes), rng


def _placed(rng: np.random.Generator, hue: float, values: tuple[float, float]) -> Placed:
    x, y = rng.uniform(-1, 1, 2)
    colour = Colour((hue + 0.45 + 0.1 * rng.standard_normal()) % 1, rng.uniform(0.3, 0.9), rng.uniform(*values))
    return Placed(x, y, rng.uniform(0.3, 0.7), rng.uniform(-np.pi, np.pi), colour)


def _cover(shape: Placed, distance: Callable[[Array, Array], Array]) -> tuple[Array, Array]:
    """Return how much of each pixel a shape covers, 0 to 1, and its shading: [64, 64] each."""
    axis = (np.arange(SIZE) + 0.5) / SIZE * 2 - 1
    x, y = (((axis - centre + 1) % 2 - 1) / shape.radius for centre in (shape.x, shape.y))  # to the nearest copy
    x, y = x[None, :], y[:, None]
    cos, sin = np.cos(shape.angle), np.sin(shape.angle)
    edge = distance(x * cos - y * sin, x * sin + y * cos) * 30 * shape.radius  # about two pixels wide
    return 1 / (1 + np.exp(edge.clip(-40, 40))), 1 - 0.3 * np.minimum((x - 0.3) ** 2 + (y + 0.3) ** 2, 1.5)


def pink(rng: np.random.Generator, channels: int, exponent: float = 1.15) -> Array:
    """Return noise [channels, 64, 64] whose amplitude falls as 1/f^exponent, each channel of mean 0 and std 1."""
    spectrum = np.fft.rfft2(rng.standard_normal((channels, SIZE, SIZE)))
    frequency = np.hypot(np.fft.fftfreq(SIZE)[:, None], np.fft.rfftfreq(SIZE)[None])
    frequency[0, 0] = np.inf  # no constant part
    noise = np.fft.irfft2(spectrum / frequency**exponent, s=(SIZE, SIZE))
    return noise / noise.std(axis=(1, 2), keepdims=True)


# Signed distances, negative inside, for shapes of about unit radius; y points down. The exact ones for the heart and
# the drop (a cone with a round end) are Inigo Quilez's.


def _polygon(x: Array, y: Array, sides: int, radius: float) -> Array:
    sector = 2 * np.pi / sides
    angle = (np.arctan2(x, -y) + sector / 2) % sector - sector / 2
    return np.hypot(x, y) * np.cos(angle) - radius * np.cos(sector / 2)


def _circle(x: Array, y: Array) -> Array:
    return np.hypot(x, y) - 0.8


def _square(x: Array, y: Array) -> Array:
    return np.maximum(abs(x), abs(y)) - 0.7


def _triangle(x: Array, y: Array) -> Array:
    return _polygon(x, y, 3, 1.0)


def _star(x: Array, y: Array) -> Array:
    point = abs((np.arctan2(x, -y) / (2 * np.pi) * 5) % 1 - 0.5) * 2  # 1 at a point, 0 between two
    return np.hypot(x, y) - (0.42 + 0.58 * point**1.3)


def _ring(x: Array, y: Array) -> Array:
    return abs(np.hypot(x, y) - 0.65) - 0.2


def _cross(x: Array, y: Array) -> Array:
    return np.minimum(np.maximum(abs(x) - 0.9, abs(y) - 0.28), np.maximum(abs(x) - 0.28, abs(y) - 0.9))


def _heart(x: Array, y: Array) -> Array:
    x, y = abs(x) / 1.5, 0.55 - y / 1.5
    lobe = np.hypot(x - 0.25, y - 0.75) - np.sqrt(2) / 4
    diagonal = 0.5 * np.maximum(x + y, 0)
    body = np.sqrt(np.minimum(x**2 + (y - 1) ** 2, (x - diagonal) ** 2 + (y - diagonal) ** 2)) * np.sign(x - y)
    return 1.5 * np.where(x + y > 1, lobe, body)


def _crescent(x: Array, y: Array) -> Array:
    return np.maximum(np.hypot(x, y) - 0.9, 0.75 - np.hypot(x - 0.45, y))


def _hexagon(x: Array, y: Array) -> Array:
    return _polygon(x, y, 6, 0.9)


def _drop(x: Array, y: Array) -> Array:
    x, y, blob, height = abs(x), 0.4 - y, 0.55, 1.35  # a disc of radius `blob` and a cone that rises to `height`
    slope = blob / height
    rise = np.sqrt(1 - slope**2)
    along = y * rise - x * slope
    flank = x * rise + y * slope - blob
    return np.where(along < 0, np.hypot(x, y) - blob, np.where(along > rise * height, np.hypot(x, y - height), flank))


SHAPES: dict[str, Callable[[Array, Array], Array]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "ring": _ring,
    "cross": _cross,
    "heart": _heart,
    "crescent": _crescent,
    "hexagon": _hexagon,
    "drop": _drop,
}


def load(config: DataConfig) -> Dataset:
    """Return the data set that `data=shapes` describes."""
    return Shapes(config.light)


class Shapes(Dataset):
    """The drawn shapes as a data set."""

    world = "shapes"

    def __init__(self, light: float = 0.0) -> None:
        self.light = light

    def classes(self) -> tuple[str, ...]:
        return tuple(sorted(SHAPES))

    def resolve(self, name: str) -> str:
        if name not in SHAPES:
            raise UserError(f"no shape is called {name!r}; there are {', '.join(self.classes())}")
        return name

    def images(self, class_id: str, count: int | None = None) -> list[Source]:
        class_id = self.resolve(class_id)
        if count is None or count > TRAINING_START:
            raise UserError(
                f"the number of drawn shapes is unlimited; say how many of each class, up to {TRAINING_START}"
            )
        drawn = [Source(f"{class_id}/{index}", partial(_sized, class_id, index)) for index in range(count)]
        return [lit(source, self.light) for source in drawn]

    def home(self) -> str:
        return "are drawn by latentmix, so there is nothing to fetch"


def _sized(class_name: str, index: int, size: int | str) -> Array:
    image = Image.fromarray(draw(class_name, index))
    return np.asarray(image) if size == SIZE else fitted(image, size)
