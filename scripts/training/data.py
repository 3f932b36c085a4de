"""Training images, their captions and attributes."""

import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from latentmix.data import things

from .settings import Run

CLASSES = list(things.CLASSES)
SIZE = things.SIZE
HELD_OUT = things.TRAINING_START // 2  # images from here on are neither trained on nor used by experiments
CHUNK = 100


def training_images(run: Run) -> Tensor:
    """Return the training images, uint8 [N, 3, 128, 128] in channels-last memory, class after class.

    They are drawn once, then read from `run.work`. On a GPU they lie in its memory.
    """
    path = run.work / f"images-{run.settings.per_class}.npy"
    if not path.exists():
        draw_images(path, run.settings.per_class, run.settings.workers)
    drawn = torch.from_numpy(np.load(path, mmap_mode="c"))
    return drawn.to(run.device).permute(0, 3, 1, 2)


def draw_images(path: Path, per_class: int, workers: int) -> None:
    """Draw all training images into a file, uint8 [N, 128, 128, 3], in several processes."""
    part = path.with_suffix(".part.npy")
    shape = (len(CLASSES) * per_class, SIZE, SIZE, 3)
    drawn = np.lib.format.open_memmap(part, mode="w+", dtype=np.uint8, shape=shape)
    chunks = [(n, s, min(s + CHUNK, per_class)) for n in range(len(CLASSES)) for s in range(0, per_class, CHUNK)]
    workers = workers or len(os.sched_getaffinity(0))
    with ExitStack() as stack:
        each = map
        if workers > 1:
            each = stack.enter_context(ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"))).map
        for (n, first, last), images in zip(chunks, each(_draw, chunks), strict=True):
            drawn[n * per_class + first : n * per_class + last] = images
    drawn.flush()
    part.replace(path)


def _draw(chunk: tuple[int, int, int]) -> np.ndarray:
    kind, first, last = chunk
    return np.stack([things.draw(CLASSES[kind], things.TRAINING_START + i) for i in range(first, last)])


def held_out(name: str, count: int) -> Tensor:
    """Return images of a class that no network was trained on: uint8 [count, 3, 128, 128]."""
    drawn = np.stack([things.draw(name, HELD_OUT + i) for i in range(count)])
    return torch.from_numpy(drawn).permute(0, 3, 1, 2)


def scenes(run: Run) -> Iterator[tuple[str, int]]:
    """Yield the class and the index of every training image, in the order of `training_images`."""
    for name in CLASSES:
        for i in range(run.settings.per_class):
            yield name, things.TRAINING_START + i


def captions(run: Run) -> list[str]:
    """Return a prompt for every training image, e.g. "a photo of two red fish on a dark blue ground"."""
    return [f"a photo of {things.describe(name, index)}" for name, index in scenes(run)]


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
