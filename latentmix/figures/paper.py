"""The figures of Landolsi & Kahl: what each shows, what has to be there before it is drawn, and how it is drawn.

Their settings stand in `configs/experiment/`, one file each. Where the paper takes Stable Diffusion 3.5, a figure is
made on the counterpart of the model that was asked for, a rectified flow; where it shows both, on both.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from latentmix.cache import write_atomic
from latentmix.commands import sweep as shards
from latentmix.commands.diagnose import diagnosed
from latentmix.config import Config, compose
from latentmix.errors import UserError
from latentmix.experiment import probe
from latentmix.experiment import stages as sweep
from latentmix.experiment.experiment import Experiment
from latentmix.experiment.stages import Plan
from latentmix.figures.curves import draw_curves
from latentmix.figures.growth import draw_growth
from latentmix.figures.mixtures import draw_mixtures
from latentmix.figures.toy import draw_paths

Family = Literal["diffusion", "flow"]
Draw = Callable[[Sequence[Experiment], Path], list[Path]]  # where to, without ending -> the files written


@dataclass(frozen=True)
class Figure:
    """A figure: the sentence that its caption begins with, the command whose needs it has, and on which models."""

    shows: str
    command: str = "generate"
    families: tuple[Family, ...] = ("diffusion",)
    draw: Draw = draw_mixtures
    stages: tuple[Plan, ...] = (sweep.inversion, lambda experiment: sweep.generation(experiment, 1, measure=False))


def _toy(_: Sequence[Experiment], stem: Path) -> list[Path]:
    return draw_paths(stem)


def _growth(experiments: Sequence[Experiment], stem: Path) -> list[Path]:
    return draw_growth(
        experiments, [{c: diagnosed(experiment, c) for c in experiment.classes} for experiment in experiments], stem
    )


def _offsets(experiments: Sequence[Experiment], stem: Path) -> list[Path]:
    return probe.draw_offsets(experiments[0], probe.PAPER, stem)


def _quality(experiments: Sequence[Experiment], stem: Path) -> list[Path]:
    """A whole run, which `latentmix report` takes too."""
    shards.finish(experiments[0])
    return draw_curves(experiments[0], stem)


FIGURES = {
    "fig1": Figure("Images generated from centroids of N latents, inverted from images of {classes}."),
    "fig2": Figure(
        "Paths between two latents of a plane; grey: norm √L. Left: the paper's methods. Right: others.",
        families=(),
        draw=_toy,
        stages=(),
    ),
    "fig3": Figure("Images generated from centroids of N i.i.d. latents (Section 4.1), class {classes}."),
    "fig4": Figure(
        "Mean of the first two channels of fix/0 centroids of N inverted images, averaged over 100 draws, by class; x "
        "by √N. Grey: where 95 % of single centroids of random latents have all channels. Dashed: √N times the bias.",
        command="diagnose",
        families=("diffusion", "flow"),
        draw=_growth,
        stages=(sweep.inversion,),
    ),
    "fig5": Figure(
        "Images generated from centroids of N i.i.d. latents (Section 4.1) by a rectified flow, whose terminal "
        "signal-to-noise ratio is zero, class {classes}.",
        families=("flow",),
    ),
    "fig6": Figure(
        "Offsets of −b and b on channels 0 and 1 in the top quarter of the latent, class {first}. Top row: before "
        "diffusion (t = T). Bottom row: after it (t = 0).",
        command="probe",
        draw=_offsets,
        stages=(lambda experiment: probe.probing(experiment, probe.PAPER),),
    ),
    "fig7": Figure(
        "Distance to real images of images from centroids of N latents, averaged over classes; bars: 95 % intervals "
        "over classes. Grey lines: one half of the real images against the other, and images from random latents.",
        command="sweep",
        draw=_quality,
        stages=shards.STAGES,
    ),
    "fig8": Figure("Images generated from centroids of N latents, inverted from images of {classes}."),
    "fig9": Figure("Images generated from centroids of N = {n} latents of {classes}.", families=("flow",)),
    "fig10": Figure(
        "Images generated from centroids of N latents of {classes}, by longer inversion without guidance.",
        families=("diffusion", "flow"),
    ),
    "fig11": Figure("Images generated from centroids of N latents of {classes}, by null-text inversion."),
    "fig12": Figure(
        "Images generated from centroids of N latents, inverted from images of {classes}.", families=("flow",)
    ),
}


def find(name: str) -> Figure:
    """UserError where there is no such figure."""
    if name not in FIGURES:
        raise UserError(f"there is no figure {name!r}; there are {', '.join(FIGURES)}")
    return FIGURES[name]


def configs(name: str, overrides: Sequence[str]) -> list[Config]:
    """The settings of a figure's runs, one for each model that it shows: those of its own experiment, unless the
    overrides name another, which is drawn on its own model. Overrides of the model's group do not reach a
    counterpart."""
    figure, given = FIGURES[name], _with_experiment(name, overrides)
    own = compose(given)
    if figure.families and not _is_own(name, overrides):
        return [own]
    others = [override for override in given if not override.startswith(("model=", "model."))]
    counterpart = own.model.counterpart
    flow = own if counterpart is None else compose([*others, f"model={counterpart}"])
    runs = {"diffusion": own, "flow": flow}
    return list({runs[family].model.name: runs[family] for family in figure.families}.values())


def stem(name: str, overrides: Sequence[str]) -> Path:
    """Where a figure goes, without ending: all those of a model into one folder, or that of the experiment given."""
    run = compose(_with_experiment(name, overrides))
    return (run.outputs / f"figures-{run.model.name}" if _is_own(name, overrides) else run.folder) / name


def _with_experiment(name: str, overrides: Sequence[str]) -> list[str]:
    """The overrides, and a figure's own experiment before them where they name none."""
    named = any(override.startswith("experiment=") for override in overrides)
    return list(overrides) if named else [f"experiment={name}", *overrides]


