"""`latentmix probe`: offset a part of the latent and measure what changes, as in Fig. 6."""

from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from torch import Tensor

from latentmix.commands.shared import session
from latentmix.experiment import probe as probes
from latentmix.experiment.csv_files import write_table
from latentmix.experiment.draws import draw_id
from latentmix.experiment.experiment import Experiment
from latentmix.experiment.probe import TIMES, Probe
from latentmix.figures.grid import draw_offsets
from latentmix.images import write_image
from latentmix.storage import file_name

COLUMNS = ("model", "class", "region", "share", "channels", "draw", "t", "b", "rmse_inside", "rmse_outside")
Images = dict[tuple[str, int, float], Tensor]
Changes = dict[tuple[str, int, float], tuple[float, float]]


def run(experiment: Experiment, probe: Probe, dry_run: bool) -> list[Path]:
    """Generate the probe's images, and write them with `probe.csv` and the figure. Return what was written."""
    if not session.run_stages(experiment, [probes.probe_stage(probe)], "probe", dry_run):
        return []
    images = probes.decode(experiment, probe)
    config, class_id = experiment.config, experiment.data.class_of(probe.class_id)
    folder = config.folder / "probe" / file_name(class_id)
    for (t, draw, b), image in images.items():
        write_image(folder / f"{draw_id(draw)}-t={t}-b={b:g}.png", image)
    changes = _changes(experiment, probe, images)
    _show(probe, changes)
    setting = (config.model.name, class_id, probe.side, probe.share, "{},{}".format(*probe.channels))
    rows = [(*setting, draw, t, b, inside, outside) for (t, draw, b), (inside, outside) in changes.items()]
    write_table(config.folder / "probe.csv", COLUMNS, rows)
    return [folder, config.folder / "probe.csv", *draw_offsets(probe, images, config.folder / "probe")]


def _changes(experiment: Experiment, probe: Probe, images: Images) -> Changes:
    """Return the root mean square difference to b = 0, in levels of 255, inside and outside of the region."""
    changes, latent = {}, probes.mask(experiment, probe)
    for (t, draw, b), image in images.items():
        squares = (image.double() - images[t, draw, 0.0].double()).square().mean(0)  # [H, W]
        down, across = (pixels // positions for pixels, positions in zip(squares.shape, latent.shape, strict=True))
        inside = latent.repeat_interleave(down, 0).repeat_interleave(across, 1)
        changes[t, draw, b] = squares[inside].mean().sqrt().item(), squares[~inside].mean().sqrt().item()
    return changes


def _show(probe: Probe, changes: Changes) -> None:
    headings = [f"t = {t}, {where}" for t in TIMES for where in ("inside", "outside")]
    table = Table("b", *headings, title="change against b = 0, root mean square in levels of 255")
    for b in probe.offsets:
        means = [np.mean([changes[t, draw, b] for draw in range(probe.draws)], axis=0) for t in TIMES]
        table.add_row(f"{b:g}", *(f"{x:.1f}" for pair in means for x in pair))
    Console().print(table)
