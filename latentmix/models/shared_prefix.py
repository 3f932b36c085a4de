"""What a U-Net would compute more than once, computed once. Exact: only rounding can tell.

Under guidance a network sees each latent twice, with the empty prompt and with the prompt; before it reads them, both
halves are alike. And what the layers of cross-attention make of a prompt is the same in all steps.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class SharedPrefix:
    """Lets modules run on one half of a batch whose halves are alike, and repeats what comes out of them."""

    def __init__(self, modules: Iterator[nn.Module]) -> None:
        self._alike = False
        for module in modules:
            module.register_forward_pre_hook(self._halve, with_kwargs=True)
            module.register_forward_hook(self._repeat)

    @contextmanager
    def alike(self, alike: bool) -> Iterator[None]:
        """Within, whether the halves of batches are."""
        self._alike = alike
        try:
            yield
        finally:
            self._alike = False

    def _halve(self, _: nn.Module, args: Any, kwargs: Any) -> Any:
        return _each_tensor(lambda x: x[: len(x) // 2], (args, kwargs)) if self._alike else None

    def _repeat(self, _: nn.Module, args: Any, out: Any) -> Any:
        return _each_tensor(lambda x: torch.cat([x, x]), out) if self._alike else None


def _each_tensor(work: Callable[[Tensor], Tensor], x: Any) -> Any:
    if isinstance(x, Tensor):
        return work(x)
    if isinstance(x, tuple):
        return tuple(_each_tensor(work, part) for part in x)
    return {name: _each_tensor(work, part) for name, part in x.items()} if isinstance(x, dict) else x


class CachedLinear(nn.Module):
    """A linear layer that keeps its last output, for as long as it is given the very same tensor."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self._last: tuple[Tensor, Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            return self.layer(x)
        if self._last is None or self._last[0] is not x:
            self._last = None  # not both in memory
            self._last = x, self.layer(x)
        return self._last[1]


def prefix_modules(unet: Any) -> Iterator[nn.Module]:
    """The modules of diffusers' `UNet2DConditionModel` that come before the first cross-attention, in their order."""
    yield unet.conv_in
    for block in unet.down_blocks:
        if not getattr(block, "has_cross_attention", False):
            yield block
            continue
        first = block.attentions[0]
        yield from (block.resnets[0], first.norm, first.proj_in)
        if not first.transformer_blocks[0].only_cross_attention:
            yield from (first.transformer_blocks[0].norm1, first.transformer_blocks[0].attn1)
        return


def cache_prompts(unet: nn.Module) -> None:
    """Keys and values of cross-attention are kept while the prompts' states are the same tensor."""
    for name, module in unet.named_modules():
        if name.endswith("attn2"):
            module.to_k, module.to_v = CachedLinear(module.to_k), CachedLinear(module.to_v)


def read_ahead(unet: nn.Module, states: Tensor) -> None:
    """Let them read the prompts now, outside of the network: one that is compiled finds them read each time, and needs
    no second version for when they are not."""
    if not torch.is_grad_enabled():
        for module in unet.modules():
            if isinstance(module, CachedLinear):
                module(states)
