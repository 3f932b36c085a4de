"""How many images a network processes at once: determined once for each device and model, and then remembered.

On a GPU the batch is doubled until memory runs short. Results depend on it only to rounding.
"""

import math
from collections.abc import Callable

import torch

from latentmix.cache import key, read_json, write_json
from latentmix.experiment.experiment import Experiment
from latentmix.models.compile import uncompiled
from latentmix.runner.batch_agreement import BatchSize, agree
from latentmix.runner.claims import Claims
from latentmix.settings import height_width

MAX_BATCH = 256  # images; no device gets faster beyond
MEMORY_SHARE = 0.45  # of the device's memory; the next power of two would need all of it
GPU_GUESS = 32  # for a dry run, before anything was measured


def shared_batch_size(experiment: Experiment, claims: Claims) -> BatchSize:
    """Return the batch size of a run, the same for all of its workers."""
    config = experiment.config
    name = key([experiment.model.identity, config.model.size, config.batch])
    value = config.batch if config.batch != "auto" else agree(claims, name, lambda: determine(experiment))
    return BatchSize(value, claims, name, lambda smaller: _halved(experiment, smaller))


def determine(experiment: Experiment) -> int:
    """Return the batch size that the config sets, or that fits on the device."""
    if experiment.config.batch != "auto":
        return experiment.config.batch
    known = _remembered(experiment).get(_name(experiment))
    if known is not None:
        return known
    if experiment.device.type != "cuda":
        return _on_cpu(experiment)
    measured = _measure(experiment)
    _remember(experiment, measured)
    return measured


def estimate(experiment: Experiment) -> int:
    """Return what `determine` would, as far as that is known without running a network."""
    if experiment.config.batch != "auto":
        return experiment.config.batch
    guess = GPU_GUESS if experiment.device.type == "cuda" else _on_cpu(experiment)
    return _remembered(experiment).get(_name(experiment), guess)


def _halved(experiment: Experiment, batch_size: int) -> None:
    if experiment.device.type != "cpu":
        torch.accelerator.empty_cache()
    _remember(experiment, batch_size)


def largest(fits: Callable[[int], bool]) -> int:
    """Return the largest power of two up to `MAX_BATCH` that fits, if all smaller ones do; 1 if none does."""
    size = 1
    while size < MAX_BATCH and fits(2 * size):
        size *= 2
    return size


def _on_cpu(experiment: Experiment) -> int:
    """Return 32 images of up to 256 px, or as many pixels. More gain nothing on a CPU."""
    return max(1, min(32, 32 * 256**2 // math.prod(height_width(experiment.config.model.size))))


def _measure(experiment: Experiment) -> int:
    total = torch.cuda.get_device_properties(experiment.device).total_memory
    experiment.conditioning(experiment.classes[0], 1.0)  # loads and frees the text encoders before anything is measured
    torch.cuda.empty_cache()

    def fits(size: int) -> bool:
        torch.cuda.reset_peak_memory_stats(experiment.device)
        try:
            _heaviest_step(experiment, size)
        except torch.OutOfMemoryError:
            return False
        finally:
            torch.cuda.empty_cache()
        return torch.cuda.max_memory_reserved(experiment.device) < MEMORY_SHARE * total

    return largest(fits)


@torch.no_grad()
def _heaviest_step(experiment: Experiment, size: int) -> None:
    """Run what needs most memory: one guided evaluation of the network, and the decoder."""
    interval = experiment.generation_schedule[-1]
    z = torch.randn(size, *experiment.model.latent_shape(experiment.config.model.size), device=experiment.device)
    cond = experiment.conditioning(experiment.classes[0], max(2.0, experiment.config.guidance))
    with uncompiled():  # otherwise each size that is tried would be compiled
        experiment.model.decode(experiment.model.predict(z, interval.noisy, interval.timestep, cond)[0])


def _name(experiment: Experiment) -> str:
    return key([experiment.model.identity, experiment.config.model.size, experiment.device_name])


def _remembered(experiment: Experiment) -> dict[str, int]:
    known = read_json(experiment.config.cache / "batches.json").items()
    return {name: size for name, size in known if type(size) is int and 0 < size <= MAX_BATCH}


def _remember(experiment: Experiment, batch_size: int) -> None:
    known = _remembered(experiment) | {_name(experiment): batch_size}
    write_json(experiment.config.cache / "batches.json", known)
