"""How many images a network takes at once: found by doubling until memory is short, remembered for each device and
model, and halved when it runs out all the same. No result depends on it beyond rounding."""

from collections.abc import Callable

import torch

from latentmix.cache import key, read_json, write_json
from latentmix.errors import UserError
from latentmix.experiment.experiment import Experiment

MOST = 256  # images; beyond that no device gets faster
SHARE = 0.45  # of the device's memory; twice as many images would need it all


def settle(experiment: Experiment) -> None:
    """Set `bench.batch` where the config leaves it to the device."""
    if experiment.config.batch != "auto":
        return
    known = _known(experiment).get(_name(experiment))
    if known is not None:
        experiment.batch = known
    elif experiment.device.type == "cuda":
        experiment.batch = _found(experiment)
        _remember(experiment)
    else:
        experiment.batch = _on_a_cpu(experiment)


def recall(experiment: Experiment) -> None:
    """Set `bench.batch` to what `settle` would, as far as that is known without trying."""
    if experiment.config.batch == "auto":
        experiment.batch = _known(experiment).get(
            _name(experiment), experiment.batch if experiment.device.type == "cuda" else _on_a_cpu(experiment)
        )


def shrink(experiment: Experiment) -> None:
    """Halve the batch after memory ran out; UserError where it is one image already."""
    if experiment.batch == 1:
        raise UserError(
            f"not even one image of {experiment.config.model.size} px fits into the memory of {experiment.device}; "
            "lower model.size, take model.precision=bfloat16, or a larger device"
        )
    experiment.batch //= 2
    if experiment.device.type == "cuda":
        torch.cuda.empty_cache()
    _remember(experiment)


def is_short_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device, or this machine, has no more memory."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator: can't allocate memory" in str(error)


def largest(fits: Callable[[int], bool]) -> int:
    """The largest power of two, up to `MOST`, that fits, all smaller ones fitting; 1 where none does."""
    size = 1
    while size < MOST and fits(2 * size):
        size *= 2
    return size


def _on_a_cpu(experiment: Experiment) -> int:
    """32 images of up to 256 px, or as many pixels: more gain nothing there."""
    return max(1, min(32, 32 * 256**2 // experiment.config.model.size**2))


def _found(experiment: Experiment) -> int:
    total = torch.cuda.get_device_properties(experiment.device).total_memory
    experiment.conditioning(experiment.classes[0], 1.0)  # text encoders come and go before anything is measured
    torch.cuda.empty_cache()

    def fits(size: int) -> bool:
        torch.cuda.reset_peak_memory_stats(experiment.device)
        try:
            _heaviest(experiment, size)
        except torch.OutOfMemoryError:
            return False
        finally:
            torch.cuda.empty_cache()
        return torch.cuda.max_memory_reserved(experiment.device) < SHARE * total

    return largest(fits)


@torch.no_grad()
def _heaviest(experiment: Experiment, size: int) -> None:
    """What takes most: one guided evaluation of the network, and decoding."""
    interval = experiment.generation_schedule[-1]
    z = torch.randn(size, *experiment.model.latent_shape(experiment.config.model.size), device=experiment.device)
    conditioning = experiment.conditioning(experiment.classes[0], max(2.0, experiment.config.guidance))
    with torch.compiler.set_stance("force_eager"):  # else each size that is tried would be compiled
        experiment.model.decode(experiment.model.predict(z, interval.noisy, interval.timestep, conditioning)[0])


def _name(experiment: Experiment) -> str:
    return key([experiment.model.identity, experiment.config.model.size, experiment.device_name])


def _known(experiment: Experiment) -> dict[str, int]:
    known = read_json(experiment.config.cache / "batches.json").items()
    return {name: batch for name, batch in known if type(batch) is int and 0 < batch <= MOST}


def _remember(experiment: Experiment) -> None:
    write_json(experiment.config.cache / "batches.json", _known(experiment) | {_name(experiment): experiment.batch})
