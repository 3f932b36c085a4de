"""Read and write PNG files, those of a batch on all threads.

Compressing PNGs takes long, so another thread does it while networks make the next batch. Until the PNGs are written,
their pixels are in a *pending file*, which is written at once, uncompressed. If a run stops in between, the next run
writes the PNGs from this file instead of generating the images again.
"""

import io
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from latentmix.profiling import timed
from latentmix.storage import key, load_tensors, save_tensors, write_atomic
from latentmix.threads import on_all_threads

PENDING = Path("work", "pending")  # folder of pending files
PNG_END = b"\0\0\0\0IEND\xaeB`\x82"


def to_pil(images: Tensor) -> list[Image.Image]:
    """Return PIL images of images uint8 [B, 3, H, W]."""
    return [Image.fromarray(array) for array in images.permute(0, 2, 3, 1).contiguous().cpu().numpy()]


def write_image(path: Path, image: Tensor) -> None:
    """Write an image, uint8 [3, H, W], as PNG."""
    write_atomic(path, encoded(to_pil(image[None])[0], "PNG"))


def encoded(picture: Image.Image, kind: str, **options: Any) -> bytes:
    """Return the bytes of an image file in a format of PIL, such as "PNG"."""
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def read_image(path: Path) -> Tensor:
    """Return a PNG's image, uint8 [3, H, W]."""
    with Image.open(path) as image:
        return torch.from_numpy(np.asarray(image.convert("RGB")).copy()).permute(2, 0, 1)


def is_image(path: Path) -> bool:
    """Return True if the file is a whole PNG, by its checksums; PIL does not look at the one of the last chunk."""
    try:
        with path.open("rb") as file, Image.open(file) as image:
            image.verify()
            file.seek(-len(PNG_END), os.SEEK_END)
            return file.read() == PNG_END
    except (OSError, SyntaxError, ValueError):
        return False


@timed("writing")
def save_images(folder: Path, paths: Sequence[Path], images: Tensor) -> Callable[[], None]:
    """Write a pending file of images, uint8 [B, 3, H, W], whose paths are in `folder`.

    Return a function that writes the PNGs and removes the pending file; another thread may call it.
    """
    names = [path.relative_to(folder).as_posix() for path in paths]
    pending = folder / PENDING / f"{key(names)}.safetensors"
    pixels = images.cpu()  # here, as the other thread would wait until the device has finished the next batch
    save_tensors(pending, {"pixels": pixels}, {"images": names})
    return partial(_write_pending, pending, list(zip(paths, pixels, strict=True)))


def write_pending(folder: Path) -> None:
    """Write the PNGs of all pending files that runs left in `folder`; damaged pending files are removed."""
    for pending in sorted((folder / PENDING).glob("*.safetensors")):
        try:
            tensors, about = load_tensors(pending)
            images = [(folder / name, pixels) for name, pixels in zip(about["images"], tensors["pixels"], strict=True)]
        except OSError:  # another run has just removed it
            continue
        except (ValueError, LookupError, TypeError):
            pending.unlink(missing_ok=True)
            continue
        if all(path.resolve().is_relative_to(folder.resolve()) for path, _ in images):
            _write_pending(pending, images)


def _write_pending(pending: Path, images: Sequence[tuple[Path, Tensor]]) -> None:
    on_all_threads(lambda path_image: write_image(*path_image), images)
    pending.unlink(missing_ok=True)
