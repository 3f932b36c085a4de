"""`latentmix generate`: mixed latents -> images, all of them kept as PNG."""

import json
from collections.abc import Iterator
from pathlib import Path

from latentmix.commands.shared import session
from latentmix.experiment.csv_files import write_table
from latentmix.experiment.draws import Cell, draw_id
from latentmix.experiment.experiment import Experiment
from latentmix.experiment.stages import INVERT, generation
from latentmix.experiment.synthesis import SYNTHESIZE
from latentmix.storage import file_name, write_atomic, write_checked_json

STAGES = (SYNTHESIZE, INVERT, generation(copies=2))  # in the cache, and under readable names
FOLDER = "images"
COLUMNS = ("file_name", "label", "n", "method", "draw", "sources", "weights", "inversion", "seed")


def run(experiment: Experiment, dry_run: bool) -> None:
    """Generate an image for every class, N, method and draw."""
    if not dry_run:
        session.refuse_to_overwrite(experiment.config, FOLDER)
    if session.run_stages(experiment, STAGES, "generate", dry_run):
        session.say(f"images are in {_copy_images(experiment)}")


def _copy_images(experiment: Experiment) -> Path:
    """Copy a run's images from the cache to images/CLASS/METHOD/N=…/DRAW.png in its folder.

    Also write a table of what each was mixed from, and the settings.
    """
    folder, settings, rows = experiment.config.folder / FOLDER, experiment.config.as_dict(), list[tuple[object, ...]]()
    for cell in experiment.cells.mixed:
        for draw in experiment.cells.draws(cell):
            write_atomic(folder / _name(cell, draw), experiment.layout.image_path(cell, draw).read_bytes())
        rows += _rows(experiment, cell)
    write_table(folder / "metadata.csv", COLUMNS, rows)
    session.write_config(folder, settings)
    write_checked_json(folder / "done.json", {"config": settings})
    return folder


def _name(cell: Cell, draw: int) -> str:
    method = f"{cell.method.norm}-{cell.method.mean}"
    return f"{file_name(cell.class_id)}/{method}/N={cell.n:03d}/{draw_id(draw)}.png"


def _rows(experiment: Experiment, cell: Cell) -> Iterator[tuple[object, ...]]:
    """Yield the rows of `COLUMNS` for a cell; sources are files, or ids of images that are no files."""
    pool, config, draws = experiment.data.pool(cell.class_id), experiment.config, experiment.cells.draws(cell)
    for draw, weights in zip(draws, experiment.cells.weights(cell, draws), strict=True):
        mixed = weights.nonzero()[:, 0].tolist()
        sources = json.dumps([pool[index].label for index in mixed], ensure_ascii=False)
        shares = json.dumps([round(weights[index].item(), 4) for index in mixed])
        settings = config.inversion.name, config.seed
        yield _name(cell, draw), cell.class_id, cell.n, cell.method_name, draw, sources, shares, *settings
