"""Convert arrays of callers to tensors, also those that torch refuses, and ordered collections to lists."""

from collections.abc import Iterable, Mapping, Set
from typing import Any

import torch
from torch import Tensor

UNORDERED = (str, bytes, Mapping, Set)  # iterable, but no lists of arrays


def as_tensor(x: Any) -> Tensor:
    """Return a tensor, an array, a column of a table or numbers as a tensor, without a copy if possible.

    An array is copied if it has a negative stride, is read-only, or has a foreign byte order. Numbers and arrays become
    tensors on the CPU, whatever the default device.
    Raises: TypeError or ValueError for what holds no numbers, and for an array with masked entries.
    """
    if isinstance(x, Tensor):
        return x
    if hasattr(x, "__cuda_array_interface__"):
        return torch.as_tensor(x)
    if not hasattr(x, "__array__"):
        return torch.as_tensor(x, device="cpu")
    array = x if hasattr(x, "strides") else x.__array__()  # numpy's own; converted from pandas, JAX and others
    if getattr(array, "mask", False) is not False and array.mask.any():
        raise ValueError("a masked array has entries without a value; fill them")
    if array.dtype.kind == "O" and array.ndim == 1 and all(hasattr(one, "__array__") for one in array):
        return torch.stack([as_tensor(one) for one in array])
    dtype = "=f8" if array.dtype.kind == "f" and array.dtype.itemsize > 8 else array.dtype.newbyteorder("=")
    copied = not array.flags.writeable or any(stride < 0 for stride in array.strides)
    return torch.as_tensor(array.astype(dtype, order="C" if copied else "K", copy=copied), device="cpu")


def entries(x: Any) -> Any:
    """Return a list of the entries of a generator, a column of objects or another ordered collection.

    Anything else is returned as it is: arrays, texts, dicts, sets, tables, open files.
    """
    if hasattr(x, "dtype"):
        return list(x) if str(x.dtype) == "object" and x.ndim == 1 else x
    other = isinstance(x, UNORDERED) or any(hasattr(x, name) for name in ("ndim", "column_names", "read"))
    return list(x) if isinstance(x, Iterable) and not other else x
