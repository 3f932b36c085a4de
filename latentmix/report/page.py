"""What a page says, and its HTML: text is written here and escaped, numbers and pictures go to the script as JSON."""

import html
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from latentmix.config import Config
from latentmix.experiment.results import AVERAGE, Result
from latentmix.figures.style import COLOURS, HUES, LINES, MARKERS, SHAPES
from latentmix.mixing import Method
from latentmix.report.labels import CONTROLS, MEANS, NORMS, QUESTION, metric

DASHES = {"-": "", "--": "7 4", "-.": "7 3 1.5 3", ":": "1.5 3"}  # of matplotlib's line styles
GREY = "#8a8f94"

Cell = float | str | Sequence[float | None] | None  # of a table; [value, low, high] is a value with its interval


@dataclass(frozen=True)
class Pictures:
    """Data URIs by class, N, method and draw, and what there is to say about those that are missing."""

    uris: Mapping[tuple[str, int, str, int], str]
    note: str = ""


@dataclass(frozen=True)
class Report:
    """Everything that a page is made from. `titles` are of the classes in `results`; `about` is `done.json`, and
    `diagnosis` the classes of `diagnosis.json`; `pairs` are rows of `pairs.csv`, whatever its columns."""

    config: Config
    about: Mapping[str, Any]
    results: Sequence[Result]
    titles: Mapping[str, str]
    pictures: Pictures
    diagnosis: Mapping[str, Any]
    pairs: Sequence[Mapping[str, str]]
    command: str


def render(report: Report) -> str:
    config = report.config
    parts = {
        "style": _file("page.css"),
        "script": _file("page.js"),
        "data": json.dumps(_numberless(data(report)), ensure_ascii=False, allow_nan=False).replace("<", "\\u003c"),
        "name": _text(config.name),
        "question": _text(QUESTION),
        "subtitle": _text(f"{config.model.name}, {config.data.name}, inverted by {config.inversion.name}"),
        "summary": _summary(report),
        "settings": _list(settings(report)),
        "methods": _list([(m["name"], m["words"]) for m in _methods(report)]),
        "environment": _list(environment(report)),
        "repeat": _repeat(report.command),
        "note": f'<p class="note">{_text(report.pictures.note)}</p>' if report.pictures.note else "",
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], _file("page.html"))


def data(report: Report) -> dict[str, Any]:
    """What the script draws and tabulates."""
    results = report.results
    average_first = sorted(dict.fromkeys(r.class_id for r in results), key=lambda class_id: class_id != AVERAGE)
    return {
        "classes": [{"id": c, "title": _title(report, c)} for c in average_first],
        "methods": _methods(report),
        "metrics": [metric(name) for name in dict.fromkeys(r.metric for r in results)],
        "rows": [
            {
                "class": r.class_id,
                "n": r.n,
                "method": r.method,
                "metric": r.metric,
                "value": r.estimate.value,
                "low": r.estimate.low,
                "high": r.estimate.high,
                "count": r.estimate.count,
            }
            for r in results
        ],
        "pictures": [
            {"class": c, "title": _title(report, c), "n": n, "method": method, "draw": draw, "src": uri}
            for (c, n, method, draw), uri in report.pictures.uris.items()
        ],
        "diagnosis": _diagnosis(report),
        "pairs": _pairs(report),
    }


def _title(report: Report, class_id: str) -> str:
    return "all classes" if class_id == AVERAGE else report.titles.get(class_id, class_id)


def _numberless(x: Any) -> Any:
    """With null for what is not a number, as JSON has no NaN."""
    if isinstance(x, Mapping):
        return {name: _numberless(value) for name, value in x.items()}
    if isinstance(x, list | tuple):
        return [_numberless(value) for value in x]
    return None if isinstance(x, float) and not math.isfinite(x) else x


def _methods(report: Report) -> list[dict[str, Any]]:
    """Those of the run as it names them, then the controls; each with its look, and no two with the same."""
    there = dict.fromkeys(r.method for r in report.results) | {method: None for _, _, method, _ in report.pictures.uris}
    methods: list[dict[str, Any]] = []
    for name in sorted(there, key=lambda name: name in CONTROLS):
        look = _look(name)
        profiled = {(m["colour"], m["dash"]) for m in methods}
        spare = [hue for hue in HUES if (hue, look["dash"]) not in profiled]
        if (look["colour"], look["dash"]) in profiled and spare:
            look["colour"] = spare[0]
        methods.append({"name": name, **look})
    return methods


