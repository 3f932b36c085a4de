"""`latentmix reconstruct`: invert images, generate from their latents, and measure how close the result is."""

import csv
import io
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from latentmix.cache import write_atomic
from latentmix.commands import session
from latentmix.experiment.experiment import Experiment
from latentmix.experiment.reconstruction import QUANTITIES, RECONSTRUCT
from latentmix.experiment.results import AVERAGE
from latentmix.experiment.stages import INVERT, SYNTHESIZE
from latentmix.figures.grid import draw_grid
from latentmix.metrics import Estimate, mean_interval

COLUMNS = ("model", "data", "inversion", "class", "quantity", "value", "low", "high", "count")
SHOWN = 8  # images in the figure
STAGES = (SYNTHESIZE, INVERT, RECONSTRUCT)


def run(experiment: Experiment, dry_run: bool) -> list[Path]:
    """Write `reconstruction.csv` and a picture, and show the averages. Return what was written."""
    if dry_run:
        session.report_plan(experiment, STAGES)
        return []
    session.run_stages(experiment, STAGES, "reconstruct")
    config, table = experiment.config, io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(COLUMNS)
    values: dict[str, list[float]] = {name: [] for name in QUANTITIES}
    for class_id in experiment.classes:
        kept, ids = experiment.layout.reconstructions(class_id), _ids(experiment, class_id)
        for name in QUANTITIES:
            estimate = mean_interval(kept.gather(ids, name))
            values[name].append(estimate.value)
            writer.writerow(_row(experiment, class_id, name, estimate))
    averages = {name: mean_interval(torch.tensor(of_classes)) for name, of_classes in values.items()}
    for name, estimate in averages.items():
        writer.writerow(_row(experiment, AVERAGE, name, estimate))
    path = config.folder / "reconstruction.csv"
    write_atomic(path, table.getvalue().encode())
    _show(experiment, averages)
    return [path, *_draw(experiment)]


def _ids(experiment: Experiment, class_id: str) -> list[str]:
    return [source.id for source in experiment.pool(class_id)]


def _row(experiment: Experiment, class_id: str, name: str, estimate: Estimate) -> tuple[object, ...]:
    config = experiment.config
    bounds = (estimate.value, estimate.low, estimate.high)
    run = (config.model.name, config.data.name, config.inversion.name)
    return (*run, class_id, name, *("" if x != x else repr(x) for x in bounds), estimate.count)


def _show(experiment: Experiment, averages: dict[str, Estimate]) -> None:
    config, inversion = experiment.config, experiment.inversion
    table = Table("inversion", "PSNR", "of the VAE", "latents' RMSE", "norm / √L", "NFE of inversion", "of generation")
    numbers = [f"{averages[name].value:.{digits}f}" for name, digits in zip(QUANTITIES, (2, 2, 4, 3), strict=True)]
    there = config.inversion.steps * inversion.nfe(config.inversion)
    back = config.steps * inversion.nfe_generation(config.guidance)
    table.add_row(config.inversion.name, *numbers, f"{there:,}", f"{back:,}")
    Console().print(table)


def _draw(experiment: Experiment) -> list[Path]:
    """Draw real images, the VAE's reconstructions and the round trip's, in three rows."""
    rows: dict[str, list[Tensor]] = {"real": [], "VAE": [], experiment.config.inversion.name: []}
    per_class = -(-SHOWN // len(experiment.classes))
    for class_id in experiment.classes:
        kept = experiment.layout.reconstructions(class_id)
        images = kept.gather(_ids(experiment, class_id)[:per_class], "images")  # [B, 3, 3, H, W]
        for row, column in zip(rows.values(), images.unbind(1), strict=True):
            row.extend(column)
    titles = [""] * len(rows["real"])
    return draw_grid(list(rows.values()), list(rows), titles, experiment.config.folder / "reconstruction")
