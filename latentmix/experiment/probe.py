"""What a constant offset in a part of the latent does, before and after diffusion (the paper's Section 4.4 and Fig. 6).

From the same noise, b is taken from one channel and added to another within a region, so that the whole mean stays: at
t = T, before the image is generated, and at t = 0, before it is decoded.
"""

import csv
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from latentmix.cache import TensorCache, file_name, key, write_atomic
from latentmix.commands.mix import class_of
from latentmix.errors import UserError
from latentmix.experiment.experiment import Experiment, draw_id
from latentmix.experiment.stages import Stage, padded, refuse_nan
from latentmix.figures.grid import draw_grid
from latentmix.images import write_image
from latentmix.models.protocol import predictor
from latentmix.rng import noise
from latentmix.sampling import generate

COLUMNS = ("model", "class", "region", "share", "channels", "draw", "t", "b", "rmse_inside", "rmse_outside")
TIMES = ("T", "0")  # where the offset comes in
SIDES: dict[str, Callable[[Tensor, int, int], Tensor]] = {  # [h, w] -> its first or last rows or columns
    "top": lambda frame, rows, _: frame[:rows],
    "bottom": lambda frame, rows, _: frame[-rows:],
    "left": lambda frame, _, columns: frame[:, :columns],
    "right": lambda frame, _, columns: frame[:, -columns:],
}
Item = tuple[int, float]  # draw, b


@dataclass(frozen=True)
class Probe:
    """What is tried. `class_id` is as the user has it, None for the first class; `draws` counts noises."""

    class_id: str | None
    offsets: tuple[float, ...]  # 0, which the others are compared with, is always among them
    channels: tuple[int, int]
    side: str
    share: float
    draws: int

    @property
    def items(self) -> list[Item]:
        return [(draw, b) for draw in range(self.draws) for b in self.offsets]


PAPER = Probe(None, (0.0, 0.1, 0.2, 0.4, 0.8), (0, 1), "top", 0.25, 1)  # Fig. 6


def parse(class_id: str | None, offsets: str, channels: str, side: str, share: float, draws: int) -> Probe:
    """Options of the command line, or a UserError that says which of them can't be."""
    try:
        numbers = [float(part) for part in offsets.split(",")]
    except ValueError as error:
        raise UserError(f"--offsets {offsets}: {error}") from error
    if not all(map(math.isfinite, numbers)):
        raise UserError(f"--offsets {offsets}: they must be finite")
    names = channels.split(",")
    if len(names) != 2 or len(set(names)) != 2 or not all(name.isdecimal() for name in names):
        raise UserError(f"--channels {channels} must be two different ones, counted from 0, such as 0,1")
    if side not in SIDES:
        raise UserError(f"--region {side} must be one of {', '.join(SIDES)}")
    if not 0 < share < 1:
        raise UserError(f"--share {share} must be between 0 and 1, the share of the frame that is offset")
    if draws < 1:
        raise UserError(f"--draws {draws} must be at least 1")
    among = numbers if 0 in numbers else [0.0, *numbers]
    return Probe(class_id, tuple(dict.fromkeys(among)), (int(names[0]), int(names[1])), side, share, draws)


def region(side: str, share: float, h: int, w: int) -> Tensor:
    """Whether each place of a frame [h, w] is in the share of it along a side; ValueError where that is none or all."""
    rows, columns = round(share * h), round(share * w)
    inside = torch.zeros(h, w, dtype=torch.bool)
    if rows and columns:
        SIDES[side](inside, rows, columns).fill_(True)
    if not inside.any() or inside.all():
        raise ValueError(f"{share} of {h} x {w} places along the {side} is none or all of them")
    return inside


def offset(z: Tensor, b: float, channels: tuple[int, int], inside: Tensor) -> Tensor:
    """[..., C, h, w] with −b on the first of two channels and +b on the second, where `inside` [h, w] is true."""
    down, up = channels
    moved = z.clone()
    moved[..., down, :, :] -= b * inside.to(z)
    moved[..., up, :, :] += b * inside.to(z)
    return moved


# Generating, in batches that resume; clean latents are kept, as both rows of the figure start from them.


def probing(experiment: Experiment, probe: Probe) -> Stage:
    """Noise, offset at t = T -> clean latents."""
    _inside(experiment, probe)
    stage = Stage("probe", len(experiment.plain_schedule) * (1 if experiment.config.guidance == 1 else 2))
    done = _kept(experiment, probe).ids()
    missing = {item for item in probe.items if _id(item) not in done}
    stage.plan(_class(experiment, probe), probe.items, missing, experiment.batch, partial(_generate, experiment, probe))
    return stage


@torch.no_grad()
def _generate(experiment: Experiment, probe: Probe, items: Sequence[Item], size: int) -> None:
    model, class_id = experiment.model, _class(experiment, probe)
    conditioning = experiment.conditioning(class_id, experiment.config.guidance)
    shape, inside = model.latent_shape(experiment.config.model.size), _inside(experiment, probe)
    noises = [torch.from_numpy(noise(experiment.config.seed, "probe", draw, shape)) for draw, _ in items]
    z = torch.stack([offset(x, b, probe.channels, inside) for x, (_, b) in zip(noises, items, strict=True)])
    z = padded(z, size).to(experiment.device)
    clean = generate(predictor(experiment.model, conditioning), z, experiment.plain_schedule)
    refuse_nan(clean, f"probing {class_id}")
    _kept(experiment, probe).write([_id(item) for item in items], {"clean": clean[: len(items)]})


