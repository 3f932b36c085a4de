"""`latentmix mix`: mix the latents of all draws, or generate the image of one mixture with given weights."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from latentmix.commands.shared import session
from latentmix.errors import UserError
from latentmix.experiment.experiment import Experiment
from latentmix.experiment.generation import generate
from latentmix.experiment.stages import INVERT, MIX
from latentmix.experiment.synthesis import SYNTHESIZE
from latentmix.images import write_image
from latentmix.mixing import Method, mix
from latentmix.settings import numbers
from latentmix.storage import LONGEST, file_name, key, load_tensors, save_tensors

STAGES = (SYNTHESIZE, INVERT, MIX)
STAGES_OF_ONE = (SYNTHESIZE, INVERT)


def run(experiment: Experiment, dry_run: bool) -> None:
    """Mix the latents of every class, N, method and draw, and keep the mixtures in the cache."""
    if session.run_stages(experiment, STAGES, "mix", dry_run):
        session.say(f"centroids of {len(experiment.cells.mixed)} cells are in {experiment.config.cache / 'cells'}")


def run_one(experiment: Experiment, class_name: str | None, weights: str, dry_run: bool) -> list[Path]:
    """Make one mixture by each method: the latent and its image. Return the files written."""
    shares = parse(experiment, weights)
    if dry_run:
        experiment.planned().data.class_of(class_name)  # with nothing downloaded
        session.report_plan(experiment, STAGES_OF_ONE)
        return []
    class_id = experiment.data.class_of(class_name)
    files = {method: _file(experiment, class_id, shares, method) for method in experiment.config.methods}
    about = {method: _about(experiment, class_id, shares, method) for method in files}
    for method, file in files.items():
        _refuse_to_overwrite(experiment, file, about[method])
    session.run_stages(experiment, STAGES_OF_ONE, "mix --weights")
    experiment.finish_inverting()
    cond = experiment.texts.conditioning(class_id, experiment.config.guidance, experiment.model)
    written = []
    for method, file in files.items():
        state = experiment.latents.mix(class_id, _of_pool(shares, experiment.config.pool), method)
        save_tensors(file, {name: x[0] for name, x in state.items()}, about[method])
        image = file.with_name(f"{file.stem}.png")
        write_image(image, generate(experiment, cond, state, str(method))[1][0])
        written += [file, image]
    return written


def parse(experiment: Experiment, text: str) -> tuple[float, ...]:
    """Return the weights in a text such as "0.5,0.3,0.2"; raise UserError if they can't be used."""
    try:
        weights = numbers(text)
        if len(weights) > experiment.config.pool:
            raise ValueError(f"{len(weights)} weights are more than pool={experiment.config.pool} images")
        mix(torch.zeros(len(weights), 1, 1, 1), weights)
        for method in (method for method in experiment.config.methods if method.of_pool):
            mix(torch.zeros(experiment.config.pool, 1, 1, 1), _of_pool(weights, experiment.config.pool)[0], method)
    except ValueError as error:
        raise UserError(f"--weights {text}: {error}") from error
    return weights


def _of_pool(weights: Sequence[float], pool: int) -> Tensor:
    """Return weights [1, pool]: those given for the first images, 0 for the others."""
    return torch.tensor([[*weights, *[0.0] * (pool - len(weights))]])


def _file(experiment: Experiment, class_id: str, weights: Sequence[float], method: Method) -> Path:
    """Return the file of a mixture. A long list of weights is named by its first three and a digest of all."""
    text = "-".join(map(str, weights))
    if len(text) > LONGEST:
        text = "-".join([*map(str, weights[:3]), key(weights)])
    return experiment.config.folder / "mixed" / f"{file_name(class_id)}-{text}-{method.norm}-{method.mean}.safetensors"


def _about(experiment: Experiment, class_id: str, weights: Sequence[float], method: Method) -> dict[str, Any]:
    """Return what a mixture was made from and how its image is generated."""
    about = {"pool": experiment.layout.pool_ids(class_id)} if method.of_pool else {}
    return about | {
        "class": class_id,
        "weights": list(weights),
        "method": method.identity,
        "latents": experiment.layout.latents_identity(class_id),
        "generation": experiment.layout.generation,
    }


def _refuse_to_overwrite(experiment: Experiment, file: Path, about: dict[str, Any]) -> None:
    if experiment.config.overwrite or not file.exists():
        return
    try:
        existing = load_tensors(file)[1]
    except (OSError, ValueError):
        return  # damaged
    different = sorted(name for name in about if existing.get(name) != about[name])
    if different:
        raise UserError(
            f"{file} was made with other settings of {' and '.join(different)}; choose another name=..., or replace it "
            "with overwrite=true"
        )
