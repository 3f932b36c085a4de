"""The effect of a constant offset in a part of the latent, before and after diffusion (Section 4.4 and Fig. 6).

b is subtracted from one channel and added to another within a region, so that the mean of the whole latent stays. For
the same noise this is done at t = T, before generation, and at t = 0, before decoding.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from latentmix.errors import UserError
from latentmix.experiment import disk_sizes
from latentmix.experiment.cache_keys import schedule_key
from latentmix.experiment.draws import draw_id, random_latents
from latentmix.experiment.experiment import Experiment
from latentmix.experiment.generation import generate_plainly, padded
from latentmix.experiment.stages import StageType
from latentmix.inversion.base import cfg_factor
from latentmix.runner.tasks import Stage
from latentmix.settings import numbers
from latentmix.storage import TensorCache

TIMES = ("T", "0")  # when the offset is added
SIDES: dict[str, Callable[[Tensor, int, int], Tensor]] = {  # [h, w] -> its first or last rows or columns
    "top": lambda frame, rows, _: frame[:rows],
    "bottom": lambda frame, rows, _: frame[-rows:],
    "left": lambda frame, _, columns: frame[:, :columns],
    "right": lambda frame, _, columns: frame[:, -columns:],
}
Item = tuple[int, float]  # draw, b


@dataclass(frozen=True)
class Probe:
    """The settings of a probe. `class_id` is as the user gave it, None for the first class."""

    class_id: str | None
    offsets: tuple[float, ...]  # b; 0, the reference, is always among them
    channels: tuple[int, int]  # the one that b is subtracted from, and the one it is added to
    side: str
    share: float  # of the frame
    draws: int  # number of noises

    @property
    def items(self) -> list[Item]:
        """Return every draw with every offset."""
        return [(draw, b) for draw in range(self.draws) for b in self.offsets]


PAPER = Probe(None, (0.0, 0.1, 0.2, 0.4, 0.8), (0, 1), "top", 0.25, 1)  # Fig. 6


def parse(class_id: str | None, offsets: str, channels: str, side: str, share: float, draws: int) -> Probe:
    """Return the probe that options of the command line describe; raise UserError naming the option that is wrong."""
    try:
        found = numbers(offsets)
    except ValueError as error:
        raise UserError(f"--offsets {offsets}: {error}") from error
    if not all(map(math.isfinite, found)):
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
    with_zero = found if 0 in found else (0.0, *found)
    return Probe(class_id, tuple(dict.fromkeys(with_zero)), (int(names[0]), int(names[1])), side, share, draws)


def region(side: str, share: float, h: int, w: int) -> Tensor:
    """Return a mask [h, w] of the share of a frame along one side; raise UserError if it is empty or everything."""
    rows, columns = round(share * h), round(share * w)
    inside = torch.zeros(h, w, dtype=torch.bool)
    if rows and columns:
        SIDES[side](inside, rows, columns).fill_(True)
    if not inside.any() or inside.all():
        raise UserError(f"--share {share} of {h} x {w} positions along the {side} is none or all of them")
    return inside


def offset(z: Tensor, b: float, channels: tuple[int, int], inside: Tensor) -> Tensor:
    """Return latents [..., C, h, w] with −b on the first channel and +b on the second, where `inside` [h, w] holds."""
    minus, plus = channels
    moved = z.clone()
    moved[..., minus, :, :] -= b * inside.to(z)
    moved[..., plus, :, :] += b * inside.to(z)
    return moved


def probe_stage(probe: Probe) -> StageType:
    """Return the stage that generates a probe's latents. Both rows of the figure start from them."""
    return StageType(partial(_plan_probe, probe=probe))


def _plan_probe(experiment: Experiment, batch_size: int, probe: Probe) -> Stage:
    """Plan noise with an offset at t = T -> clean latents."""
    mask(experiment, probe)
    stage = Stage("probe", len(experiment.plain_schedule) * cfg_factor(experiment.config.guidance))
    finished = cached(experiment, probe).ids()
    missing = {item for item in probe.items if row_id(item) not in finished}
    stage.bytes = len(missing) * disk_sizes.latent(experiment) + 2 * len(probe.items) * disk_sizes.image(experiment)
    label, compute = experiment.data.class_of(probe.class_id), partial(_generate, experiment, probe)
    stage.add(label, probe.items, missing, batch_size, compute)
    return stage


@torch.no_grad()
def _generate(experiment: Experiment, probe: Probe, items: Sequence[Item], size: int) -> None:
    class_id, inside = experiment.data.class_of(probe.class_id), mask(experiment, probe)
    shape = experiment.model.latent_shape(experiment.config.model.size)
    noises = random_latents(experiment.config.seed, "probe", [draw for draw, _ in items], shape)
    z = torch.stack([offset(x, b, probe.channels, inside) for x, (_, b) in zip(noises, items, strict=True)])
    z = padded(z, size).to(experiment.device)
    clean = generate_plainly(experiment, class_id, z, experiment.plain_schedule, f"the probe of {class_id}")
    cached(experiment, probe).write([row_id(item) for item in items], {"clean": clean[: len(items)]})


def cached(experiment: Experiment, probe: Probe) -> TensorCache:
    """Return the cached `clean` latents: a row for each item."""
    return experiment.layout.probes(
        {
            "prompt": experiment.data.prompt(experiment.data.class_of(probe.class_id)),
            "guidance": experiment.config.guidance,
            "schedule": schedule_key(experiment.plain_schedule),
            "channels": probe.channels,
            "region": [probe.side, probe.share],
        }
    )


def row_id(item: Item) -> str:
    """Return the id of a draw with an offset in the cache."""
    draw, b = item
    return f"{draw_id(draw)} {b!r}"


def mask(experiment: Experiment, probe: Probe) -> Tensor:
    """Return the region [h, w] in the model's latents; raise UserError if they have no such region or channels."""
    channels, h, w = experiment.model.latent_shape(experiment.config.model.size)
    if max(probe.channels) >= channels:
        names, last = ",".join(map(str, probe.channels)), channels - 1
        raise UserError(f"--channels {names}: latents of {experiment.config.model.name} have channels 0 to {last}")
    return region(probe.side, probe.share, h, w)


@torch.no_grad()
def decode(experiment: Experiment, probe: Probe) -> dict[tuple[str, int, float], Tensor]:
    """Return images, uint8 [3, H, W], by time, draw and b; one by one, so equal latents give equal images."""
    rows, inside = cached(experiment, probe).read(), mask(experiment, probe)
    images = {}
    for draw, b in probe.items:
        reference, before = (rows[row_id((draw, x))]["clean"] for x in (0.0, b))
        after = offset(reference, b, probe.channels, inside)
        for t, clean in zip(TIMES, (before, after), strict=True):
            images[t, draw, b] = experiment.model.decode(clean[None].to(experiment.device))[0].cpu()
    return images
