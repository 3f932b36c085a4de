"""The kernel of scaled dot-product attention in the diffusion network: torch's choice, or the one that is set."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from latentmix.errors import UserError

KERNELS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "math": SDPBackend.MATH,  # matrix products and a softmax, which every device has
}
HOPPER = (9, 0)  # the compute capability of GPUs on which cuDNN's kernel is the fastest


@contextmanager
def attention(kernel: str, device: torch.device) -> Iterator[None]:
    """Run attention by one of `KERNELS` in this context. Inputs that it can't take run by the others, in their order.

    "math" takes all. "auto" is cuDNN's kernel on a Hopper GPU; elsewhere it leaves the choice to torch.
    """
    first = _auto_kernel(device) if kernel == "auto" else kernel
    if first is None:
        yield
        return
    others = [] if first == "math" else [kernel for name, kernel in KERNELS.items() if name != first]
    with sdpa_kernel([KERNELS[first], *others], set_priority=True):
        yield


def check(kernel: str, device: torch.device, dtype: torch.dtype) -> None:
    """Raise UserError where a device has no such kernel for a dtype."""
    trial = torch.zeros(1, 1, 8, 8, device=device, dtype=dtype)
    try:
        with sdpa_kernel(KERNELS[kernel]):
            scaled_dot_product_attention(trial, trial, trial)
    except RuntimeError as error:
        kind = str(dtype).removeprefix("torch.")
        lacking = f"speed.attention={kernel} is not available for {kind} on {device.type}"
        raise UserError(f"{lacking}; use auto or math") from error


@cache
def _auto_kernel(device: torch.device) -> str | None:
    """Return the kernel that "auto" is; None leaves the choice to torch."""
    is_hopper = device.type == "cuda" and torch.cuda.get_device_capability(device) == HOPPER
    return "cudnn" if is_hopper else None
