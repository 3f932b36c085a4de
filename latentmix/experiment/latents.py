"""The latents of a class's pool, and their mixtures."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from latentmix.inversion.base import State
from latentmix.mixing import Method, mixtures
from latentmix.profiling import timed

Rows = dict[str, Sequence[Tensor] | Tensor]  # `latents` and the extras of an inversion: a row for each image of a pool
PLAIN_SUM = "lin/0"  # mixes each number by itself, so rows can be mixed in pieces


class PoolLatents:
    """Latents at t = T of one class at a time, with the extras of their inversion.

    `read` returns both for a class, on the CPU. `extras` are the names of the extras and the methods that mix them;
    None stands for the method of the latents.
    """

    def __init__(self, read: Callable[[str], Rows], extras: Mapping[str, str | None], device: torch.device) -> None:
        self.read = read
        self.extras = extras
        self.device = device
        self._class_id: str | None = None
        self._latents = torch.empty(0)
        self._rows: Rows = {}

    def pool(self, class_id: str) -> Tensor:
        """Return the latents [pool, C, h, w] of a class, on the device; raise UserError if some are missing."""
        if class_id != self._class_id:
            self._class_id, self._latents, self._rows = None, torch.empty(0), {}  # two classes need not fit into memory
            rows = self.read(class_id)
            self._latents = torch.stack(list(rows.pop("latents"))).to(self.device)
            self._rows = {
                name: each if self.extras[name] == PLAIN_SUM else torch.stack(list(each)) for name, each in rows.items()
            }
            self._class_id = class_id
        return self._latents

    @timed("mixing")
    def mix(self, class_id: str, weights: Tensor, method: Method) -> State:
        """Return mixtures of a class's latents by weights [K, pool], and of their extras, on the device."""
        state = {"latents": mixtures(self.pool(class_id), weights, [method])[0]}
        for name, own in self.extras.items():
            rows = self._rows[name]
            if isinstance(rows, Tensor):
                mixed = mixtures(rows, weights, [own or method])[0]
            else:
                mixed = _weighted_sums(rows, weights.cpu())
            state[name] = mixed.to(self.device)
        return state


def _weighted_sums(rows: Sequence[Tensor], weights: Tensor) -> Tensor:
    """Return the weighted sums [K, A, B, C] of rows [A, B, C] by weights [K, N].

    One entry of A is in memory at a time: the rows of null-text inversion are 272 MB each for Stable Diffusion 3.5.
    """
    used = weights.any(0).nonzero().flatten().tolist()
    out = rows[0].new_empty(len(weights), *rows[0].shape)
    for a in range(len(rows[0])):
        parts = torch.stack([rows[n][a, None] for n in used])
        out[:, a, None] = mixtures(parts, weights[:, used], [PLAIN_SUM])[0]
    return out
