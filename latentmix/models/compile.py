"""torch.compile for the diffusion network (`speed.compile`).

Compiled kernels round differently, as another batch size does. torch keeps them for later processes in
TORCHINDUCTOR_CACHE_DIR.
"""

import logging
import sys
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from latentmix.errors import UserError, warn_once

LAYOUTS = 64  # input shapes (batch sizes, with guidance and without) that a network is compiled for at most
BLOCKS = ("transformer_blocks", "single_transformer_blocks")  # of a transformer, with few kinds among them
WORTH = 200_000 * 512**2  # evaluations times pixels: about ten minutes of Stable Diffusion 1.5 on an H100


def compiled(network: Any) -> Any:
    """Return a network that is compiled at the first batch of each size. Batches are padded, so sizes are few.

    On a GPU the blocks of a transformer are compiled one by one. Blocks of a kind share compiled code, so this takes a
    fraction of the minutes that the whole network takes, and nearly all of its time is spent in them.
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
    """Return whether compiling saves time over `evaluations` of images of `pixels`, and is possible; False on a CPU.

    Where it is not possible, or fails later on, a warning says why and networks run without it.
    """
    if device.type != "cuda" or evaluations * pixels < WORTH:
        return False
    if reason := _failure(device):
        _warn(reason)
        return False
    torch._dynamo.config.suppress_errors = True
    logging.getLogger("torch._dynamo.convert_frame").addFilter(_in_one_line)
    return True


def _in_one_line(record: logging.LogRecord) -> bool:
    """Warn in one line of what torch could not compile, instead of its page of text. Return whether torch logs it."""
    error = record.exc_info[1] if record.exc_info and record.levelno >= logging.WARNING else None
    if error is not None:
        _warn(_summary(error))
    return error is None


def _warn(reason: str) -> None:
    warn_once(f"speed.compile=auto could not compile the networks, which run plainly and take longer ({reason})")


def uncompiled() -> AbstractContextManager[Any]:
    """Run networks without compiled kernels in this context, and compile nothing, even for those that are compiled."""
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()


def check(device: torch.device) -> None:
    """Raise UserError where nothing can be compiled for a device, for example without a compiler. Takes seconds."""
    if reason := _failure(device):
        needed = "a C++ compiler" if device.type == "cpu" else "Triton and a C compiler"
        raise UserError(f"speed.compile=true needs {needed} and Python's headers ({reason}); install them, or unset it")


def _failure(device: torch.device) -> str:
    """Return why nothing can be compiled for a device, or an empty text."""
    try:
        torch.compile(lambda x: x.sin() + 1)(torch.zeros(8, device=device))
    except Exception as error:  # of dynamo, of inductor, of Triton, of the system
        return _summary(error)
    return ""


def _summary(error: BaseException) -> str:
    """Return the beginning of an error's text. The first line may only say which backend raised it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2])[:200] or type(error).__name__
