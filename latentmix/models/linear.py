"""Linear layers by oneDNN on a CPU, which is fast whoever made the processor: torch asks MKL, which is slow on AMD's
(docs/performance.md tells how much it saves). Either rounds in float32; the results differ by nothing else."""

import math
import sys
from typing import Any, TypeVar

import torch
from torch import Tensor, library, nn

HERE = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
Network = TypeVar("Network", bound=nn.Module)


class Product(torch.autograd.Function):
    """x [..., I], weight [O, I], bias [O] or None -> [..., O]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        (slope,), (x, weight) = slopes, ctx.saved_tensors
        rows, (of_x, of_weight, of_bias) = slope.flatten(0, -2), ctx.needs_input_grad
        return (
            product(slope, weight.T) if of_x else None,
            product(rows.T, x.flatten(0, -2).T) if of_weight else None,
            rows.sum(0) if of_bias else None,
        )


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None, then: str = "none", kind: str = "") -> Tensor:
    """x [..., I], weight [O, I], bias [O] -> [..., O], float32 on a CPU; `then` is one of oneDNN's activations."""
    made: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, then, [], kind)
    return made


@library.custom_op("latentmix::linear", mutates_args=())
def _opaque(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The same for torch.compile, which takes that operation for one of its own, and its weights for constants."""
    return product(x, weight, bias)


@_opaque.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty(*x.shape[:-1], len(weight))


def _flops(x: tuple[int, ...], weight: tuple[int, ...], *_: Any, **__: Any) -> int:
    return 2 * math.prod(x) * weight[0]


# What torch's FlopCounterMode is to count a product as, whose name it does not know.
FLOPS: dict[Any, Any] = {torch.ops.mkldnn._linear_pointwise: _flops} if HERE else {}


class Linear(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        if not _ours(x):
            return super().forward(x)
        if torch.compiler.is_compiling():
            return _opaque(x, self.weight, self.bias)
        if not torch.is_grad_enabled():
            return product(x, self.weight, self.bias)
        return Product.apply(x, self.weight, self.bias)  # type: ignore[no-any-return]


def by_onednn(network: Network) -> Network:
    """The same network, whose linear layers go by oneDNN where torch was built with it, and diffusers' GEGLUs too."""
    if HERE:
        ours = {nn.Linear: Linear} | _gated()
        for module in network.modules():
            module.__class__ = ours.get(type(module), type(module))
    return network


def _gated() -> dict[type, type]:
    """GEGLU and its like here, whose halves are two products: the second is gated before it is written."""
    if "diffusers" not in sys.modules:  # then no network has one, and importing it takes seconds
        return {}
    from diffusers.models.activations import GEGLU

    class Gated(GEGLU):
        def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            layer = self.proj
            if not _ours(x) or torch.is_grad_enabled() or torch.compiler.is_compiling() or layer.bias is None:
                return super().forward(x, *args, **kwargs)
            (shown, gate), (shift, gate_shift) = layer.weight.chunk(2), layer.bias.chunk(2)
            return product(x, shown, shift).mul_(product(x, gate, gate_shift, "gelu", "none"))

    return {GEGLU: Gated}


def _ours(x: Tensor) -> bool:
    return x.dtype == torch.float32 and x.device.type == "cpu"
