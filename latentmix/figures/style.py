"""How all figures look: readable at column width, told apart without colour, plots as vectors."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from latentmix.cache import write_atomic

# Okabe & Ito's colours, which stay apart for the colour-blind: one for each mean, one line style for each norm.
COLOURS = {"0": "#D55E00", "m": "#E69F00", "chm": "#0072B2", "lp": "#009E73"}
SPARE = ("#CC79A7", "#56B4E9", "#000000")  # for further cut-offs of lp
LINES = {
    "lin": ":",
    "fix": "-",
    "nin": "--",
    "slerp": "-.",
    "lol": (0, (3, 1, 1, 1, 1, 1)),
    "adain": (0, (5, 1)),
    "nao": (0, (1, 1)),
}
MARKERS = {"lin": "x", "fix": "o", "nin": "s", "slerp": "^", "lol": "D", "adain": "v", "nao": "P"}

# One colour and one marker for each of up to eight classes.
HUES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
SHAPES = ("o", "s", "^", "v", "D", "x", "+", "*")

SETTINGS: dict[Any, Any] = {
    "font.size": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "pdf.fonttype": 42,
    "text.parse_math": False,  # a class may be called anything
    "savefig.dpi": 200,
}


def colours(means: Sequence[str]) -> dict[str, str]:
    """One for each mean that is shown, its own wherever it has one: lp0.5 has lp's, and lp2 beside it another."""
    found: dict[str, str] = {}
    for mean in dict.fromkeys(means):
        own = COLOURS[mean.rstrip("0123456789.") or mean]
        found[mean] = next(c for c in (own, *SPARE, "#999999") if c == "#999999" or c not in found.values())
    return found


@contextmanager
def styled() -> Iterator[None]:
    with matplotlib.rc_context(SETTINGS):
        yield


def save(figure: Figure, stem: Path) -> list[Path]:
    """`stem`.png and `stem`.pdf."""
    paths = []
    for ending in ("png", "pdf"):
        buffer = BytesIO()
        figure.savefig(
            buffer, format=ending, bbox_inches="tight", metadata={"CreationDate": None} if ending == "pdf" else {}
        )
        path = stem.with_suffix(f".{ending}")
        write_atomic(path, buffer.getvalue())
        paths.append(path)
    return paths
