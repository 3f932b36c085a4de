"""Morphs: the stages that invert a few pictures, each under its own prompt, and generate from mixtures of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial, reduce
from operator import add
from pathlib import Path

import torch
from torch import Tensor

from latentmix.data import Source
from latentmix.experiment import disk_sizes
from latentmix.experiment.experiment import Experiment
from latentmix.experiment.generation import Loaded, generate, invert, padded, pixels
from latentmix.experiment.stages import StageType
from latentmix.images import is_image, save_images
from latentmix.inversion.base import State
from latentmix.mixing import Method, mixtures
from latentmix.models.protocol import Conditioning, Model
from latentmix.runner.tasks import Stage, WriteBack
from latentmix.storage import key

Weights = tuple[float, ...]  # of one mixture
FRAMES_AT_ONCE = 8  # at most; rounds of spacing have few new frames, and a batch is padded to its full size


@dataclass(frozen=True)
class Morph:
    """Pictures, with the prompt of each, and the method that mixes them."""

    names: tuple[str, ...]
    sources: tuple[Source, ...]
    prompts: tuple[str, ...]
    method: Method

    def __str__(self) -> str:
        return ", ".join(self.names)


def invert_pictures(morph: Morph) -> StageType:
    """Return the stage that inverts the pictures."""
    return StageType(partial(_plan_inversion, morph=morph))


def generate_frames(morph: Morph, weights: Sequence[Weights]) -> StageType:
    """Return the stage that generates an image of each mixture."""
    return StageType(partial(_plan_frames, morph=morph, weights=tuple(dict.fromkeys(weights))))


def frame_path(experiment: Experiment, morph: Morph, weights: Weights) -> Path:
    """Return the file of the image of a mixture."""
    inputs = [
        [s.id, experiment.layout.latents_identity_of(p)] for s, p in zip(morph.sources, morph.prompts, strict=True)
    ]
    return experiment.layout.frames({"pictures": inputs, "method": morph.method.identity}) / f"{key(list(weights))}.png"


def _plan_inversion(experiment: Experiment, batch_size: int, morph: Morph) -> Stage:
    settings = experiment.config.inversion
    stage, rows = Stage("invert", settings.steps * experiment.inversion.nfe(settings)), range(len(morph.sources))
    missing = {
        row for row in rows if morph.sources[row].id not in experiment.layout.latents_of(morph.prompts[row]).ids()
    }
    stage.bytes = len(missing) * disk_sizes.inverted(experiment)
    stage.add(
        str(morph), rows, missing, batch_size, partial(_invert, experiment, morph), partial(_load, experiment, morph)
    )
    return stage


def _load(experiment: Experiment, morph: Morph, rows: Sequence[int]) -> Loaded[int]:
    return Loaded(rows, pixels([morph.sources[row] for row in rows], experiment.config.model.size))


def _invert(experiment: Experiment, morph: Morph, images: Loaded[int], size: int) -> None:
    one_each = padded(torch.eye(len(morph.prompts))[list(images.ids)], size)
    cond = _conditioning(experiment, experiment.inverter, morph, one_each, experiment.config.inversion.guidance)
    state = invert(experiment, padded(images.pixels, size), cond, str(morph))
    for position, row in enumerate(images.ids):
        inverted = {name: x[position, None] for name, x in state.items()}
        experiment.layout.latents_of(morph.prompts[row]).write([morph.sources[row].id], inverted)


def _plan_frames(experiment: Experiment, batch_size: int, morph: Morph, weights: Sequence[Weights]) -> Stage:
    stage = Stage("generate", experiment.config.steps * experiment.inversion.nfe_generation(experiment.config.guidance))
    missing = [row for row in weights if not is_image(frame_path(experiment, morph, row))]
    stage.finished, stage.bytes = len(weights) - len(missing), len(missing) * disk_sizes.image(experiment)
    at_once = min(batch_size, FRAMES_AT_ONCE)
    label = f"{morph}, {stage.finished} there"  # unlike the labels of earlier rounds, whose tasks are done
    stage.add(label, missing, missing, at_once, partial(_generate, experiment, morph, at_once))
    return stage


@torch.no_grad()
def _generate(experiment: Experiment, morph: Morph, at_once: int, weights: Sequence[Weights], size: int) -> WriteBack:
    """Generate frames. The batch has `at_once` rows and not `size`, which depends on how many frames are left to do."""
    experiment.finish_inverting()
    w = padded(torch.tensor(weights), at_once)
    cond = _conditioning(experiment, experiment.model, morph, w, experiment.config.guidance)
    _, images = generate(experiment, cond, _mixed(experiment, morph, w), str(morph))
    paths = [frame_path(experiment, morph, row) for row in weights]
    return save_images(experiment.config.cache, paths, images[: len(weights)])


def _mixed(experiment: Experiment, morph: Morph, weights: Tensor) -> State:
    """Return mixtures of the pictures' latents by weights [K, N], and of their extras, on the device."""
    kept = [experiment.layout.latents_of(prompt) for prompt in morph.prompts]
    extras = experiment.inversion.extras
    methods = {"latents": morph.method, **{name: own or morph.method for name, own in extras.items()}}
    state = {}
    for name, own in methods.items():
        rows = torch.cat([cache.gather([s.id], name) for cache, s in zip(kept, morph.sources, strict=True)])
        state[name] = mixtures(rows.to(experiment.device), weights.to(experiment.device), [own])[0]
    return state


def _conditioning(experiment: Experiment, model: Model, morph: Morph, weights: Tensor, guidance: float) -> Conditioning:
    """Return the prompts' embeddings mixed by weights [K, N]."""
    known = experiment.texts.embeddings(morph.prompts, model)
    texts = reduce(add, [known[prompt] for prompt in morph.prompts])
    return Conditioning(texts.mixed(weights), known[""], guidance)