def _look(name: str) -> dict[str, Any]:
    try:
        method = Method.parse(name)
    except ValueError:
        dash = "2 4" if name == "noise" else "12 3"
        return {"words": CONTROLS.get(name, ""), "colour": GREY, "dash": dash, "marker": "D", "control": True}
    mean = re.sub(r"[\d.]+$", "", method.mean) or method.mean  # lp0.5 as lp
    return {
        "words": f"{NORMS.get(method.norm, method.norm)}; {MEANS.get(mean, method.mean)}",
        "colour": COLOURS.get(mean, GREY),
        "dash": _dash(LINES.get(method.norm, "-")),
        "marker": MARKERS.get(method.norm, "o"),
        "control": False,
    }


def _dash(line: Any) -> str:
    """A line style of matplotlib's as SVG has it, for lines twice as wide."""
    return DASHES[line] if isinstance(line, str) else " ".join(f"{1.6 * length:g}" for length in line[1])


def _diagnosis(report: Report) -> dict[str, Any] | None:
    """A table, verdicts, and how the two channels whose means are largest grow, a line for each of eight classes."""
    if not report.diagnosis:
        return None
    order = [*report.titles, *report.diagnosis]  # that of the results, then any others
    classes = dict(sorted(report.diagnosis.items(), key=lambda item: order.index(item[0])))
    channels = range(min(len(of["means"]) for of in classes.values()))
    size = {channel: max(abs(of["means"][channel]["value"]) for of in classes.values()) for channel in channels}
    largest = sorted(sorted(channels, key=lambda channel: -size[channel])[:2])
    band = next(iter(classes.values()))["band"]
    shown = list(classes.items())[: len(HUES)]
    return {
        "columns": [
            "class",
            "norm / √L",
            *(f"mean of channel {channel}" for channel in largest),
            "bias² in channels · 1000",
            "bias² in space · 1000",
            "explained by z0",
            "most N without mean adjustment",
        ],
        "rows": [_diagnosis_row(_title(report, c), of, largest) for c, of in classes.items()],
        "verdicts": [{"title": _title(report, c), "verdict": of["verdict"]} for c, of in classes.items()],
        "growth": [
            {
                "title": f"Channel {channel}",
                "band": [-band, band],
                "series": [
                    {
                        "name": _title(report, c),
                        "colour": "currentColor" if HUES[place] == "#000000" else HUES[place],  # to be seen in the dark
                        "marker": SHAPES[place],
                        "points": [
                            [n, row[channel]]
                            for n, row in zip(of["growth"]["sizes"], of["growth"]["means"], strict=True)
                        ],
                    }
                    for place, (c, of) in enumerate(shown)
                ],
            }
            for channel in largest
        ],
    }


def _diagnosis_row(title: str, of: Mapping[str, Any], channels: Sequence[int]) -> list[Cell]:
    means = [[of["means"][channel][part] for part in ("value", "low", "high")] for channel in channels]
    bias, unlimited = of["bias"], "any" if any(of["resolved"]) else None
    return [
        title,
        of["norms"]["mean"],
        *means,
        1000 * bias["channels"],
        1000 * bias["space"],
        of["terminal"]["share"],
        unlimited if of["limit"] is None else of["limit"],
    ]


def _pairs(report: Report) -> dict[str, Any] | None:
    """As they come, but for what is the same in the whole run; classes apart, and intervals with what they are of."""
    rows = report.pairs
    if not rows:
        return None
    classes = [row["class"] for row in rows] if "class" in rows[0] else None
    joined = {"difference", "low", "high"} <= rows[0].keys()
    apart = {"model", "data", "inversion", "class", *(("low", "high") if joined else ())}
    columns = [name for name in rows[0] if name not in apart]

    def cell(row: Mapping[str, str], name: str) -> Cell:
        if name == "metric":
            return metric(row[name])["label"]
        if name == "difference" and joined:
            return [_number(row[part]) for part in ("difference", "low", "high")]
        return _cell(row[name])

    titles = ["share of draws won" if name == "won" else "N" if name == "n" else name for name in columns]
    return {"classes": classes, "columns": titles, "rows": [[cell(row, name) for name in columns] for row in rows]}


def _cell(text: str | None) -> Cell:
    number = _number(text)
    return number if number is not None or not text else text


def _number(text: str | None) -> float | None:
    try:
        return float(text or "")
    except ValueError:
        return None


