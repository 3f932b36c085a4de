"""The command line. Every command takes Hydra overrides (`n=[2,8]`, `model=sd15`) and continues what is there.

Nothing heavy is imported here: torch, hydra and the rest come inside commands, so that `--help` answers at once.
"""

import signal
import sys
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from latentmix.errors import STOPPED, Interrupted, Terminated, UserError, retry_lost_rows

if TYPE_CHECKING:
    from latentmix.config import Config
    from latentmix.experiment.experiment import Experiment


class Group(TyperGroup):
    """The commands; whatever stops one ends it with a line."""

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
        metavar="[KEY=VALUE]...", help="Changes to configs/config.yaml, in Hydra's syntax; quote those with brackets."
    ),
]
OfFigure = Annotated[
    str | None, typer.Option("--figure", help="Of fig1 to fig12 instead: what it needs of each model that it shows.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")]


def example(*lines: str) -> str:
    return "Examples:\n\n" + "\n\n".join(f"    {line}" for line in lines)


@app.command(epilog=example("latentmix invert 'data.classes=[star]' pool=64", "latentmix invert inversion.steps=100"))
def invert(overrides: Overrides = None, dry_run: DryRun = False) -> None:
    """Images -> latents at t = T, kept in the cache."""
    from latentmix.experiment import stages as sweep

    experiment = _experiment(overrides)
    _work(experiment, "invert", [sweep.inversion], dry_run)
    if not dry_run:
        _say(f"latents of {len(experiment.classes)} classes are in {experiment.config.cache / 'latents'}")


@app.command(
    epilog=example(
        "latentmix mix 'n=[8]' 'methods=[fix/chm]' draws=32",
        "latentmix mix --class star --weights 0.5,0.3,0.2 'methods=[nin/chm,slerp/0]'",
    )
)
def mix(
    overrides: Overrides = None,
    weights: Annotated[str | None, typer.Option(help="Mix a class's first images with these, and render it.")] = None,
    class_id: Annotated[str | None, typer.Option("--class", help="With --weights: which class.")] = None,
    dry_run: DryRun = False,
) -> None:
    """Draws -> mixed latents, kept in the cache; or one mixture with given weights, to look at."""
    from latentmix.experiment import stages as sweep

    experiment = _experiment(overrides)
    if weights is None:
        _work(experiment, "mix", [sweep.inversion, sweep.mixing], dry_run)
        if not dry_run:
            _say(f"centroids of {len(experiment.cells)} cells are in {experiment.config.cache / 'cells'}")
        return
    from latentmix.commands import doctor
    from latentmix.commands.mix import mix_once, mixture

    if dry_run:
        doctor.outline(experiment)  # since to look for the class might fetch
    wanted = mixture(experiment, class_id or experiment.classes[0], weights)
    _work(experiment, "invert", [sweep.inversion], dry_run)
    if not dry_run:
        for path in mix_once(experiment, wanted):
            _say(str(path))


@app.command(epilog=example("latentmix generate 'n=[64]' 'methods=[fix/0,fix/chm]' draws=8"))
def generate(overrides: Overrides = None, dry_run: DryRun = False) -> None:
    """Mixed latents -> images, all of them kept as PNG."""
    from latentmix.experiment import stages as sweep

    experiment = _experiment(overrides)
    stages = [sweep.inversion, lambda b: sweep.generation(b, b.config.draws, measure=False)]
    _work(experiment, "generate", stages, dry_run)
    if not dry_run:
        from latentmix.commands.mix import copy_images

        _say(f"images are in {copy_images(experiment)}")


@app.command(epilog=example("latentmix evaluate experiment=demo"))
def evaluate(overrides: Overrides = None, dry_run: DryRun = False) -> None:
    """Images -> features -> metrics.csv, for what has been generated."""
    from latentmix.experiment import diversity
    from latentmix.experiment import stages as sweep

    experiment = _experiment(overrides)
    stages = [sweep.references, lambda b: sweep.measurement(b, required=True), diversity.pairing]
    _work(experiment, "evaluate", stages, dry_run)
    if not dry_run:
        from latentmix.commands.sweep import finish

        finish(experiment)


