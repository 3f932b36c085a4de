"""The figures of Landolsi & Kahl: captions, the stages that each needs, and how it is drawn.

Their settings are in `configs/experiment/`, one file each. Where the paper uses Stable Diffusion 3.5, a figure uses the
requested model's counterpart, which is a rectified flow (`model.counterpart`); where it shows both, both.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from latentmix.compose import compose
from latentmix.config import Config
from latentmix.errors import UserError
from latentmix.experiment.diagnosis import diagnose_class
from latentmix.experiment.experiment import Experiment
from latentmix.experiment.probe import PAPER, decode, probe_stage
from latentmix.experiment.stages import INVERT, StageType, generation
from latentmix.experiment.sweep import SWEEP
from latentmix.experiment.synthesis import SYNTHESIZE
from latentmix.figures.diagnosis import draw_growth
from latentmix.figures.grid import draw_mixtures, draw_offsets
from latentmix.figures.metric_curves import draw_curves
from latentmix.figures.style import CONTROLS
from latentmix.figures.toy import draw_paths
from latentmix.storage import write_atomic

Family = Literal["diffusion", "flow"]


# Sentences for the end of captions, one for each model's run.
INVERSION_ONLY = "{inverted}, seed {seed}."
GENERATION_ONLY = "{model}: {generated}."
FIRST_DRAW = "{inverted}; {generated}; the first draw of each class, N and method."
ALL_DRAWS = "{inverted}; {generated}; {draws} draws of each class, N and method."


def settings(template: str, config: Config) -> str:
    """Fill in one of the sentences above."""
    inversion = config.inversion
    return template.format(
        inverted=f"{config.model.name}, {config.data.name}: {config.pool} images of each class inverted by "
        f"{inversion.name} in {inversion.steps} steps at guidance {inversion.guidance:g}",
        generated=f"generation in {config.steps} steps at guidance {config.guidance:g}, seed {config.seed}",
        model=config.model.name,
        seed=config.seed,
        draws=config.draws,
    )


def _draw_growth(experiments: Sequence[Experiment], stem: Path) -> list[Path]:
    models = {e.config.model.name: [(e.data.title(c), diagnose_class(e, c)) for c in e.classes] for e in experiments}
    return draw_growth(models, stem)


@dataclass(frozen=True)
class Figure:
    """One figure of the paper.

    A caption is `shows`, and `settings` of each model's run. Names in braces are filled in.
    """

    shows: str
    settings: str = FIRST_DRAW
    families: tuple[Family, ...] = ("diffusion",)  # with a run each; empty if the figure needs no model
    draw: Callable[[Sequence[Experiment], Path], list[Path]] = draw_mixtures  # takes the path without its ending
    stages: tuple[StageType, ...] = (SYNTHESIZE, INVERT, generation(keep=1))


INVERTED = "Images generated from centroids of N latents, inverted from images of {classes}."
BY_INVERSION = "Images generated from centroids of N latents of {classes}, by {inversion} inversion"
IID = "Images generated from centroids of N i.i.d. latents (Section 4.1)"

FIGURES = {
    "fig1": Figure(INVERTED),
    "fig2": Figure(
        "Paths between two latents of a plane; grey: norm √L. Left: the paper's methods. Right: others.",
        families=(),
        draw=lambda _, stem: draw_paths(stem),
        stages=(),
    ),
    "fig3": Figure(f"{IID}, class {{classes}}."),
    "fig4": Figure(
        "Mean of the first two channels of fix/0 centroids of N inverted images, averaged over 100 draws, by class; x "
        "by √N. Grey: where 95 % of single centroids of random latents have all channels. Dashed: √N times the bias.",
        INVERSION_ONLY,
        families=("diffusion", "flow"),
        draw=_draw_growth,
        stages=(SYNTHESIZE, INVERT),
    ),
    "fig5": Figure(
        f"{IID} by a rectified flow, whose terminal signal-to-noise ratio is zero, class {{classes}}.",
        families=("flow",),
    ),
    "fig6": Figure(
        "Offsets of −b and b on channels 0 and 1 in the top quarter of the latent, class {first}. Top row: before "
        "diffusion (t = T). Bottom row: after it (t = 0).",
        GENERATION_ONLY,
        draw=lambda experiments, stem: draw_offsets(PAPER, decode(experiments[0], PAPER), stem),
        stages=(probe_stage(PAPER),),
    ),
    "fig7": Figure(
        "Distance to real images of images from centroids of N latents, averaged over classes; bars: 95 % intervals "
        "over classes, or over draws if there are fewer than four classes. Grey lines: {controls}.",
        ALL_DRAWS,
        draw=lambda experiments, stem: draw_curves(experiments[0].config.folder / "metrics.csv", stem),
        stages=SWEEP,  # the command also writes the tables, so that `latentmix report` can read them
    ),
    "fig8": Figure(INVERTED),
    "fig9": Figure("Images generated from centroids of N = {n} latents of {classes}.", families=("flow",)),
    "fig10": Figure(f"{BY_INVERSION} in {{steps}} steps.", families=("diffusion", "flow")),
    "fig11": Figure(f"{BY_INVERSION}."),
    "fig12": Figure(INVERTED, families=("flow",)),
}


def find(name: str) -> Figure:
    """Return a figure of the paper; raise UserError if there is none of this name."""
    if name not in FIGURES:
        raise UserError(f"there is no figure {name!r}; there are {', '.join(FIGURES)}")
    return FIGURES[name]


def configs(name: str, overrides: Sequence[str]) -> list[Config]:
    """Return the settings of a figure's runs, one for each model that it shows.

    They are those of the figure's own experiment; if the overrides name another, it is drawn with its own model alone.
    Overrides of the model do not apply to its counterpart, nor do those of the data if a figure shows both and the
    counterpart was trained on other images.
    """
    figure, complete = FIGURES[name], _with_experiment(name, overrides)
    own = compose(complete)
    if figure.families and f"experiment={name}" not in complete:
        return [own]
    counterpart, left_out = own.model.counterpart, ["model=", "model."]
    if counterpart is not None and "diffusion" in figure.families:
        alike = compose([f"model={counterpart}"]).model.domain == own.model.domain
        left_out += [] if alike else ["data=", "data."]
    others = [override for override in complete if not override.startswith(tuple(left_out))]
    flow = own if counterpart is None else compose([*others, f"model={counterpart}"])
    runs = {"diffusion": own, "flow": flow}
    return list({runs[family].model.name: runs[family] for family in figure.families}.values())


def stem(name: str, overrides: Sequence[str]) -> Path:
    """Return the path of a figure without its ending.

    A model's figures share one folder; with `experiment=` among the overrides, it is that experiment's folder.
    """
    complete = _with_experiment(name, overrides)
    run = compose(complete)
    return (run.outputs / f"figures-{run.model.name}" if f"experiment={name}" in complete else run.folder) / name


def _with_experiment(name: str, overrides: Sequence[str]) -> list[str]:
    """Return the overrides, after the figure's own experiment if they name none."""
    named = any(override.startswith("experiment=") for override in overrides)
    return list(overrides) if named else [f"experiment={name}", *overrides]


