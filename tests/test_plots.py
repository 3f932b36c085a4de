"""The curves, intervals, labels and styles of plots, read from the artists that are drawn."""

import math
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import EntryPoint

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgba
from matplotlib.legend import Legend
from matplotlib.lines import Line2D

from latentmix.diagnosis import diagnose
from latentmix.experiment.results_table import AVERAGE, Result
from latentmix.figures import style
from latentmix.figures.diagnosis import growth, octaves
from latentmix.figures.metric_curves import curves
from latentmix.metrics import METRICS, Estimate, Metric, mean
from latentmix.mixing import MEANS, NORMS, Mean, Norm
from latentmix.octaves import Octave

# Fig. 7: the lines and intervals that are drawn, against the table

METHODS = ("lin/0", "nin/chm", "fix/lp0.5", "swirl/median")  # the last of somebody else's norm and mean
NS = (2, 8, 64)


def invented_results() -> list[Result]:
    """Return results whose intervals are not symmetrical. Each value tells its metric, method and N."""
    results = []
    for k, metric in enumerate(("fd_embedded", "clip_distance_embedded", "sharpness_other")):
        for i, method in enumerate(METHODS):
            for n in NS:
                value = 100 * (k + 1) + 10 * i + math.log2(n)
                results.append(Result(AVERAGE, n, method, metric, Estimate(value, value - 2, value + 5, 4)))
        for n in NS:
            results.append(Result(AVERAGE, n, "gauss:nin/chm", metric, Estimate(7.0 * n, 0.0, 1000.0, 4)))
        for i, control in enumerate(("real", "noise", "oracle")):
            results.append(Result(AVERAGE, 0, control, metric, Estimate(50.0 * (k + 1) + i, 0.0, 1000.0, 4)))
    return results


def panels(results: Sequence[Result]) -> dict[str, Axes]:
    """Return the panels of Fig. 7, by the metric's axis label."""
    return {axes.get_ylabel(): axes for axes in curves(results).axes}


def lines(axes: Axes) -> dict[str, Line2D]:
    return {str(line.get_label()): line for line in axes.lines}


def x(line: Line2D) -> list[float]:
    return np.asarray(line.get_xdata(), float).tolist()


def y(line: Line2D) -> list[float]:
    return np.asarray(line.get_ydata(), float).tolist()


def intervals(axes: Axes) -> dict[str, list[tuple[float, float, float]]]:
    """Return x, low and high of each interval, by the colour and so the method of a panel."""
    found = {}
    for bars in axes.collections:
        assert isinstance(bars, LineCollection)
        (method,) = (
            name
            for name, line in lines(axes).items()
            if name in METHODS and to_rgba(line.get_color()) == to_rgba(*bars.get_color())
        )
        assert all(start[0] == end[0] for start, end in bars.get_segments())
        found[method] = [(start[0], start[1], end[1]) for start, end in bars.get_segments()]
    return found


def test_every_metric_has_a_panel_with_its_label() -> None:
    assert list(panels(invented_results())) == [
        "Fréchet distance\n(embedded classifier)",
        "Cosine distance\n(embedded CLIP)",
        "sharpness_other",
    ]


@pytest.mark.parametrize("metric", ["fd_embedded", "clip_distance_embedded", "sharpness_other"])
@pytest.mark.parametrize("method", METHODS)
def test_lines_and_intervals_are_those_of_the_table(metric: str, method: str) -> None:
    results = invented_results()
    axes = panels(results)[style.metric_label(metric).axis]
    rows = [r for r in results if (r.metric, r.method) == (metric, method)]
    line = lines(axes)[method]
    assert y(line) == pytest.approx([r.estimate.value for r in rows])
    assert x(line) == pytest.approx(NS, rel=0.05)
    assert intervals(axes)[method] == [
        (at, r.estimate.low, r.estimate.high) for at, r in zip(x(line), rows, strict=True)
    ]


def test_lines_have_the_styles_of_the_table() -> None:
    styles = style.method_styles([*METHODS, "real", "noise", "oracle"])
    for axes in curves(invented_results()).axes:
        for name, wanted in styles.items():
            line, expected = lines(axes)[name], Line2D([], [])
            expected.set(linestyle=wanted.line)
            assert (line.get_color(), line.get_linestyle()) == (wanted.colour, expected.get_linestyle())
            assert wanted.control or line.get_marker() == wanted.marker


def test_controls_are_horizontal_lines_at_their_values() -> None:
    results = invented_results()
    for metric in ("fd_embedded", "clip_distance_embedded"):
        axes = panels(results)[style.metric_label(metric).axis]
        for control in ("real", "noise", "oracle"):
            (row,) = (r for r in results if (r.metric, r.method) == (metric, control))
            assert set(y(lines(axes)[control])) == {row.estimate.value}
            assert lines(axes)[control].get_color() == style.GREY


