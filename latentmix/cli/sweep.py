"""`latentmix sweep`: its arguments, options and help; and the hidden command of its workers."""

import sys
from pathlib import Path
from typing import Annotated

from typer import Option

from latentmix.cli.shared import DryRun, Multirun, Overrides, PushToHub, app, command, composed, say
from latentmix.errors import UserError


@command(
    "latentmix sweep experiment=demo",
    "latentmix sweep experiment=fig7 model=sd15 data=imagenet data.path=DIR --dry-run",
    "latentmix sweep 'n=[2,8,32]' 'methods=[fix/0,fix/chm]' draws=100",
    "latentmix sweep -m inversion=ddim,null_text seed=0,1,2 name=inversions",
    "latentmix sweep experiment=demo --shard 0/3",
    "latentmix sweep experiment=fig7 model=sd15 data=imagenet data.path=DIR budget=12h until=0.05",
    "latentmix sweep experiment=fig7 model=sd15 data=imagenet data.path=DIR launch=slurm launch.shards=8",
)
def sweep(
    overrides: Overrides = None,
    multirun: Multirun = False,
    shard: Annotated[
        str | None,
        Option(metavar="I/N", help="Be worker I of N (from 0) of this run; auto takes I and N from the scheduler."),
    ] = None,
    static: Annotated[
        bool, Option("--static", help="Do every N-th batch and no others, without claims; for object stores.")
    ] = False,
    dry_run: DryRun = False,
    profile: Annotated[bool, Option("--profile", help="Show where the time went, and keep profile.json.")] = False,
    push_to_hub: PushToHub = None,
) -> None:
    """Invert, mix, generate and measure, for all classes, N and methods: metrics.csv, Fig. 7 and Fig. 1."""
    from latentmix.commands import sweep
    from latentmix.commands.shared import grid, push

    part = sweep.parse_shard(shard, static)
    if push_to_hub is not None:
        push.require(push_to_hub)
        if multirun or part is not None:
            raise UserError("--push-to-hub is for one run; later: latentmix report RUN --push-to-hub OWNER/NAME")
    if multirun:

        def each(one: grid.Combination) -> None:
            sweep.run(one.config, one.arguments, part, dry_run, profile)

        grid.run("sweep", overrides or [], each, dry_run)
    else:
        config = composed(overrides)
        sweep.run(config, sys.argv[1:], part, dry_run, profile)
        if push_to_hub is not None and not dry_run and config.launch.name != "slurm":
            say(push.push(config.folder, push_to_hub))


@app.command(hidden=True)
def worker(config: Path, shard: Annotated[str, Option()]) -> None:
    """Run a shard of a run from its frozen config; `launch=local` starts this command."""
    from latentmix.commands import sweep

    sweep.work(config, shard, results=False)  # the process that started it writes the results
