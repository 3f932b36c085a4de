"""Fig. 7: distance to real images against N, a line for each method."""

import math
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from latentmix.errors import UserError
from latentmix.experiment.experiment import Experiment
from latentmix.experiment.results import AVERAGE, Result, read_table
from latentmix.figures.style import LINES, MARKERS, colours, save, styled
from latentmix.mixing import Method

CONTROLS = {"real": "-", "noise": "--"}
NAMES = {"fid": "FID", "fd_embedded": "Fréchet distance\n(embedded classifier)"}


def draw_curves(experiment: Experiment, stem: Path) -> list[Path]:
    """Image quality of mixtures of N latents, averaged over classes; bars are 95 % intervals over classes."""
    table = experiment.config.folder / "metrics.csv"
    if not table.exists():
        raise UserError(f"{table} is not there; run latentmix sweep with the same settings first")
    results = [result for result in read_table(table) if result.class_id == AVERAGE]
    measured = list(dict.fromkeys(result.metric for result in results))
    metrics = [metric for metric in measured if metric in NAMES or _frechet(metric) or _clip(metric)] or measured
    methods = [Method.parse(name) for name in dict.fromkeys(result.method for result in results if result.n)]
    palette = colours([method.mean for method in methods])
    with styled():
        figure = Figure(figsize=(3.4 * len(metrics), 2.8), layout="constrained")
        for axes, metric in zip(figure.subplots(1, len(metrics), squeeze=False)[0], metrics, strict=True):
            for place, method in enumerate(methods):
                shift = 1 + 0.012 * (place - (len(methods) - 1) / 2)  # so that bars don't hide each other
                of = [r for r in results if (r.metric, r.method) == (metric, str(method))]
                _line(axes, of, method, palette[method.mean], shift)
            for control in (r for r in results if r.metric == metric and not r.n):
                style = CONTROLS[control.method]
                axes.axhline(control.estimate.value, label=control.method, color="0.5", linewidth=0.8, linestyle=style)
            axes.set(xscale="log", xlabel="number of latents mixed, N", ylabel=_label(metric))
            axes.set_xticks(experiment.config.n, labels=[str(n) for n in experiment.config.n])
            axes.minorticks_off()
            if all(r.estimate.value >= 0 for r in results if r.metric == metric):
                axes.set_ylim(bottom=0)  # no distance lies below, wide as an interval may be; what is unbiased may
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=min(len(labels), 4), handlelength=3)
        return save(figure, stem)


def _line(axes: Axes, results: list[Result], method: Method, colour: str, shift: float) -> None:
    results = sorted(results, key=lambda result: result.n)
    values = [result.estimate.value for result in results]
    errors = [0 if math.isnan(r.estimate.high) else r.estimate.high - r.estimate.value for r in results]
    axes.errorbar(
        [result.n * shift for result in results],
        values,
        yerr=errors,
        label=str(method),
        color=colour,
        linestyle=LINES[method.norm],
        marker=MARKERS[method.norm],
        markersize=3.5,
        linewidth=1.2,
        elinewidth=0.6,
    )


def _label(metric: str) -> str:
    if _frechet(metric) and metric not in NAMES:
        return f"Fréchet distance\n({_frechet(metric)})"
    return f"cosine distance\n(CLIP {_clip(metric)})" if _clip(metric) else NAMES.get(metric, metric)


def _frechet(metric: str) -> str:
    """Whose Fréchet distance it is, or nothing; not that of infinitely many images."""
    return metric.removeprefix("fd_") if metric.startswith("fd_") and not metric.startswith("fd_infinity_") else ""


def _clip(metric: str) -> str:
    """Whose cosine distance it is, or nothing."""
    return metric.removeprefix("clip_distance_") if metric.startswith("clip_distance_") else ""
