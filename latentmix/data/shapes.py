"""data=shapes: ten kinds of drawn shape with the statistics of photographs.

Centred shapes on smooth grounds would leave most of the latent space empty: their inverted latents have norms far below
√L, and mixtures of them do not behave like mixtures of photographs. Two choices avoid that:

- Every image is filled with 1/f ("pink") texture, as photographs are. A class has its palette in the ground, and one to
  three shapes of a contrasting hue at any place, size and angle. Fine grain lies over everything.
- The plane repeats: what leaves the frame on one side comes in on the other, so a class's mean image is one flat
  colour. Shapes that keep to the middle leave a mean image with a rim. All latents would have that spatial pattern in
  common, and no mean over a channel could take it away. The many objects of photographs leave hardly any.

An image depends on (class, index) alone.
"""

from functools import partial

import numpy as np

from latentmix.data.drawn.objects import Distance, disc, heart, ring, union, without
from latentmix.data.drawn.scenes import Colour, Drawn, Placed, Scene, generator, pink

Array = np.ndarray
SIZE = 64  # pixels, square
GRAIN = 0.02  # standard deviation of the grain, in units where white is 1
EXPONENT = 1.15  # of the texture, whose amplitude falls as 1/f^EXPONENT


def draw(class_name: str, index: int) -> Array:
    """Return image number `index` of a class, uint8 [64, 64, 3], RGB."""
    shown = scene(class_name, index)
    texture = _texture(shown.rng, 3)
    image = shown.ground.rgb() * np.exp(shown.roughness * texture[:1]) + 0.06 * texture
    for placed in shown.objects:
        mask, light = _cover(placed, SHAPES[class_name])
        image = image * (1 - mask) + placed.colours[0].rgb() * np.exp(0.15 * _texture(shown.rng, 1)) * light * mask
    image = image + GRAIN * shown.rng.standard_normal(image.shape)
    return np.rint(image.clip(0, 1).transpose(1, 2, 0) * 255).astype(np.uint8)


def scene(class_name: str, index: int) -> Scene:
    """Return the contents of image number `index` of a class."""
    kind = list(SHAPES).index(class_name)
    rng = generator(kind, index)
    hue, bright = kind / len(SHAPES), rng.uniform(0.3, 0.85)
    ground = Colour((hue + 0.07 * rng.standard_normal()) % 1, rng.uniform(0.25, 0.8), bright)
    count = 1 + int(rng.random() < 0.6) + int(rng.random() < 0.3)
    shapes = tuple(_placed(rng, hue, (0.2, 0.5) if bright > 0.55 else (0.7, 1.0)) for _ in range(count))
    return Scene(ground, rng.uniform(0.12, 0.35), shapes, rng)


def _placed(rng: np.random.Generator, hue: float, values: tuple[float, float]) -> Placed:
    x, y = rng.uniform(-1, 1, 2)
    colour = Colour((hue + 0.45 + 0.1 * rng.standard_normal()) % 1, rng.uniform(0.3, 0.9), rng.uniform(*values))
    return Placed(x, y, rng.uniform(0.3, 0.7), rng.uniform(-np.pi, np.pi), (colour,))


def _cover(shape: Placed, distance: Distance) -> tuple[Array, Array]:
    """Return how much of each pixel a shape covers, 0 to 1, and its shading: [64, 64] each."""
    axis = (np.arange(SIZE) + 0.5) / SIZE * 2 - 1
    x, y = (((axis - centre + 1) % 2 - 1) / shape.radius for centre in (shape.x, shape.y))  # to the nearest copy
    x, y = x[None, :], y[:, None]
    cos, sin = np.cos(shape.angle), np.sin(shape.angle)
    edge = distance(x * cos - y * sin, x * sin + y * cos) * 30 * shape.radius  # about two pixels wide
    return 1 / (1 + np.exp(edge.clip(-40, 40))), 1 - 0.3 * np.minimum((x - 0.3) ** 2 + (y + 0.3) ** 2, 1.5)


def _texture(rng: np.random.Generator, channels: int) -> Array:
    return pink(rng.standard_normal((channels, SIZE, SIZE)), EXPONENT)


# Signed distances, negative inside, for shapes of about unit radius; y points down.


def _rectangle(half_x: float, half_y: float) -> Distance:
    return lambda x, y: np.maximum(abs(x) - half_x, abs(y) - half_y)


def _regular(sides: int, radius: float) -> Distance:
    sector = 2 * np.pi / sides

    def distance(x: Array, y: Array) -> Array:
        angle = (np.arctan2(x, -y) + sector / 2) % sector - sector / 2
        return np.hypot(x, y) * np.cos(angle) - radius * np.cos(sector / 2)

    return distance


def _star(x: Array, y: Array) -> Array:
    point = abs((np.arctan2(x, -y) / (2 * np.pi) * 5) % 1 - 0.5) * 2  # 1 at a point, 0 between two
    return np.hypot(x, y) - (0.42 + 0.58 * point**1.3)


def _drop(x: Array, y: Array) -> Array:
    """Inigo Quilez's exact distance to a cone with a round end."""
    x, y, blob, height = abs(x), 0.4 - y, 0.55, 1.35  # a disc of radius `blob` and a cone that rises to `height`
    slope = blob / height
    rise = np.sqrt(1 - slope**2)
    along = y * rise - x * slope
    flank = x * rise + y * slope - blob
    return np.where(along < 0, np.hypot(x, y) - blob, np.where(along > rise * height, np.hypot(x, y - height), flank))


SHAPES: dict[str, Distance] = {
    "circle": disc(0, 0, 0.8),
    "square": _rectangle(0.7, 0.7),
    "triangle": _regular(3, 1.0),
    "star": _star,
    "ring": ring(disc(0, 0, 0.65), 0.2),
    "cross": union(_rectangle(0.9, 0.28), _rectangle(0.28, 0.9)),
    "heart": partial(heart, top=0.55),
    "crescent": without(disc(0, 0, 0.9), disc(0.45, 0, 0.75)),
    "hexagon": _regular(6, 0.9),
    "drop": _drop,
}


class Shapes(Drawn):
    """The drawn shapes as a data set."""

    domain = "shapes"
    names = tuple(sorted(SHAPES))
    draw = staticmethod(draw)
