"""The stages of a run, as lists of tasks: what is to be done is planned from what is there, so every run resumes.

A task is one batch. Batches are laid out by the plan alone and always full (the last one is padded), so neither the
order of work nor an interruption changes a byte of what is kept; another batch size changes nothing beyond rounding.

Images are generated in a stream for each class, where one batch goes on from one N and method to the next, so that few
draws make no small batches. Other N, methods or draws lay the stream out otherwise, which may change rounding too; what
is there already stays as it is.
"""

import math
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from latentmix import ladder
from latentmix.bench import NOISE, Bench, Cell, draw_id
from latentmix.data import Source
from latentmix.data.synthetic import Synthetic
from latentmix.errors import UserError
from latentmix.features import Network
from latentmix.inversion import State, halves
from latentmix.models import predictor
from latentmix.pictures import develop, is_picture, keep_pictures, on_all_threads, read_picture
from latentmix.spent import spent
from latentmix.store import Parts

Item = TypeVar("Item")
Drawn = tuple[Cell, int]  # a draw of a cell: one image
Later = Callable[[], None]
# What was read for a batch, and the size it is padded to -> what is left to do, if anything, when its results are safe.
Work = Callable[[Any, int], Later | None]


def _itself(items: Sequence[Item]) -> Sequence[Item]:
    """For batches of which nothing needs to be read."""
    return items


@dataclass(frozen=True)
class Task:
    """One batch of work: its place among all of its stage, its name, what it belongs to, its images, the evaluations of
    the diffusion network, and how it is done: something is read, networks make something of it, which is kept, and
    pictures are written of it. Only the second part is a device's; the others may be left to other threads."""

    number: int
    name: str
    label: str
    images: int
    evaluations: int
    size: int  # that it is padded to
    read: Callable[[], Any]
    work: Work

    def make(self, needed: Any) -> Later | None:
        return self.work(needed, self.size)

    def run(self) -> None:
        later = self.make(self.read())
        if later is not None:
            later()


@dataclass
class Stage:
    """All that is left to do of one kind, and how many images are there already."""

    name: str
    evaluations_each: int = 0
    tasks: list[Task] = field(default_factory=list)
    cached: int = 0
    batches: int = 0  # laid out so far, those that are done included

    @property
    def images(self) -> int:
        return sum(task.images for task in self.tasks)

    @property
    def evaluations(self) -> int:
        return sum(task.evaluations for task in self.tasks)

    def plan(
        self,
        label: str,
        items: Sequence[Item],
        missing: Container[Item],
        batch: int,
        work: Work,
        read: Callable[[Sequence[Item]], Any] = _itself,
    ) -> None:
        """Lay `items` out in batches, and make a task of each that has something missing."""
        chunks = _chunks(items, batch)
        for place, chunk in enumerate(chunks):
            if any(item in missing for item in chunk):
                name, evaluations = f"{label} {place}/{len(chunks)} of {len(items)}", self.evaluations_each * len(chunk)
                how = len(chunks[0]), partial(read, chunk), work
                self.tasks.append(Task(self.batches, name, label, len(chunk), evaluations, *how))
            else:
                self.cached += len(chunk)
            self.batches += 1


def synthesis(bench: Bench) -> Stage:
    """Noise -> images that stand for real ones, where the data are `synthetic`."""
    stage, data = Stage("synthesize", len(bench.plain_ladder) * halves(bench.config.guidance)), bench.data
    if isinstance(data, Synthetic):
        for class_id in bench.classes:
            indices = range(max(len(bench.pool(class_id)), len(bench.references(class_id))))
            missing = {index for index in indices if not is_picture(data.path(class_id, index))}
            stage.plan(class_id, indices, missing, bench.batch, partial(_synthesize, bench, data, class_id))
    return stage


