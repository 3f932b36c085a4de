"""`latentmix generate`: mixed latents -> images, all of them kept as PNG."""

from pathlib import Path

from latentmix.cache import file_name, write_atomic, write_checked_json
from latentmix.commands import session
from latentmix.experiment.draws import draw_id
from latentmix.experiment.experiment import Experiment
from latentmix.experiment.stages import INVERT, SYNTHESIZE, generation

STAGES = (SYNTHESIZE, INVERT, generation(copies=2))  # in the cache, and under readable names
FOLDER = "images"


def run(experiment: Experiment, dry_run: bool) -> None:
    """Generate an image for every class, N, method and draw."""
    if dry_run:
        session.report_plan(experiment, STAGES)
        return
    session.refuse_to_overwrite(experiment.config, FOLDER)
    session.run_stages(experiment, STAGES, "generate")
    session.say(f"images are in {_copy_images(experiment)}")


def _copy_images(experiment: Experiment) -> Path:
    """Copy a run's images from the cache to images/CLASS/METHOD/N=…/DRAW.png in its folder."""
    folder = experiment.config.folder / FOLDER
    for cell in experiment.cells:
        method = f"{cell.method.norm}-{cell.method.mean}"
        place = folder / file_name(cell.class_id) / method / f"N={cell.n:03d}"
        for draw in experiment.draws(cell):
            content = experiment.layout.image_path(cell, draw).read_bytes()
            write_atomic(place / f"{draw_id(draw)}.png", content)
    write_checked_json(folder / "done.json", {"config": experiment.config.as_dict()})
    return folder
