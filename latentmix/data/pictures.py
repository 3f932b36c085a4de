"""Images as callers of the Python functions have them: paths, PIL images, tensors, arrays, or lists of these."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from latentmix.data.decode import decode, in_srgb
from latentmix.data.image_files import image_id
from latentmix.data.protocol import Source, one_line
from latentmix.data.settings import MAX_MEGAPIXELS
from latentmix.errors import UserError
from latentmix.images import fitted
from latentmix.settings import expand_home

KINDS = "paths, PIL images, uint8 tensors [3, H, W] or uint8 arrays [H, W, 3]"


def read_pictures(images: Any, size: int | str | None, labels: Sequence[str] = ()) -> tuple[Tensor, bool]:
    """Return images as uint8 [B, 3, H, W], and whether a single one was given.

    Each is cut in its centre to the shape of `size`, and resized. None leaves images as they are, which must then be of
    one size. `labels` are what errors call them, by default "images[0]" and so on.
    Raises: UserError for anything that is no image.
    """
    single = isinstance(images, str | Path | Image.Image) or getattr(images, "ndim", 4) == 3
    given = [images] if single else list(images) if hasattr(images, "__iter__") else [images]
    if not given:
        raise UserError(f"there are no images; give {KINDS}")
    labels = labels or (["the image"] if single else [f"images[{index}]" for index in range(len(given))])
    pictures = [_picture(image, label) for image, label in zip(given, labels, strict=True)]
    arrays = [np.array(picture) if size is None else fitted(picture, size) for picture in pictures]
    if len(shapes := {array.shape[:2] for array in arrays}) > 1:
        found = ", ".join(f"{w}x{h}" for h, w in sorted(shapes))
        raise UserError(f"the images have several sizes, {found}; resize them to one")
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous(), single


def _picture(image: Any, label: str) -> Image.Image:
    """Return an upright RGB picture."""
    if isinstance(image, str | Path):
        return _read(Path(expand_home(image)))[1]
    if isinstance(image, Image.Image):
        try:
            return in_srgb(ImageOps.exif_transpose(image))[0]
        except Exception as error:  # nearly anything, where a picture is truncated, closed or of a rare mode
            raise UserError(f"{label} can't be read, a picture of mode {image.mode}: {one_line(error)}") from error
    if not isinstance(image, Tensor | np.ndarray):
        raise UserError(f"{label}: {type(image).__name__} is no image; give {KINDS}")
    array = image.permute(1, 2, 0).cpu().numpy() if isinstance(image, Tensor) and image.ndim == 3 else np.asarray(image)
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8:
        kind = str(image.dtype).removeprefix("torch.")
        raise UserError(f"{label}: {kind} {list(image.shape)} is no image; give {KINDS}, with values from 0 to 255")
    return Image.fromarray(np.ascontiguousarray(array))


def picture_source(path: Path, max_megapixels: float = MAX_MEGAPIXELS) -> Source:
    """Return the picture in a file as data sets have their images. Raises: UserError if there is none."""
    content, picture = _read(path, max_megapixels)
    return Source(image_id(content), lambda size: fitted(picture, size))


def _read(path: Path, max_megapixels: float = MAX_MEGAPIXELS) -> tuple[bytes, Image.Image]:
    """Return the bytes of a file, and the picture in it, upright and in RGB. Raises: UserError if there is none."""
    try:
        content = path.read_bytes()
        return content, decode(content, max_megapixels)[0]
    except Exception as error:  # Pillow raises nearly anything for damaged files
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise UserError(f"{path} can't be read as an image: {reason}") from error
