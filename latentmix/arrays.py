"""Arrays of a caller as tensors: those that torch itself refuses, too."""

from typing import Any

import torch
from torch import Tensor


def as_tensor(x: Any) -> Tensor:
    """Return a tensor, an array or numbers as a tensor, without a copy where torch needs none.

    An array is copied where it is reversed (a negative stride) or in the byte order of another machine.
    """
    if hasattr(x, "strides") and hasattr(x, "dtype"):  # of numpy
        is_reversed = any(stride < 0 for stride in x.strides)
        x = x.astype(x.dtype.newbyteorder("="), order="C" if is_reversed else "K", copy=is_reversed)
    return torch.as_tensor(x)