def _is_own(name: str, overrides: Sequence[str]) -> bool:
    """Whether a figure is of its own experiment, named or not."""
    return f"experiment={name}" in _with_experiment(name, overrides)


def draw(name: str, experiments: Sequence[Experiment], to: Path) -> list[Path]:
    """The figure as PNG and PDF, and its caption, which says what was run."""
    figure = FIGURES[name]
    drawn = figure.draw(experiments, to)
    write_atomic(to.with_suffix(".txt"), f"{_caption(name, experiments)}\n".encode())
    return [*drawn, to.with_suffix(".txt")]


def _caption(name: str, experiments: Sequence[Experiment]) -> str:
    figure = FIGURES[name]
    shows, runs = figure.shows, list[str]()
    if experiments:
        titles = [experiments[0].title(c) for c in experiments[0].classes]
        n = ", ".join(map(str, experiments[0].config.n))
        shows = figure.shows.format(classes=", ".join(titles), first=titles[0], n=n)
        runs = [_run(experiment, figure.command) for experiment in experiments]
    return " ".join([f"Fig. {name.removeprefix('fig')}.", shows, *runs])


def _run(experiment: Experiment, command: str) -> str:
    """What was run, in a sentence."""
    config = experiment.config
    generated = f"generation in {config.steps} steps at guidance {config.guidance:g}, seed {config.seed}"
    if command == "probe":
        return f"{config.model.name}: {generated}."
    inverted = (
        f"{config.model.name}, {config.data.name}: {config.pool} images of each class inverted by "
        f"{config.inversion.name} in {config.inversion.steps} steps at guidance {config.inversion.guidance:g}"
    )
    if command == "diagnose":
        return f"{inverted}, seed {config.seed}."
    drawn = f"{config.draws} draws" if command == "sweep" else "the first draw"
    return f"{inverted}; {generated}; {drawn} of each class, N and method."
