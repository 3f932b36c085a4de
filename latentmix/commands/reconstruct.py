"""`latentmix reconstruct`: invert images, generate from their latents, and measure how close the result is."""

from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from latentmix.commands.shared import session
from latentmix.experiment.csv_files import RUN, interval, run_names, write_table
from latentmix.experiment.experiment import Experiment
from latentmix.experiment.reconstruction import QUANTITIES, RECONSTRUCT
from latentmix.experiment.results_table import AVERAGE
from latentmix.experiment.stages import INVERT
from latentmix.experiment.synthesis import SYNTHESIZE
from latentmix.figures.grid import draw_grid
from latentmix.metrics import Estimate, mean_interval

COLUMNS = (*RUN, "class", "quantity", "value", "low", "high", "count")
SHOWN = 8  # images in the figure
STAGES = (SYNTHESIZE, INVERT, RECONSTRUCT)


def run(experiment: Experiment, dry_run: bool) -> list[Path]:
    """Write `reconstruction.csv` and a picture, and show the averages. Return what was written."""
    if not dry_run:
        session.refuse_to_overwrite(experiment.config, analysis="reconstruct")
    if not session.run_stages(experiment, STAGES, "reconstruct", dry_run):
        return []
    session.note_analysis(experiment.config, "reconstruct")
    estimates = {}
    for class_id in experiment.classes:
        cached, ids = experiment.layout.reconstructions(class_id), experiment.layout.pool_ids(class_id)
        estimates[class_id] = {name: mean_interval(cached.gather(ids, name)) for name in QUANTITIES}
    values = {name: torch.tensor([of_class[name].value for of_class in estimates.values()]) for name in QUANTITIES}
    averages = {name: mean_interval(of_classes) for name, of_classes in values.items()}
    path = experiment.config.folder / "reconstruction.csv"
    rows = [
        (*run_names(experiment.config), class_id, name, *interval(estimate), estimate.count)
        for class_id, of_class in (estimates | {AVERAGE: averages}).items()
        for name, estimate in of_class.items()
    ]
    write_table(path, COLUMNS, rows)
    _show(experiment, averages)
    return [path, *_draw(experiment)]


def _show(experiment: Experiment, averages: dict[str, Estimate]) -> None:
    config, inversion = experiment.config, experiment.inversion
    table = Table("inversion", "PSNR", "of the VAE", "latents' RMSE", "norm / √L", "NFE of inversion", "of generation")
    numbers = [f"{averages[name].value:.{digits}f}" for name, digits in zip(QUANTITIES, (2, 2, 4, 3), strict=True)]
    inverting = config.inversion.steps * inversion.nfe(config.inversion)
    generating = config.steps * inversion.nfe_generation(config.guidance)
    table.add_row(config.inversion.name, *numbers, f"{inverting:,}", f"{generating:,}")
    Console().print(table)


def _draw(experiment: Experiment) -> list[Path]:
    """Draw real images, the VAE's reconstructions and the round trip's, in three rows."""
    rows: dict[str, list[Tensor]] = {"real": [], "VAE": [], experiment.config.inversion.name: []}
    per_class = -(-SHOWN // len(experiment.classes))
    for class_id in experiment.classes:
        ids = experiment.layout.pool_ids(class_id)[:per_class]
        images = experiment.layout.reconstructions(class_id).gather(ids, "images")  # [B, 3, 3, H, W]
        for row, column in zip(rows.values(), images.unbind(1), strict=True):
            row.extend(column)
    titles = [""] * len(rows["real"])
    return draw_grid(list(rows.values()), list(rows), titles, experiment.config.folder / "reconstruction")
