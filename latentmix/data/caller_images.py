"""Images that callers of the Python functions pass: paths, PIL images, tensors, arrays, or lists of these."""

import os
from collections.abc import Mapping, Sequence, Set
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from latentmix.data.decode import decode, fitted, in_srgb
from latentmix.data.image_files import image_id
from latentmix.data.protocol import Source, one_line
from latentmix.data.settings import MAX_MEGAPIXELS
from latentmix.errors import UserError, warn_once
from latentmix.settings import URL, expand_home

KINDS = "paths, PIL images, uint8 tensors [3, H, W] or uint8 arrays [H, W, 3]"
FILES = str | PathLike | bytes | bytearray
FLOATS = ("float16", "bfloat16", "float32", "float64")


def read_pictures(images: Any, size: int | str | None, labels: Sequence[str] = ()) -> tuple[Tensor, bool]:
    """Return images as uint8 [B, 3, H, W], and whether a single one was given.

    Each is cropped in its centre to the aspect ratio of `size`, and resized. None leaves images as they are; all must
    then have one size. `labels` name the images in errors, by default "images[0]" and so on.
    Raises: UserError for anything that is no image.
    """
    single = is_one(images)
    given = [images] if single else list_of(images)
    if not given:
        raise UserError(f"there are no images; give {KINDS}")
    labels = labels or (["the image"] if single else [f"images[{index}]" for index in range(len(given))])
    pictures = [_picture(image, label) for image, label in zip(given, labels, strict=True)]
    arrays = [np.array(picture) if size is None else fitted(picture, size) for picture in pictures]
    if len(shapes := {array.shape[:2] for array in arrays}) > 1:
        found = ", ".join(f"{w}x{h}" for h, w in sorted(shapes))
        raise UserError(f"the images have several sizes, {found}; resize them to one")
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous(), single


def list_of(images: Any) -> list[Any]:
    """Return the entries of an ordered collection of images. Raises: UserError for a table, a dict or a set."""
    instead = {Mapping: "list(x.values())", Set: "a list, which has an order"}
    if hasattr(images, "column_names") or hasattr(images, "columns"):  # of datasets, of pandas
        raise UserError(f"a {type(images).__name__} is no list of images; give its column, such as x['image']")
    for kind, what in instead.items():
        if isinstance(images, kind):
            raise UserError(f"a {type(images).__name__} is no list of images; give {what}")
    return list(images)


def is_one(images: Any) -> bool:
    """Return whether this is one image, or no collection at all."""
    if isinstance(images, Tensor) or (isinstance(images, np.ndarray) and images.dtype.kind not in "OSU"):
        return images.ndim < 4
    return isinstance(images, FILES | Image.Image) or hasattr(images, "read") or not hasattr(images, "__iter__")


def _picture(image: Any, label: str) -> Image.Image:
    """Return an upright RGB picture."""
    if isinstance(image, str) and URL.match(image):
        raise UserError(f"{label}: {image} is a URL; fetch it first, and give the file or its bytes")
    if isinstance(image, str | PathLike):
        return _read(Path(expand_home(os.fspath(image))))[1]
    if isinstance(image, bytes | bytearray) or hasattr(image, "read"):
        return _of_bytes(image, label)
    if isinstance(image, Image.Image):
        try:
            return in_srgb(ImageOps.exif_transpose(image))[0]
        except Exception as error:  # of any type for a truncated or closed picture, or a rare mode
            raise UserError(f"{label} can't be read, a picture of mode {image.mode}: {one_line(error)}") from error
    if not isinstance(image, Tensor | np.ndarray):
        raise UserError(f"{label}: {type(image).__name__} is no image; give {KINDS}")
    is_tensor = isinstance(image, Tensor)
    kind, shape = str(image.dtype).removeprefix("torch."), list(image.shape)
    if len(shape) != 3 or shape[0 if is_tensor else 2] != 3 or kind != "uint8" or 0 in shape:
        raise UserError(f"{label}: {kind} {shape} is no image; {_advice(kind, shape, is_tensor)}")
    if isinstance(image, Tensor):
        if image.is_meta:
            raise UserError(f"{label} is on the device meta, and has no pixels")
        image = image.permute(1, 2, 0).cpu().numpy()
    return Image.fromarray(np.ascontiguousarray(image))


def _advice(kind: str, shape: list[int], is_tensor: bool) -> str:
    """Return advice for an array that is no image."""
    if kind in FLOATS and 3 in shape:
        whole = ".round().to(torch.uint8)" if is_tensor else ".round().astype('uint8')"
        return f"if its values are from 0 to 1, give (255 * x){whole}"
    if kind == "uint8" and len(shape) == 3 and shape[2 if is_tensor else 0] == 3:
        return "give x.movedim(-1, -3)" if is_tensor else "give numpy.moveaxis(x, -3, -1)"
    if kind == "uint8" and not is_tensor and len(shape) in (2, 3) and shape[2:] in ([], [4]):
        return "give PIL.Image.fromarray(x)"
    return f"give {KINDS}, with values from 0 to 255"


def _of_bytes(image: Any, label: str) -> Image.Image:
    """Return the picture in the bytes of a file, or in an open one."""
    try:
        content = image.read() if hasattr(image, "read") else bytes(image)
        return _decoded(content, label, MAX_MEGAPIXELS)
    except Exception as error:  # Pillow raises nearly anything for damaged files
        raise UserError(f"{label} can't be read as an image: {one_line(error)}") from error


def picture_source(path: Path, max_megapixels: float = MAX_MEGAPIXELS) -> Source:
    """Return the picture in a file as a `Source`. Raises: UserError if there is none."""
    content, picture = _read(path, max_megapixels)
    return Source(image_id(content), lambda size: fitted(picture, size))


def _read(path: Path, max_megapixels: float = MAX_MEGAPIXELS) -> tuple[bytes, Image.Image]:
    """Return the bytes of a file, and the picture in it, upright and in RGB. Raises: UserError if there is none."""
    try:
        content = path.read_bytes()
        return content, _decoded(content, str(path), max_megapixels)
    except Exception as error:  # Pillow raises nearly anything for damaged files
        if path.is_dir():
            raise UserError(f"{path} is a folder; give its files: sorted(Path({str(path)!r}).iterdir())") from error
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise UserError(f"{path} can't be read as an image: {reason}") from error


def _decoded(content: bytes, label: str, max_megapixels: float) -> Image.Image:
    """Return the picture in the bytes of a file; warn of what is peculiar. Raises whatever Pillow raises."""
    picture, remarks = decode(content, max_megapixels)
    for remark in remarks:
        warn_once(f"{label} is an image with {remark}")
    return picture
