"""The sweep, and its steps one by one: invert, mix, generate, evaluate."""

import sys
from pathlib import Path
from typing import Annotated

from typer import Option

from latentmix.cli.shared import (
    ClassName,
    DryRun,
    Multirun,
    Overrides,
    PushToHub,
    app,
    command,
    composed,
    prepared,
    say,
    say_all,
)
from latentmix.errors import UserError


@command("latentmix invert 'data.classes=[star]' pool=64", "latentmix invert inversion.steps=100")
def invert(overrides: Overrides = None, dry_run: DryRun = False) -> None:
    """Invert images to latents at t = T, and keep these in the cache."""
    from latentmix.commands import invert

    invert.run(prepared(overrides), dry_run)


@command(
    "latentmix mix 'n=[8]' 'methods=[fix/chm]' draws=32",
    "latentmix mix --class star --weights 0.5,0.3,0.2 'methods=[nin/chm,slerp/0]'",
)
def mix(
    overrides: Overrides = None,
    weights: Annotated[str | None, Option(help="Weights for one mixture of the first images of --class.")] = None,
    class_name: ClassName = None,
    dry_run: DryRun = False,
) -> None:
    """Mix the latents of all draws, and keep the mixtures in the cache; or make one mixture, by --weights."""
    from latentmix.commands import mix

    experiment = prepared(overrides)
    if weights is None:
        mix.run(experiment, dry_run)
    else:
        say_all(mix.run_one(experiment, class_name, weights, dry_run))


@command("latentmix generate 'n=[64]' 'methods=[fix/0,fix/chm]' draws=8")
def generate(overrides: Overrides = None, dry_run: DryRun = False) -> None:
    """Generate images from mixed latents, and keep all of them as PNG."""
    from latentmix.commands import generate

    generate.run(prepared(overrides), dry_run)


@command(
    "latentmix evaluate experiment=demo",
    "latentmix evaluate --images generated --reference photos --metrics fid,kid,precision,recall,clip_distance",
    "latentmix evaluate --images generated --reference photos --features dinov2 -o table.csv",
)
def evaluate(
    overrides: Overrides = None,
    images: Annotated[Path | None, Option(help="Instead of a run, measure the images of this folder.")] = None,
    reference: Annotated[Path | None, Option(help="The folder of real images for --images.")] = None,
    metrics: Annotated[str, Option(help="Metrics of --images, with commas between.")] = "fid,kid,precision,recall",
    features: Annotated[str, Option(help="Network of FID, KID, precision...: inception, dinov2, ...")] = "inception",
    clip: Annotated[str, Option(help="CLIP of open_clip.")] = "ViT-L-14/openai",
    perceptual: Annotated[str, Option(help="Network of diversity.")] = "alex",
    out: Annotated[Path | None, Option("-o", "--out", help="Write the table of --images to this CSV file.")] = None,
    dry_run: DryRun = False,
) -> None:
    """Measure images that were generated before, and write metrics.csv; or measure any folder against another."""
    from latentmix.commands import evaluate

    if images is None and reference is None:
        evaluate.run(prepared(overrides), sys.argv[1:], dry_run)
        return
    if images is None or reference is None or overrides or dry_run:
        raise UserError("give both --images and --reference, and no KEY=VALUE and no --dry-run beside them")
    networks = {"features": features, "clip": clip, "perceptual": perceptual}
    say_all(evaluate.run_folders(images, reference, metrics, networks, out))


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
    from latentmix.commands import grid, push, sweep

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