def _summary(report: Report) -> str:
    """The best and the worst method of each metric where most latents are mixed."""
    controls = {m["name"] for m in _methods(report) if m["control"]}
    rows = [r for r in report.results if r.class_id == AVERAGE and r.method not in controls]
    rows = [r for r in rows if not math.isnan(r.estimate.value)]
    if not rows:
        return ""
    most, lines = max(r.n for r in rows), []
    for name in dict.fromkeys(r.metric for r in rows):
        words, here = metric(name), [r for r in rows if (r.n, r.metric) == (most, name)]
        if not words["better"] or len(here) < 2:
            continue
        order = sorted(here, key=lambda r: r.estimate.value, reverse=words["better"] == "higher")
        alike = order[0].estimate.value == order[-1].estimate.value
        ends = (f"all alike: {_estimate(order[0])}", "") if alike else (_end(order, 0), _end(order, -1))
        cells = "".join(f"<td>{_text(end)}</td>" for end in ends)
        lines.append(f'<tr><th scope="row">{_text(words["label"])}</th>{cells}</tr>')
    if not lines:
        return ""
    count = len(report.titles.keys() - {AVERAGE})
    over = f"averaged over {count} classes" if count > 1 else "of one class"
    return (
        f"<p>At the largest N = {most}, {over}, with 95 % intervals; where these overlap, the order may be chance.</p>"
        '<div class="wide" tabindex="0" role="region" aria-label="In short"><table><thead><tr>'
        f'<th scope="col">metric</th><th scope="col">best</th><th scope="col">worst</th></tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _end(order: Sequence[Result], place: int) -> str:
    """The methods at one end, and their value."""
    value = order[place].estimate.value
    names = ", ".join(r.method for r in order if r.estimate.value == value)
    return f"{names}: {_estimate(order[place])}"


def _estimate(result: Result) -> str:
    e = result.estimate
    return f"{e.value:.3g}" + ("" if math.isnan(e.low) else f" [{e.low:.3g}, {e.high:.3g}]")


def settings(report: Report) -> list[tuple[str, str]]:
    """What was run, in plain words."""
    config, model, images = report.config, report.config.model, report.config.data
    titles = [title for class_id, title in report.titles.items() if class_id != AVERAGE]
    measured = "all" if images.reference is None else images.reference
    return [
        (
            "Model",
            f"{model.name}{f' ({model.hub})' if model.hub else ''}, images of {model.size} × {model.size} pixels",
        ),
        (
            "Images",
            f"{images.name}{f' ({images.hub})' if images.hub else ''}; {_count(len(titles), 'class', 'classes')}: "
            f"{', '.join(titles)}. {config.pool} images of each are inverted and drawn from; generated ones are "
            f"measured against {measured} real ones",
        ),
        (
            "Inversion",
            f"{config.inversion.name}, {config.inversion.steps} steps, {_guidance(config.inversion.guidance)}",
        ),
        (
            "Mixing",
            f"N = {', '.join(map(str, config.n))} latents of a class, with equal weights; {config.draws} draws of "
            "images, the same for every method, and each draw for a smaller N is part of that for a larger one",
        ),
        (
            "Generation",
            f"{config.steps} steps, {_guidance(config.guidance)}, prompt “{model.prompt.format('[class]')}”",
        ),
        ("Seed", str(config.seed)),
    ]


def _guidance(scale: float) -> str:
    return "without guidance" if scale == 1 else f"guidance {scale:g}"


def _count(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"


def environment(report: Report) -> list[tuple[str, str]]:
    """What it was run with, as the run itself wrote it down."""
    about = report.about
    of_model = ", ".join(f"{name} {value}" for name, value in sorted(about.get("model", {}).items()))
    return [
        ("Python", str(about.get("python", "not known"))),
        *((name, str(version)) for name, version in sorted(about.get("versions", {}).items())),
        *([("model", of_model)] if of_model else []),
    ]


def _repeat(command: str) -> str:
    if not command:
        return (
            "<p>No command line says all of its settings; they stand in <code>config.yaml</code> beside this page.</p>"
        )
    return (
        "<p>This says what differs from the defaults; settings that change no result, as the device, are left out. "
        f"All settings stand in <code>config.yaml</code> beside this page.</p><pre><code>{_text(command)}</code></pre>"
    )


def _list(entries: Sequence[tuple[str, str]]) -> str:
    return "".join(f"<div><dt>{_text(term)}</dt><dd>{_text(words)}</dd></div>" for term, words in entries)


def _text(text: str) -> str:
    return html.escape(text)


def _file(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
