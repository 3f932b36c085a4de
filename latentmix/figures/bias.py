"""Fig. 4: how a bias that latents have in common grows with N where their norm is restored."""

import math
from collections.abc import Mapping
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from latentmix.bench import Bench
from latentmix.bias import diagnosed
from latentmix.diagnosis import Diagnosis
from latentmix.figures.style import HUES, SHAPES, save, styled


def fig4(bench: Bench, stem: Path) -> list[Path]:
    """Of the first eight classes, from cached latents."""
    return draw_growth(bench, {c: diagnosed(bench, c) for c in bench.classes[: len(HUES)]}, stem)


def draw_growth(bench: Bench, diagnoses: Mapping[str, Diagnosis], stem: Path) -> list[Path]:
    """The mean of each of the first two channels of `fix/0` centroids against N, which is spaced by √N; a line for each
    of the first eight classes."""
    shown = list(diagnoses.items())[: len(HUES)]
    panels, band = min(2, len(shown[0][1].means)), shown[0][1].band
    with styled():
        figure = Figure(figsize=(3.4 * panels, 3.1), layout="constrained")
        for channel, axes in enumerate(figure.subplots(1, panels, sharey=True, squeeze=False)[0]):
            for place, (class_id, diagnosis) in enumerate(shown):
                _line(axes, diagnosis, channel, place, bench.data.title(class_id))
            axes.plot([], [], color="0.3", linewidth=0.7, linestyle="--", label="√N·d (eq. 9)")
            axes.axhspan(-band, band, color="0.9", zorder=0, label="95 % of random centroids")
            _by_roots(axes, bench.config.pool)
            axes.set(xlabel="number of latents mixed, N")
            axes.set_title(f"channel {channel}", fontsize=8)
        figure.axes[0].set_ylabel("mean of the centroid's channel")
        handles, labels = figure.axes[0].get_legend_handles_labels()
        columns = len(labels) if len(labels) < 6 else math.ceil(len(labels) / 2)
        figure.legend(handles, labels, loc="outside upper center", ncols=columns, columnspacing=1.2, handlelength=2)
        return save(figure, stem)


def _line(axes: Axes, diagnosis: Diagnosis, channel: int, place: int, label: str) -> None:
    roots = [math.sqrt(n) for n in diagnosis.growth.sizes]
    means = [row[channel] for row in diagnosis.growth.means]
    axes.plot(roots, means, label=label, color=HUES[place], marker=SHAPES[place], markersize=3, linewidth=1.1)
    ends = [0, roots[-1]]
    predicted = [root * diagnosis.means[channel].value for root in ends]
    axes.plot(ends, predicted, color=HUES[place], linewidth=0.7, linestyle="--")


def _by_roots(axes: Axes, most: int) -> None:
    """Where x is √N, ticks that say N, at squares."""
    stride = math.ceil(math.sqrt(most) / 7)
    roots = range(stride, math.isqrt(most) + 1, stride)
    axes.set_xticks(list(roots), labels=[str(root**2) for root in roots])
    axes.set_xlim(0, 1.03 * math.sqrt(most))
