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
BLOCKS = ("transformer_blocks", "single_transformer_blocks")  # of a transformer, with few kinds among them
WORTH = 200_000 * 512**2  # evaluations times pixels: about ten minutes of Stable Diffusion 1.5 on an H100


def compiled(network: Any) -> Any:
    """Return a network that is compiled at the first batch of each size. Padding makes these few.

    The blocks of a transformer are compiled one by one on a GPU, where nearly all of its time is in them: those of a
    kind share their code, which takes a fraction of the minutes that the whole takes.
    Raises: UserError where nothing can be compiled.
    """
    device = next(network.parameters()).device
    check(device)
    torch._dynamo.config.recompile_limit = LAYOUTS  # beyond it, torch runs plain kernels
    blocks = [block for name in BLOCKS for block in getattr(network, name, ())]
    for part in blocks if blocks and device.type == "cuda" else [network]:
        part.compile(dynamic=False)
    return network


def pays(evaluations: int, pixels: int, device: torch.device) -> bool:
    """Return whether compiling pays for so many evaluations of images of so many pixels, and can be done, on a GPU."""
    if device.type != "cuda" or evaluations * pixels < WORTH:
        return False
    try:
        check(device)
    except UserError:
        return False
    torch._dynamo.config.suppress_errors = True  # what can't be compiled after all, runs plainly
    return True


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
