"""`latentmix diagnose`: what the inverted latents of each class have in common, and how many of them can be mixed."""

import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from latentmix.commands.shared import session
from latentmix.diagnosis import Diagnosis, limit_text
from latentmix.experiment.csv_files import without_nan
from latentmix.experiment.diagnosis import diagnose_class
from latentmix.experiment.experiment import Experiment
from latentmix.experiment.stages import INVERT
from latentmix.experiment.synthesis import SYNTHESIZE
from latentmix.figures.diagnosis import draw_growth, draw_octaves
from latentmix.octaves import shared_images
from latentmix.storage import write_json

STAGES = (SYNTHESIZE, INVERT)
LEGEND = (
    "mean: the largest of a channel (which); corr.: of neighbouring positions; bias²: of channel means + in space; "
    "of z0: the share of the first that the terminal signal explains; R²: of that mean against √N; N: the most latents "
    "to mix by fix/0 and by fix/chm before the amplified bias of some frequencies reaches one standard deviation"
)


def run(experiment: Experiment, dry_run: bool) -> list[Path]:
    """Diagnose every class. Show a table, and return the files written: `diagnosis.json`, Fig. 4 and the octaves."""
    if not dry_run:
        session.refuse_to_overwrite(experiment.config, analysis="diagnose")
    if not session.run_stages(experiment, STAGES, "diagnose", dry_run):
        return []
    session.note_analysis(experiment.config, "diagnose")
    diagnoses = {class_id: diagnose_class(experiment, class_id) for class_id in experiment.classes}
    _show(experiment, diagnoses)
    lines = [(experiment.data.title(class_id), diagnosis) for class_id, diagnosis in diagnoses.items()]
    figure = draw_growth({experiment.config.model.name: lines}, experiment.config.folder / "fig4")
    return [_record(experiment, diagnoses), *figure, *draw_octaves(lines, experiment.config.folder / "octaves")]


def overlap(n: int, pool: int) -> str:
    """Return in a sentence how much the draws of a run have in common."""
    shared = shared_images(n, pool)
    text = f"Two draws of N = {n} from a pool of {pool} share {shared:.3g} images on average"
    alike = "as much as a bias of one standard deviation makes them alike" if 2 * n >= pool else "which is harmless"
    return f"{text}, {alike}; this begins at N = {pool // 2}"


def _record(experiment: Experiment, diagnoses: Mapping[str, Diagnosis]) -> Path:
    """Write `diagnosis.json`, with null for what is not a number."""
    path = experiment.config.folder / "diagnosis.json"
    run = {name: getattr(experiment.config, name).name for name in ("model", "data", "inversion")}
    n, pool = max(experiment.config.n), experiment.config.pool
    classes = {
        class_id: asdict(d) | {"recommended": d.recommended(n), "verdict": d.verdict(n)}
        for class_id, d in diagnoses.items()
    }
    shared = {"n": n, "pool": pool, "shared images": shared_images(n, pool), "alike from n": pool // 2}
    write_json(path, without_nan({**run, "overlap": shared, "classes": classes}))
    return path


def _show(experiment: Experiment, diagnoses: Mapping[str, Diagnosis]) -> None:
    headings = ("class", "norm/√L", "mean", "corr.", "bias²·1000", "of z0", "R²", "N")
    n = max(experiment.config.n)
    table = Table(*headings, title=f"latents at t = T of {experiment.config.pool} images", caption=LEGEND)
    for class_id, diagnosis in diagnoses.items():
        table.add_row(escape(experiment.data.title(class_id)), *_row(diagnosis))
    console = Console()
    console.print(table)
    for class_id, diagnosis in diagnoses.items():
        console.print(f"{experiment.data.title(class_id)}: {diagnosis.verdict(n)}", highlight=False, markup=False)
    console.print(overlap(n, experiment.config.pool), highlight=False, markup=False)


def _row(diagnosis: Diagnosis) -> tuple[str, ...]:
    channel, mean = max(enumerate(diagnosis.means), key=lambda pair: abs(pair[1].value))
    bias, share = diagnosis.bias, diagnosis.terminal.share
    neighbours = diagnosis.autocorrelation[0].channels if diagnosis.autocorrelation else (math.nan,)
    return (
        f"{diagnosis.norms.mean:.3f}",
        f"{mean.value:+.3f} ({channel})",
        f"{np.mean(neighbours):+.3f}",
        f"{1000 * bias.channels:.1f} + {1000 * bias.space:.1f}",
        "–" if math.isnan(share) else f"{share:.0%}",
        f"{diagnosis.growth.root.r2[channel]:.3f}",
        "; ".join(limit_text(diagnosis.safe[method]) for method in ("fix/0", "fix/chm")),
    )
