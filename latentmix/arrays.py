"""Arrays of a caller as tensors: those that torch itself refuses, too, and the entries of any ordered collection."""

from collections.abc import Iterable, Mapping, Set
from typing import Any

import torch
from torch import Tensor

UNORDERED = (str, bytes, Mapping, Set)  # what has entries, and is no list of arrays


def as_tensor(x: Any) -> Tensor:
    """Return a tensor, an array, a column of a table or numbers as a tensor, without a copy where torch needs none.

    An array is copied where it is reversed (a negative stride), read-only, or in the byte order of another machine.
    Numbers and arrays become tensors on the CPU, whatever the default device.
    Raises: TypeError or ValueError for what holds no numbers, and for an array that is masked somewhere.
    """
    if isinstance(x, Tensor):
        return x
    if not hasattr(x, "__array__") or hasattr(x, "__cuda_array_interface__"):
        return torch.as_tensor(x) if hasattr(x, "__cuda_array_interface__") else torch.as_tensor(x, device="cpu")
    array = x if hasattr(x, "strides") else x.__array__()  # of numpy; or of pandas, JAX and others
    if getattr(array, "mask", False) is not False and array.mask.any():
        raise ValueError("a masked array has entries without a value; fill them")
    if array.dtype.kind == "O" and array.ndim == 1 and all(hasattr(one, "__array__") for one in array):
        return torch.stack([as_tensor(one) for one in array])
    dtype = "=f8" if array.dtype.kind == "f" and array.dtype.itemsize > 8 else array.dtype.newbyteorder("=")
    copied = not array.flags.writeable or any(stride < 0 for stride in array.strides)
    return torch.as_tensor(array.astype(dtype, order="C" if copied else "K", copy=copied), device="cpu")


def entries(x: Any) -> Any:
    """Return a list of what a generator, a column of objects or another ordered collection holds; arrays as they are.

    So is everything else that has no entries, or has them in no order, and a table or an open file.
    """
    if hasattr(x, "dtype"):
        return list(x) if str(x.dtype) == "object" and x.ndim == 1 else x
    other = isinstance(x, UNORDERED) or any(hasattr(x, name) for name in ("ndim", "column_names", "read"))
    return list(x) if isinstance(x, Iterable) and not other else x
