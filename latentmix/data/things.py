"""data=things: ten everyday objects at 128 px, drawn with light and soft shadows.

Its images have the statistics that the paper's effect depends on, for the reasons that shapes.py gives: pink texture, a
palette for each class in the ground, objects anywhere, fine grain, and a plane that repeats. An image depends on
(class, index) alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from latentmix.data.drawn.objects import OBJECTS, Part
from latentmix.data.drawn.scenes import Colour, Drawn, Placed, Scene, generator, pink

Array = np.ndarray
SIZE = 128  # pixels, square
GRAIN = 0.015  # standard deviation of the grain, in units where white is 1
EXPONENT = 1.3  # of the texture, whose amplitude falls as 1/f^EXPONENT
LIGHT = np.array([-0.48, -0.6, 0.64])  # unit vector towards the light: from the left, from above, from the viewer
PALE = 0.45  # saturation below which a caption calls a colour pale


@dataclass(frozen=True)
class Palette:
    """The colours of a class: hue of the ground, hues of the main colour, and accents as (hue, saturation, value)."""

    ground: float
    hues: tuple[float, float]
    accents: tuple[tuple[float, float, float], ...] = ()


_WHITE, _CREAM, _DARK, _WOOD = (0.12, 0.06, 0.97), (0.11, 0.2, 0.96), (0.65, 0.5, 0.18), (0.07, 0.6, 0.45)
PALETTES = {
    "cup": Palette(0.02, (0.42, 0.6), (_CREAM, (0.06, 0.75, 0.32))),
    "fish": Palette(0.51, (0.98, 1.12), ((0.14, 0.8, 0.98), _WHITE, _DARK)),
    "flower": Palette(0.36, (0.82, 1.0), ((0.14, 0.8, 0.98),)),
    "heart": Palette(0.9, (0.96, 1.02)),
    "house": Palette(0.1, (0.48, 0.62), ((0.02, 0.75, 0.75), _WOOD, (0.15, 0.45, 1.0))),
    "mushroom": Palette(0.27, (0.96, 1.04), (_CREAM,)),
    "sailboat": Palette(0.59, (0.98, 1.08), (_WHITE, _CREAM, _WOOD)),
    "star": Palette(0.68, (0.1, 0.16)),
    "tree": Palette(0.17, (0.27, 0.42), (_WOOD, (0.0, 0.8, 0.85))),
    "umbrella": Palette(0.77, (0.02, 0.14), (_WHITE, _WOOD)),
}
CLASSES = tuple(sorted(PALETTES))


def draw(class_name: str, index: int) -> Array:
    """Return image `index` of a class: uint8 [128, 128, 3], RGB."""
    shown = scene(class_name, index)
    texture = _texture(shown.rng, 3)
    image = shown.ground.rgb() * np.exp(shown.roughness * texture[:1]) + 0.035 * texture
    for placed in shown.objects:
        _paint(image, placed, OBJECTS[class_name], np.exp(0.08 * _texture(shown.rng, 1)))
    image += GRAIN * shown.rng.standard_normal(image.shape, dtype=np.float32)
    return np.rint(image.clip(0, 1).transpose(1, 2, 0) * 255).astype(np.uint8)


def scene(class_name: str, index: int) -> Scene:
    """Return the contents of image `index` of a class."""
    rng = generator(128, CLASSES.index(class_name), index)
    palette, bright = PALETTES[class_name], rng.uniform(0.3, 0.95)
    saturation = rng.uniform(0.2, 0.45) if bright > 0.6 else rng.uniform(0.35, 0.75)
    ground = Colour((palette.ground + 0.035 * rng.standard_normal()) % 1, saturation, bright, PALE)
    count = 1 + int(rng.random() < 0.6) + int(rng.random() < 0.3)
    objects: list[Placed] = []
    for _ in range(count):
        objects.append(_placed(rng, palette, objects))
    return Scene(ground, rng.uniform(0.07, 0.2), tuple(objects), rng)


def _placed(rng: np.random.Generator, palette: Palette, others: Sequence[Placed]) -> Placed:
    """Return a random object at the one of four random positions that is farthest from the other objects."""

    def room(place: Array) -> float:
        return min((float(np.hypot(*((place - (o.x, o.y) + 1) % 2 - 1))) for o in others), default=0.0)

    x, y = max(rng.uniform(-1, 1, (4, 2)), key=room)
    hue, turn = rng.uniform(*palette.hues) % 1, 0.05 * rng.standard_normal()
    main = Colour(hue, rng.uniform(0.55, 0.95), rng.uniform(0.72, 1.0), PALE)
    accents = tuple(Colour((h + turn) % 1, s, v, PALE) for h, s, v in palette.accents)
    radius = rng.uniform(0.4, 0.75)
    return Placed(x, y, radius, rng.uniform(-0.6, 0.6), (main, *accents), mirrored=bool(rng.random() < 0.5))


def _paint(image: Array, placed: Placed, parts: Sequence[Part], texture: Array) -> None:
    """Paint an object and its shadow into `image` [3, 128, 128]; what leaves the frame comes in on the other side."""
    rows, columns, x, y = _window(placed)
    pixel = placed.radius * SIZE / 2  # of a local unit
    part = image[:, rows, columns]
    distances = [each.distance(x, y) * pixel for each in parts]
    part *= 1 - 0.5 * _shadow(np.minimum.reduce(distances), 0.1 * pixel)
    for each, distance in zip(parts, distances, strict=True):
        light, gloss = _light(distance, each.bevel * pixel)
        cover = np.clip(0.5 - distance / 1.4, 0, 1)
        part += cover * (placed.colours[each.paint].rgb() * light * texture[:, rows, columns] + gloss - part)
    image[:, rows, columns] = part


def _window(placed: Placed) -> tuple[Array, Array, Array, Array]:
    """Return the rows and columns of the pixels around an object, and their local coordinates x and y."""
    half = min(SIZE // 2, int(1.35 * placed.radius * SIZE / 2) + 3)
    around = np.arange(-half, half)
    centre = [(c + 1) / 2 * SIZE for c in (placed.x, placed.y)]
    u, v = ((np.floor(c) + around + 0.5 - c) / (placed.radius * SIZE / 2) for c in centre)
    columns, rows = ((int(c) + around) % SIZE for c in centre)
    cos, sin = np.cos(placed.angle), np.sin(placed.angle)
    x, y = u[None] * cos + v[:, None] * sin, v[:, None] * cos - u[None] * sin
    return rows[:, None], columns[None], -x if placed.mirrored else x, y


def _shadow(distance: Array, offset: float) -> Array:
    """Return the soft shadow of a shape, cast away from the light: 0 to 1."""
    step = max(1, round(offset))
    return 1 / (1 + np.exp((np.roll(distance, (step, step), (0, 1)) / (0.7 * offset) + 0.5).clip(-30, 30)))


def _light(distance: Array, bevel: float) -> tuple[Array, Array]:
    """Return the diffuse and the specular light on a part whose edge is rounded over `bevel` pixels."""
    depth = np.clip(1 + distance / bevel, 0, 1)  # 1 at the edge, 0 where the part is flat
    height = bevel * np.sqrt(1.02 - depth**2)
    slope_y, slope_x = np.gradient(height)
    scale = 1 / np.sqrt(slope_x**2 + slope_y**2 + 1)
    facing = (LIGHT[2] - LIGHT[0] * slope_x - LIGHT[1] * slope_y) * scale
    mirror = 2 * facing * scale - LIGHT[2]  # of the light's reflection, the part towards the viewer
    return 0.5 + 0.72 * np.maximum(facing, 0), 0.35 * np.maximum(mirror, 0) ** 24


def _texture(rng: np.random.Generator, channels: int) -> Array:
    return pink(rng.standard_normal((channels, SIZE, SIZE), dtype=np.float32), EXPONENT)


class Things(Drawn):
    """The drawn objects as a data set."""

    domain = "things"
    names = CLASSES
    draw = staticmethod(draw)
