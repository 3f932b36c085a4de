"""The diagnoses of a run's classes, from cached latents: a table, a verdict for each, and `diagnosis.json`."""

import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from latentmix.cache import write_json
from latentmix.diagnosis import Diagnosis, diagnose
from latentmix.errors import UserError
from latentmix.experiment.experiment import Experiment, subset

DRAWS = 100  # a run's first, whether it has as many or not
SIZES = 12  # how many N, evenly in √N
LEGEND = (
    "mean: of which channel it is largest; corr.: of neighbours; bias²: in channels + in space; of z0: what the "
    "terminal signal explains of the former; R²: of that channel's mean against √N; N: most without mean adjustment"
)


def diagnosed(experiment: Experiment, class_id: str) -> Diagnosis:
    """UserError where latents are missing or a single one."""
    pool, seed = experiment.config.pool, experiment.config.seed
    if pool < 2:
        raise UserError(f"pool={pool} is too small to see what latents have in common; it takes 2, and better 100")
    z = experiment.pool_latents(class_id).cpu()
    clean = experiment.latents(class_id).gather([source.id for source in experiment.pool(class_id)], "clean")
    orders = torch.from_numpy(np.stack([subset(seed, class_id, draw, pool) for draw in range(DRAWS)]))
    return diagnose(z, clean, experiment.inversion_schedule[-1].noisy.alpha, sizes(pool), orders)


def sizes(pool: int) -> list[int]:
    """From 1 to the whole pool."""
    return sorted({round(root**2) for root in np.linspace(1, math.sqrt(pool), SIZES)})


def verdict(diagnosis: Diagnosis) -> str:
    most = diagnosis.limit
    if not any(diagnosis.resolved):
        return f"{diagnosis.images} images show no bias in any channel's mean; nothing asks for mean adjustment"
    if most is None:
        return "the channels' means stay within what is random; mix any number of these without mean adjustment"
    return f"mix {'none' if most < 2 else f'at most {most}'} of these without mean adjustment"


def record(experiment: Experiment, diagnoses: Mapping[str, Diagnosis]) -> Path:
    """Write `diagnosis.json`, with null for what is not a number."""
    path = experiment.config.folder / "diagnosis.json"
    run = {name: getattr(experiment.config, name).name for name in ("model", "data", "inversion")}
    classes = {class_id: asdict(d) | {"verdict": verdict(d)} for class_id, d in diagnoses.items()}
    write_json(path, _without_nan({**run, "classes": classes}))
    return path


def _without_nan(x: Any) -> Any:
    if isinstance(x, dict):
        return {name: _without_nan(value) for name, value in x.items()}
    if isinstance(x, list | tuple):
        return [_without_nan(value) for value in x]
    return None if isinstance(x, float) and math.isnan(x) else x


def show(experiment: Experiment, diagnoses: Mapping[str, Diagnosis]) -> None:
    """A row and a sentence for each class, on the console."""
    headings = ("class", "norm/√L", "mean", "corr.", "bias²·1000", "of z0", "R²", "N")
    table = Table(*headings, title=f"latents at t = T of {experiment.config.pool} images", caption=LEGEND)
    for class_id, diagnosis in diagnoses.items():
        table.add_row(experiment.title(class_id), *_row(diagnosis))
    console = Console()
    console.print(table)
    for class_id, diagnosis in diagnoses.items():
        console.print(f"{experiment.title(class_id)}: {verdict(diagnosis)}", highlight=False)


def _row(diagnosis: Diagnosis) -> tuple[str, ...]:
    place, mean = max(enumerate(diagnosis.means), key=lambda pair: abs(pair[1].value))
    bias, share = diagnosis.bias, diagnosis.terminal.share
    neighbours = diagnosis.autocorrelation[0].channels if diagnosis.autocorrelation else (math.nan,)
    unlimited = "any" if any(diagnosis.resolved) else "–"
    return (
        f"{diagnosis.norms.mean:.3f}",
        f"{mean.value:+.3f} ({place})",
        f"{np.mean(neighbours):+.3f}",
        f"{1000 * bias.channels:.1f} + {1000 * bias.space:.1f}",
        "–" if math.isnan(share) else f"{share:.0%}",
        f"{diagnosis.growth.root.r2[place]:.3f}",
        unlimited if diagnosis.limit is None else str(diagnosis.limit),
    )
