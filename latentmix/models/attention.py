"""The kernel of scaled dot-product attention in the diffusion network: torch's choice, or the one that is set."""

from collections.abc import Iterator
from contextlib import contextmanager

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


@contextmanager
def attention(kernel: str) -> Iterator[None]:
    """Run attention by one of `KERNELS` in this context; "auto" leaves the choice to torch."""
    if kernel == "auto":
        yield
        return
    with sdpa_kernel(KERNELS[kernel]):
        yield


def check(kernel: str, device: torch.device, dtype: torch.dtype) -> None:
    """Raise UserError where a device has no such kernel for a dtype."""
    trial = torch.zeros(1, 1, 8, 8, device=device, dtype=dtype)
    try:
        with attention(kernel):
            scaled_dot_product_attention(trial, trial, trial)
    except RuntimeError as error:
        kind = str(dtype).removeprefix("torch.")
        raise UserError(
            f"speed.attention={kernel} can't be had for {kind} on {device.type}; use auto or math"
        ) from error
