"""The latents of a class's pool, and their mixtures."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from latentmix.inversion.base import State
from latentmix.mixing import Method, mixtures
from latentmix.profiling import timed


class PoolLatents:
    """Latents at t = T of one class at a time, with the extras of their inversion.

    `read` returns both for a class, a row for each image of its pool, on the CPU. `extras` names what else the
    inversion leaves for each image, and the method that mixes it; None stands for the method of the latents.
    """

    def __init__(self, read: Callable[[str], State], extras: Mapping[str, str | None], device: torch.device) -> None:
        self.read = read
        self.extras = extras
        self.device = device
        self._class_id: str | None = None
        self._state: State = {}

    def pool(self, class_id: str) -> Tensor:
        """Return the latents [pool, C, h, w] of a class, on the device; raise UserError if some are missing."""
        return self._read(class_id)["latents"]

    @timed("mixing")
    def mix(self, class_id: str, weights: Tensor, method: Method) -> State:
        """Return mixtures of a class's latents by weights [K, pool], and of their extras, on the device."""
        state = self._read(class_id)
        methods = {"latents": method, **{name: own or method for name, own in self.extras.items()}}
        return {name: mixtures(state[name], weights, [own])[0].to(self.device) for name, own in methods.items()}

    def _read(self, class_id: str) -> State:
        """Return the state of the class; latents lie on the device, extras, which may be large, on the CPU."""
        if class_id != self._class_id:
            self._class_id, self._state = None, {}  # two classes need not fit into memory
            state = self.read(class_id)
            self._class_id, self._state = class_id, state | {"latents": state["latents"].to(self.device)}
        return self._state
