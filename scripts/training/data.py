"""Training images, their captions and attributes."""

import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from latentmix.data import things
from latentmix.data.drawn import scenes as drawn_scenes

from .settings import Run

CLASSES = list(things.CLASSES)
SIZE = things.SIZE
HELD_OUT = drawn_scenes.TRAINING_START // 2  # images from here on are neither trained on nor used by experiments
CHUNK = 100


def images(run: Run) -> None:
    """Draw the images that training and gates use, unless they are drawn already."""
    training_images(run)
    held_out_images(run)


def training_images(run: Run) -> Tensor:
    """Return the training images, uint8 [N, 3, 128, 128] in channels-last memory, class after class.

    They are drawn once, then read from `run.work`. On a GPU they lie in its memory.
    """
    return _images(run, f"images-{run.settings.per_class}", drawn_scenes.TRAINING_START, run.settings.per_class)


def held_out_images(run: Run) -> dict[str, Tensor]:
    """Return images of each class that no network was trained on: uint8 [gate_pool, 3, 128, 128]."""
    count = run.settings.gate_pool
    return dict(zip(CLASSES, _images(run, f"held-out-{count}", HELD_OUT, count).split(count), strict=True))


def _images(run: Run, name: str, start: int, per_class: int) -> Tensor:
    """Return images `start`, `start` + 1, ... of every class from a file in `run.work`, which is drawn if missing."""
    path = run.work / f"{name}.npy"
    if not path.exists():
        part = path.with_suffix(".part.npy")
        shape = (len(CLASSES), per_class, SIZE, SIZE, 3)
        file = np.lib.format.open_memmap(part, mode="w+", dtype=np.uint8, shape=shape)
        chunks = [
            _Chunk(k, start, i, min(i + CHUNK, per_class))
            for k in range(len(CLASSES))
            for i in range(0, per_class, CHUNK)
        ]
        for chunk, drawn in zip(chunks, _in_processes(run.settings.workers, chunks), strict=True):
            file[chunk.kind, chunk.first : chunk.last] = drawn
        file.flush()
        part.replace(path)
    whole = torch.from_numpy(np.load(path, mmap_mode="c"))
    return whole.view(-1, SIZE, SIZE, 3).to(run.device).permute(0, 3, 1, 2)


class _Chunk(NamedTuple):
    """Images of one class that one process draws together."""

    kind: int
    start: int
    first: int
    last: int


def _in_processes(workers: int, chunks: Sequence[_Chunk]) -> Iterator[np.ndarray]:
    """Yield the images of each chunk. 0 workers are one for each core."""
    workers = workers or len(os.sched_getaffinity(0))
    if workers == 1:
        yield from map(_draw, chunks)
        return
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(_draw, chunks)


def _draw(chunk: _Chunk) -> np.ndarray:
    return np.stack([things.draw(CLASSES[chunk.kind], chunk.start + i) for i in range(chunk.first, chunk.last)])


def scenes(run: Run) -> Iterator[tuple[str, int]]:
    """Yield the class and the index of every training image, in the order of `training_images`."""
    for name in CLASSES:
        for i in range(run.settings.per_class):
            yield name, drawn_scenes.TRAINING_START + i


def captions(run: Run) -> list[str]:
    """Return a prompt for every training image, e.g. "a photo of two red fish on a dark blue ground"."""
    return [f"a photo of {drawn_scenes.caption(things.scene(name, index), name)}" for name, index in scenes(run)]


def class_prompt(name: str) -> str:
    return f"a photo of a {name}"


def class_numbers(run: Run) -> Tensor:
    """Return the number of the class of every training image: [N]."""
    return torch.arange(len(CLASSES), device=run.device).repeat_interleave(run.settings.per_class)


def attributes(run: Run) -> Tensor:
    """Return four numbers for every training image, [N, 4]: class, colour of the ground, colour of the first object,
    number of objects."""
    shown = [things.scene(name, index) for name, index in scenes(run)]
    told = [(s.ground.name(), s.objects[0].colours[0].name(), len(s.objects)) for s in shown]
    numbers = [torch.from_numpy(np.unique(t, return_inverse=True)[1]) for t in zip(*told, strict=True)]
    return torch.stack([class_numbers(run), *(n.to(run.device) for n in numbers)], dim=1)


def to_network(images: Tensor) -> Tensor:
    """Map uint8 to float32 in [-1, 1], channels last."""
    return (images.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


def pick(count: int, *tensors: Tensor) -> list[Tensor]:
    """Return `count` random rows, the same ones of each tensor."""
    rows = torch.randint(len(tensors[0]), (count,), device=tensors[0].device)
    return [tensor[rows] for tensor in tensors]


def rolled(images: Tensor) -> Tensor:
    """Move a batch around the frame by a random distance. The plane repeats, so nothing is cut."""
    return images.roll(torch.randint(images.shape[-1], (2,)).tolist(), (-2, -1))
