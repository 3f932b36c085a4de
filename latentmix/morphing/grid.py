"""A triangle or square of mixtures of three or four pictures, as one image and as a page with a point to drag."""

import base64
import html
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path

from PIL import Image
from torch import Tensor

from latentmix.errors import UserError
from latentmix.images import encoded, to_pil
from latentmix.storage import write_atomic

GAP = 0.04  # between cells, as a share of a cell's width
CORNERS = {3: ("top", "bottom left", "bottom right"), 4: ("top left", "top right", "bottom left", "bottom right")}


@dataclass(frozen=True)
class Place:
    """A cell of a grid: its left upper corner in cells, and the weights of the pictures there."""

    x: float
    y: float
    weights: tuple[float, ...]


def places(count: int, side: int) -> list[Place]:
    """Return the cells of a triangle (of three pictures) or a square (of four) with `side` cells along each side.

    Raises: UserError for another number of pictures, and for fewer than two cells along a side.
    """
    if count not in CORNERS:
        raise UserError(f"a grid needs three or four pictures, not {count}")
    if side < 2:
        raise UserError(f"a grid needs at least 2 cells along each side, not {side}")
    last = side - 1
    if count == 3:
        cells = [(row, column) for row in range(side) for column in range(row + 1)]
        return [Place(c + (last - r) / 2, r, (1 - r / last, (r - c) / last, c / last)) for r, c in cells]
    uvs = [(column / last, row / last) for row in range(side) for column in range(side)]
    return [Place(u * last, v * last, ((1 - u) * (1 - v), u * (1 - v), (1 - u) * v, u * v)) for u, v in uvs]


def sheet(images: Tensor, cells: Sequence[Place]) -> Image.Image:
    """Return one picture of images, uint8 [F, 3, H, W], at the positions of their cells, on white."""
    height, width = images.shape[2:]
    gap = max(1, round(GAP * width))
    across, down = (1 + max(getattr(cell, axis) for cell in cells) for axis in ("x", "y"))
    canvas = Image.new("RGB", (round(across * (width + gap)) - gap, round(down * (height + gap)) - gap), "white")
    for picture, cell in zip(to_pil(images), cells, strict=True):
        canvas.paste(picture, (round(cell.x * (width + gap)), round(cell.y * (height + gap))))
    return canvas


def write_grid(path: Path, images: Tensor, cells: Sequence[Place], names: Sequence[str]) -> list[Path]:
    """Write the sheet as `path`, a .png, and the page beside it; return both files."""
    whole = sheet(images, cells)
    write_atomic(path, encoded(whole, "PNG"))
    page = path.with_suffix(".html")
    data = {
        "pictures": [_uri(picture) for picture in to_pil(images)],
        "cells": [asdict(cell) for cell in cells],
        "names": list(names),
        "corners": CORNERS[len(names)],
        "cell": [images.shape[3], images.shape[2]],
        "gap": max(1, round(GAP * images.shape[3])),
        "sheet": _uri(whole),
    }
    template = resources.files(__package__).joinpath("grid.html").read_text(encoding="utf-8")
    text = template.replace("{{title}}", html.escape(" × ".join(names)))
    text = text.replace("{{data}}", json.dumps(data).replace("<", "\\u003c"))
    write_atomic(page, text.encode())
    return [path, page]


def _uri(picture: Image.Image) -> str:
    return "data:image/webp;base64," + base64.b64encode(encoded(picture, "WEBP", quality=88)).decode()
