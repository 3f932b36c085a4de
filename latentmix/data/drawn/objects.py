"""Ten drawn objects as signed distances, part by part.

Local coordinates span about -1 to 1; x points right, y points down. A distance is negative inside a part, and its
gradient has about unit length near the edge, so that edges and bevels are as wide as the painter wants them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np

Array = np.ndarray
Distance = Callable[[Array, Array], Array]


@dataclass(frozen=True)
class Part:
    """A part of an object. `paint` indexes the object's colours; `bevel` is the width of its rounded edge."""

    distance: Distance
    paint: int
    bevel: float = 0.3


def disc(cx: float, cy: float, radius: float) -> Distance:
    return lambda x, y: np.hypot(x - cx, y - cy) - radius


def ellipse(cx: float, cy: float, rx: float, ry: float) -> Distance:
    """Return an approximate distance to an ellipse, exact on the edge."""

    def distance(x: Array, y: Array) -> Array:
        u, v = (x - cx) / rx, (y - cy) / ry
        scaled = np.hypot(u, v)
        return scaled * (scaled - 1) / np.maximum(np.hypot(u / rx, v / ry), 1e-6)

    return distance


def box(cx: float, cy: float, half_x: float, half_y: float, corner: float = 0.05) -> Distance:
    """Return the distance to a rectangle with corners of radius `corner`."""

    def distance(x: Array, y: Array) -> Array:
        u, v = abs(x - cx) - half_x + corner, abs(y - cy) - half_y + corner
        return np.hypot(np.maximum(u, 0), np.maximum(v, 0)) + np.minimum(np.maximum(u, v), 0) - corner

    return distance


def line(ax: float, ay: float, bx: float, by: float, radius: float) -> Distance:
    """Return the distance to a line from a to b with round ends."""

    def distance(x: Array, y: Array) -> Array:
        dx, dy = bx - ax, by - ay
        along = (((x - ax) * dx + (y - ay) * dy) / (dx * dx + dy * dy)).clip(0, 1)
        return np.hypot(x - ax - along * dx, y - ay - along * dy) - radius

    return distance


def polygon(points: Sequence[tuple[float, float]], corner: float = 0.04) -> Distance:
    """Return the distance to a polygon, grown by `corner`, which rounds its corners."""

    def distance(x: Array, y: Array) -> Array:
        square, sign = np.full(np.broadcast(x, y).shape, np.inf), np.ones(1)
        for (ax, ay), (bx, by) in zip(points, [*points[1:], points[0]], strict=True):
            dx, dy, px, py = bx - ax, by - ay, x - ax, y - ay
            along = ((px * dx + py * dy) / (dx * dx + dy * dy)).clip(0, 1)
            square = np.minimum(square, (px - along * dx) ** 2 + (py - along * dy) ** 2)
            crossed = ((ay > y) != (by > y)) & (px * dy < py * dx if dy > 0 else px * dy > py * dx)
            sign = np.where(crossed, -sign, sign)
        return sign * np.sqrt(square) - corner

    return distance


def union(*distances: Distance) -> Distance:
    return lambda x, y: reduce(np.minimum, (d(x, y) for d in distances))


def inside(*distances: Distance) -> Distance:
    """Return the distance to what all have in common."""
    return lambda x, y: reduce(np.maximum, (d(x, y) for d in distances))


def without(whole: Distance, hole: Distance) -> Distance:
    return lambda x, y: np.maximum(whole(x, y), -hole(x, y))


def ring(distance: Distance, radius: float) -> Distance:
    """Return the distance to the outline of a shape, drawn `radius` to each side."""
    return lambda x, y: abs(distance(x, y)) - radius


def turned(count: int, distance: Distance, start: float = 0.0) -> Distance:
    """Return `count` copies of a shape, turned around the origin; the first is turned by `start` radians."""
    angles = [start + 2 * np.pi * k / count for k in range(count)]

    def one(angle: float) -> Distance:
        cos, sin = np.cos(angle), np.sin(angle)
        return lambda x, y: distance(x * cos + y * sin, y * cos - x * sin)

    return union(*map(one, angles))


def _star_points(outer: float, inner: float) -> list[tuple[float, float]]:
    angles = [np.pi * k / 5 for k in range(10)]
    return [(r * np.sin(a), -r * np.cos(a)) for a, r in zip(angles, [outer, inner] * 5, strict=True)]


def heart(x: Array, y: Array, top: float = 0.56) -> Array:
    """Inigo Quilez's exact distance to a heart, scaled to about unit radius; `top` moves it up."""
    x, y = abs(x) / 1.5, top - y / 1.5
    lobe = np.hypot(x - 0.25, y - 0.75) - np.sqrt(2) / 4
    diagonal = 0.5 * np.maximum(x + y, 0)
    body = np.sqrt(np.minimum(x**2 + (y - 1) ** 2, (x - diagonal) ** 2 + (y - diagonal) ** 2)) * np.sign(x - y)
    return 1.5 * np.where(x + y > 1, lobe, body)


