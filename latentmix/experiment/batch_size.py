"""How many images a network processes at once: determined once for each device, model and inversion, then remembered.

On a GPU the batch is doubled until memory runs short. Results depend on it only to rounding.
"""

import math
from collections.abc import Callable

import torch

from latentmix.experiment.experiment import Experiment
from latentmix.gpu import free_memory, is_out_of_memory
from latentmix.models.compile import uncompiled
from latentmix.runner.batch_agreement import BatchSize, agree
from latentmix.runner.claims import Claims
from latentmix.settings import height_width
from latentmix.storage import key, read_json, write_json

MAX_BATCH = 256  # images
MAX_PIXELS = 64 * 512**2  # of a batch; no GPU gets faster beyond
MEMORY_SHARE = 0.8  # of the GPU's free memory; the rest is for the networks that measure
GPU_GUESS = 32  # for a dry run, before anything was measured


def shared_batch_size(experiment: Experiment, claims: Claims) -> BatchSize:
    """Return the batch size of a run, the same for all of its workers."""
    config = experiment.config
    name = key([experiment.model.identity, config.model.size, config.batch])
    value = config.batch if config.batch != "auto" else agree(claims, name, lambda: determine(experiment))
    return BatchSize(value, claims, name, lambda smaller: _after_halving(experiment, smaller))


def determine(experiment: Experiment, measure: bool = True) -> int:
    """Return the batch size that the config sets, or one that fits on the device.

    Without `measure`, no network is run, and an unknown size is guessed.
    """
    if experiment.config.batch != "auto":
        return experiment.config.batch
    if (known := _remembered(experiment).get(_name(experiment))) is not None:
        return known
    if experiment.device.type != "cuda":
        # 32 images of up to 256 px, or as many pixels. More gain nothing on a CPU.
        return max(1, min(32, 32 * 256**2 // math.prod(height_width(experiment.config.model.size))))
    if not measure:
        return GPU_GUESS
    measured = _measure(experiment)
    _remember(experiment, measured)
    return measured


def _after_halving(experiment: Experiment, batch_size: int) -> None:
    free_memory(experiment.device)
    _remember(experiment, batch_size)


def largest(fits: Callable[[int], bool], most: int = MAX_BATCH) -> int:
    """Return the largest power of two up to `most` that fits, if all smaller ones do; 1 if none does."""
    size = 1
    while 2 * size <= most and fits(2 * size):
        size *= 2
    return size


def _measure(experiment: Experiment) -> int:
    device, room = experiment.device, MEMORY_SHARE * _free_memory(experiment.device)
    for model in (experiment.inverter, experiment.model):  # load and free the text encoders before memory is measured
        experiment.texts.conditioning(experiment.classes[0], 1.0, model)
    torch.cuda.empty_cache()

    def fits(size: int) -> bool:
        torch.cuda.reset_peak_memory_stats(device)
        try:
            _heaviest_steps(experiment, size)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            return False
        finally:
            torch.cuda.empty_cache()
        return torch.cuda.max_memory_reserved(device) < room

    pixels = math.prod(height_width(experiment.config.model.size))
    return largest(fits, max(1, min(MAX_BATCH, MAX_PIXELS // pixels)))


def _free_memory(device: torch.device) -> int:
    """Return the memory of a GPU that this process has or can have; other processes may have the rest."""
    return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)


@torch.no_grad()
def _heaviest_steps(experiment: Experiment, size: int) -> None:
    """Run what needs most memory: a step of inversion, which may have gradients, one of generation, and the decoder."""
    config, class_id, inversion = experiment.config, experiment.classes[0], experiment.inversion
    z = torch.randn(size, *experiment.model.latent_shape(config.model.size), device=experiment.device)
    with uncompiled():  # otherwise each size that is tried would be compiled
        cond = experiment.texts.conditioning(class_id, config.inversion.guidance, experiment.inverter)
        step = experiment.inversion_schedule[-inversion.intervals_per_step :]
        inversion.run(experiment.inverter, z, step, cond, config.inversion, [str(row) for row in range(size)])
        cond = experiment.texts.conditioning(class_id, config.guidance, experiment.model)
        interval = experiment.generation_schedule[-1]
        experiment.model.decode(experiment.model.predict(z, interval.noisy, interval.timestep, cond)[0])


def _name(experiment: Experiment) -> str:
    identities = [experiment.model.identity, experiment.inverter.identity, experiment.config.inversion.kind]
    return key([*identities, experiment.config.model.size, experiment.device_name])


def _remembered(experiment: Experiment) -> dict[str, int]:
    known = read_json(experiment.config.cache / "batches.json").items()
    return {name: size for name, size in known if type(size) is int and 0 < size <= MAX_BATCH}


def _remember(experiment: Experiment, batch_size: int) -> None:
    known = _remembered(experiment) | {_name(experiment): batch_size}
    write_json(experiment.config.cache / "batches.json", known)
