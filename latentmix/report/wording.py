"""The texts of a page: the best and worst methods, the settings, and where and when the run was computed.

Other texts: what a metric means is its `note` in `metrics/registry.py`; which images are left out, `contents.py` says.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from latentmix.experiment.csv_files import three_digits
from latentmix.experiment.results_table import AVERAGE, Result, average_comparison
from latentmix.figures.style import method_styles, metric_label
from latentmix.metrics import METRICS, Comparison, Estimate, paired
from latentmix.report.contents import Contents
from latentmix.runner.console import duration
from latentmix.settings import height_width

QUESTION = "Which way of mixing still gives good images as N grows?"


@dataclass(frozen=True)
class Answer:
    """The best and the worst method by one metric at the largest N, in a long and a short sentence with an interval."""

    metric: str
    best: str
    worst: str
    sentence: str
    short: str


def answers(contents: Contents) -> list[Answer]:
    """Return an answer for each metric of which lower or higher values are better, those of Fig. 7 first."""
    styles = method_styles([result.method for result in contents.run.results])
    results = [r for r in contents.run.results if r.class_id == AVERAGE and r.n and not styles[r.method].control]
    results = [r for r in results if not math.isnan(r.estimate.value)]
    largest = max((r.n for r in results), default=0)
    found = []
    for metric in sorted(dict.fromkeys(r.metric for r in results), key=lambda metric: not metric_label(metric).plotted):
        compared = [r for r in results if (r.n, r.metric) == (largest, metric)]
        if metric_label(metric).better and len(compared) > 1:
            compared.sort(key=lambda r: r.estimate.value, reverse=metric_label(metric).better == "higher")
            found.append(_answer(contents, compared))
    return found


def _average(contents: Contents, metric: str) -> dict[str, Estimate]:
    """Return each method's average over classes of one metric, at the method's largest N."""
    rows = [r for r in contents.run.results if (r.class_id, r.metric) == (AVERAGE, metric)]
    return {r.method: r.estimate for r in sorted(rows, key=lambda r: r.n)}


def _answer(contents: Contents, order: Sequence[Result]) -> Answer:
    """Return the answer for results of one metric and N, in order from the best to the worst."""
    best, worst, n, label = order[0], order[-1], order[0].n, metric_label(order[0].metric).text
    values = f"{say(best.estimate.value)} against {say(worst.estimate.value)}"
    ends = f"{best.method} {say(best.estimate.value)}, {worst.method} {say(worst.estimate.value)}"
    above = (best, worst) if metric_label(best.metric).better == "higher" else (worst, best)
    difference = contrast(contents, *above)
    if best.estimate.value == worst.estimate.value:
        same = f"all methods have {say(best.estimate.value)}"
        sentence, short = f"At N = {n}, {same} by {label}.", f"N = {n}: {same}."
    elif difference is None or math.isnan(difference.low):
        gap = f"a difference of {say(abs(worst.estimate.value - best.estimate.value))}, whose interval is not known"
        sentence = f"At N = {n} it is undecided which method is best. By {label}, {ends}: {gap}."
        short = f"N = {n}, undecided: {ends}; {gap}."
    else:
        gap = f"a difference of {say(difference.value)} [{say(difference.low)}, {say(difference.high)}]"
        undecided = difference.low <= 0 <= difference.high
        sentence = f"At N = {n}, {best.method} is best and {worst.method} worst: {label} {values}, {gap}."
        if undecided:
            sentence = f"At N = {n} it is undecided which method is best. By {label}, best and worst are {ends}: {gap}."
        short = f"N = {n}, {'undecided' if undecided else 'best and worst'}: {ends}; {gap}."
    real = _average(contents, best.metric).get("real")
    if metric_label(best.metric).down_to_real and real is not None and best.estimate.value < real.value:
        # The short answer stands beside `notes`, which say so.
        sentence += f" Real images have {say(real.value)}, and below that smaller is not better."
    return Answer(best.metric, best.method, worst.method, sentence, short)


def contrast(contents: Contents, a: Result, b: Result) -> Estimate | None:
    """Return a − b of two methods on the same draws, averaged over classes; None if the run has no pseudo-values."""
    comparisons, samples = list[Comparison](), contents.run.samples
    limits = (-math.inf, math.inf)
    for class_id in contents.titles.keys() - {AVERAGE}:
        pair = [samples.get((class_id, r.n, r.method, r.metric)) for r in (a, b)]
        if pair[0] is None or pair[1] is None or len(pair[0][1].parts) != len(pair[1][1].parts):
            return None
        comparisons.append(paired(pair[0][1], pair[1][1]))
        limits = METRICS[pair[0][0]].limits
    return average_comparison(comparisons, limits).difference if comparisons else None


def say(x: float) -> str:
    """Return a number with three digits and a true minus sign."""
    return three_digits(x).replace("-", "−")


def notes(contents: Contents, metric: str) -> str:
    """Return a note on how to read a metric, also if the value of real images is not the best."""
    label = metric_label(metric)
    values = _average(contents, metric)
    real = values.get("real")
    mixtures = [e.value for method, e in values.items() if method != "real" and not math.isnan(e.value)]
    if real is None or not mixtures or not label.better:
        return label.note
    best = min(mixtures) if label.better == "lower" else max(mixtures)
    beaten = best < real.value if label.better == "lower" else best > real.value
    if not beaten:
        return label.note
    if not label.note:
        return (
            f"Real images are not the best here ({say(real.value)}): one half of them is measured against the other, "
            "so the numbers of images differ from those of the methods."
        )
    return f"Real images have {say(real.value)}, which is not the best value. {label.note}"


def settings(contents: Contents) -> list[tuple[str, str]]:
    """Return the settings of a run, as terms and their descriptions."""
    config = contents.run.settings
    model, data = config.model, config.data
    height, width = height_width(model.size)
    titles = [title for class_id, title in contents.titles.items() if class_id != AVERAGE]
    reference = "all" if data.reference is None else data.reference
    return [
        ("Model", f"{_named(model.name, model.hub)}, images of {width} × {height} pixels"),
        (
            "Images",
            f"{_named(data.name, data.hub)}; {len(titles)} {'class' if len(titles) == 1 else 'classes'}: "
            f"{', '.join(titles)}. {config.pool} images of each are inverted and drawn from; generated ones are "
            f"measured against {reference} real ones",
        ),
        (
            "Inversion",
            f"{config.inversion.name}, {config.inversion.steps} steps, {_guidance(config.inversion.guidance)}",
        ),
        (
            "Mixing",
            f"N = {', '.join(map(str, config.n))} latents of a class, weights: {config.weights}; {config.draws} draws "
            "of images, the same for every method, and each draw for a smaller N is part of that for a larger one",
        ),
        (
            "Generation",
            f"{config.steps} steps, {_guidance(config.guidance)}, prompt “{model.prompt.format('[class]')}”",
        ),
        ("Seed", str(config.seed)),
    ]


def _named(name: str, hub: str | None) -> str:
    return f"{name} ({hub})" if hub else name


def _guidance(scale: float) -> str:
    return "without guidance" if scale == 1 else f"guidance {scale:g}"


def circumstances(contents: Contents) -> list[tuple[str, str]]:
    """Return when, for how long, where and how fast a run was computed, from its workers' records."""
    about, records = contents.run.about, contents.records
    rows = []
    if records:
        spent = sum(record["seconds"] for record in records)
        workers = f" of {len(records)} workers or resumed commands, added up" if len(records) > 1 else ""
        rows = [
            ("Finished", records[-1]["ended"].replace("T", " ").removesuffix("+00:00") + " UTC"),
            ("Duration", duration(spent) + workers),
            ("Device", ", ".join(dict.fromkeys(f"{r['device']} ({r['machine']})" for r in records))),
        ]
        for stage in dict.fromkeys(stage for record in records for stage in record["stages"]):
            done = [record["stages"][stage] for record in records if stage in record["stages"]]
            images, seconds = (sum(column) for column in zip(*done, strict=True))
            rows.append((f"Speed, {stage}", f"{images:,} images, {images / max(seconds, 1e-3):.3g} images/s"))
    model = ", ".join(f"{name} {value}" for name, value in sorted(about.get("model", {}).items()))
    return [
        *rows,
        *([("Commit", str(about["commit"]))] if about.get("commit") else []),
        ("Python", str(about.get("python", "not known"))),
        *((name, str(version)) for name, version in sorted(about.get("versions", {}).items())),
        *([("model", model)] if model else []),
    ]
