"""Progress bars of Python callers: text in a terminal, a widget in Jupyter."""

from typing import Any

from torch import Tensor
from tqdm.auto import tqdm


class CountedSteps:
    """A model that advances a progress bar whenever its network is called at a new time step."""

    def __init__(self, model: Any, bar: tqdm, steps: int) -> None:
        self._model, self._bar, self._steps = model, bar, steps
        self._timestep: float | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def predict(self, z: Tensor, level: Any, timestep: float, conditioning: Any) -> tuple[Tensor, Tensor]:
        """Return what the model predicts."""
        if timestep != self._timestep:
            self._timestep = timestep
            if self._bar.n == self._bar.total:  # the inversion goes through the steps again, as null_text does
                self._bar.total += self._steps
            self._bar.update()
        return self._model.predict(z, level, timestep, conditioning)
