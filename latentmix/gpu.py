"""What NVIDIA's GPUs need: TF32 where it is asked for, deterministic gradients, and their errors of memory.

TF32 multiplies float32 numbers with 10 bits of mantissa, as many as float16 has, and adds in float32. A GPU does so
five to eight times as fast. On a CPU nothing here has an effect.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

FULL = (  # what errors say, other than torch.OutOfMemoryError, when the memory of a GPU or of this machine is used up
    "out of memory",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "unable to find an engine to execute",  # cuDNN, which has no memory for the workspace of any
    "DefaultCPUAllocator: can't allocate memory",
)


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
