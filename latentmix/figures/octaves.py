"""The bias of latents by octave of spatial frequency, and the N at which it reaches one standard deviation."""

import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from latentmix.diagnosis import Diagnosis
from latentmix.figures.style import HUES, SHAPES, save, styled
from latentmix.octaves import Octave

NOTE = {"fontsize": 7, "color": "0.3", "va": "bottom", "ha": "right"}

Classes = Sequence[tuple[str, Diagnosis]]  # the title and the diagnosis of each class


def draw_octaves(classes: Classes, stem: Path) -> list[Path]:
    """Draw bias and variance of the first eight classes, and their ratio, against frequency. Return the files."""
    with styled():
        return save(octaves(classes[: len(HUES)]), stem)


def octaves(classes: Classes) -> Figure:
    """Return two panels: d² and v (dotted); and the N at which √N·d is one standard deviation.

    A hollow marker stands where no bias was found: its N is the least that two standard errors allow.
    """
    figure = Figure(figsize=(7.2, 3.1), layout="constrained")
    powers, limits = figure.subplots(1, 2)
    for index, (title, diagnosis) in enumerate(classes):
        look = {"color": HUES[index], "marker": SHAPES[index], "markersize": 3, "linewidth": 1}
        found = diagnosis.octaves
        powers.plot([o.bias if o.limit else math.nan for o in found], label=title, **look)
        powers.plot([o.variance for o in found], color=HUES[index], linestyle=":", linewidth=1)
        limits.plot([_least(o) for o in found], **look)
        unknown = [index for index, o in enumerate(found) if o.limit is None]
        limits.plot(unknown, [_least(found[i]) for i in unknown], **look | {"linewidth": 0, "markerfacecolor": "white"})
    first = classes[0][1]
    limits.axhline(first.safe["fix/pool"], color="0.3", linewidth=0.7, linestyle="--")
    limits.text(1, first.safe["fix/pool"] or 0, "half of the pool", transform=limits.get_yaxis_transform(), **NOTE)
    powers.set_ylabel("bias d²; dotted: variance v")
    limits.set_ylabel("N of one standard deviation, v/d²")
    for axes in (powers, limits):
        _label_octaves(axes, first.octaves)
    handles, labels = powers.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=min(len(labels), 6), handlelength=2)
    return figure


def _least(octave: Octave) -> float:
    """Return N where the bias was found, and otherwise the least N that it may have."""
    return octave.limit or octave.variance / (max(octave.bias, 0) + 2 * octave.error)


def _label_octaves(axes: Axes, found: Sequence[Octave]) -> None:
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xticks(range(len(found)), labels=[f"{o.low}–{o.high}" if o.high else "0" for o in found])
    axes.set_xlabel("frequency, cycles per frame")
