"""Settings of the process for speed."""

import ctypes
import ctypes.util
import sys

import torch


def prepare(device: torch.device, exact: bool) -> None:
    """Set up the device. Products of 32 bits are TF32 on a GPU, unless they must be `exact`."""
    torch.backends.cudnn.benchmark = True
    # The old names of these settings set the new ones, too; Inductor and other libraries read either.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = not exact
    if device.type == "cpu":
        _keep_freed_memory()


def _keep_freed_memory() -> None:
    """Tell glibc to keep freed blocks: giving them back at every step costs a third of the time on a CPU."""
    name = ctypes.util.find_library("c")
    if sys.platform == "linux" and name is not None:
        mallopt = getattr(ctypes.CDLL(name), "mallopt", None)
        if mallopt is not None:
            mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
            mallopt(-4, 0)  # M_MMAP_MAX