def _kept(experiment: Experiment, probe: Probe) -> TensorCache:
    identity = {
        "model": experiment.model.identity,
        "size": experiment.config.model.size,
        "prompt": experiment.prompt(_class(experiment, probe)),
        "guidance": experiment.config.guidance,
        "ladder": key([asdict(interval) for interval in experiment.plain_schedule]),
        "seed": experiment.config.seed,
        "channels": probe.channels,
        "region": [probe.side, probe.share],
    }
    return TensorCache(experiment.config.cache / "probes" / key(identity), identity)


def _id(item: Item) -> str:
    draw, b = item
    return f"{draw_id(draw)} {b!r}"


def _class(experiment: Experiment, probe: Probe) -> str:
    return experiment.classes[0] if probe.class_id is None else class_of(experiment, probe.class_id)


def _inside(experiment: Experiment, probe: Probe) -> Tensor:
    """The region's places [h, w]; UserError where the model's latents have no such region or channels."""
    channels, h, w = experiment.model.latent_shape(experiment.config.model.size)
    if max(probe.channels) >= channels:
        names = ",".join(map(str, probe.channels))
        raise UserError(
            f"--channels {names}: latents of {experiment.config.model.name} have channels 0 to {channels - 1}"
        )
    try:
        return region(probe.side, probe.share, h, w)
    except ValueError as error:
        raise UserError(f"--share {error}") from error


# What came out.


def finish(experiment: Experiment, probe: Probe) -> list[Path]:
    """Decode, write the pictures, `probe.csv` and the figure, and show how much changed where; UserError where clean
    latents are missing."""
    pictures = _pictures(experiment, probe)
    folder, class_id = experiment.config.folder, _class(experiment, probe)
    for (t, draw, b), image_path in pictures.items():
        write_image(folder / "probe" / file_name(class_id) / f"{draw_id(draw)}-t={t}-b={b:g}.png", image_path)
    changes = _changes(experiment, probe, pictures)
    _show(probe, changes)
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    setting = (experiment.config.model.name, class_id, probe.side, probe.share, "{},{}".format(*probe.channels))
    for (t, draw, b), (within, without) in changes.items():
        table.writerow((*setting, draw, t, repr(b), repr(within), repr(without)))
    write_atomic(folder / "probe.csv", text.getvalue().encode())
    return [
        folder / "probe" / file_name(class_id),
        folder / "probe.csv",
        *draw_offsets(experiment, probe, folder / "probe"),
    ]


def draw_offsets(experiment: Experiment, probe: Probe, stem: Path) -> list[Path]:
    """Fig. 6: a column for each offset, a pair of rows for each noise."""
    pictures = _pictures(experiment, probe)
    rows = [[pictures[t, draw, b] for b in probe.offsets] for draw in range(probe.draws) for t in TIMES]
    names = [f"t = {t}" for _ in range(probe.draws) for t in TIMES]
    return draw_grid(rows, names, [f"b = {b:g}" for b in probe.offsets], stem)


@torch.no_grad()
def _pictures(experiment: Experiment, probe: Probe) -> dict[tuple[str, int, float], Tensor]:
    """uint8 [3, H, W], decoded one by one, so that equal latents give equal pictures."""
    rows, inside = _kept(experiment, probe).read(), _inside(experiment, probe)
    made = {}
    for draw, b in probe.items:
        usual, moved = (rows[_id((draw, x))]["clean"] for x in (0.0, b))
        for t, clean in zip(TIMES, (moved, offset(usual, b, probe.channels, inside)), strict=True):
            made[t, draw, b] = experiment.model.decode(clean[None].to(experiment.device))[0].cpu()
    return made


def _changes(
    experiment: Experiment, probe: Probe, pictures: dict[tuple[str, int, float], Tensor]
) -> dict[tuple[str, int, float], tuple[float, float]]:
    """The root mean square difference to b = 0, in levels of 255, inside and outside of the region."""
    changes = {}
    for (t, draw, b), image_path in pictures.items():
        squares = (image_path.double() - pictures[t, draw, 0.0].double()).square().mean(0)  # [H, W]
        inside = _in_pixels(_inside(experiment, probe), tuple(squares.shape))
        changes[t, draw, b] = squares[inside].mean().sqrt().item(), squares[~inside].mean().sqrt().item()
    return changes


def _in_pixels(inside: Tensor, size: tuple[int, ...]) -> Tensor:
    """Places of latents [h, w] -> pixels [H, W]."""
    for axis in (0, 1):
        inside = inside.repeat_interleave(size[axis] // inside.shape[axis], axis)
    return inside


def _show(probe: Probe, changes: dict[tuple[str, int, float], tuple[float, float]]) -> None:
    headings = [f"t = {t}, {where}" for t in TIMES for where in ("inside", "outside")]
    table = Table("b", *headings, title="change against b = 0, root mean square in levels of 255")
    for b in probe.offsets:
        cells = [np.mean([changes[t, draw, b] for draw in range(probe.draws)], axis=0) for t in TIMES]
        table.add_row(f"{b:g}", *(f"{x:.1f}" for pair in cells for x in pair))
    Console().print(table)
