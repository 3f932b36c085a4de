"""The stages of an experiment: what each reads, computes and writes.

A command is a list of stages. Checks before a run, the disk estimate and the dry run follow from that list.

Images of a class are generated in one stream: a batch may span several N and methods, so that few draws do not make
small batches. The first draws of all cells come first, so that further draws only add to the stream's end. Other N,
methods or draws divide the stream into other batches, which may change rounding; finished images are not computed
again.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Literal

import torch
from torch import Tensor

from latentmix.errors import UserError, warn_once
from latentmix.experiment import disk_sizes
from latentmix.experiment.draws import NOISE, Cell, draw_id, in_rounds
from latentmix.experiment.experiment import Experiment
from latentmix.experiment.generation import Loaded, generate, generate_plainly, invert, loader, padded
from latentmix.feature_networks import Network
from latentmix.images import is_image, read_image, save_images, write_pending
from latentmix.inversion.base import State
from latentmix.profiling import timed
from latentmix.runner.tasks import Stage, WriteBack
from latentmix.storage import TensorCache

Drawn = tuple[Cell, int]  # a draw of a cell: one image
Read = Literal["pool", "references", "networks", "perceptual"]


@dataclass(frozen=True)
class StageType:
    """A kind of stage: the function that plans it for a batch size, and what it reads besides the model.

    `pool` and `references` are the images to invert and to compare with; `networks` and `perceptual` are the networks
    that measure, as in `Experiment`.
    """

    plan: Callable[[Experiment, int], Stage]
    reads: frozenset[Read] = frozenset()


def reads(stages: Sequence[StageType]) -> frozenset[Read]:
    """Return everything that some stages read."""
    return frozenset[Read]().union(*(stage.reads for stage in stages))


# Inversion


def _plan_inversion(experiment: Experiment, batch_size: int) -> Stage:
    """Plan images -> latents at t = T, for the pool of every class."""
    settings = experiment.config.inversion
    stage = Stage("invert", settings.steps * experiment.inversion.nfe(settings))
    for class_id in experiment.classes:
        sources, finished = experiment.data.pool(class_id), experiment.layout.latents(class_id).ids()
        missing = {source for source in sources if source.id not in finished}
        compute, each = partial(_invert, experiment, class_id), disk_sizes.inverted(experiment)
        stage.add(class_id, sources, missing, batch_size, compute, loader(experiment), each)
    return stage


def _invert(experiment: Experiment, class_id: str, images: Loaded[str], size: int) -> None:
    guidance, ids = experiment.config.inversion.guidance, images.ids
    cond = experiment.texts.conditioning(class_id, guidance, experiment.inverter, ids, size)
    state = invert(experiment, padded(images.pixels, size), cond, class_id)
    experiment.layout.latents(class_id).write(ids, {name: x[: len(ids)] for name, x in state.items()})


INVERT = StageType(_plan_inversion, frozenset({"pool"}))


# Real images


def _plan_references(experiment: Experiment, batch_size: int) -> Stage:
    """Plan real images -> features, to compare generated images with."""
    stage = Stage("real images")
    for class_id in experiment.classes:
        kept = (experiment.layout.references(class_id, network) for network in experiment.distinct_networks)
        sources, finished = experiment.data.references(class_id), _in_all(kept)
        missing = {source for source in sources if source.id not in finished}
        compute, each = partial(_measure_real, experiment, class_id), disk_sizes.features(experiment)
        stage.add(class_id, sources, missing, batch_size, compute, loader(experiment), each)
    return stage


def _measure_real(experiment: Experiment, class_id: str, images: Loaded[str], size: int) -> None:
    for network in experiment.distinct_networks:
        features = _extract(network, images.pixels, size)
        experiment.layout.references(class_id, network).write(images.ids, {"features": features})


MEASURE_REFERENCES = StageType(_plan_references, frozenset({"references", "networks"}))


# Mixing


def _plan_mixing(experiment: Experiment, batch_size: int) -> Stage:
    """Plan latents -> mixed latents in the cache. A sweep mixes during generation instead, as mixing is fast."""
    stage = Stage("mix")
    for cell in experiment.cells.mixed:
        draws, finished = _draws(experiment, cell), experiment.layout.centroids(cell).ids()
        missing = {draw for draw in draws if draw_id(draw) not in finished}
        compute, each = partial(_mix, experiment, cell), disk_sizes.latent(experiment)
        stage.add(str(cell), draws, missing, batch_size, compute, bytes_each=each)
    return stage


def _mix(experiment: Experiment, cell: Cell, draws: Sequence[int], size: int) -> None:
    rows = mix_cell(experiment, cell, draws)
    experiment.layout.centroids(cell).write([draw_id(draw) for draw in draws], rows)


def mix_cell(experiment: Experiment, cell: Cell, draws: Sequence[int]) -> State:
    """Return the mixtures of some draws of a cell, a row for each; at least float32, whatever the networks run in."""
    weights = experiment.cells.weights(cell, draws).to(experiment.device)
    latents = experiment.gaussian_latents if cell.gaussian else experiment.latents
    return latents.mix(cell.class_id, weights, cell.method)


MIX = StageType(_plan_mixing, frozenset({"pool"}))


# Generation


def _plan_generation(
    experiment: Experiment, batch_size: int, keep: int | None, measure: bool = False, copies: int = 1
) -> Stage:
    """Plan latents -> mixtures -> images. Keep the first `keep` images of each cell (None: all).

    If `measure`, keep the features of all images. The command writes `copies` of each image, for the estimate of disk.
    """
    config = experiment.config
    stage = Stage("generate", config.steps * experiment.inversion.nfe_generation(config.guidance))
    for name, cells in experiment.cells.streams.items():
        draws = {cell: _draws(experiment, cell, None if measure else keep) for cell in cells}
        lost = {cell: _without_image(experiment, cell, draws[cell]) for cell in cells}
        unseen = {(cell, draw) for cell in cells for draw in draws[cell][:keep] if draw in lost[cell]}
        # Cells whose images are all kept are measured from their files, in another stage.
        incomplete = [cell for cell in cells if measure and lost[cell]]
        unmeasured = {(cell, draw) for cell in incomplete for draw in _unmeasured(experiment, cell)}
        stage.bytes += copies * len(unseen) * disk_sizes.image(experiment)
        if unmeasured:
            stage.bytes += len(unmeasured) * disk_sizes.features(experiment)
        compute = partial(_generate, experiment, unseen, unmeasured)
        stage.add(name, _stream(experiment, draws), unseen | unmeasured, batch_size, compute)
    return stage


@torch.no_grad()
def _generate(
    experiment: Experiment, unseen: set[Drawn], unmeasured: set[Drawn], drawn: Sequence[Drawn], size: int
) -> WriteBack | None:
    """Generate draws. Write the images of those in `unseen`, and the features of those in `unmeasured`."""
    groups = list(_by_cell(drawn))
    first, label = drawn[0][0], "; ".join(dict.fromkeys(str(cell) for cell, _ in groups))
    if first.method == NOISE:
        state = {"latents": padded(experiment.noise(first.class_id, [draw for _, draw in drawn]), size)}
    else:
        parts = [mix_cell(experiment, cell, draws) for cell, draws in groups]
        state = {name: padded(torch.cat([part[name] for part in parts]), size) for name in parts[0]}
    if first.method == NOISE or first.gaussian:
        z, schedule = state["latents"], experiment.generation_schedule
        images = experiment.model.decode(generate_plainly(experiment, first.class_id, z, schedule, label))
    else:
        experiment.finish_inverting()
        cond = experiment.texts.conditioning(first.class_id, experiment.config.guidance, experiment.model)
        _, images = generate(experiment, cond, state, label)
    # Features first: once all images of a cell are written, a later plan measures them from their files.
    if unmeasured.intersection(drawn):
        _save_features(experiment, drawn, images, unmeasured)
    rows = [row for row, item in enumerate(drawn) if item in unseen]
    if not rows:
        return None
    paths = [experiment.layout.image_path(*drawn[row]) for row in rows]
    return save_images(experiment.config.cache, paths, images[rows])


def generation(keep: int | None = None, copies: int = 1) -> StageType:
    """Return the stage that only generates; see `_plan_generation`."""
    return StageType(partial(_plan_generation, keep=keep, copies=copies), frozenset({"pool"}))


GENERATE = StageType(
    lambda experiment, batch_size: _plan_generation(experiment, batch_size, experiment.cells.images_kept, measure=True),
    frozenset({"pool", "networks"}),
)


# Measuring images that are kept


def _plan_measurement(experiment: Experiment, batch_size: int, required: bool) -> Stage:
    """Plan image files -> features, for cells whose images all exist. Raise UserError for others if `required`.

    The batches are those of generation, since a network's rounding also depends on the place in the batch.
    """
    stage = Stage("measure")
    for name, cells in experiment.cells.streams.items():
        draws, missing = {cell: _draws(experiment, cell) for cell in cells}, set[Drawn]()
        for cell in cells:
            unmeasured = _unmeasured(experiment, cell)
            lost = _without_image(experiment, cell, draws[cell]) if unmeasured else set()
            if lost and required:
                raise UserError(
                    f"{len(lost)} images of {cell} have not been generated; run latentmix generate first, "
                    "or latentmix sweep, which does all of it"
                )
            if not lost:
                missing |= {(cell, draw) for draw in unmeasured}
        if missing or required:
            measured = {cell for cell, _ in missing}
            compute, read = partial(_measure_images, experiment, missing), partial(_load_images, experiment, measured)
            each = disk_sizes.features(experiment)
            stage.add(name, _stream(experiment, draws), missing, batch_size, compute, read, each)
    return stage


def _load_images(experiment: Experiment, measured: set[Cell], drawn: Sequence[Drawn]) -> Loaded[Drawn]:
    """Read the images of some cells. Other images of the batch are black."""
    images = {item: read_image(experiment.layout.image_path(*item)) for item in drawn if item[0] in measured}
    black = torch.zeros_like(next(iter(images.values())))
    return Loaded(drawn, torch.stack([images.get(item, black) for item in drawn]))


def _measure_images(experiment: Experiment, missing: set[Drawn], images: Loaded[Drawn], size: int) -> None:
    _save_features(experiment, images.ids, padded(images.pixels, size), missing)


MEASURE = StageType(partial(_plan_measurement, required=True), frozenset({"pool", "networks"}))
# For a sweep, in which GENERATE generates and measures the rest.
MEASURE_IF_COMPLETE = StageType(partial(_plan_measurement, required=False), frozenset({"pool", "networks"}))


@timed("writing")
def finish_images(experiment: Experiment) -> None:
    """Write the image files that a stopped run left pending."""
    for folder in (experiment.config.cache, *experiment.data.own_folders):
        write_pending(folder)


@timed("features")
def _extract(network: Network, images: Tensor, size: int) -> Tensor:
    return network.extract(padded(images, size))[: len(images)].cpu()


def _save_features(experiment: Experiment, drawn: Sequence[Drawn], images: Tensor, unmeasured: set[Drawn]) -> None:
    """Write the features of a batch of images, a file for each cell that has an unmeasured draw."""
    for network in experiment.distinct_networks:
        rows = iter(_extract(network, images, len(images)))
        for cell, draws in _by_cell(drawn):
            features = torch.stack([next(rows) for _ in draws])
            if unmeasured.intersection((cell, draw) for draw in draws):
                ids = [draw_id(draw) for draw in draws]
                experiment.layout.features(cell, network).write(ids, {"features": features})


def _by_cell(drawn: Sequence[Drawn]) -> Iterator[tuple[Cell, list[int]]]:
    """Yield each cell with its draws, in order."""
    for cell, group in groupby(drawn, key=lambda item: item[0]):
        yield cell, [draw for _, draw in group]


def _in_all(caches: Iterable[TensorCache]) -> set[str]:
    """Return the ids whose rows are in every one of several caches."""
    return set.intersection(*(cache.ids() for cache in caches))


def _stream(experiment: Experiment, draws: Mapping[Cell, Sequence[int]]) -> list[Drawn]:
    """Return the draws of several cells in the order in which they are generated."""
    rounds = in_rounds(experiment.config.draws)
    return [(cell, draw) for part in rounds for cell in draws for draw in draws[cell][part]]


def _without_image(experiment: Experiment, cell: Cell, draws: Sequence[int]) -> set[int]:
    paths = {draw: experiment.layout.image_path(cell, draw) for draw in draws}
    existing = set(experiment.layout.image_path(cell, 0).parent.glob("*.png"))  # one listing is fast; few images exist
    return {draw for draw, path in paths.items() if path not in existing or not is_image(path)}


def _unmeasured(experiment: Experiment, cell: Cell) -> set[int]:
    finished = _in_all(experiment.layout.features(cell, network) for network in experiment.distinct_networks)
    return {draw for draw in experiment.cells.draws(cell) if draw_id(draw) not in finished}


def _draws(experiment: Experiment, cell: Cell, most: int | None = None) -> Sequence[int]:
    """Return the draws of a cell, or the first `most`. Warn once if there are fewer than are asked for."""
    draws, wanted = experiment.cells.draws(cell, most), experiment.config.draws
    if len(draws) < min(wanted, wanted if most is None else most):
        warn_once(experiment.cells.few_draws)
    return draws
