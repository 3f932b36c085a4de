"""Measured rates of stages on this machine, from which a dry run estimates its time."""

from dataclasses import dataclass
from pathlib import Path

from latentmix.runner.tasks import Stage
from latentmix.storage import key, read_json, write_json


@dataclass
class Rates:
    """Rates by stage and batch size, kept in a file. `context` is what else they depend on, such as the device."""

    file: Path
    context: object

    def remember(self, stage: Stage, batch_size: int, work: float, seconds: float) -> None:
        """Keep the rate of `work` done in so many seconds."""
        write_json(self.file, self._read() | {self._name(stage, batch_size): work / seconds})

    def estimate(self, stage: Stage, batch_size: int) -> float | None:
        """Return the seconds that a stage's unfinished tasks take; None if it never ran here."""
        if not stage.tasks:
            return 0.0
        rate = self._read().get(self._name(stage, batch_size))
        return None if rate is None else (stage.nfe or stage.items) / rate

    def _name(self, stage: Stage, batch_size: int) -> str:
        return key([stage.name, self.context, batch_size])

    def _read(self) -> dict[str, float]:
        known = read_json(self.file).items()
        return {name: rate for name, rate in known if isinstance(rate, float) and 1e-9 < rate < 1e9}
