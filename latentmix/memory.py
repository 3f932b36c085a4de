"""How many images a network takes at once: found by doubling until memory is short, remembered for each device and
model, and halved when it runs out all the same. No result depends on it beyond rounding."""

from collections.abc import Callable

import torch

from latentmix.bench import Bench
from latentmix.errors import UserError
from latentmix.store import key, read_json, write_json

MOST = 256  # images; beyond that no device gets faster
SHARE = 0.45  # of the device's memory; twice as many images would need it all


def settle(bench: Bench) -> None:
    """Set `bench.batch` where the config leaves it to the device."""
    if bench.config.batch != "auto":
        return
    known = _known(bench).get(_name(bench))
    if known is not None:
        bench.batch = known
    elif bench.device.type == "cuda":
        bench.batch = _found(bench)
        _remember(bench)
    else:
        bench.batch = _on_a_cpu(bench)


def recall(bench: Bench) -> None:
    """Set `bench.batch` to what `settle` would, as far as that is known without trying."""
    if bench.config.batch == "auto":
        bench.batch = _known(bench).get(_name(bench), bench.batch if bench.device.type == "cuda" else _on_a_cpu(bench))


def shrink(bench: Bench) -> None:
    """Halve the batch after memory ran out; UserError where it is one image already."""
    if bench.batch == 1:
        raise UserError(
            f"not even one image of {bench.config.model.size} px fits into the memory of {bench.device}; "
            "lower model.size, take model.precision=bfloat16, or a larger device"
        )
    bench.batch //= 2
    if bench.device.type == "cuda":
        torch.cuda.empty_cache()
    _remember(bench)


def is_short_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device, or this machine, has no more memory."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator: can't allocate memory" in str(error)


def largest(fits: Callable[[int], bool]) -> int:
    """The largest power of two, up to `MOST`, that fits, all smaller ones fitting; 1 where none does."""
    size = 1
    while size < MOST and fits(2 * size):
        size *= 2
    return size


def _on_a_cpu(bench: Bench) -> int:
    """32 images of up to 256 px, or as many pixels: more gain nothing there."""
    return max(1, min(32, 32 * 256**2 // bench.config.model.size**2))


def _found(bench: Bench) -> int:
    total = torch.cuda.get_device_properties(bench.device).total_memory
    bench.conditioning(bench.classes[0], 1.0)  # text encoders come and go before anything is measured
    torch.cuda.empty_cache()

    def fits(size: int) -> bool:
        torch.cuda.reset_peak_memory_stats(bench.device)
        try:
            _heaviest(bench, size)
        except torch.OutOfMemoryError:
            return False
        finally:
            torch.cuda.empty_cache()
        return torch.cuda.max_memory_reserved(bench.device) < SHARE * total

    return largest(fits)


@torch.no_grad()
def _heaviest(bench: Bench, size: int) -> None:
    """What takes most: one guided evaluation of the network, and decoding."""
    rung = bench.generation_ladder[-1]
    z = torch.randn(size, *bench.model.latent_shape(bench.config.model.size), device=bench.device)
    conditioning = bench.conditioning(bench.classes[0], max(2.0, bench.config.guidance))
    with torch.compiler.set_stance("force_eager"):  # else each size that is tried would be compiled
        bench.model.decode(bench.model.predict(z, rung.noisy, rung.clock, conditioning)[0])


def _name(bench: Bench) -> str:
    return key([bench.model.identity, bench.config.model.size, bench.device_name])


def _known(bench: Bench) -> dict[str, int]:
    known = read_json(bench.config.cache / "batches.json").items()
    return {name: batch for name, batch in known if type(batch) is int and 0 < batch <= MOST}


def _remember(bench: Bench) -> None:
    write_json(bench.config.cache / "batches.json", _known(bench) | {_name(bench): bench.batch})
