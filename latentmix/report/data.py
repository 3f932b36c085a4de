"""The JSON in a page, from which its script draws curves and tables."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from latentmix.experiment.results import AVERAGE
from latentmix.experiment.tables import without_nan
from latentmix.figures.style import HUES, SHAPES, Line, method_styles, metric_label
from latentmix.report.contents import Contents

SAFE = ("fix/0", "fix/chm", "fix/pool")  # methods whose largest safe N a diagnosis has
DASHES = {"-": "", "--": "7 4", "-.": "7 3 1.5 3", ":": "1.5 3"}  # SVG's for matplotlib's line styles
WIDTH = 1.6  # of a page's lines, as a multiple of a figure's

TableCell = float | str | Sequence[float | None] | None  # [value, low, high] is a value with its interval


def to_json(contents: Contents) -> str:
    """Return the page's data as JSON that is safe inside a script element. NaN becomes null."""
    text = json.dumps(without_nan(page_data(contents)), ensure_ascii=False, allow_nan=False)
    return text.replace("<", "\\u003c")


def page_data(contents: Contents) -> dict[str, Any]:
    """Return what the script draws and tabulates."""
    results = contents.results
    average_first = sorted(dict.fromkeys(r.class_id for r in results), key=lambda class_id: class_id != AVERAGE)
    return {
        "classes": [{"id": class_id, "title": _title(contents, class_id)} for class_id in average_first],
        "methods": methods(contents),
        "metrics": [_metric(name) for name in dict.fromkeys(r.metric for r in results)],
        "rows": [
            {"class": r.class_id, "n": r.n, "method": r.method, "metric": r.metric, **asdict(r.estimate)}
            for r in results
        ],
        "images": [
            {"class": c, "title": _title(contents, c), "n": n, "method": method, "draw": draw, "src": uri}
            for (c, n, method, draw), uri in contents.images.uris.items()
        ],
        "diagnosis": _diagnosis(contents),
        "pairs": _pairs(contents.pairs),
    }


def _title(contents: Contents, class_id: str) -> str:
    return "all classes" if class_id == AVERAGE else contents.titles.get(class_id, class_id)


def _metric(column: str) -> dict[str, str]:
    label = metric_label(column)
    return {"name": column, "label": label.text, "better": label.better}


def methods(contents: Contents) -> list[dict[str, Any]]:
    """Return the methods of the run, in its order, and then the controls, each with its style."""
    names = [result.method for result in contents.results] + [method for _, _, method, _ in contents.images.uris]
    styles = method_styles(names).values()
    return [
        {
            "name": style.name,
            "description": style.description,
            "colour": _visible(style.colour),
            "dash": _dash(style.line),
            "marker": style.marker,
            "control": style.control,
        }
        for style in sorted(styles, key=lambda style: style.control)
    ]


def _visible(colour: str) -> str:
    """Return a colour that is visible on a dark page, too."""
    return "currentColor" if colour == "#000000" else colour


def _dash(line: Line) -> str:
    """Return a line style of matplotlib's as SVG's stroke-dasharray."""
    return DASHES[line] if isinstance(line, str) else " ".join(f"{WIDTH * length:g}" for length in line[1])


# The diagnosis


def _diagnosis(contents: Contents) -> dict[str, Any] | None:
    """Return a table, verdicts, and the growth of the two channels with the largest means."""
    if not contents.diagnosis:
        return None
    order = [*contents.titles, *contents.diagnosis]  # that of the results, then any others
    classes = dict(sorted(contents.diagnosis.items(), key=lambda item: order.index(item[0])))
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


def _diagnosis_row(title: str, found: Mapping[str, Any], channels: Sequence[int]) -> list[TableCell]:
    means = [[found["means"][channel][part] for part in ("value", "low", "high")] for channel in channels]
    bias, limits = found["bias"], found.get("safe", {})  # which an older run lacks
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


# Comparisons of methods


def _pairs(rows: Sequence[Mapping[str, str]]) -> dict[str, Any] | None:
    """Return the table of pairs, whatever its columns, with intervals beside their values.

    Columns that are the same in the whole run are left out. Classes are separate, as the script filters by them.
    """
    if not rows:
        return None
    with_interval = {"difference", "low", "high"} <= rows[0].keys()
    left_out = {"model", "data", "inversion", "class", *(("low", "high") if with_interval else ())}
    columns = [name for name in rows[0] if name not in left_out]
    titles = {"won": "share of draws won", "n": "N"}
    return {
        "classes": [row["class"] for row in rows] if "class" in rows[0] else None,
        "columns": [titles.get(name, name) for name in columns],
        "rows": [[_pair_cell(row, name, with_interval) for name in columns] for row in rows],
    }


def _pair_cell(row: Mapping[str, str], name: str, with_interval: bool) -> TableCell:
    if name == "metric":
        return metric_label(row[name]).text
    if name == "difference" and with_interval:
        return [_number(row[part]) for part in ("difference", "low", "high")]
    number = _number(row[name])
    return number if number is not None or not row[name] else row[name]


def _number(text: str | None) -> float | None:
    try:
        return float(text or "")
    except ValueError:
        return None
