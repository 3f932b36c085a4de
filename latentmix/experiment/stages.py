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

from latentmix import sampling
from latentmix.cache import TensorCache
from latentmix.data import Source
from latentmix.data.synthetic import Synthetic
from latentmix.errors import UserError
from latentmix.experiment.experiment import NOISE, Cell, Experiment, draw_id
from latentmix.features import Network
from latentmix.images import is_image, read_image, save_images, write_pending
from latentmix.inversion.base import State, cfg_factor
from latentmix.models.protocol import predictor
from latentmix.profiling import timed
from latentmix.threads import on_all_threads

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


def synthesis(experiment: Experiment) -> Stage:
    """Noise -> images that stand for real ones, where the data are `synthetic`."""
    stage, data = (
        Stage("synthesize", len(experiment.plain_schedule) * cfg_factor(experiment.config.guidance)),
        experiment.data,
    )
    if isinstance(data, Synthetic):
        for class_id in experiment.classes:
            indices = range(max(len(experiment.pool(class_id)), len(experiment.references(class_id))))
            missing = {index for index in indices if not is_image(data.path(class_id, index))}
            stage.plan(class_id, indices, missing, experiment.batch, partial(_synthesize, experiment, data, class_id))
    return stage


def inversion(experiment: Experiment) -> Stage:
    """Images -> latents at t = T, for every class's pool."""
    settings = experiment.config.inversion
    stage = Stage("invert", settings.steps * experiment.inversion.nfe(settings))
    for class_id in experiment.classes:
        sources, done = experiment.pool(class_id), experiment.latents(class_id).ids()
        missing = {source for source in sources if source.id not in done}
        stage.plan(
            class_id, sources, missing, experiment.batch, partial(_invert, experiment, class_id), loader(experiment)
        )
    return stage


def references(experiment: Experiment) -> Stage:
    """The features of the real images that generated ones are measured against."""
    stage = Stage("real images")
    for class_id in experiment.classes:
        done = _in_all([experiment.reference_features(class_id, network) for network in experiment.networks.values()])
        sources = experiment.references(class_id)
        missing = {source for source in sources if source.id not in done}
        work = partial(_measure_real, experiment, class_id)
        stage.plan(class_id, sources, missing, experiment.batch, work, loader(experiment))
    return stage


def mixing(experiment: Experiment) -> Stage:
    """Latents -> centroids, kept on disk; a sweep does without, as they are made anew in no time."""
    stage, draws = Stage("mix"), range(experiment.config.draws)
    for cell in experiment.cells:
        done = experiment.centroids(cell).ids()
        missing = {draw for draw in draws if draw_id(draw) not in done}
        stage.plan(str(cell), draws, missing, experiment.batch, partial(_mix, experiment, cell))
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


def generation(experiment: Experiment, pictures: int, measure: bool) -> Stage:
    """Centroids -> images: the first `pictures` of each cell are kept, and, to `measure`, the features of all."""
    stage = Stage("generate", experiment.config.steps * experiment.inversion.nfe_generation(experiment.config.guidance))
    draws = range(experiment.config.draws if measure else pictures)
    for name, cells in experiment.streams.items():
        # Where all pictures are there, `measurement` has all it needs.
        measured = [cell for cell in cells if measure and _without_image(experiment, cell, draws)]
        stream = Stream(
            name,
            drawn=[(cell, draw) for cell in cells for draw in draws],
            unseen={(cell, draw) for cell in cells for draw in _without_image(experiment, cell, draws[:pictures])},
            unmeasured={(cell, draw) for cell in measured for draw in _unmeasured(experiment, cell)},
        )
        work = partial(_generate, experiment, stream)
        stage.plan(name, stream.drawn, stream.unseen | stream.unmeasured, experiment.batch, work)
    return stage


def measurement(experiment: Experiment, required: bool) -> Stage:
    """Pictures -> features, in cells whose pictures are all there; where they are `required` to be, or UserError."""
    stage, draws = Stage("measure"), range(experiment.config.draws)
    for cell in experiment.generated:
        missing = _unmeasured(experiment, cell)
        lost = _without_image(experiment, cell, draws) if missing else set()
        if not required and (lost or not missing):
            continue
        if lost:
            raise UserError(
                f"{len(lost)} images of {cell} have not been generated; run latentmix generate first, "
                "or latentmix sweep, which does all of it"
            )
        work, read = partial(_measure_pictures, experiment, cell), partial(_load_pictures, experiment, cell)
        stage.plan(str(cell), draws, missing, experiment.batch, work, read)
    return stage


