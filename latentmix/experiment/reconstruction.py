"""The round trip: images -> latents at t = T -> images, and how near to the first the last are.

The VAE alone loses something too, so its own reconstruction stands beside it: an inversion can't do better.
"""

import csv
import io
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from latentmix.cache import TensorCache, key, write_atomic
from latentmix.experiment.experiment import Experiment
from latentmix.experiment.results import AVERAGE
from latentmix.experiment.stages import Loaded, Stage, loader, padded, render
from latentmix.figures.grid import draw_grid
from latentmix.metrics import Estimate, mean_interval

COLUMNS = ("model", "data", "inversion", "class", "quantity", "value", "low", "high", "count")
QUANTITIES = ("psnr", "psnr_vae", "rmse", "norm")
SHOWN = 8  # images in the figure


def reconstruction(experiment: Experiment) -> Stage:
    """What was inverted -> images, compared with those it came from, for every class's pool."""
    stage = Stage(
        "reconstruct", experiment.config.steps * experiment.inversion.nfe_generation(experiment.config.guidance)
    )
    for class_id in experiment.classes:
        sources, done = experiment.pool(class_id), _kept(experiment, class_id).ids()
        missing = {source for source in sources if source.id not in done}
        stage.plan(
            class_id,
            sources,
            missing,
            experiment.batch,
            partial(_reconstruct, experiment, class_id),
            loader(experiment),
        )
    return stage


@torch.no_grad()
def _reconstruct(experiment: Experiment, class_id: str, real: Loaded[str], size: int) -> None:
    rows, ids, images = experiment.latents(class_id).read(), real.ids, real.pixels
    state = {
        name: padded(torch.stack([rows[id_][name] for id_ in ids]), size).to(experiment.device)
        for name in ("clean", "latents", *experiment.inversion.extras)
    }
    clean = state.pop("clean")
    by_vae = experiment.model.decode(clean).cpu()[: len(ids)]
    returned, made = render(experiment, class_id, state, f"the reconstruction of {class_id}")
    made = made.cpu()[: len(ids)]
    kept = {
        "psnr": psnr(made, images),
        "psnr_vae": psnr(by_vae, images),
        "rmse": (returned - clean).square().mean((1, 2, 3)).sqrt()[: len(ids)],
        "norm": (state["latents"].square().mean((1, 2, 3))).sqrt()[: len(ids)],
        "images": torch.stack([images, by_vae, made], 1),
    }
    _kept(experiment, class_id).write(ids, kept)


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Of images uint8 [B, 3, H, W], in dB, one by one: [B]; 100 where they are alike."""
    error = ((a.double() - b.double()) / 255).square().mean((1, 2, 3))
    return -10 * error.clamp_min(1e-10).log10()


def _kept(experiment: Experiment, class_id: str) -> TensorCache:
    identity = {"latents": experiment.latents_identity(class_id), **experiment.generation_identity()}
    return TensorCache(experiment.config.cache / "reconstructions" / key(identity), identity)


def compare(experiment: Experiment) -> list[Path]:
    """Write `reconstruction.csv` and the picture, and show the averages."""
    folder, table = experiment.config.folder, io.StringIO()
    pictures: dict[str, list[Tensor]] = {"real": [], "VAE": [], experiment.config.inversion.name: []}
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(COLUMNS)
    everything: dict[str, list[float]] = {name: [] for name in QUANTITIES}
    each = -(-SHOWN // len(experiment.classes))
    for class_id in experiment.classes:
        kept, ids = _kept(experiment, class_id), [source.id for source in experiment.pool(class_id)]
        for name in QUANTITIES:
            estimate = mean_interval(kept.gather(ids, name))
            everything[name].append(estimate.value)
            writer.writerow(_row(experiment, class_id, name, estimate))
        for row, column in zip(pictures.values(), kept.gather(ids[:each], "images").unbind(1), strict=True):
            row.extend(column)
    averages = {name: mean_interval(torch.tensor(values)) for name, values in everything.items()}
    for name, estimate in averages.items():
        writer.writerow(_row(experiment, AVERAGE, name, estimate))
    write_atomic(folder / "reconstruction.csv", table.getvalue().encode())
    _show(experiment, averages)
    titles = [""] * len(pictures["real"])
    grid = draw_grid(list(pictures.values()), list(pictures), titles, folder / "reconstruction")
    return [folder / "reconstruction.csv", *grid]


def _row(experiment: Experiment, class_id: str, name: str, estimate: Estimate) -> tuple[object, ...]:
    config = experiment.config
    bounds = (estimate.value, estimate.low, estimate.high)
    run = (config.model.name, config.data.name, config.inversion.name)
    return (*run, class_id, name, *("" if x != x else repr(x) for x in bounds), estimate.count)


def _show(experiment: Experiment, averages: dict[str, Estimate]) -> None:
    config, inversion = experiment.config, experiment.inversion
    table = Table("inversion", "PSNR", "of the VAE", "latents' RMSE", "norm / √L", "evaluations there", "back")
    numbers = [f"{averages[name].value:.{places}f}" for name, places in zip(QUANTITIES, (2, 2, 4, 3), strict=True)]
    there = config.inversion.steps * inversion.nfe(config.inversion)
    back = config.steps * inversion.nfe_generation(config.guidance)
    table.add_row(config.inversion.name, *numbers, f"{there:,}", f"{back:,}")
    Console().print(table)