def test_the_control_of_a_method_is_dotted_in_its_colour() -> None:
    for axes in curves(invented_results()).axes:
        line = lines(axes)["_gauss:nin/chm"]
        assert (x(line), y(line)) == (list(NS), [7.0 * n for n in NS])
        assert (line.get_color(), line.get_linestyle()) == (lines(axes)["nin/chm"].get_color(), ":")


def test_the_legend_names_the_lines_that_look_like_its_entries() -> None:
    figure = curves(invented_results())
    (legend,) = figure.legends
    names = [text.get_text() for text in legend.get_texts()]
    assert names == [*METHODS, "real", "noise", "oracle", "gauss:"]
    for axes in figure.axes:
        for name, handle in zip(names[:-1], legend.legend_handles, strict=False):
            line = lines(axes)[name]
            assert isinstance(handle, Line2D)
            assert (handle.get_color(), handle.get_marker()) == (line.get_color(), line.get_marker())
            assert handle.get_linestyle() == line.get_linestyle()


def test_a_value_without_an_interval_has_no_bar() -> None:
    results = [replace(r, estimate=replace(r.estimate, low=math.nan, high=math.nan)) for r in invented_results()]
    for axes in curves(results).axes:
        assert all(bars == [] for bars in intervals(axes).values())
        assert len(y(lines(axes)["lin/0"])) == len(NS)


def test_a_few_wide_intervals_do_not_flatten_a_panel() -> None:
    """They are cut at the top, while all points and usual intervals are in it."""
    results = invented_results()
    wide = [
        replace(r, estimate=replace(r.estimate, high=5000.0)) if (r.method, r.n) == ("lin/0", 64) else r
        for r in results
    ]
    for before, axes in zip(curves(results).axes, curves(wide).axes, strict=True):
        shown = max(point for line in axes.lines for point in y(line))
        assert shown < before.get_ylim()[1] <= axes.get_ylim()[1] < 2 * shown
        usual = [high for rows in intervals(axes).values() for *_, high in rows if high < 5000]
        assert max(usual) < axes.get_ylim()[1] and before.get_ylim()[0] == 0


def test_metrics_that_fig_7_is_not_about_are_drawn_alone() -> None:
    def renamed(**names: str) -> list[Result]:
        return [replace(r, metric=names[r.metric]) for r in invented_results() if r.metric in names]

    both = renamed(fd_embedded="fid", clip_distance_embedded="recall_inception")
    assert list(panels(both)) == ["FID"]
    assert list(panels(renamed(fd_embedded="recall_inception"))) == ["Recall\n(Inception)"]


def test_panels_of_many_metrics_are_in_rows() -> None:
    results = [replace(r, metric=f"{r.metric}{k}") for r in invented_results() for k in range(2)]
    figure = curves(results)
    assert len(figure.axes) == len({r.metric for r in results}) == 6
    assert figure.get_figwidth() < 12


# Fig. 4


def test_growth_is_that_of_the_diagnosis() -> None:
    z = torch.randn(20, 4, 8, 8, generator=torch.Generator().manual_seed(0)) + 0.1
    orders = torch.rand(3, 20, generator=torch.Generator().manual_seed(1)).argsort(1)
    found = diagnose(z, z, 0.1, [1, 4, 20], orders)
    other = diagnose(2 * z, z, 0.1, [1, 4, 20], orders)
    for channel, axes in enumerate(growth({"tiny": [("star", found), ("heart", other)]}).axes):
        for title, diagnosis in (("star", found), ("heart", other)):
            line = lines(axes)[title]
            assert x(line) == pytest.approx([1, 2, math.sqrt(20)])
            assert y(line) == pytest.approx([row[channel] for row in diagnosis.growth.means])
            (predicted,) = (one for one in axes.lines if one is not line and one.get_color() == line.get_color())
            end = math.sqrt(20)
            assert x(predicted) == pytest.approx([0, end])
            assert y(predicted) == pytest.approx([0, end * diagnosis.means[channel].value])
        (grey,) = axes.patches
        low, high = (grey.get_window_extent().y0, grey.get_window_extent().y1)
        ends = axes.transData.inverted().transform([(0, low), (0, high)])[:, 1]
        assert ends == pytest.approx([-found.band, found.band])


