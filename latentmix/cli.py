"""The command line. Every command takes Hydra overrides (`n=[2,8]`, `model=sd15`) and continues what is there.

A command is declared here and implemented in `latentmix.commands`. Nothing heavy is imported at the top: torch, Hydra
and the rest are imported inside commands, so that `--help` answers at once.
"""

import os
import re
import signal
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from latentmix.errors import STOPPED, Interrupted, Terminated, UserError, optional_imports, retry_lost_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from latentmix.config import Config
    from latentmix.experiment.experiment import Experiment
    from latentmix.experiment.stages import StageType


class Group(TyperGroup):
    """The commands. Ctrl-C ends any of them with one line."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stop:
            raise Interrupted(STOPPED, stop) from None


app = typer.Typer(
    name="latentmix",
    cls=Group,
    help="Invert images into the latent space of Stable Diffusion, mix N of them at once, generate, and measure.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...", help="Settings to change, in Hydra's syntax; quote those with brackets. See configs/."
    ),
]
OfFigure = Annotated[
    str | None,
    typer.Option("--figure", help="Instead of a sweep, a figure (fig1 to fig12) with all models that it shows."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would be done, and do nothing.")]
ClassName = Annotated[str | None, typer.Option("--class", help="The class; by default the run's first one.")]


def example(*lines: str) -> str:
    """Return the end of a command's help. Brackets are escaped where rich would take them for markup and drop them."""
    escaped = (re.sub(r"\[(?=[a-z])", r"\\[", line) for line in lines)
    return "Examples:\n\n" + "\n\n".join(f"    {line}" for line in escaped)


@app.callback()
def options(
    config_dir: Annotated[
        list[str] | None,
        typer.Option(metavar="DIR", help="Also find configs in DIR/model, DIR/experiment, ...; may be repeated."),
    ] = None,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.", is_eager=True)] = False,
) -> None:
    """Take the options of all commands."""
    if version:
        from latentmix import __version__

        _say(f"latentmix {__version__}")
        raise typer.Exit
    if config_dir:  # wherever presets are looked up, in processes that this one starts too
        known = os.environ.get("LATENTMIX_CONFIGS")
        os.environ["LATENTMIX_CONFIGS"] = os.pathsep.join([*config_dir, *([known] if known else [])])


@app.command(epilog=example("latentmix invert 'data.classes=[star]' pool=64", "latentmix invert inversion.steps=100"))
def invert(overrides: Overrides = None, dry_run: DryRun = False) -> None:
    """Invert images to latents at t = T, and keep these in the cache."""
    from latentmix.commands import invert

    invert.run(_experiment(overrides), dry_run)


@app.command(
    epilog=example(
        "latentmix mix 'n=[8]' 'methods=[fix/chm]' draws=32",
        "latentmix mix --class star --weights 0.5,0.3,0.2 'methods=[nin/chm,slerp/0]'",
    )
)
def mix(
    overrides: Overrides = None,
    weights: Annotated[str | None, typer.Option(help="Weights for one mixture of the first images of --class.")] = None,
    class_name: ClassName = None,
    dry_run: DryRun = False,
) -> None:
    """Mix the latents of all draws, and keep the mixtures in the cache; or make one mixture, by --weights."""
    from latentmix.commands import mix

    experiment = _experiment(overrides)
    if weights is None:
        mix.run(experiment, dry_run)
    else:
        _say_all(mix.run_one(experiment, class_name, weights, dry_run))


@app.command(epilog=example("latentmix generate 'n=[64]' 'methods=[fix/0,fix/chm]' draws=8"))
def generate(overrides: Overrides = None, dry_run: DryRun = False) -> None:
    """Generate images from mixed latents, and keep all of them as PNG."""
    from latentmix.commands import generate

    generate.run(_experiment(overrides), dry_run)


@app.command(epilog=example("latentmix evaluate experiment=demo"))
def evaluate(overrides: Overrides = None, dry_run: DryRun = False) -> None:
    """Measure images that were generated before, and write metrics.csv."""
    from latentmix.commands import evaluate

    evaluate.run(_experiment(overrides), sys.argv[1:], dry_run)


@app.command(
    epilog=example(
        "latentmix sweep experiment=demo",
        "latentmix sweep experiment=fig7 model=sd15 data=imagenet data.path=DIR --dry-run",
        "latentmix sweep 'n=[2,8,32]' 'methods=[fix/0,fix/chm]' draws=100",
        "latentmix sweep experiment=demo --shard 0/3",
        "latentmix sweep experiment=fig7 model=sd15 data=imagenet data.path=DIR launch=slurm launch.shards=8",
    )
)
def sweep(
    overrides: Overrides = None,
    shard: Annotated[
        str | None, typer.Option(metavar="I/N", help="Be worker I of N that share this run; I starts at 0.")
    ] = None,
    dry_run: DryRun = False,
    profile: Annotated[
        bool, typer.Option("--profile", help="Show where the time went, and keep profile.json.")
    ] = False,
) -> None:
    """Invert, mix, generate and measure, for all classes, N and methods: metrics.csv, Fig. 7 and Fig. 1."""
    from latentmix.commands import sweep
    from latentmix.runner.claims import Shard

    part = None if shard is None else Shard.parse(shard)
    sweep.run(_config(overrides), sys.argv[1:], part, dry_run, profile)


