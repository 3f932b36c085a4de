"""The diffusion network by torch.compile, where a run asks for it: other kernels, which round differently, as another
batch size does. What was compiled is kept by torch for the next process (in TORCHINDUCTOR_CACHE_DIR)."""

from typing import Any

import torch
from torch import Tensor

from latentmix.errors import UserError

LAYOUTS = 64  # sizes of batches, with guidance and without, that a network is compiled for before torch gives up


def compiled(network: Any) -> Any:
    """A network that is compiled for each size of batch when that first comes; there are few, as batches are padded.
    UserError where nothing can be."""
    check(network.device)
    torch._dynamo.config.recompile_limit = LAYOUTS  # beyond it torch goes on with plain kernels, which round otherwise
    network.compile(dynamic=False)
    return network


def check(device: torch.device) -> None:
    """UserError where nothing can be compiled for a device, such as for want of a compiler; in seconds."""
    try:
        torch.compile(_trial)(torch.zeros(8, device=device))
    except Exception as error:  # of dynamo, of inductor, of Triton, of the system
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        needed = "a C++ compiler" if device.type == "cpu" else "Triton and a C compiler"
        raise UserError(
            f"speed.compile=true needs {needed} and Python's headers ({reason}); install them, or leave it out"
        ) from error


def _trial(x: Tensor) -> Tensor:
    return x.sin() + 1
