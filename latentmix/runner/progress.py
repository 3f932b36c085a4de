"""Progress bars of Python callers: text in a terminal, a widget in Jupyter."""

from typing import Any

from torch import Tensor
from tqdm.auto import tqdm


class CountedSteps:
    """A model that moves a progress bar at each new time step that its network is asked for."""

    def __init__(self, model: Any, bar: tqdm, steps: int) -> None:
        self._model, self._bar, self._steps = model, bar, steps
        self._timestep: float | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def predict(self, z: Tensor, level: Any, timestep: float, conditioning: Any) -> tuple[Tensor, Tensor]:
        """Return what the model predicts."""
        if timestep != self._timestep:
            self._timestep = timestep
            if self._bar.n == self._bar.total:  # an inversion that goes over the steps once more
                self._bar.total += self._steps
            self._bar.update()
        return self._model.predict(z, level, timestep, conditioning)