@app.command(hidden=True)
def worker(config: Path, shard: Annotated[str, typer.Option()]) -> None:
    """Run a shard of a run whose config is frozen, as `launch=local` starts it."""
    from latentmix.commands import sweep

    sweep.work(config, shard, results=False)  # whoever started it writes the results


@app.command(
    epilog=example(
        "latentmix diagnose experiment=demo", "latentmix diagnose 'data.classes=[star,heart]' pool=256 steps=20"
    )
)
def diagnose(overrides: Overrides = None, dry_run: DryRun = False) -> None:
    """Measure what latents share, and how many can be mixed without mean adjustment: diagnosis.json, Fig. 4."""
    from latentmix.commands import diagnose

    _say_all(diagnose.run(_experiment(overrides), dry_run))


@app.command(
    epilog=example(
        "latentmix probe experiment=demo",
        "latentmix probe --class heart --draws 3 --offsets 0,0.2,0.4,0.8,1.6",
        "latentmix probe model=sd15 'data=synthetic' 'data.classes=[tree frog]' --region left --share 0.5",
    )
)
def probe(
    overrides: Overrides = None,
    offsets: Annotated[str, typer.Option(help="Offsets b; 0 is always included.")] = "0,0.1,0.2,0.4,0.8",
    channels: Annotated[
        str, typer.Option(help="Channels: b is subtracted from the first, added to the second.")
    ] = "0,1",
    region: Annotated[str, typer.Option(help="Side of the frame that is offset: top, bottom, left or right.")] = "top",
    share: Annotated[float, typer.Option(help="Share of the frame that is offset.")] = 0.25,
    class_name: ClassName = None,
    draws: Annotated[int, typer.Option(help="Number of noises to start from; each is two rows of the figure.")] = 1,
    dry_run: DryRun = False,
) -> None:
    """Offset a part of the latent, before diffusion and after it, and measure what changes: probe.csv and Fig. 6."""
    from latentmix.commands import probe
    from latentmix.experiment.probe import parse

    wanted = parse(class_name, offsets, channels, region, share, draws)
    _say_all(probe.run(_experiment(overrides), wanted, dry_run))


@app.command(
    epilog=example(
        "latentmix reconstruct 'data.classes=[star]' pool=64 steps=50 guidance=1",
        "latentmix reconstruct inversion=null_text guidance=7.5",
    )
)
def reconstruct(overrides: Overrides = None, dry_run: DryRun = False) -> None:
    """Invert images, generate from their latents, and measure how close the result is: reconstruction.csv, a figure."""
    from latentmix.commands import reconstruct

    _say_all(reconstruct.run(_experiment(overrides), dry_run))


@app.command(
    name="check-inversion",
    epilog=example("latentmix check-inversion ddim", "latentmix check-inversion null_text inversion.iterations=5"),
)
def check_inversion(
    name: Annotated[str, typer.Argument(help="A preset of configs/inversion, or of a folder of --config-dir.")],
    overrides: Overrides = None,
) -> None:
    """Check that an inversion keeps its contract: round trip, batches, guidance, determinism, evaluations."""
    from latentmix.commands import check_inversion

    if not check_inversion.run(_experiment([f"inversion={name}", *(overrides or [])])):
        raise typer.Exit(1)


@app.command(
    epilog=example(
        "latentmix figure fig8",
        "latentmix figure fig8 'data.classes=[heart]' seed=1",
        "latentmix figure fig10 model=sd15 data=imagenet-hub --dry-run",
        "latentmix figure fig7 experiment=demo",
    )
)
def figure(
    name: Annotated[str, typer.Argument(help="fig1 to fig12, as in the paper.")],
    overrides: Overrides = None,
    dry_run: DryRun = False,
) -> None:
    """Make a figure of the paper; run what is missing first. Write PNG, PDF and a caption that says what was run."""
    from latentmix.commands import figure

    _say_all(figure.run(name, overrides or [], sys.argv[1:], dry_run))


@app.command(epilog=example("latentmix status demo", "latentmix status outputs/demo"))
def status(run: Annotated[str, typer.Argument(help="A run: its folder, or its name in outputs/.")]) -> None:
    """Show what of a run is done, running and left, and which workers are alive."""
    from latentmix.commands import status

    status.run(run)