@app.command(
    name="sweep",
    epilog=example(
        "latentmix sweep experiment=demo",
        "latentmix sweep experiment=fig7 model=sd15 data=imagenet data.path=DIR --dry-run",
        "latentmix sweep 'n=[2,8,32]' 'methods=[fix/0,fix/chm]' draws=100",
        "latentmix sweep experiment=demo --shard 0/3",
        "latentmix sweep experiment=fig7 model=sd15 data=imagenet data.path=DIR launch=slurm launch.shards=8",
    ),
)
def sweep_(
    overrides: Overrides = None,
    shard: Annotated[
        str | None, typer.Option(metavar="I/N", help="Be the I-th of N workers at this run, I from 0.")
    ] = None,
    dry_run: DryRun = False,
    profile: Annotated[
        bool, typer.Option("--profile", help="Show where the time went, and keep profile.json.")
    ] = False,
) -> None:
    """All of it, over classes, N and methods: metrics.csv, Fig. 7 and Fig. 1."""
    from latentmix.runner.claims import Shard

    part = None if shard is None else Shard.parse(shard)
    config = _config(overrides)
    if profile and (config.launch.name == "slurm" or config.launch.processes > 1):
        raise UserError("--profile is of one process; leave launch= out")
    if part is None and not dry_run and config.launch.name == "slurm":
        from latentmix.runner import slurm

        for line in slurm.submit(config):
            _say(line)
        return
    if part is None and not dry_run and config.launch.processes > 1:
        from latentmix.runner import local as workers

        workers.run(config)  # and what remains is to write the results, or to do what they left
    from latentmix.commands import sweep as shards
    from latentmix.profiling import profiled
    from latentmix.runner import executor as launch

    if dry_run:
        _report(_prepared(config), "sweep", shards.STAGES)
        return
    with profiled() if profile else nullcontext() as time:
        experiment = _prepared(config)
        shards.run(experiment, part)
    if time is not None:
        _say(str(launch.account(experiment, time)))


@app.command(hidden=True)
def worker(config: Path, shard: Annotated[str, typer.Option()]) -> None:
    """Do a shard of a run whose config is frozen, as `launch=local` starts it."""
    from latentmix.commands.sweep import work
    from latentmix.runner.claims import Shard

    work(config, Shard.parse(shard), results=False)  # which whoever started it writes


@app.command(
    epilog=example(
        "latentmix diagnose experiment=demo", "latentmix diagnose 'data.classes=[star,heart]' pool=256 steps=20"
    )
)
def diagnose(overrides: Overrides = None, dry_run: DryRun = False) -> None:
    """What latents have in common, and how many can be mixed without mean adjustment: diagnosis.json and Fig. 4."""
    from latentmix.experiment import stages as sweep

    experiment = _experiment(overrides)
    _work(experiment, "diagnose", [sweep.inversion], dry_run)
    if not dry_run:
        from latentmix.commands.diagnose import diagnosed, record, show
        from latentmix.figures.growth import draw_growth

        diagnoses = {class_id: diagnosed(experiment, class_id) for class_id in experiment.classes}
        show(experiment, diagnoses)
        classes = [(experiment.title(class_id), diagnosis) for class_id, diagnosis in diagnoses.items()]
        figure = draw_growth({experiment.config.model.name: classes}, experiment.config.folder / "fig4")
        for path in (record(experiment, diagnoses), *figure):
            _say(str(path))