def inversion(bench: Bench) -> Stage:
    """Images -> latents at t = T, for every class's pool."""
    settings = bench.config.inversion
    stage = Stage("invert", settings.steps * bench.inversion.calls(settings))
    for class_id in bench.classes:
        sources, done = bench.pool(class_id), bench.latents(class_id).ids()
        missing = {source for source in sources if source.id not in done}
        stage.plan(class_id, sources, missing, bench.batch, partial(_invert, bench, class_id), loader(bench))
    return stage


def references(bench: Bench) -> Stage:
    """The features of the real images that generated ones are measured against."""
    stage = Stage("real images")
    for class_id in bench.classes:
        done = _in_all([bench.reference_features(class_id, network) for network in bench.networks.values()])
        sources = bench.references(class_id)
        missing = {source for source in sources if source.id not in done}
        work = partial(_measure_real, bench, class_id)
        stage.plan(class_id, sources, missing, bench.batch, work, loader(bench))
    return stage


def mixing(bench: Bench) -> Stage:
    """Latents -> centroids, kept on disk; a sweep does without, as they are made anew in no time."""
    stage, draws = Stage("mix"), range(bench.config.draws)
    for cell in bench.cells:
        done = bench.centroids(cell).ids()
        missing = {draw for draw in draws if draw_id(draw) not in done}
        stage.plan(str(cell), draws, missing, bench.batch, partial(_mix, bench, cell))
    return stage


@dataclass(frozen=True)
class Stream:
    """What is generated in one sequence of batches, and which of it lacks a picture that is kept, or features."""

    name: str
    drawn: Sequence[Drawn]
    unseen: set[Drawn]
    unmeasured: set[Drawn]

    def __str__(self) -> str:
        return self.name


def generation(bench: Bench, pictures: int, measure: bool) -> Stage:
    """Centroids -> images: the first `pictures` of each cell are kept, and, to `measure`, the features of all."""
    stage = Stage("generate", bench.config.steps * bench.inversion.calls_back(bench.config.guidance))
    draws = range(bench.config.draws if measure else pictures)
    for name, cells in bench.streams.items():
        # Where all pictures are there, `measurement` has all it needs.
        measured = [cell for cell in cells if measure and _without_picture(bench, cell, draws)]
        stream = Stream(
            name,
            drawn=[(cell, draw) for cell in cells for draw in draws],
            unseen={(cell, draw) for cell in cells for draw in _without_picture(bench, cell, draws[:pictures])},
            unmeasured={(cell, draw) for cell in measured for draw in _unmeasured(bench, cell)},
        )
        work = partial(_generate, bench, stream)
        stage.plan(name, stream.drawn, stream.unseen | stream.unmeasured, bench.batch, work)
    return stage


def measurement(bench: Bench, required: bool) -> Stage:
    """Pictures -> features, in cells whose pictures are all there; where they are `required` to be, or UserError."""
    stage, draws = Stage("measure"), range(bench.config.draws)
    for cell in bench.generated:
        missing = _unmeasured(bench, cell)
        lost = _without_picture(bench, cell, draws) if missing else set()
        if not required and (lost or not missing):
            continue
        if lost:
            raise UserError(
                f"{len(lost)} images of {cell} have not been generated; run latentmix generate first, "
                "or latentmix sweep, which does all of it"
            )
        work, read = partial(_measure_pictures, bench, cell), partial(_load_pictures, bench, cell)
        stage.plan(str(cell), draws, missing, bench.batch, work, read)
    return stage


Plan = Callable[[Bench], Stage]


@spent("writing")
def finish_pictures(bench: Bench) -> None:
    """Those that networks made, and of which a run that was stopped wrote no files yet."""
    for folder in (bench.config.cache, *([bench.data.folder] if isinstance(bench.data, Synthetic) else [])):
        develop(folder)


# --- the tasks ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Loaded(Generic[Item]):
    """Images that were read, uint8 [B, 3, H, W], and what they are."""

    ids: Sequence[Item]
    pixels: Tensor = field(repr=False)