def test_models_with_other_classes_have_legends_of_their_own() -> None:
    z = torch.randn(20, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    found = diagnose(z, z, 0.1, [1, 4, 20], torch.rand(3, 20).argsort(1))

    def named(legend: Legend | None) -> list[str]:
        return [] if legend is None else [text.get_text() for text in legend.get_texts()]

    common = ["√N·d (eq. 9)", "95 % of random centroids"]
    for other, whole, own in (("star", ["star", *common], [[], []]), ("cup", common, [["star"], ["cup"]])):
        figure = growth({"a": [("star", found)], "b": [(other, found)]})
        assert named(figure.legends[0]) == whole
        assert [named(axes.get_legend()) for axes in figure.axes] == [*own, [], []]


# The octaves


def test_octaves_are_those_of_the_diagnosis() -> None:
    """A hollow marker stands at the least N that two standard errors of a bias that was not found allow."""
    found = (
        Octave(0, 0, 0.05, 0.01, 0.8, 16.0),
        Octave(1, 2, 0.002, 0.004, 0.5, None),
        Octave(2, 4, -0.001, 0.004, 0.4, None),
    )
    z = torch.randn(20, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    plain = diagnose(z, z, 0.1, [1, 4, 20], torch.arange(20)[None])
    powers, limits = octaves([("star", replace(plain, octaves=found))]).axes
    bias, variance = powers.lines
    assert y(bias) == pytest.approx([0.05, math.nan, math.nan], nan_ok=True) and y(variance) == [0.8, 0.5, 0.4]
    line, hollow, half = limits.lines
    assert y(line) == pytest.approx([16, 0.5 / (0.002 + 0.008), 0.4 / 0.008])
    assert (x(hollow), y(hollow)) == ([1, 2], pytest.approx([50, 50])) and hollow.get_markerfacecolor() == "white"
    assert set(y(half)) == {10}
    for axes in (powers, limits):
        assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "1–2", "2–4"]


# The table of labels and styles


def test_each_mean_has_a_colour_of_its_own() -> None:
    own = style.COLOURS
    assert style.mean_colours(["chm", "lp0.5", "0"]) == {"chm": own["chm"], "lp0.5": own["lp"], "0": own["0"]}
    several = style.mean_colours(["0", "lp0.5", "lp", "lp2", "lp", "median"])
    assert several["lp"] == own["lp"]
    assert len(several) == len(set(several.values())) == 5


def test_unknown_norms_and_means_have_styles_and_no_two_look_alike() -> None:
    norms = [*style.LINES, "swirl", "zigzag", "spiral"]
    names = [f"{norm}/{mean}" for norm in norms for mean in (*style.COLOURS, "median", "lp2", "mode")]
    styles = style.method_styles([*names, "real", "noise", "oracle"])
    assert len({(s.colour, s.line, s.marker) for s in styles.values()}) == len(names) + 3
    assert [s.name for s in styles.values() if s.control] == ["real", "noise", "oracle"]
    assert styles["swirl/median"].description == "swirl; median"
    assert styles["fix/lp2"].description.endswith("low frequencies of each channel split off first")
    assert styles == style.method_styles([*names, "real", "noise", "oracle"])


def test_more_unknown_names_than_spare_styles_are_drawn_all_the_same() -> None:
    names = [f"norm{k}/mean{k}" for k in range(40)]
    assert len(style.method_styles([*names, *(f"control{k}" for k in range(9))])) == 49


@pytest.mark.parametrize(
    ("column", "text", "better"),
    [
        ("fid", "FID", "lower"),
        ("fd_embedded", "Fréchet distance (embedded classifier)", "lower"),
        ("fd_infinity_embedded", "FD∞ (embedded classifier)", "lower"),
        ("clip_distance_embedded", "Cosine distance (embedded CLIP)", "lower"),
        ("clip_distance_ViT-L-14/openai", "Cosine distance (CLIP ViT-L-14/openai)", "lower"),
        ("clip_distance_raw_ViT-L-14/openai", "Cosine distance, raw mean (CLIP ViT-L-14/openai)", "lower"),
        ("coverage_inception", "Coverage (Inception)", "higher"),
        ("fd_dinov2-vitl14", "Fréchet distance (dinov2-vitl14)", "lower"),
        ("clip_score_ViT-L-14/openai", "CLIP score (ViT-L-14/openai)", "higher"),
        ("diversity_lpips-alex", "Diversity (lpips-alex)", ""),
        ("fidelity", "fidelity", ""),
    ],
)
def test_columns_have_labels(column: str, text: str, better: str) -> None:
    label = style.metric_label(column)
    assert (label.text, label.better) == (text, better)
    assert label.axis.replace("\n", " ") == text


def test_a_metric_of_another_package_has_its_label(monkeypatch: pytest.MonkeyPatch) -> None:
    own = Metric("Sharpness", "higher", "frechet", lambda x, _: mean(x[:, 0]))
    monkeypatch.setitem(vars(METRICS)["_builtin"], "sharpness", own)
    label = style.metric_label("sharpness_embedded")
    assert (label.axis, label.better, label.plotted) == ("Sharpness\n(embedded classifier)", "higher", True)


def test_a_metric_that_can_not_be_loaded_does_not_stop_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = EntryPoint("broken", "no_such_package:BROKEN", "latentmix.metrics")
    monkeypatch.setitem(vars(METRICS), "_entry_points", {"broken": [broken]})
    assert style.metric_label("fid").text == "FID"
    assert style.metric_label("broken_x").text == "broken_x"


def test_norms_and_means_of_other_packages_are_described_by_their_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(vars(NORMS)["_builtin"], "swirl", Norm(lambda x: torch.ones_like(x.m), label="turned round"))
    monkeypatch.setitem(vars(MEANS)["_builtin"], "median", Mean(MEANS["0"].split))
    assert style.method_styles(["swirl/median"])["swirl/median"].description == "turned round; median"