_HULL = polygon([(-0.85, 0.42), (0.85, 0.42), (0.55, 0.82), (-0.6, 0.82)], 0.05)
_DOME = without(disc(0, 0, 0.9), union(box(0, 0.62, 1.2, 0.6, 0), *(disc(c, 0.06, 0.24) for c in (-0.6, 0.0, 0.6))))
_CAP = inside(ellipse(0, 0.1, 0.92, 0.86), box(0, -0.6, 1, 0.72, 0.1))

# Parts are painted in order. Colours: 0 is the main one, which captions name; the others are the class's accents.
OBJECTS: dict[str, tuple[Part, ...]] = {
    "cup": (
        Part(ring(disc(0.62, 0.05, 0.3), 0.1), 0, 0.12),
        Part(polygon([(-0.66, -0.6), (0.58, -0.6), (0.46, 0.68), (-0.54, 0.68)], 0.1), 0, 0.25),
        Part(ellipse(-0.04, -0.58, 0.66, 0.16), 1, 0.1),
        Part(ellipse(-0.04, -0.55, 0.54, 0.1), 2, 0.05),
    ),
    "fish": (
        Part(polygon([(-0.35, 0), (-0.95, -0.5), (-0.8, 0), (-0.95, 0.5)], 0.06), 1, 0.15),
        Part(polygon([(-0.25, -0.3), (0.05, -0.78), (0.4, -0.35)], 0.05), 1, 0.15),
        Part(ellipse(0.15, 0, 0.78, 0.5), 0, 0.5),
        Part(polygon([(-0.3, 0.12), (0.12, 0.1), (-0.15, 0.42)], 0.05), 1, 0.12),
        Part(disc(0.55, -0.1, 0.17), 2, 0.1),
        Part(disc(0.6, -0.09, 0.08), 3, 0.05),
    ),
    "flower": (
        Part(turned(6, ellipse(0, -0.6, 0.3, 0.38)), 0, 0.3),
        Part(disc(0, 0, 0.32), 1, 0.3),
    ),
    "heart": (Part(heart, 0, 0.6),),
    "house": (
        Part(box(0.42, -0.5, 0.11, 0.28, 0.02), 2, 0.08),
        Part(box(0, 0.32, 0.66, 0.55, 0.04), 0, 0.12),
        Part(polygon([(-0.86, -0.2), (0, -0.9), (0.86, -0.2)], 0.06), 1, 0.25),
        Part(box(-0.26, 0.5, 0.18, 0.37, 0.05), 2, 0.08),
        Part(box(0.3, 0.26, 0.2, 0.2, 0.03), 3, 0.08),
    ),
    "mushroom": (
        Part(polygon([(-0.2, 0.0), (0.2, 0.0), (0.3, 0.72), (-0.3, 0.72)], 0.08), 1, 0.35),
        Part(_CAP, 0, 0.5),
        Part(union(disc(-0.42, -0.18, 0.16), disc(0.05, -0.44, 0.18), disc(0.46, -0.14, 0.14)), 1, 0.1),
    ),
    "sailboat": (
        Part(line(0.02, -0.9, 0.02, 0.45, 0.05), 3, 0.06),
        Part(polygon([(0.12, -0.84), (0.12, 0.26), (0.8, 0.26)], 0.05), 1, 0.15),
        Part(polygon([(-0.1, -0.62), (-0.1, 0.26), (-0.66, 0.26)], 0.05), 2, 0.15),
        Part(_HULL, 0, 0.25),
    ),
    "star": (Part(polygon(_star_points(0.9, 0.42), 0.1), 0, 0.5),),
    "tree": (
        Part(polygon([(-0.1, 0.2), (0.1, 0.2), (0.16, 0.9), (-0.16, 0.9)], 0.04), 1, 0.15),
        Part(union(disc(-0.4, -0.08, 0.42), disc(0.4, -0.08, 0.42), disc(0, -0.45, 0.48), disc(0, 0.02, 0.4)), 0, 0.4),
        Part(union(*(disc(*c, 0.1) for c in ((-0.38, -0.05), (0.34, -0.2), (-0.05, -0.55), (0.08, 0.08)))), 2, 0.1),
    ),
    "umbrella": (
        Part(line(0, -0.98, 0, 0.72, 0.05), 2, 0.06),
        Part(inside(ring(disc(0.17, 0.72, 0.17), 0.055), box(0.17, 0.95, 0.4, 0.23, 0)), 2, 0.06),
        Part(_DOME, 0, 0.5),
        Part(inside(_DOME, ellipse(0, 0.06, 0.34, 0.98)), 1, 0.3),
    ),
}