def loader(bench: Bench) -> Callable[[Sequence[Source]], Loaded[str]]:
    size = bench.config.model.size
    return lambda sources: Loaded([source.id for source in sources], pixels(sources, size))


@torch.no_grad()
def _synthesize(bench: Bench, data: Synthetic, class_id: str, indices: Sequence[int], size: int) -> Later:
    config = bench.config

    def noise(purpose: str, shape: tuple[int, ...]) -> Tensor:
        return torch.from_numpy(np.stack([data.noise(class_id, index, purpose, shape) for index in indices]))

    z = padded(noise("latent", bench.model.latent_shape(config.model.size)).to(bench.device), size)
    images = _plain(bench, class_id, z, bench.plain_ladder, f"images of {class_id}")[: len(indices)].cpu()
    perturbed = images + 255 * config.data.noise * noise("pixels", tuple(images.shape[1:]))
    images = perturbed.round().clamp(0, 255).to(torch.uint8)
    return keep_pictures(data.folder, [data.path(class_id, index) for index in indices], images)


def _invert(bench: Bench, class_id: str, images: Loaded[str], size: int) -> None:
    config, ids = bench.config, images.ids
    clean = bench.model.encode(padded(images.pixels, size))
    conditioning = bench.conditioning(class_id, config.inversion.guidance)
    found = bench.inversion.invert(bench.model, clean, bench.inversion_ladder, conditioning, config.inversion)
    refuse_nan(found["latents"], f"inverting {class_id}")
    bench.latents(class_id).write(ids, {name: x[: len(ids)] for name, x in (found | {"clean": clean}).items()})


def _measure_real(bench: Bench, class_id: str, images: Loaded[str], size: int) -> None:
    for network in bench.networks.values():
        features = _extract(network, images.pixels, size)
        bench.reference_features(class_id, network).write(images.ids, {"features": features})


def _mix(bench: Bench, cell: Cell, draws: Sequence[int], size: int) -> None:
    bench.centroids(cell).write([draw_id(draw) for draw in draws], _mixed(bench, cell, draws))


@torch.no_grad()
def _generate(bench: Bench, stream: Stream, drawn: Sequence[Drawn], size: int) -> Later | None:
    cells = dict(_by_cell(drawn))
    first, what = drawn[0][0], "; ".join(map(str, cells))
    if first.method == NOISE:
        z = padded(bench.noise(first.class_id, cells[first]), size)
        images = _plain(bench, first.class_id, z, bench.generation_ladder, what)
    else:
        parts = [_mixed(bench, cell, draws) for cell, draws in cells.items()]
        state = {name: padded(torch.cat([part[name] for part in parts]), size) for name in parts[0]}
        _, images = render(bench, first.class_id, state, what)
    if stream.unmeasured.intersection(drawn):  # and before pictures: where all of them are there, so are features
        _keep_features(bench, drawn, images, stream.unmeasured)
    seen = [place for place, one in enumerate(drawn) if one in stream.unseen]
    if not seen:
        return None
    return keep_pictures(bench.config.cache, [bench.picture(*drawn[place]) for place in seen], images[seen])


def _load_pictures(bench: Bench, cell: Cell, draws: Sequence[int]) -> Loaded[int]:
    return Loaded(draws, torch.stack([read_picture(bench.picture(cell, draw)) for draw in draws]))


def _measure_pictures(bench: Bench, cell: Cell, images: Loaded[int], size: int) -> None:
    drawn = [(cell, draw) for draw in images.ids]
    _keep_features(bench, drawn, padded(images.pixels, size), set(drawn))


def _keep_features(bench: Bench, drawn: Sequence[Drawn], images: Tensor, unmeasured: set[Drawn]) -> None:
    """Of a whole batch of images, a file for each cell that has a part in it and lacks something there."""
    for network in bench.networks.values():
        rows = iter(_extract(network, images, len(images)))
        for cell, draws in _by_cell(drawn):
            features = torch.stack([next(rows) for _ in draws])
            if unmeasured.intersection((cell, draw) for draw in draws):
                ids = [draw_id(draw) for draw in draws]
                bench.features(cell, network).write(ids, {"features": features})


