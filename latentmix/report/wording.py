"""The texts of a page: a summary of the results, and what was run with which settings and versions."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from latentmix.experiment.results import AVERAGE, Result
from latentmix.figures.style import method_styles, metric_label
from latentmix.report.contents import Contents
from latentmix.settings import height_width

QUESTION = (
    "Images are inverted into the latent space of a diffusion model, N of these latents are mixed into one, and an "
    "image is generated from the mixture. Which way of mixing still gives good images as N grows?"
)


@dataclass(frozen=True)
class Summary:
    """The best and the worst method by each metric. A row is a metric, the best, and the worst."""

    sentence: str
    rows: list[tuple[str, str, str]]


def summary(contents: Contents) -> Summary | None:
    """Compare the methods at the largest N, on average over classes; None if nothing can be compared."""
    styles = method_styles([result.method for result in contents.results])
    results = [r for r in contents.results if r.class_id == AVERAGE and not styles[r.method].control]
    results = [r for r in results if not math.isnan(r.estimate.value)]
    largest = max((r.n for r in results), default=0)
    rows = []
    for metric in dict.fromkeys(r.metric for r in results):
        label = metric_label(metric)
        compared = [r for r in results if (r.n, r.metric) == (largest, metric)]
        if label.better and len(compared) > 1:
            order = sorted(compared, key=lambda r: r.estimate.value, reverse=label.better == "higher")
            rows.append((label.text, *_ends(order)))
    if not rows:
        return None
    count = len(contents.titles.keys() - {AVERAGE})
    classes = f"averaged over {count} classes" if count > 1 else "of one class"
    overlap = "with 95 % intervals; where these overlap, the order may be chance"
    return Summary(f"At the largest N = {largest}, {classes}, {overlap}.", rows)


def _ends(order: Sequence[Result]) -> tuple[str, str]:
    """Return the methods with the best and the worst value, and these values."""
    if order[0].estimate.value == order[-1].estimate.value:
        return f"all alike: {_estimate(order[0])}", ""
    return _end(order, order[0]), _end(order, order[-1])


def _end(order: Sequence[Result], extreme: Result) -> str:
    names = ", ".join(r.method for r in order if r.estimate.value == extreme.estimate.value)
    return f"{names}: {_estimate(extreme)}"


def _estimate(result: Result) -> str:
    e = result.estimate
    return f"{e.value:.3g}" + ("" if math.isnan(e.low) else f" [{e.low:.3g}, {e.high:.3g}]")


def subtitle(contents: Contents) -> str:
    """Return the model, the data set and the inversion."""
    config = contents.config
    return f"{config.model.name}, {config.data.name}, inverted by {config.inversion.name}"


def settings(contents: Contents) -> list[tuple[str, str]]:
    """Return what was run, as terms and their descriptions."""
    config, model, data = contents.config, contents.config.model, contents.config.data
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
            f"N = {', '.join(map(str, config.n))} latents of a class, with equal weights; {config.draws} draws of "
            "images, the same for every method, and each draw for a smaller N is part of that for a larger one",
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


def environment(contents: Contents) -> list[tuple[str, str]]:
    """Return the versions of packages and the model's identity, as the run recorded them."""
    about = contents.about
    model = ", ".join(f"{name} {value}" for name, value in sorted(about.get("model", {}).items()))
    return [
        ("Python", str(about.get("python", "not known"))),
        *((name, str(version)) for name, version in sorted(about.get("versions", {}).items())),
        *([("model", model)] if model else []),
    ]
