"""Pictures as PNG files. Making them so takes long, so a thread does it while networks make the next ones.

Until then their pixels lie beside them, in a file that is quickly written: the negative. Whatever happens to a run
after that, its networks need not make the pictures again.
"""

import io
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from latentmix.cache import key, load_tensors, save_tensors, write_atomic
from latentmix.profiling import timed

Item = TypeVar("Item")
Made = TypeVar("Made")
PENDING = Path("work", "negatives")


def write_image(path: Path, image: Tensor) -> None:
    """uint8 [3, H, W] -> PNG."""
    buffer = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).contiguous().cpu().numpy()).save(buffer, "PNG")
    write_atomic(path, buffer.getvalue())


def read_image(path: Path) -> Tensor:
    """PNG -> uint8 [3, H, W]."""
    with Image.open(path) as image:
        return torch.from_numpy(np.asarray(image.convert("RGB")).copy()).permute(2, 0, 1)


def is_image(path: Path) -> bool:
    """Whether a whole PNG lies there; its own checksums tell."""
    try:
        with Image.open(path) as image:
            image.verify()
    except (OSError, SyntaxError, ValueError):
        return False
    return True


@timed("writing")
def save_images(folder: Path, paths: Sequence[Path], images: Tensor) -> Callable[[], None]:
    """Keep the negative of pictures that are to lie somewhere in `folder`, uint8 [B, 3, H, W]; and what makes them of
    it, which another thread may do."""
    names = [path.relative_to(folder).as_posix() for path in paths]
    negative = folder / PENDING / f"{key(names)}.safetensors"
    pixels = images.cpu()  # here and now: another thread would wait until the device is through with the next batch
    save_tensors(negative, {"pixels": pixels}, {"pictures": names})
    return partial(_write_pending, negative, list(zip(paths, pixels, strict=True)))


def write_pending(folder: Path) -> None:
    """Make the pictures of all negatives that a run left behind in `folder`; those that are damaged go."""
    for negative in sorted((folder / PENDING).glob("*.safetensors")):
        try:
            tensors, about = load_tensors(negative)
            pictures = [
                (folder / name, pixels) for name, pixels in zip(about["pictures"], tensors["pixels"], strict=True)
            ]
        except OSError:  # whoever made it is just through with it
            continue
        except (ValueError, LookupError, TypeError):
            negative.unlink(missing_ok=True)
            continue
        if all(path.resolve().is_relative_to(folder.resolve()) for path, _ in pictures):  # none leads out of it
            _write_pending(negative, pictures)


def _write_pending(negative: Path, pictures: Sequence[tuple[Path, Tensor]]) -> None:
    on_all_threads(lambda image_path: write_image(*image_path), pictures)
    negative.unlink(missing_ok=True)


def on_all_threads(work: Callable[[Item], Made], items: Iterable[Item]) -> list[Made]:
    """Codecs on all of the threads that there are to use: they would keep a fast device waiting."""
    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        return list(threads.map(work, items))
