"""The optimiser Muon (Jordan et al., 2024) for matrices and for kernels of convolutions."""

import math
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


class Muon(torch.optim.Optimizer):
    """Gradient descent with Nesterov momentum, whose updates are orthogonalised: all their singular values are near 1.

    torch's own takes matrices alone, one by one, in bfloat16. Here a kernel [O, I, k, k] is a matrix [O, I · k · k],
    all matrices of one shape are done at once, and a CPU works in float32. An update has the root mean square of a
    typical one of AdamW's (Liu et al., 2025), so learning rates carry over.
    """

    def __init__(self, parameters: Iterable[Tensor], lr: float, momentum: float = 0.95, decay: float = 1e-3):
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "decay": decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            alike: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for p in group["params"]:
                if p.grad is not None:
                    alike[p.shape].append(p)
            for parameters in alike.values():
                self._update(parameters, group)

    def _update(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        """Update parameters of one shape."""
        gradients = [p.grad for p in parameters if p.grad is not None]
        for p in parameters:
            if "momentum" not in self.state[p]:
                self.state[p]["momentum"] = torch.zeros_like(p)
        kept = [self.state[p]["momentum"] for p in parameters]
        torch._foreach_lerp_(kept, gradients, 1 - group["momentum"])
        steps = torch.stack(torch._foreach_lerp(gradients, kept, group["momentum"])).flatten(2)
        scale = 0.2 * math.sqrt(max(steps.shape[1:]))
        steps = orthogonal(steps).to(parameters[0].dtype)
        torch._foreach_mul_(parameters, 1 - group["lr"] * group["decay"])
        updates = [step.view(p.shape) for step, p in zip(steps, parameters, strict=True)]
        torch._foreach_add_(parameters, updates, alpha=-group["lr"] * scale)


def matrices(*modules: nn.Module) -> list[Tensor]:
    """Return what Muon suits best: weights of linear layers and kernels that have at least 16 inputs and outputs."""
    layers = [m for module in modules for m in module.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    return [layer.weight for layer in layers if min(layer.weight.shape[:2]) >= 16]


def orthogonal(x: Tensor, iterations: int = 5) -> Tensor:
    """Move the singular values of matrices [B, M, N] towards 1, by Newton-Schulz iterations of fifth order."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = x.bfloat16() if x.is_cuda else x.float()
    wide = x.shape[1] <= x.shape[2]
    x = x if wide else x.mT
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(iterations):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x if wide else x.mT
