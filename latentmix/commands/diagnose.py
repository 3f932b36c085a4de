"""`latentmix diagnose`: what the inverted latents of each class have in common, and how many of them can be mixed."""

import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from latentmix.cache import write_json
from latentmix.commands import session
from latentmix.diagnosis import Diagnosis
from latentmix.experiment.diagnosis import diagnose_class
from latentmix.experiment.experiment import Experiment
from latentmix.experiment.stages import INVERT, SYNTHESIZE
from latentmix.experiment.tables import without_nan
from latentmix.figures.growth import draw_growth

STAGES = (SYNTHESIZE, INVERT)
LEGEND = (
    "mean: the largest of a channel (which); corr.: of neighbouring positions; bias²: of channel means + in space; "
    "of z0: the share of the first that the terminal signal explains; R²: of that mean against √N; N: the most latents "
    "to mix without mean adjustment"
)


def run(experiment: Experiment, dry_run: bool) -> list[Path]:
    """Diagnose every class. Show a table, and return the files written: `diagnosis.json` and Fig. 4."""
    if not session.run_stages(experiment, STAGES, "diagnose", dry_run):
        return []
    diagnoses = {class_id: diagnose_class(experiment, class_id) for class_id in experiment.classes}
    _show(experiment, diagnoses)
    lines = [(experiment.title(class_id), diagnosis) for class_id, diagnosis in diagnoses.items()]
    figure = draw_growth({experiment.config.model.name: lines}, experiment.config.folder / "fig4")
    return [_record(experiment, diagnoses), *figure]


def verdict(diagnosis: Diagnosis) -> str:
    """Return in a sentence how many latents can be mixed without mean adjustment."""
    limit = diagnosis.limit
    if not any(diagnosis.resolved):
        return f"{diagnosis.images} images show no bias in any channel's mean; mean adjustment is not needed"
    if limit is None:
        return "the channels' means stay within what is random; mix any number of these without mean adjustment"
    return f"mix {'none' if limit < 2 else f'at most {limit}'} of these without mean adjustment"


def _record(experiment: Experiment, diagnoses: Mapping[str, Diagnosis]) -> Path:
    """Write `diagnosis.json`, with null for what is not a number."""
    path = experiment.config.folder / "diagnosis.json"
    run = {name: getattr(experiment.config, name).name for name in ("model", "data", "inversion")}
    classes = {class_id: asdict(d) | {"verdict": verdict(d)} for class_id, d in diagnoses.items()}
    write_json(path, without_nan({**run, "classes": classes}))
    return path


def _show(experiment: Experiment, diagnoses: Mapping[str, Diagnosis]) -> None:
    headings = ("class", "norm/√L", "mean", "corr.", "bias²·1000", "of z0", "R²", "N")
    table = Table(*headings, title=f"latents at t = T of {experiment.config.pool} images", caption=LEGEND)
    for class_id, diagnosis in diagnoses.items():
        table.add_row(escape(experiment.title(class_id)), *_row(diagnosis))
    console = Console()
    console.print(table)
    for class_id, diagnosis in diagnoses.items():
        console.print(f"{experiment.title(class_id)}: {verdict(diagnosis)}", highlight=False, markup=False)


def _row(diagnosis: Diagnosis) -> tuple[str, ...]:
    channel, mean = max(enumerate(diagnosis.means), key=lambda pair: abs(pair[1].value))
    bias, share = diagnosis.bias, diagnosis.terminal.share
    neighbours = diagnosis.autocorrelation[0].channels if diagnosis.autocorrelation else (math.nan,)
    unlimited = "any" if any(diagnosis.resolved) else "–"
    return (
        f"{diagnosis.norms.mean:.3f}",
        f"{mean.value:+.3f} ({channel})",
        f"{np.mean(neighbours):+.3f}",
        f"{1000 * bias.channels:.1f} + {1000 * bias.space:.1f}",
        "–" if math.isnan(share) else f"{share:.0%}",
        f"{diagnosis.growth.root.r2[channel]:.3f}",
        unlimited if diagnosis.limit is None else str(diagnosis.limit),
    )
