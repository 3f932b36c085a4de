"""What an experiment needs of the machine: doctor, bench, fetch, cache."""

from typing import Annotated

from typer import Argument, Exit, Option

from latentmix.cli.shared import (
    DryRun,
    OfFigure,
    Outputs,
    Overrides,
    command,
    composed,
    needed,
    prepared,
    say,
    use_outputs,
)
from latentmix.errors import UserError


@command(
    "latentmix doctor experiment=demo",
    "latentmix doctor model=sd15",
    "latentmix doctor --figure fig10 model=sd15 data=imagenet-hub data.limit=128",
)
def doctor(overrides: Overrides = None, figure: OfFigure = None) -> None:
    """Check that everything an experiment needs is here: a line for each thing, and what to do if it is missing."""
    from latentmix.commands import doctor

    if not doctor.run(*needed(overrides, figure)):
        raise Exit(1)


@command("latentmix bench", "latentmix bench model=sd15 --random", "latentmix bench steps=10 batch=16")
def bench(
    overrides: Overrides = None,
    repeat: Annotated[int, Option(help="Times to measure each; the best counts.", min=1)] = 3,
    random: Annotated[bool, Option("--random", help="Use random weights at full size; needs no files.")] = False,
) -> None:
    """Measure how fast images are generated, beside diffusers' own pipeline: images/s, TFLOP/s, memory (bench.json)."""
    from latentmix.commands import bench
    from latentmix.models.architectures import random_folder

    more = []
    if random:
        config = composed(overrides)
        more = [f"model.path='{random_folder(config.model.name, config.cache / 'random')}'"]
    say(str(bench.run(prepared([*(overrides or []), *more]), repeat)))


@command("latentmix fetch model=sd15", "latentmix fetch --figure fig5 model=sd15")
def fetch(overrides: Overrides = None, figure: OfFigure = None) -> None:
    """Download the weights and images that an experiment needs, ahead of time."""
    from latentmix.commands import fetch

    experiments, stages = needed(overrides, figure)
    for experiment in experiments:
        for line in fetch.run(experiment, stages):
            say(line)


@command(
    "latentmix cache",
    "latentmix cache --unused --dry-run",
    "latentmix cache --older-than 30d --unused",
    "latentmix cache --run demo --yes",
)
def cache(
    where: Annotated[
        list[str] | None,
        Argument(metavar="[outputs=DIR]", help="The folder of all runs; by default that of the configs."),
    ] = None,
    outputs: Outputs = None,
    older_than: Annotated[
        str | None, Option(metavar="AGE", help="Remove what was not used for this long: 12h, 30d, 8w.")
    ] = None,
    run: Annotated[str | None, Option(help="Remove what only this run uses: its name, or its folder.")] = None,
    unused: Annotated[bool, Option("--unused", help="Remove what no run uses.")] = False,
    yes: Annotated[bool, Option("--yes", help="Do not ask before removing.")] = False,
    dry_run: DryRun = False,
) -> None:
    """List what OUTPUTS/cache holds, and remove what is not needed any more."""
    from latentmix.commands import cache

    if wrong := [text for text in where or [] if not text.startswith("outputs=")]:
        raise UserError(f"{wrong[0]} is not outputs=DIR; a run is given as --run NAME")
    use_outputs(outputs, *(where or []))
    folder = composed([]).outputs
    if run is not None and (found := cache.find(run, folder)) is not None:
        folder, run = found.parent, found.name
    cache.run(folder, older_than, run, unused, yes, dry_run)
