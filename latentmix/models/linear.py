"""Linear layers by oneDNN on a CPU (`speed.onednn=true`).

torch multiplies matrices by MKL, which is slow on AMD's processors; docs/performance.md says how much this saves there.
It uses a private operation of torch, so it is off by default. Both libraries compute in float32; results differ by
rounding.
"""

import math
import sys
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

AVAILABLE = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
Network = TypeVar("Network", bound=nn.Module)


class Product(torch.autograd.Function):
    """x [..., I], weight [O, I], bias [O] or None -> [..., O]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,), (x, weight) = gradients, ctx.saved_tensors
        rows, (x_needed, weight_needed, bias_needed) = gradient.flatten(0, -2), ctx.needs_input_grad
        return (
            product(gradient, weight.T) if x_needed else None,
            product(rows.T, x.flatten(0, -2).T) if weight_needed else None,
            rows.sum(0) if bias_needed else None,
        )


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str = "none", kind: str = "") -> Tensor:
    """Return activation(x @ weight.T + bias): x [..., I], weight [O, I], bias [O] -> [..., O], in float32 on a CPU.

    `activation` and `kind` are names of oneDNN's, such as "gelu" and "none" for GELU by erf.
    """
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, activation, [], kind)
    return out


FLOPS: dict[Any, Any] = {}  # for torch's FlopCounterMode: the private operation -> its FLOPs from its inputs' shapes
if AVAILABLE:
    FLOPS[torch.ops.mkldnn._linear_pointwise] = lambda x, weight, *_, **__: 2 * math.prod(x) * weight[0]


class Linear(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        if not _supported(x):
            return super().forward(x)
        if not torch.is_grad_enabled():
            return product(x, self.weight, self.bias)
        return Product.apply(x, self.weight, self.bias)  # type: ignore[no-any-return]


def by_onednn(network: Network) -> Network:
    """Return the network after giving its linear layers, and diffusers' GEGLUs, to oneDNN if torch has it."""
    if AVAILABLE:
        replacements = {nn.Linear: Linear} | _geglu()
        for module in network.modules():
            module.__class__ = replacements.get(type(module), type(module))
    return network


def _geglu() -> dict[type, type]:
    """Return the replacement of GEGLU: two products, of which the second is gated before it is written."""
    if "diffusers" not in sys.modules:  # then no network has one, and the import takes seconds
        return {}
    from diffusers.models.activations import GEGLU

    class FusedGEGLU(GEGLU):
        def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            layer = self.proj
            if not _supported(x) or torch.is_grad_enabled() or layer.bias is None:
                return super().forward(x, *args, **kwargs)
            (value, gate), (value_bias, gate_bias) = layer.weight.chunk(2), layer.bias.chunk(2)
            return product(x, value, value_bias).mul_(product(x, gate, gate_bias, "gelu", "none"))

    return {GEGLU: FusedGEGLU}


def _supported(x: Tensor) -> bool:
    """Return True on a CPU in float32, unless torch compiles the network and so chooses kernels itself."""
    return x.dtype == torch.float32 and x.device.type == "cpu" and not torch.compiler.is_compiling()