def _by_cell(drawn: Sequence[Drawn]) -> Iterator[tuple[Cell, list[int]]]:
    """The draws of each cell, cell by cell, in their order."""
    for cell, group in groupby(drawn, key=lambda one: one[0]):
        yield cell, [draw for _, draw in group]


def _mixed(bench: Bench, cell: Cell, draws: Sequence[int]) -> State:
    """A row for each draw; float32 or better whatever the networks run in."""
    return bench.mixed(cell.class_id, bench.weights(cell, draws), cell.method)


@torch.no_grad()
def render(bench: Bench, class_id: str, state: State, what: str) -> tuple[Tensor, Tensor]:
    """What was inverted, or a mixture of it -> clean latents and images, uint8 [B, 3, H, W], on the device."""
    refuse_nan(state["latents"], f"mixing {what}")
    told = bench.conditioning(class_id, bench.config.guidance)
    clean = bench.inversion.generate(bench.model, state, bench.generation_ladder, told, bench.config.inversion)
    refuse_nan(clean, f"generating {what}")
    return clean, bench.model.decode(clean)


def _plain(bench: Bench, class_id: str, z: Tensor, rungs: ladder.Ladder, what: str) -> Tensor:
    """Random latents -> images of a class, uint8 [B, 3, H, W] on the device, by nothing but the model."""
    told = bench.conditioning(class_id, bench.config.guidance)
    clean = ladder.generate(predictor(bench.model, told), z, rungs)
    refuse_nan(clean, f"generating {what}")
    return bench.model.decode(clean)


# --- small things ---------------------------------------------------------------------------------------------------


def _chunks(items: Sequence[Item], batch: int) -> list[Sequence[Item]]:
    """`items` in equal parts of at most `batch`; only the last may be shorter, and little of it is padding."""
    size = math.ceil(len(items) / math.ceil(len(items) / batch))
    return [items[start : start + size] for start in range(0, len(items), size)]


def _in_all(parts: Sequence[Parts]) -> set[str]:
    """The ids whose rows are in each of several."""
    return set.intersection(*(part.ids() for part in parts))


def _without_picture(bench: Bench, cell: Cell, draws: Sequence[int]) -> set[int]:
    there = set(bench.picture(cell, 0).parent.glob("*.png"))  # mostly a few of many
    paths = {draw: bench.picture(cell, draw) for draw in draws}
    return {draw for draw, path in paths.items() if path not in there or not is_picture(path)}


def _unmeasured(bench: Bench, cell: Cell) -> set[int]:
    done = _in_all([bench.features(cell, network) for network in bench.networks.values()])
    return {draw for draw in range(bench.config.draws) if draw_id(draw) not in done}


def padded(rows: Tensor, size: int) -> Tensor:
    """Repeats the last row up to `size`, since a network's rounding depends on the shape of its batch."""
    return torch.cat([rows, rows[-1:].expand(size - len(rows), *rows.shape[1:])])


@spent("reading")
def pixels(sources: Sequence[Source], size: int) -> Tensor:
    """The images, uint8 [B, 3, H, W]."""
    rows = on_all_threads(lambda source: source.pixels(size), sources)
    return torch.from_numpy(np.stack(rows)).permute(0, 3, 1, 2).contiguous()


@spent("features")
def _extract(network: Network, images: Tensor, size: int) -> Tensor:
    return network.extract(padded(images, size))[: len(images)].cpu()


def refuse_nan(z: Tensor, what: str) -> None:
    if not bool(z.isfinite().all()):
        raise UserError(f"NaN or infinity came up in {what}; try model.precision=float32, and look at the inputs there")
