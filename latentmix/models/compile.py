"""The diffusion network by torch.compile, where a run asks for it.

Compiled kernels round differently, as another batch size does. torch keeps what it compiled for the next process, in
TORCHINDUCTOR_CACHE_DIR.
"""

import sys
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from latentmix.errors import UserError

LAYOUTS = 64  # batch sizes, with guidance and without, that a network is compiled for before torch gives up


def compiled(network: Any) -> Any:
    """Return a network that is compiled at the first batch of each size. Padding makes these few.

    Raises: UserError where nothing can be compiled.
    """
    check(network.device)
    torch._dynamo.config.recompile_limit = LAYOUTS  # beyond it, torch runs plain kernels
    network.compile(dynamic=False)
    return network


def uncompiled() -> AbstractContextManager[Any]:
    """Run networks plainly in this context, even those that are compiled; no size of batch is compiled for it."""
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()


def check(device: torch.device) -> None:
    """Raise UserError where nothing can be compiled for a device, for example without a compiler. Takes seconds."""
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
