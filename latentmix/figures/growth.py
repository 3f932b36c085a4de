"""Fig. 4: how a bias that latents have in common grows with N where their norm is restored."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from latentmix.diagnosis import Diagnosis
from latentmix.experiment.experiment import Experiment
from latentmix.figures.style import HUES, SHAPES, save, styled

Diagnoses = Mapping[str, Diagnosis]  # by class


def draw_growth(experiments: Sequence[Experiment], diagnoses: Sequence[Diagnoses], stem: Path) -> list[Path]:
    """The mean of each of the first two channels of `fix/0` centroids against N, which is spaced by √N: a line for each
    of the first eight classes, the models of several benches beside each other."""
    several = len(experiments) > 1
    panels = [(place, channel) for channel in (0, 1) for place in range(len(experiments))]
    shape = (2, len(experiments)) if several else (1, 2)
    with styled():
        figure = Figure(figsize=(3.4 * shape[1], 2.6 * shape[0] + 0.5), layout="constrained")
        axes = figure.subplots(*shape, sharey=not several, squeeze=False).flat
        for cell, (place, channel) in zip(axes, panels, strict=True):
            _panel(cell, experiments[place], diagnoses[place], channel)
            name = f"{experiments[place].config.model.name}, " if several else ""
            cell.set_title(f"{name}channel {channel}", fontsize=8)
        for cell in figure.axes[:: shape[1]]:
            cell.set_ylabel("mean of the centroid's channel")
        for cell in figure.axes[-shape[1] :]:
            cell.set_xlabel("number of latents mixed, N")
        handles, labels = figure.axes[0].get_legend_handles_labels()
        columns = len(labels) if len(labels) < 6 else math.ceil(len(labels) / 2)
        figure.legend(handles, labels, loc="outside upper center", ncols=columns, columnspacing=1.2, handlelength=2)
        return save(figure, stem)


def _panel(axes: Axes, experiment: Experiment, diagnoses: Diagnoses, channel: int) -> None:
    shown = list(diagnoses.items())[: len(HUES)]
    for place, (class_id, diagnosis) in enumerate(shown):
        _line(axes, diagnosis, channel, place, experiment.title(class_id))
    axes.plot([], [], color="0.3", linewidth=0.7, linestyle="--", label="√N·d (eq. 9)")
    band = shown[0][1].band
    axes.axhspan(-band, band, color="0.9", zorder=0, label="95 % of random centroids")
    _by_roots(axes, experiment.config.pool)


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