@app.command(epilog=example("latentmix report demo", "latentmix report outputs/demo"))
def report(run: Annotated[str, typer.Argument(help="A finished run: its folder, or its name in outputs/.")]) -> None:
    """Write report.html in a finished run's folder: curves, a table, pictures and settings, on one page to send."""
    from latentmix.report import write_report

    _say(str(write_report(run)))


@app.command(
    epilog=example(
        "latentmix doctor experiment=demo",
        "latentmix doctor model=sd15",
        "latentmix doctor --figure fig10 model=sd15 data=imagenet-hub data.limit=128",
    )
)
def doctor(overrides: Overrides = None, figure: OfFigure = None) -> None:
    """Check that everything an experiment needs is here: a line for each thing, and what to do if it is missing."""
    from latentmix.commands import doctor

    if not doctor.run(*_needs(overrides, figure)):
        raise typer.Exit(1)


@app.command(
    epilog=example("latentmix bench", "latentmix bench model=sd15 --random", "latentmix bench steps=10 batch=16")
)
def bench(
    overrides: Overrides = None,
    repeat: Annotated[int, typer.Option(help="Times to measure each; the best counts.", min=1)] = 3,
    random: Annotated[bool, typer.Option("--random", help="Use random weights at full size; needs no files.")] = False,
) -> None:
    """Measure how fast images are generated, beside diffusers' own pipeline: images/s, TFLOP/s, memory (bench.json)."""
    from latentmix.commands import bench
    from latentmix.models.random_weights import random_folder

    more = []
    if random:
        config = _config(overrides)
        more = [f"model.path='{random_folder(config.model.name, config.cache / 'random')}'"]
    _say(str(bench.run(_experiment([*(overrides or []), *more]), repeat)))


@app.command(epilog=example("latentmix fetch model=sd15", "latentmix fetch --figure fig5 model=sd15"))
def fetch(overrides: Overrides = None, figure: OfFigure = None) -> None:
    """Download the weights and images that an experiment needs, ahead of time."""
    from latentmix.commands import fetch

    experiments, stages = _needs(overrides, figure)
    for experiment in experiments:
        for line in fetch.run(experiment, stages):
            _say(line)


@app.command(
    epilog=example(
        "latentmix cache",
        "latentmix cache --unused --dry-run",
        "latentmix cache --older-than 30d --unused",
        "latentmix cache --run demo --yes",
    )
)
def cache(
    outputs: Annotated[str | None, typer.Option(help="The folder of all runs; by default that of the configs.")] = None,
    older_than: Annotated[
        str | None, typer.Option(metavar="AGE", help="Remove what was not used for so long: 12h, 30d, 8w.")
    ] = None,
    run: Annotated[str | None, typer.Option(help="Remove what only this run uses.")] = None,
    unused: Annotated[bool, typer.Option("--unused", help="Remove what no run uses.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before removing.")] = False,
    dry_run: DryRun = False,
) -> None:
    """List what OUTPUTS/cache holds, and remove what is not needed any more."""
    from latentmix.commands import cache

    folder = _config([]).outputs if outputs is None else Path(outputs).expanduser()
    cache.run(folder, older_than, run, unused, yes, dry_run)


def main() -> None:
    """Run the command line; errors of the user become one line."""
    warnings.showwarning = _show_warning
    signal.signal(signal.SIGTERM, _terminate)
    try:
        with optional_imports():
            retry_lost_rows(app)
    except UserError as error:
        _complain(f"error: {error}")
        sys.exit(error.exit_code)


def _terminate(*_: object) -> None:
    raise Terminated


def _config(overrides: list[str] | None) -> "Config":
    from latentmix.compose import compose

    return compose(overrides or [])


def _experiment(overrides: list[str] | None) -> "Experiment":
    from latentmix.commands.session import prepare

    return prepare(_config(overrides))


def _needs(overrides: list[str] | None, figure: str | None) -> "tuple[list[Experiment], Sequence[StageType]]":
    """Return what is to be run: the experiments, and the stages of a sweep or of a figure."""
    if figure is None:
        from latentmix.experiment.sweep import SWEEP

        return [_experiment(overrides)], SWEEP
    from latentmix.commands.figure import needs

    return needs(figure, overrides or [])


def _say(text: str) -> None:
    typer.echo(text)


def _say_all(paths: list[Path]) -> None:
    for path in paths:
        _say(str(path))


def _complain(text: str) -> None:
    """Print an error, without what a file's name could tell a terminal to do."""
    shown = "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)
    typer.echo(f"latentmix: {shown}", err=True)


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    if category is UserWarning and not str(message).startswith("Failed"):
        _complain(f"warning: {message}")


if __name__ == "__main__":
    main()
