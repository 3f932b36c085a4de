"""The command line. Every command takes Hydra overrides (`n=[2,8]`, `model=sd15`) and continues what is there.

Nothing heavy is imported here: torch, hydra and the rest come inside commands, so that `--help` answers at once.
"""

import sys
import warnings
from typing import TYPE_CHECKING, Annotated, Any

import typer

from latentmix.errors import UserError

if TYPE_CHECKING:
    from latentmix.bench import Bench

app = typer.Typer(
    name="latentmix",
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
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")]


def example(*lines: str) -> str:
    return "Examples:\n\n" + "\n\n".join(f"    {line}" for line in lines)


@app.command(epilog=example("latentmix invert 'data.classes=[star]' pool=64", "latentmix invert inversion.steps=100"))
def invert(overrides: Overrides = None, dry_run: DryRun = False) -> None:
    """Images -> latents at t = T, kept in the cache."""
    from latentmix import sweep

    bench = _bench(overrides)
    _work(bench, "invert", [sweep.inversion], dry_run)
    if not dry_run:
        _say(f"latents of {len(bench.classes)} classes are in {bench.config.cache / 'latents'}")


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
    from latentmix import sweep

    bench = _bench(overrides)
    if weights is None:
        _work(bench, "mix", [sweep.inversion, sweep.mixing], dry_run)
        if not dry_run:
            _say(f"centroids of {len(bench.cells)} cells are in {bench.config.cache / 'cells'}")
        return
    from latentmix.look import mix_once, mixture

    wanted = mixture(bench, class_id or bench.classes[0], weights)
    _work(bench, "invert", [sweep.inversion], dry_run)
    if not dry_run:
        for path in mix_once(bench, wanted):
            _say(str(path))


@app.command(epilog=example("latentmix generate 'n=[64]' 'methods=[fix/0,fix/chm]' draws=8"))
def generate(overrides: Overrides = None, dry_run: DryRun = False) -> None:
    """Mixed latents -> images, all of them kept as PNG."""
    from latentmix import sweep

    bench = _bench(overrides)
    stages = [sweep.inversion, lambda b: sweep.generation(b, b.config.draws, measure=False)]
    _work(bench, "generate", stages, dry_run)
    if not dry_run:
        from latentmix.look import copy_pictures

        _say(f"images are in {copy_pictures(bench)}")


@app.command(epilog=example("latentmix evaluate experiment=demo"))
def evaluate(overrides: Overrides = None, dry_run: DryRun = False) -> None:
    """Images -> features -> metrics.csv, for what has been generated."""
    from latentmix import sweep

    bench = _bench(overrides)
    _work(bench, "evaluate", [sweep.references, lambda b: sweep.measurement(b, required=True)], dry_run)
    if not dry_run:
        _finish(bench)


@app.command(
    name="sweep",
    epilog=example(
        "latentmix sweep experiment=demo",
        "latentmix sweep experiment=fig7 model=sd15 data=folder data.path=imagenet/train --dry-run",
        "latentmix sweep 'n=[2,8,32]' 'methods=[fix/0,fix/chm]' draws=100",
    ),
)
def sweep_(
    overrides: Overrides = None,
    dry_run: DryRun = False,
    profile: Annotated[
        bool, typer.Option("--profile", help="Show where the time went, and keep profile.json.")
    ] = False,
) -> None:
    """All of it, over classes, N and methods: metrics.csv, Fig. 7 and Fig. 1."""
    if profile:
        from latentmix.spent import taken

        with taken() as time:
            bench = _sweep(overrides, dry_run)
        if not dry_run:
            from latentmix.launch import account

            _say(str(account(bench, time)))
    else:
        _sweep(overrides, dry_run)


def _sweep(overrides: list[str] | None, dry_run: bool) -> "Bench":
    from latentmix import sweep

    bench = _bench(overrides)
    stages = [
        sweep.references,
        sweep.inversion,
        lambda b: sweep.measurement(b, required=False),
        lambda b: sweep.generation(b, b.config.keep, measure=True),
    ]
    _work(bench, "sweep", stages, dry_run)
    if not dry_run:
        _finish(bench)
    return bench


@app.command(
    epilog=example(
        "latentmix diagnose experiment=demo", "latentmix diagnose 'data.classes=[star,heart]' pool=256 steps=20"
    )
)
def diagnose(overrides: Overrides = None, dry_run: DryRun = False) -> None:
    """What latents have in common, and how many can be mixed without mean adjustment: diagnosis.json and Fig. 4."""
    from latentmix import sweep

    bench = _bench(overrides)
    _work(bench, "diagnose", [sweep.inversion], dry_run)
    if not dry_run:
        from latentmix.bias import diagnosed, record, show
        from latentmix.figures.bias import draw_growth

        diagnoses = {class_id: diagnosed(bench, class_id) for class_id in bench.classes}
        show(bench, diagnoses)
        for path in (record(bench, diagnoses), *draw_growth(bench, diagnoses, bench.config.folder / "fig4")):
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
    from latentmix import probe as probes

    bench = _bench(overrides)
    wanted = probes.parse(class_id, offsets, channels, region, share, draws)
    _work(bench, "probe", [lambda b: probes.probing(b, wanted)], dry_run)
    if not dry_run:
        for path in probes.finish(bench, wanted):
            _say(str(path))


@app.command(
    epilog=example(
        "latentmix reconstruct 'data.classes=[star]' pool=64 steps=50 guidance=1",
        "latentmix reconstruct inversion=null_text guidance=7.5",
    )
)
def reconstruct(overrides: Overrides = None, dry_run: DryRun = False) -> None:
    """Images -> latents at t = T -> images: how near an inversion returns (reconstruction.csv and a picture)."""
    from latentmix import reconstruct as round_trip
    from latentmix import sweep

    bench = _bench(overrides)
    _work(bench, "reconstruct", [sweep.inversion, round_trip.reconstruction], dry_run)
    if not dry_run:
        for path in round_trip.compare(bench):
            _say(str(path))


@app.command(epilog=example("latentmix figure fig7 experiment=demo"))
def figure(name: Annotated[str, typer.Argument(help="fig1, fig4 or fig7.")], overrides: Overrides = None) -> None:
    """The results of a finished run -> a picture of the paper's kind, as PNG and PDF."""
    from latentmix.figures import FIGURES

    if name not in FIGURES:
        raise UserError(f"there is no figure {name!r}; there are {', '.join(FIGURES)}")
    bench = _bench(overrides)
    for path in FIGURES[name](bench, bench.config.folder / name):
        _say(str(path))


@app.command(epilog=example("latentmix report demo", "latentmix report outputs/demo"))
def report(run: Annotated[str, typer.Argument(help="A finished run: its folder, or its name in outputs/.")]) -> None:
    """A finished run -> report.html in its folder: curves, a table, pictures and settings, on one page to send."""
    from latentmix.report import write_report

    _say(str(write_report(run)))


@app.command(epilog=example("latentmix doctor experiment=demo", "latentmix doctor model=sd15"))
def doctor(overrides: Overrides = None) -> None:
    """Is all that an experiment needs here? A line for each thing, and what to do about what is missing."""
    from latentmix.doctor import examine, versions

    findings = [versions(), *examine(_bench(overrides))]
    for line in (line for finding in findings for line in finding.lines()):
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
    from latentmix import benchmark, memory

    bench = _bench(overrides)
    if random:
        from latentmix.models.published import random_folder

        folder = random_folder(bench.config.model.name, bench.config.cache / "random")
        bench = _bench([*(overrides or []), f"model.path='{folder}'"])
    memory.settle(bench)
    benchmark.show(benchmark.measure(bench, repeat))
    _say(str(bench.config.folder / "bench.json"))


@app.command(epilog=example("latentmix fetch model=sd15"))
def fetch(overrides: Overrides = None) -> None:
    """Weights and images that an experiment needs from elsewhere -> this machine, ahead of time."""
    from latentmix import doctor

    for line in doctor.fetch(_bench(overrides)):
        _say(line)


def main() -> None:
    """The entry point: user errors become one line."""
    warnings.showwarning = _show_warning
    try:
        app()
    except UserError as error:
        _complain(f"error: {error}")
        sys.exit(error.exit_code)


def _bench(overrides: list[str] | None) -> "Bench":
    from latentmix.spent import spent

    with spent("starting"):
        from latentmix.config import compose

        config = compose(overrides or [])
        from latentmix.bench import Bench
        from latentmix.launch import prepare

        prepare(config.launch)
        return Bench(config)


def _work(bench: "Bench", command: str, stages: list[Any], dry_run: bool) -> None:
    """Plan each stage and do it, with a bar, if all that the command needs is here; a dry run only plans."""
    from latentmix import doctor, launch, memory, sweep
    from latentmix.spent import spent

    if command not in ("evaluate", "probe"):  # which need no images to invert
        stages = [sweep.synthesis, *stages]
    with spent("starting"):
        if not dry_run:
            doctor.require(bench, command)
        bench.check()
    if dry_run:
        launch.report(bench, [plan(bench) for plan in stages], doctor.needed(bench, command))
        return
    if command != "evaluate":
        memory.settle(bench)
    for plan in stages:
        launch.run(bench, plan)


def _finish(bench: "Bench") -> None:
    from latentmix.evaluate import evaluate
    from latentmix.figures import FIGURES
    from latentmix.launch import conclude
    from latentmix.spent import spent

    with spent("evaluating"):
        results = evaluate(bench)
    unfit = {"fig4"} if bench.config.keep > 0 else {"fig1", "fig4"}  # fig4 shows no results, but latents: diagnose does
    names = [name for name in FIGURES if name not in unfit]
    with spent("drawing"):
        pictures = [path for name in names for path in FIGURES[name](bench, bench.config.folder / name)]
    conclude(bench, results, pictures)


def _say(text: str) -> None:
    typer.echo(text)


def _complain(text: str) -> None:
    typer.echo(f"latentmix: {text}", err=True)


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    if category is UserWarning and not str(message).startswith("Failed"):
        _complain(f"warning: {message}")


if __name__ == "__main__":
    main()
