"""The device to compute on, and settings of NVIDIA's GPUs: TF32, deterministic gradients, out-of-memory errors.

TF32 multiplies float32 numbers with 10 bits of mantissa, as many as float16 has, and adds in float32, five to eight
times as fast. On a CPU it has no effect.
"""

import gc
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from latentmix.errors import UserError

FULL = (  # in messages of RuntimeErrors that mean that the memory of a GPU or of this machine is used up
    "out of memory",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "unable to find an engine to execute",  # of cuDNN, if there is no memory for its workspace
    "DefaultCPUAllocator: can't allocate memory",
)


def find_device(name: str) -> torch.device:
    """Return the device that a setting names; "auto" is the best one. Raises: UserError if it can't be used."""
    found = torch.accelerator.current_accelerator(check_available=True)
    if name == "auto":
        return found or torch.device("cpu")
    try:
        torch.zeros(1, device=name)
        torch.get_device_module(torch.device(name))  # raises for the device "meta"
    except (RuntimeError, AssertionError) as error:
        others = f", cpu or {found}" if found else " or cpu"
        reason = str(error).splitlines()[0].partition(". ")[0]
        raise UserError(f"device={name} can't be used here; give device=auto{others} ({reason})") from error
    device = torch.device(name)
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)  # the default for calls without a device, such as synchronize()
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
    """Turn TF32 on (or off, if not `allowed`) for products and convolutions of float32 tensors in this context.

    torch has an old and a new interface for this. If the new one is set, reading the old one, as Inductor and other
    libraries do, raises RuntimeError. So only the old one is set here, which sets both, and the new one is read.
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
    """Choose deterministic kernels on a GPU in this context. Those of some gradients are not, by default."""
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
