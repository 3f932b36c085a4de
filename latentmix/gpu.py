"""The device to compute on, and what NVIDIA's GPUs need: TF32 on request, deterministic gradients, errors of memory.

TF32 multiplies float32 numbers with 10 bits of mantissa, as many as float16 has, and adds in float32. A GPU does so
five to eight times as fast. On a CPU nothing here has an effect.
"""

import gc
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from latentmix.errors import UserError

FULL = (  # what errors say, other than torch.OutOfMemoryError, when the memory of a GPU or of this machine is used up
    "out of memory",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "unable to find an engine to execute",  # cuDNN, which has no memory for the workspace of any
    "DefaultCPUAllocator: can't allocate memory",
)


def find_device(name: str) -> torch.device:
    """Return the device that a setting names; "auto" is the best one. Raises: UserError if it can't be used."""
    found = torch.accelerator.current_accelerator(check_available=True)
    if name == "auto":
        return found or torch.device("cpu")
    try:
        torch.zeros(1, device=name)
        torch.get_device_module(torch.device(name))  # which torch's device without memory has not
    except (RuntimeError, AssertionError) as error:
        others = f", cpu or {found}" if found else " or cpu"
        reason = str(error).splitlines()[0].partition(". ")[0]
        raise UserError(f"device={name} can't be used here; give device=auto{others} ({reason})") from error
    device = torch.device(name)
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)  # so that what asks for no device, such as a profile, uses no other one
    return device


def device_name(device: torch.device) -> str:
    """Return the name of a GPU, or the type of another device."""
    name = getattr(torch.get_device_module(device), "get_device_name", lambda device: device.type)
    return str(name(device))


def free_memory(device: torch.device) -> None:
    """Give memory that is no longer used back to a GPU."""
    gc.collect()
    if device.type != "cpu":
        torch.accelerator.empty_cache()


@contextmanager
def tf32(allowed: bool = True) -> Iterator[None]:
    """Let products and convolutions of float32 tensors be TF32 in this context or, if not `allowed`, in no case.

    torch has an old and a new interface for this. After use of the new one, the old one raises RuntimeError when it is
    read, in Inductor or in other libraries. So the new one is read here, and the old one is set, which sets both.
    """
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.fp32_precision == "tf32", cudnn.conv.fp32_precision == "tf32"  # type: ignore[attr-defined]
    matmul.allow_tf32 = cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


@contextmanager
def deterministic(device: torch.device) -> Iterator[None]:
    """Choose kernels that give the same bits each time on a GPU, in this context. Gradients have some that do not."""
    if device.type != "cuda":
        yield
        return
    settings: Any = torch.utils.deterministic
    before = torch.are_deterministic_algorithms_enabled(), settings.fill_uninitialized_memory
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # for operations that have no deterministic kernel
        torch.use_deterministic_algorithms(True, warn_only=True)
        settings.fill_uninitialized_memory = False
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(before[0])
            settings.fill_uninitialized_memory = before[1]


def is_out_of_memory(error: BaseException) -> bool:
    """Return True if an error says that a device or this machine has no memory left."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in FULL)