@app.command(
    epilog=example(
        "latentmix probe experiment=demo",
        "latentmix probe --class heart --draws 3 --offsets 0,0.2,0.4,0.8,1.6",
        "latentmix probe model=sd15 'data=synthetic' 'data.classes=[tree frog]' --region left --share 0.5",
    )
)
def probe(
    overrides: Overrides = None,
    offsets: Annotated[str, typer.Option(help="How much, b; 0 is always among them.")] = "0,0.1,0.2,0.4,0.8",
    channels: Annotated[str, typer.Option(help="The one that b is taken from, and the one it is added to.")] = "0,1",
    region: Annotated[str, typer.Option(help="Where: at the top, bottom, left or right of the frame.")] = "top",
    share: Annotated[float, typer.Option(help="How much of the frame the region takes.")] = 0.25,
    class_id: Annotated[str | None, typer.Option("--class", help="Which class; the run's first by default.")] = None,
    draws: Annotated[int, typer.Option(help="How many noises to start from; each gives a pair of rows.")] = 1,
    dry_run: DryRun = False,
) -> None:
    """Offset a part of the latent, before diffusion and after it, and see what changes: probe.csv and Fig. 6."""
    from latentmix.experiment import probe as probes

    experiment = _experiment(overrides)
    wanted = probes.parse(class_id, offsets, channels, region, share, draws)
    _work(experiment, "probe", [lambda b: probes.probing(b, wanted)], dry_run)
    if not dry_run:
        for path in probes.finish(experiment, wanted):
            _say(str(path))


@app.command(
    epilog=example(
        "latentmix reconstruct 'data.classes=[star]' pool=64 steps=50 guidance=1",
        "latentmix reconstruct inversion=null_text guidance=7.5",
    )
)
def reconstruct(overrides: Overrides = None, dry_run: DryRun = False) -> None:
    """Images -> latents at t = T -> images: how near an inversion returns (reconstruction.csv and a picture)."""
    from latentmix.experiment import reconstruction as round_trip
    from latentmix.experiment import stages as sweep

    experiment = _experiment(overrides)
    _work(experiment, "reconstruct", [sweep.inversion, round_trip.reconstruction], dry_run)
    if not dry_run:
        for path in round_trip.compare(experiment):
            _say(str(path))


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
    """A figure of the paper, from nothing or from what is there: PNG, PDF and a caption that says what was run."""
    from latentmix.commands.doctor import require
    from latentmix.figures import paper

    spec, given = paper.find(name), overrides or []
    experiments = [_prepared(config) for config in paper.configs(name, given)]
    if not dry_run:
        for experiment in experiments[1:]:
            require(experiment, spec.command)  # of the second model too, before the first takes its hours
    for experiment in experiments:
        _work(experiment, spec.command, spec.stages, dry_run)
        if experiment is not experiments[-1]:
            experiment.release()  # two models need not fit into memory at once
    if not dry_run:
        for path in paper.draw(name, experiments, paper.stem(name, given)):
            _say(str(path))


@app.command(epilog=example("latentmix status demo", "latentmix status outputs/demo"))
def status(run: Annotated[str, typer.Argument(help="A run: its folder, or its name in outputs/.")]) -> None:
    """How far a run is and who is at work, from the files in its folder."""
    from latentmix.commands.status import show

    show(run)


@app.command(epilog=example("latentmix report demo", "latentmix report outputs/demo"))
def report(run: Annotated[str, typer.Argument(help="A finished run: its folder, or its name in outputs/.")]) -> None:
    """A finished run -> report.html in its folder: curves, a table, pictures and settings, on one page to send."""
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
    """Is all that an experiment needs here? A line for each thing, and what to do about what is missing."""
    from latentmix.commands.doctor import examine, versions

    experiments, command = _needing(overrides, figure)
    findings = [versions(), *(finding for experiment in experiments for finding in examine(experiment, command))]
    for line in dict.fromkeys(line for finding in findings for line in finding.lines()):
        _say(line)
    if any(finding.state == "missing" for finding in findings):
        raise typer.Exit(1)


