"""The optimiser Muon (Jordan et al., 2024) for matrices and for kernels of convolutions."""

import math
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

LINEAR, CUBIC, QUINTIC = 3.4445, -4.7750, 2.0315  # of an iteration, in x
GRAM_FROM = 3  # times as wide as high; below, the Gram matrix is no smaller than the matrix


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
    """Move the singular values of matrices [B, M, N] towards 1, by Newton-Schulz iterations of fifth order.

    Each iteration multiplies x by a polynomial of its Gram matrix x xT. These polynomials commute, so a CPU iterates on
    the Gram matrix of a matrix that is much wider than high, and multiplies x once, at the end, by their product. On a
    GPU, in bfloat16, a Gram matrix is too inexact for this.
    """
    x = x.bfloat16() if x.is_cuda else x.float()
    wide = x.shape[1] <= x.shape[2]
    x = x if wide else x.mT
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    if not x.is_cuda and x.shape[2] >= GRAM_FROM * x.shape[1]:
        gram, product = x @ x.mT, torch.eye(x.shape[1]).expand(len(x), -1, -1)
        for _ in range(iterations):
            higher = _higher_terms(gram)
            product = LINEAR * product + higher @ product
            for _ in range(2):  # on both sides
                gram = LINEAR * gram + higher @ gram
        x = product @ x
    else:
        for _ in range(iterations):
            x = LINEAR * x + _higher_terms(x @ x.mT) @ x
    return x if wide else x.mT


def _higher_terms(gram: Tensor) -> Tensor:
    """Return the polynomial of Gram matrices without its constant, `LINEAR`."""
    return CUBIC * gram + QUINTIC * gram @ gram
