"""The diagnosis of inverted latents: the growth of their common bias with N (Fig. 4), and the bias by octave."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from latentmix.diagnosis import Diagnosis
from latentmix.figures.style import HUES, SHAPES, save, styled
from latentmix.octaves import Octave

Classes = Sequence[tuple[str, Diagnosis]]  # the title and the diagnosis of each class
COMMON = 2  # entries at the end of a legend of growth that are the same for all models
NOTE = {"fontsize": 7, "color": "0.3", "va": "bottom", "ha": "right"}


def draw_growth(models: Mapping[str, Classes], stem: Path) -> list[Path]:
    """Draw the means of the first two channels of `fix/0` centroids against N, on an axis of √N.

    There is a line for each of the first eight classes. `models` has the classes of each model by its name.
    """
    with styled():
        return save(growth(models), stem)


def growth(models: Mapping[str, Classes]) -> Figure:
    """Return a figure: a column for each of several models and a row for each channel, or one row for one model."""
    several = len(models) > 1
    panels = [(name, channel) for channel in (0, 1) for name in models]
    shape = (2, len(models)) if several else (1, 2)
    figure = Figure(figsize=(3.4 * shape[1], 2.6 * shape[0] + 0.5), layout="constrained")
    grid = figure.subplots(*shape, sharey=not several, squeeze=False).flat
    for axes, (name, channel) in zip(grid, panels, strict=True):
        _panel(axes, models[name][: len(HUES)], channel)
        axes.set_title(f"{name}, channel {channel}" if several else f"channel {channel}", fontsize=8)
    for axes in figure.axes[:: shape[1]]:
        axes.set_ylabel("mean of the centroid's channel")
    for axes in figure.axes[-shape[1] :]:
        axes.set_xlabel("number of latents mixed, N")
    _add_legends(figure, list(models.values()))
    return figure


def _add_legends(figure: Figure, models: Sequence[Classes]) -> None:
    """Add one legend for all panels, or one above each model's panels if their classes differ."""
    handles, labels = figure.axes[0].get_legend_handles_labels()
    if len({tuple(title for title, _ in classes) for classes in models}) > 1:
        for axes in figure.axes[: len(models)]:
            own = [found[:-COMMON] for found in axes.get_legend_handles_labels()]
            axes.legend(*own, loc="lower center", bbox_to_anchor=(0.5, 1.1), ncols=4, columnspacing=1, handlelength=1.5)
        handles, labels = handles[-COMMON:], labels[-COMMON:]
    columns = len(labels) if len(labels) < 6 else math.ceil(len(labels) / 2)
    figure.legend(handles, labels, loc="outside upper center", ncols=columns, columnspacing=1.2, handlelength=2)


def _panel(axes: Axes, classes: Classes, channel: int) -> None:
    for index, (title, diagnosis) in enumerate(classes):
        roots = [math.sqrt(n) for n in diagnosis.growth.sizes]
        means = [row[channel] for row in diagnosis.growth.means]
        axes.plot(roots, means, label=title, color=HUES[index], marker=SHAPES[index], markersize=3, linewidth=1.1)
        predicted = [0, roots[-1] * diagnosis.means[channel].value]
        axes.plot([0, roots[-1]], predicted, color=HUES[index], linewidth=0.7, linestyle="--")
    axes.plot([], [], color="0.3", linewidth=0.7, linestyle="--", label="√N·d (eq. 9)")
    first = classes[0][1]
    axes.axhspan(-first.band, first.band, color="0.9", zorder=0, label="95 % of random centroids")
    _mark_squares(axes, first.growth.sizes[-1])


def _mark_squares(axes: Axes, largest: int) -> None:
    """Label an axis of √N by N, at squares."""
    stride = math.ceil(math.sqrt(largest) / 7)
    roots = range(stride, math.isqrt(largest) + 1, stride)
    axes.set_xticks(list(roots), labels=[str(root**2) for root in roots])
    axes.set_xlim(0, 1.03 * math.sqrt(largest))


def draw_octaves(classes: Classes, stem: Path) -> list[Path]:
    """Draw bias and variance of the first eight classes, and their ratio, against frequency. Return the files."""
    with styled():
        return save(octaves(classes[: len(HUES)]), stem)


def octaves(classes: Classes) -> Figure:
    """Return a figure of two panels: d² and v (dotted); and the N at which √N·d is one standard deviation.

    A hollow marker means that no bias was found; it is at a lower bound of N, from two standard errors.
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
    """Return N if a bias was found, otherwise a lower bound of it."""
    return octave.limit or octave.variance / (max(octave.bias, 0) + 2 * octave.error)


def _label_octaves(axes: Axes, found: Sequence[Octave]) -> None:
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xticks(range(len(found)), labels=[f"{o.low}–{o.high}" if o.high else "0" for o in found])
    axes.set_xlabel("frequency, cycles per frame")