@app.command(
    name="bench",
    epilog=example("latentmix bench", "latentmix bench model=sd15 --random", "latentmix bench steps=10 batch=16"),
)
def bench_(
    overrides: Overrides = None,
    repeat: Annotated[int, typer.Option(help="Times to measure each; the best counts.", min=1)] = 3,
    random: Annotated[bool, typer.Option("--random", help="With random weights, of sd15 or sd35-medium.")] = False,
) -> None:
    """How fast images are generated here, beside diffusers' own pipeline: images/s, TFLOP/s and memory (bench.json)."""
    from latentmix.commands import bench as benchmark
    from latentmix.experiment import batch_size as memory

    experiment = _experiment(overrides)
    if random:
        from latentmix.models.random_weights import random_folder

        folder = random_folder(experiment.config.model.name, experiment.config.cache / "random")
        experiment = _experiment([*(overrides or []), f"model.path='{folder}'"])
    memory.settle(experiment)
    benchmark.show(benchmark.measure(experiment, repeat))
    _say(str(experiment.config.folder / "bench.json"))


@app.command(epilog=example("latentmix fetch model=sd15", "latentmix fetch --figure fig5 model=sd15"))
def fetch(overrides: Overrides = None, figure: OfFigure = None) -> None:
    """Weights and images that an experiment needs from elsewhere -> this machine, ahead of time."""
    from latentmix.commands import doctor

    experiments, command = _needing(overrides, figure)
    for experiment in experiments:
        for line in doctor.fetch(experiment, command):
            _say(line)


def main() -> None:
    """The entry point: user errors become one line."""
    warnings.showwarning = _show_warning
    signal.signal(signal.SIGTERM, _terminate)
    try:
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
    return _prepared(_config(overrides))


def _needing(overrides: list[str] | None, figure: str | None) -> "tuple[list[Experiment], str]":
    """What is to be run, and the command whose needs it has: a sweep or, of each of its models, a figure."""
    if figure is None:
        return [_experiment(overrides)], "sweep"
    from latentmix.figures import paper

    spec = paper.find(figure)
    return [_prepared(config) for config in paper.configs(figure, overrides or [])], spec.command


def _prepared(config: "Config") -> "Experiment":
    from latentmix.profiling import timed

    with timed("starting"):
        from latentmix.experiment.experiment import Experiment
        from latentmix.runner.executor import prepare

        prepare(config.launch)
        return Experiment(config)


def _work(experiment: "Experiment", command: str, stages: Sequence[Any], dry_run: bool) -> None:
    """Plan each stage and do it, with a bar, if all that the command needs is here; a dry run only plans."""
    from latentmix.experiment import stages as sweep
    from latentmix.runner import executor as launch

    if command not in ("evaluate", "probe") and sweep.synthesis not in stages:  # the former need no images to invert
        stages = [sweep.synthesis, *stages]
    if dry_run:
        _report(experiment, command, stages)
        return
    with launch.joining(experiment, command) as claims:
        launch.work(experiment, stages, claims)


def _report(experiment: "Experiment", command: str, stages: Sequence[Any]) -> None:
    from latentmix.commands import doctor
    from latentmix.experiment import batch_size as memory
    from latentmix.runner import executor as launch

    wanting = doctor.outlined(experiment, command)
    experiment.check(images=command in doctor.OF_IMAGES)
    memory.recall(experiment)
    launch.report(experiment, [plan(experiment) for plan in stages], doctor.needed(experiment, command))
    for found in wanting:
        _say(found.line)
    if any(found.advice for found in wanting):
        _say("latentmix doctor says what to do about it")


def _say(text: str) -> None:
    typer.echo(text)


def _complain(text: str) -> None:
    """Without what a name of a file could tell a terminal to do."""
    shown = "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)
    typer.echo(f"latentmix: {shown}", err=True)


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    if category is UserWarning and not str(message).startswith("Failed"):
        _complain(f"warning: {message}")


if __name__ == "__main__":
    main()
