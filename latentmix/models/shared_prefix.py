"""Run the U-Net's first modules on one half of a guided batch.

Under guidance a network sees each latent twice, with the empty prompt and with the prompt. Until the first
cross-attention reads the prompts, both halves are equal. So one half is computed and repeated; only rounding differs.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class SharedPrefix:
    """Hooks that let modules run on the first half of their inputs, and repeat the outputs, within `on_one_half`."""

    def __init__(self, modules: Iterator[nn.Module]) -> None:
        self._active = False
        for module in modules:
            module.register_forward_pre_hook(self._halve, with_kwargs=True)
            module.register_forward_hook(self._repeat)

    @contextmanager
    def on_one_half(self, active: bool) -> Iterator[None]:
        """Treat the two halves of each batch as equal in this context, if `active`."""
        self._active = active
        try:
            yield
        finally:
            self._active = False

    def _halve(self, _: nn.Module, args: Any, kwargs: Any) -> Any:
        return _each_tensor(lambda x: x[: len(x) // 2], (args, kwargs)) if self._active else None

    def _repeat(self, _: nn.Module, args: Any, out: Any) -> Any:
        return _each_tensor(lambda x: torch.cat([x, x]), out) if self._active else None


def _each_tensor(work: Callable[[Tensor], Tensor], x: Any) -> Any:
    if isinstance(x, Tensor):
        return work(x)
    if isinstance(x, tuple):
        return tuple(_each_tensor(work, part) for part in x)
    return {name: _each_tensor(work, part) for name, part in x.items()} if isinstance(x, dict) else x


def prefix_modules(unet: Any) -> Iterator[nn.Module]:
    """Yield the modules of diffusers' `UNet2DConditionModel` before its first cross-attention, in their order.

    With an additional embedding, as in SDXL, all modules after the first convolution read the prompt.
    """
    yield unet.conv_in
    if unet.config.addition_embed_type is not None:
        return
    for block in unet.down_blocks:
        if not getattr(block, "has_cross_attention", False):
            yield block
            continue
        first = block.attentions[0]
        yield from (block.resnets[0], first.norm, first.proj_in)
        if not first.transformer_blocks[0].only_cross_attention:
            yield from (first.transformer_blocks[0].norm1, first.transformer_blocks[0].attn1)
        return
