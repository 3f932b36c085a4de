"""Settings of this process: threads, precision of matrix products, memory."""

import ctypes
import ctypes.util
import sys

import torch


def set_up_process(threads: int | None) -> None:
    """Set the number of threads (None leaves it to torch), turn TF32 off for convolutions, keep freed memory."""
    if threads is not None:
        torch.set_num_threads(threads)
    torch.backends.cudnn.allow_tf32 = False  # the old name, which leaves both names readable
    _keep_freed_memory()


def _keep_freed_memory() -> None:
    """Tell glibc to keep large blocks that were freed.

    A network frees and allocates the same blocks all the time. On a CPU, returning them to the system in between takes
    a third of the time.
    """
    libc = ctypes.util.find_library("c")
    if sys.platform == "linux" and libc is not None:
        mallopt = getattr(ctypes.CDLL(libc), "mallopt", None)
        if mallopt is not None:
            mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
            mallopt(-4, 0)  # M_MMAP_MAX: no block outside the heap
