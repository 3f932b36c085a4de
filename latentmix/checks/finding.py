"""The result of a check."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Finding:
    """The result of a check in one line, and lines of advice. "fetch" means that a run downloads it by itself."""

    state: Literal["ok", "fetch", "warning", "missing"]
    part: str
    text: str
    advice: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """Return the finding and its advice, line by line."""
        return [row(self.state, self.part, self.text), *(row("", "", line) for line in self.advice)]


def row(state: str, part: str, text: str) -> str:
    """Return a line in the columns of `latentmix doctor`."""
    return f"{state:<9}{part:<10}{text}"


def readable_size(count: float) -> str:
    """Return a number of bytes as text, such as "1.5 GiB"."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            break
        count /= 1024
    return f"{count:.0f} {unit}" if count >= 10 or unit == "bytes" else f"{count:.1f} {unit}"