Plan = Callable[[Experiment], Stage]


@timed("writing")
def finish_images(experiment: Experiment) -> None:
    """Those that networks made, and of which a run that was stopped wrote no files yet."""
    for folder in (
        experiment.config.cache,
        *([experiment.data.folder] if isinstance(experiment.data, Synthetic) else []),
    ):
        write_pending(folder)


# --- the tasks ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Loaded(Generic[Item]):
    """Images that were read, uint8 [B, 3, H, W], and what they are."""

    ids: Sequence[Item]
    pixels: Tensor = field(repr=False)


def loader(experiment: Experiment) -> Callable[[Sequence[Source]], Loaded[str]]:
    size = experiment.config.model.size
    return lambda sources: Loaded([source.id for source in sources], pixels(sources, size))


@torch.no_grad()
def _synthesize(experiment: Experiment, data: Synthetic, class_id: str, indices: Sequence[int], size: int) -> Later:
    config = experiment.config

    def noise(purpose: str, shape: tuple[int, ...]) -> Tensor:
        return torch.from_numpy(np.stack([data.noise(class_id, index, purpose, shape) for index in indices]))

    z = padded(noise("latent", experiment.model.latent_shape(config.model.size)).to(experiment.device), size)
    images = _plain(experiment, class_id, z, experiment.plain_schedule, f"images of {class_id}")[: len(indices)].cpu()
    perturbed = images + 255 * config.data.noise * noise("pixels", tuple(images.shape[1:]))
    images = perturbed.round().clamp(0, 255).to(torch.uint8)
    return save_images(data.folder, [data.path(class_id, index) for index in indices], images)


def _invert(experiment: Experiment, class_id: str, images: Loaded[str], size: int) -> None:
    config, ids = experiment.config, images.ids
    clean = experiment.model.encode(padded(images.pixels, size))
    conditioning = experiment.conditioning(class_id, config.inversion.guidance)
    found = experiment.inversion.invert(
        experiment.model, clean, experiment.inversion_schedule, conditioning, config.inversion
    )
    refuse_nan(found["latents"], f"inverting {class_id}")
    experiment.latents(class_id).write(ids, {name: x[: len(ids)] for name, x in (found | {"clean": clean}).items()})


def _measure_real(experiment: Experiment, class_id: str, images: Loaded[str], size: int) -> None:
    for network in experiment.networks.values():
        features = _extract(network, images.pixels, size)
        experiment.reference_features(class_id, network).write(images.ids, {"features": features})


def _mix(experiment: Experiment, cell: Cell, draws: Sequence[int], size: int) -> None:
    experiment.centroids(cell).write([draw_id(draw) for draw in draws], _mixed(experiment, cell, draws))


@torch.no_grad()
def _generate(experiment: Experiment, stream: Stream, drawn: Sequence[Drawn], size: int) -> Later | None:
    cells = dict(_by_cell(drawn))
    first, what = drawn[0][0], "; ".join(map(str, cells))
    if first.method == NOISE:
        z = padded(experiment.noise(first.class_id, cells[first]), size)
        images = _plain(experiment, first.class_id, z, experiment.generation_schedule, what)
    else:
        parts = [_mixed(experiment, cell, draws) for cell, draws in cells.items()]
        state = {name: padded(torch.cat([part[name] for part in parts]), size) for name in parts[0]}
        _, images = render(experiment, first.class_id, state, what)
    if stream.unmeasured.intersection(drawn):  # and before pictures: where all of them are there, so are features
        _keep_features(experiment, drawn, images, stream.unmeasured)
    seen = [place for place, one in enumerate(drawn) if one in stream.unseen]
    if not seen:
        return None
    return save_images(experiment.config.cache, [experiment.image_path(*drawn[place]) for place in seen], images[seen])


def _load_pictures(experiment: Experiment, cell: Cell, draws: Sequence[int]) -> Loaded[int]:
    return Loaded(draws, torch.stack([read_image(experiment.image_path(cell, draw)) for draw in draws]))


def _measure_pictures(experiment: Experiment, cell: Cell, images: Loaded[int], size: int) -> None:
    drawn = [(cell, draw) for draw in images.ids]
    _keep_features(experiment, drawn, padded(images.pixels, size), set(drawn))


