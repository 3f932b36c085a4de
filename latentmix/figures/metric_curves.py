"""Fig. 7: distance to real images against N, with a line for each method."""

import math
import statistics
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from latentmix.errors import UserError
from latentmix.experiment.draws import GAUSS
from latentmix.experiment.results_table import AVERAGE, Result, read_table
from latentmix.figures.style import GREY, MethodStyle, method_styles, metric_label, save, styled
from latentmix.metrics import Estimate

COLUMNS = 3  # panels beside each other
QUIET = "#59626a"  # colour of notes
SHIFT = 0.012  # between the lines of two methods, relative to N, so that their intervals do not overlap


def draw_curves(table: Path, stem: Path) -> list[Path]:
    """Draw the averages over classes in `metrics.csv`, with their 95 % intervals. Return the files written."""
    if not table.exists():
        raise UserError(f"{table} is missing; run latentmix sweep with the same settings first")
    with styled():
        return save(curves([result for result in read_table(table) if result.class_id == AVERAGE]), stem)


def curves(results: Sequence[Result]) -> Figure:
    """Return a figure with a panel for each metric.

    Methods have lines, and dotted ones for their control `gauss`. Controls without N have grey horizontal lines.
    """
    measured = list(dict.fromkeys(result.metric for result in results))
    metrics = [metric for metric in measured if metric_label(metric).plotted] or measured
    styles = method_styles([result.method for result in results])
    rows = math.ceil(len(metrics) / COLUMNS)
    columns = math.ceil(len(metrics) / rows)
    figure = Figure(figsize=(3.4 * columns, 2.4 * rows + 0.4), layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes, metric in zip(panels, metrics, strict=False):
        _panel(axes, [result for result in results if result.metric == metric], styles)
        axes.set(xlabel="number of latents mixed, N", ylabel=metric_label(metric).axis)
    for axes in panels[len(metrics) :]:
        axes.remove()
    _legend(figure, styles)
    notes = dict.fromkeys(metric_label(metric).note for metric in metrics if metric_label(metric).note)
    if notes:
        lines = [line for note in notes for line in textwrap.wrap(note, 64 * columns)]
        figure.supxlabel("\n".join(lines), x=0.02, ha="left", fontsize=6.5, color=QUIET)
    return figure


def _panel(axes: Axes, results: Sequence[Result], styles: Mapping[str, MethodStyle]) -> None:
    methods = [style for style in styles.values() if not style.control]
    for index, style in enumerate(methods):
        shift = 1 + SHIFT * (index - (len(methods) - 1) / 2)
        _line(axes, [result for result in results if result.method == style.name], style, shift)
    for style in (style for style in styles.values() if style.name.startswith(GAUSS)):
        points = sorted((result.n, result.estimate.value) for result in results if result.method == style.name)
        x, y = [n for n, _ in points], [value for _, value in points]
        axes.plot(x, y, label=f"_{style.name}", color=style.colour, linestyle=style.line, linewidth=0.8)
    for result in (result for result in results if styles[result.method].control and not result.n):
        style = styles[result.method]
        axes.axhline(result.estimate.value, label=style.name, color=style.colour, linestyle=style.line, linewidth=0.8)
    ns = sorted({result.n for result in results if not styles[result.method].control})
    axes.set_xscale("log")
    axes.set_xticks(ns, labels=[str(n) for n in ns])
    axes.minorticks_off()
    if not any(result.estimate.value < 0 for result in results):
        axes.set_ylim(bottom=0)  # cuts wide intervals of distances; unbiased estimates may be below 0
        drawn = [r.estimate for r in results if not styles[r.method].control and not math.isnan(r.estimate.low)]
        axes.set_ylim(top=_top([r.estimate.value for r in results if not math.isnan(r.estimate.value)], drawn))


def _top(values: Sequence[float], drawn: Sequence[Estimate]) -> float:
    """Return the upper end of an axis from 0; it cuts a few intervals that are far wider than usual, as the report."""
    most, highest = max(values, default=0.0), max((e.high for e in drawn), default=0.0)
    usual = statistics.median([e.high - e.value for e in drawn] or [0.0])
    return 1.05 * max(most, min(highest, most + max(0.5 * most, 1.1 * usual))) or 1.0


def _line(axes: Axes, results: Sequence[Result], style: MethodStyle, shift: float) -> None:
    estimates = {r.n * shift: r.estimate for r in sorted(results, key=lambda r: r.n)}
    values = [e.value for e in estimates.values()]
    look: dict[str, Any] = {"linestyle": style.line, "marker": style.marker, "markersize": 3.5, "linewidth": 1.2}
    axes.plot(list(estimates), values, label=style.name, color=style.colour, **look)
    known = {x: e for x, e in estimates.items() if not math.isnan(e.low)}
    ends = [e.low for e in known.values()], [e.high for e in known.values()]
    hidden = f"_interval of {style.name}"  # an underscore keeps it out of the legend
    axes.vlines(list(known), *ends, label=hidden, color=style.colour, linewidth=0.6)


def _legend(figure: Figure, styles: Mapping[str, MethodStyle]) -> None:
    """Put one legend above all panels: the methods in the order of the table, then the controls."""
    lines = {str(line.get_label()): line for axes in figure.axes for line in axes.lines}
    names = [name for name in sorted(styles, key=lambda name: styles[name].control) if name in lines]
    if any(name.startswith(GAUSS) for name in styles):
        names.append(GAUSS)
        lines[GAUSS] = Line2D([], [], color=GREY, linestyle=":", linewidth=0.8)
    handles = [lines[name] for name in names]
    figure.legend(handles, names, loc="outside upper center", ncols=min(len(names), 4), handlelength=3)
