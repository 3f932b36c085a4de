"""The JSON in a page, from which the page's script draws curves and tables."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from latentmix.experiment.comparison import differences
from latentmix.experiment.csv_files import without_nan
from latentmix.experiment.results_table import AVERAGE
from latentmix.figures.style import HUES, SHAPES, Line, method_styles, metric_label
from latentmix.report import wording
from latentmix.report.contents import Contents

SAFE = ("fix/0", "fix/chm", "fix/pool")  # methods whose largest safe N a diagnosis has
DASHES = {"-": "", "--": "7 4", "-.": "7 3 1.5 3", ":": "1.5 3"}  # SVG's for matplotlib's line styles
WIDTH = 1.6  # of a page's lines, as a multiple of a figure's
NUMBERS = ("n", "difference", "low", "high", "won", "count")  # columns of pairs.csv


def to_json(runs: Sequence[Contents]) -> str:
    """Return the page's data as JSON that is safe inside a script element. NaN becomes null."""
    hues = [{"colour": _visible(hue), "marker": shape} for hue, shape in zip(HUES, SHAPES, strict=True)]
    data = {"runs": [page_data(run) for run in runs], "compared": _compared(runs), "hues": hues}
    text = json.dumps(without_nan(data), ensure_ascii=False, allow_nan=False)
    return text.replace("<", "\\u003c")


def page_data(contents: Contents) -> dict[str, Any]:
    """Return the data of one run for the script."""
    results, answers = contents.run.results, wording.answers(contents)
    average_first = sorted(dict.fromkeys(r.class_id for r in results), key=lambda class_id: class_id != AVERAGE)
    metrics = dict.fromkeys([answer.metric for answer in answers] + [r.metric for r in results])
    by_metric = {answer.metric: answer for answer in answers}
    return {
        "name": contents.run.label,
        "classes": [{"id": class_id, "title": _title(contents, class_id)} for class_id in average_first],
        "methods": methods(contents),
        "metrics": [_metric(contents, name, by_metric.get(name)) for name in metrics],
        "rows": [
            {"class": r.class_id, "n": r.n, "method": r.method, "metric": r.metric, **asdict(r.estimate)}
            for r in results
        ],
        "images": [
            {"class": c, "title": _title(contents, c), "n": n, "method": method, "draw": draw, "src": uri}
            for (c, n, method, draw), uri in contents.images.uris.items()
        ],
        "inputs": [{"class": c, "draw": draw, "src": uris} for (c, draw), uris in contents.images.inputs.items()],
        "strip": {"best": answers[0].best, "worst": answers[0].worst} if answers else None,
        "diagnosis": _diagnosis(contents),
        "pairs": [{k: _number(text) if k in NUMBERS else text for k, text in row.items()} for row in contents.pairs],
    }


def _title(contents: Contents, class_id: str) -> str:
    return "all classes" if class_id == AVERAGE else contents.titles.get(class_id, class_id)


def _metric(contents: Contents, column: str, answer: wording.Answer | None) -> dict[str, object]:
    label, note = metric_label(column), wording.notes(contents, column)
    return {
        "name": column,
        "label": label.text,
        "better": label.better,
        "direction": label.direction,
        "plotted": label.plotted,
        "notes": [text for text in (answer.short if answer else "", note) if text],
    }


def _compared(runs: Sequence[Contents]) -> list[dict[str, Any]]:
    """Return the differences of later runs from the first one on the same draws, averaged over classes."""
    found = [d for run in runs[1:] for d in differences(run.run, runs[0].run) if d.key[0] == AVERAGE]
    return [
        {"run": d.run, "n": d.key[1], "method": d.key[2], "metric": d.key[3], **asdict(d.comparison.difference)}
        for d in found
    ]


def methods(contents: Contents) -> list[dict[str, Any]]:
    """Return the methods of the run, in its order, and then the controls, each with its style."""
    names = [result.method for result in contents.run.results] + [method for _, _, method, _ in contents.images.uris]
    styles = method_styles(names).values()
    shown = ("name", "description", "marker", "control")
    return [
        {name: getattr(style, name) for name in shown} | {"colour": _visible(style.colour), "dash": _dash(style.line)}
        for style in sorted(styles, key=lambda style: style.control)
    ]


def _visible(colour: str) -> str:
    """Return a colour that is visible on a dark page, too."""
    return "currentColor" if colour == "#000000" else f"light-dark({colour}, color-mix(in oklab, {colour} 72%, white))"


def _dash(line: Line) -> str:
    """Return a line style of matplotlib's as SVG's stroke-dasharray."""
    return DASHES[line] if isinstance(line, str) else " ".join(f"{WIDTH * length:g}" for length in line[1])


def _diagnosis(contents: Contents) -> dict[str, Any] | None:
    """Return a table, verdicts, and the growth of the two channels with the largest means."""
    if not (diagnosis := contents.run.diagnosis):
        return None
    order = [*contents.titles, *diagnosis]  # classes of the results first
    classes = dict(sorted(diagnosis.items(), key=lambda item: order.index(item[0])))
    titled = [(_title(contents, class_id), found) for class_id, found in classes.items()]
    channels = _largest_channels(list(classes.values()))
    return {
        "columns": [
            "class",
            "norm / √L",
            *(f"mean of channel {channel}" for channel in channels),
            "bias² in channels · 1000",
            "bias² in space · 1000",
            "explained by z0",
            *(f"largest N, {method}" for method in SAFE),
        ],
        "rows": [_diagnosis_row(title, found, channels) for title, found in titled],
        "verdicts": [{"title": title, "verdict": found["verdict"]} for title, found in titled],
        "growth": [_growth(titled[: len(HUES)], channel) for channel in channels],
    }


def _largest_channels(diagnoses: Sequence[Mapping[str, Any]]) -> list[int]:
    """Return the two channels whose means are largest in any class, in their own order."""
    channels = range(min(len(found["means"]) for found in diagnoses))
    size = {channel: max(abs(found["means"][channel]["value"]) for found in diagnoses) for channel in channels}
    return sorted(sorted(channels, key=lambda channel: -size[channel])[:2])


def _diagnosis_row(title: str, found: Mapping[str, Any], channels: Sequence[int]) -> list[object]:
    """Return a row of the table. A list [value, low, high] is a value with its interval."""
    means = [[found["means"][channel][part] for part in ("value", "low", "high")] for channel in channels]
    bias, limits = found["bias"], found.get("safe", {})  # older runs lack "safe"
    return [
        title,
        found["norms"]["mean"],
        *means,
        1000 * bias["channels"],
        1000 * bias["space"],
        found["terminal"]["share"],
        *("any" if (limit := limits.get(method, math.nan)) is None else limit for method in SAFE),
    ]


def _growth(titled: Sequence[tuple[str, Mapping[str, Any]]], channel: int) -> dict[str, Any]:
    """Return the lines of one channel's plot, one for each class."""
    band = titled[0][1]["band"]
    series = [
        {
            "name": title,
            "colour": _visible(HUES[index]),
            "marker": SHAPES[index],
            "points": [
                [n, row[channel]] for n, row in zip(found["growth"]["sizes"], found["growth"]["means"], strict=True)
            ],
        }
        for index, (title, found) in enumerate(titled)
    ]
    return {"title": f"Channel {channel}", "band": [-band, band], "series": series}


def _number(text: str | None) -> float | None:
    try:
        return float(text or "")
    except ValueError:
        return None