def _keep_features(experiment: Experiment, drawn: Sequence[Drawn], images: Tensor, unmeasured: set[Drawn]) -> None:
    """Of a whole batch of images, a file for each cell that has a part in it and lacks something there."""
    for network in experiment.networks.values():
        rows = iter(_extract(network, images, len(images)))
        for cell, draws in _by_cell(drawn):
            features = torch.stack([next(rows) for _ in draws])
            if unmeasured.intersection((cell, draw) for draw in draws):
                ids = [draw_id(draw) for draw in draws]
                experiment.features(cell, network).write(ids, {"features": features})


def _by_cell(drawn: Sequence[Drawn]) -> Iterator[tuple[Cell, list[int]]]:
    """The draws of each cell, cell by cell, in their order."""
    for cell, group in groupby(drawn, key=lambda one: one[0]):
        yield cell, [draw for _, draw in group]


def _mixed(experiment: Experiment, cell: Cell, draws: Sequence[int]) -> State:
    """A row for each draw; float32 or better whatever the networks run in."""
    return experiment.mixed(cell.class_id, experiment.weights(cell, draws), cell.method)


@torch.no_grad()
def render(experiment: Experiment, class_id: str, state: State, what: str) -> tuple[Tensor, Tensor]:
    """What was inverted, or a mixture of it -> clean latents and images, uint8 [B, 3, H, W], on the device."""
    refuse_nan(state["latents"], f"mixing {what}")
    cond = experiment.conditioning(class_id, experiment.config.guidance)
    clean = experiment.inversion.generate(
        experiment.model, state, experiment.generation_schedule, cond, experiment.config.inversion
    )
    refuse_nan(clean, f"generating {what}")
    return clean, experiment.model.decode(clean)


def _plain(experiment: Experiment, class_id: str, z: Tensor, schedule: sampling.Schedule, what: str) -> Tensor:
    """Random latents -> images of a class, uint8 [B, 3, H, W] on the device, by nothing but the model."""
    cond = experiment.conditioning(class_id, experiment.config.guidance)
    clean = sampling.generate(predictor(experiment.model, cond), z, schedule)
    refuse_nan(clean, f"generating {what}")
    return experiment.model.decode(clean)


# --- small things ---------------------------------------------------------------------------------------------------


def _chunks(items: Sequence[Item], batch: int) -> list[Sequence[Item]]:
    """`items` in equal parts of at most `batch`; only the last may be shorter, and little of it is padding."""
    size = math.ceil(len(items) / math.ceil(len(items) / batch))
    return [items[start : start + size] for start in range(0, len(items), size)]


def _in_all(parts: Sequence[TensorCache]) -> set[str]:
    """The ids whose rows are in each of several."""
    return set.intersection(*(part.ids() for part in parts))


def _without_image(experiment: Experiment, cell: Cell, draws: Sequence[int]) -> set[int]:
    there = set(experiment.image_path(cell, 0).parent.glob("*.png"))  # mostly a few of many
    paths = {draw: experiment.image_path(cell, draw) for draw in draws}
    return {draw for draw, path in paths.items() if path not in there or not is_image(path)}


def _unmeasured(experiment: Experiment, cell: Cell) -> set[int]:
    done = _in_all([experiment.features(cell, network) for network in experiment.networks.values()])
    return {draw for draw in range(experiment.config.draws) if draw_id(draw) not in done}


def padded(rows: Tensor, size: int) -> Tensor:
    """Repeats the last row up to `size`, since a network's rounding depends on the shape of its batch."""
    return torch.cat([rows, rows[-1:].expand(size - len(rows), *rows.shape[1:])])


@timed("reading")
def pixels(sources: Sequence[Source], size: int) -> Tensor:
    """The images, uint8 [B, 3, H, W]."""
    rows = on_all_threads(lambda source: source.pixels(size), sources)
    return torch.from_numpy(np.stack(rows)).permute(0, 3, 1, 2).contiguous()


@timed("features")
def _extract(network: Network, images: Tensor, size: int) -> Tensor:
    return network.extract(padded(images, size))[: len(images)].cpu()


def refuse_nan(z: Tensor, what: str) -> None:
    if not bool(z.isfinite().all()):
        raise UserError(f"NaN or infinity came up in {what}; try model.precision=float32, and look at the inputs there")
