"""`latentmix morph`: write a video from picture to picture, or a grid of mixtures of three or four pictures."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from latentmix.arguments import for_morph
from latentmix.commands.shared import session
from latentmix.compose import compose
from latentmix.data.caller_images import picture_source
from latentmix.errors import UserError
from latentmix.experiment.experiment import Experiment
from latentmix.experiment.morph import Morph, Weights, frame_path, generate_frames, invert_pictures
from latentmix.images import read_image
from latentmix.morphing.files import check_ending, check_rate, write_frames
from latentmix.morphing.grid import Place, places, write_grid
from latentmix.morphing.path import frame_weights
from latentmix.runner.executor import Executor
from latentmix.settings import expand_home
from latentmix.storage import check_writable


@dataclass(frozen=True)
class Options:
    """The options of the command."""

    output: Path
    prompts: Sequence[str] = ()
    method: str = "nin/chm"
    frames: int = 48
    fps: float = 24
    loop: bool = False
    even: bool = True
    grid: bool = False
    side: int = 7  # cells along each side of a grid


def run(arguments: Sequence[str], options: Options, overrides: Sequence[str] = (), dry_run: bool = False) -> list[Path]:
    """Make a morph of the pictures among `arguments`, whose other entries are settings. Return the files written."""
    settings = [text for text in arguments if "=" in text and not Path(expand_home(text)).exists()]
    names = [text for text in arguments if text not in settings]
    config = compose(["name=morph", *overrides, *settings])
    cells = _check(names, options)
    morph = _morph(names, options, config.data.max_megapixels)
    weights = [cell.weights for cell in cells] or _rows(frame_weights(len(names), options.frames, options.loop))
    experiment = session.prepare(config)
    stages = [invert_pictures(morph), generate_frames(morph, weights)]
    if dry_run:
        session.report_plan(experiment, stages)
        return []
    if options.even and not cells:
        _load_perceptual(experiment)
    with session.joined(experiment, stages, "morph") as executor:
        executor.run(session.plans(experiment, stages[:1]))
        images = _render(experiment, executor, morph, options, cells)
    session.note_folders(experiment, "morph")
    if cells:
        return write_grid(options.output, images, cells, morph.names)
    return write_frames(options.output, images, options.fps, options.loop)


def _render(
    experiment: Experiment, executor: Executor, morph: Morph, options: Options, cells: Sequence[Place]
) -> Tensor:
    """Return the images of a grid's cells or of all frames, uint8 [F, 3, H, W]."""

    def render(weights: Tensor) -> Tensor:
        rows = _rows(weights)
        executor.run(session.plans(experiment, [generate_frames(morph, rows)]))
        return torch.stack([read_image(frame_path(experiment, morph, row)) for row in rows])

    if cells:
        return render(torch.tensor([cell.weights for cell in cells]))
    between = (render, experiment.perceptual.between) if options.even else ()
    return render(frame_weights(len(morph.names), options.frames, options.loop, *between))


def _rows(weights: Tensor) -> list[Weights]:
    return [tuple(row) for row in weights.tolist()]


def _check(names: Sequence[str], options: Options) -> list[Place]:
    """Return the cells of the grid, [] without --grid. Raise UserError for options that can't be used."""
    output = options.output
    if folders := [name for name in names if Path(expand_home(name)).is_dir()]:
        raise UserError(f"{folders[0]} is a folder; give the pictures in it, as in {Path(folders[0], '*.jpg')}")
    if options.grid and output.suffix.lower() != ".png":
        raise UserError(f"--grid writes one image and a page; give -o NAME.png, not {output}")
    check_ending(output)
    check_writable(output, "-o")
    if any(Path(expand_home(name)).absolute() == output.absolute() for name in names):
        raise UserError(f"-o {output} is one of the pictures; give another name")
    if len(options.prompts) not in (0, 1, len(names)):
        raise UserError(f"--prompt was given {len(options.prompts)} times; give it once, or for each of {len(names)}")
    check_rate(output, options.fps)
    if options.grid:
        return places(len(names), options.side)
    frame_weights(len(names), options.frames, options.loop)
    return []


def _morph(names: Sequence[str], options: Options, max_megapixels: float) -> Morph:
    """Return the pictures, prompts and method to mix; without --prompt, pictures have the empty prompt."""
    method = for_morph(options.method, "--method ")
    prompts = options.prompts if len(options.prompts) > 1 else list(options.prompts or [""]) * len(names)
    sources = tuple(picture_source(Path(expand_home(name)), max_megapixels) for name in names)
    return Morph(tuple(Path(name).name for name in names), sources, tuple(prompts), method)


def _load_perceptual(experiment: Experiment) -> None:
    """Load the network that spaces the frames, so that a UserError comes before the work, and not after it."""
    nothing = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    try:
        experiment.perceptual.between(nothing, nothing)
    except UserError as error:
        raise UserError(f"{error}; or give --no-even, for frames that are evenly spaced in time") from error