def draw(name: str, experiments: Sequence[Experiment], to: Path) -> list[Path]:
    """Draw a figure as PNG and PDF, and write its caption. Return the files."""
    drawn = FIGURES[name].draw(experiments, to)
    path = to.with_suffix(".txt")
    write_atomic(path, f"{caption(name, experiments)}\n".encode())
    return [*drawn, path]


def caption(name: str, experiments: Sequence[Experiment]) -> str:
    """Return the caption of a figure: what it shows, and a sentence on each model's run."""
    figure, fields = FIGURES[name], dict[str, str]()
    if experiments:
        first, config = experiments[0], experiments[0].config
        classes = {e.config.model.name: ", ".join(map(e.data.title, e.classes)) for e in experiments}
        if len(set(classes.values())) > 1:
            classes = {model: f"{titles} ({model})" for model, titles in classes.items()}
        fields = {"classes": " and ".join(dict.fromkeys(classes.values())), "first": first.data.title(first.classes[0])}
        fields["n"] = ", ".join(map(str, config.n))
        fields |= {"inversion": config.inversion.name, "steps": str(config.inversion.steps)}
        fields["controls"] = "; ".join(CONTROLS[control][0] for control in config.controls) or "none"
    runs = [settings(figure.settings, experiment.config) for experiment in experiments]
    return " ".join([f"Fig. {name.removeprefix('fig')}.", figure.shows.format(**fields), *runs])
