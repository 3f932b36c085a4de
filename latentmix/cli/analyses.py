"""Analyses beside a sweep: diagnose, probe, reconstruct, check-inversion, figure."""

import sys
from typing import Annotated

from typer import Argument, Exit, Option

from latentmix.cli.shared import (
    ClassName,
    DryRun,
    Multirun,
    Overrides,
    command,
    each_run,
    figure_name,
    prepared,
    say_all,
)
from latentmix.errors import UserError


@command("latentmix diagnose experiment=demo", "latentmix diagnose 'data.classes=[star,heart]' pool=256 steps=20")
def diagnose(overrides: Overrides = None, multirun: Multirun = False, dry_run: DryRun = False) -> None:
    """Measure what latents share, and how many can be mixed without mean adjustment: diagnosis.json, Fig. 4."""
    from latentmix.commands import diagnose

    each_run("diagnose", overrides, multirun, lambda experiment: say_all(diagnose.run(experiment, dry_run)))


@command(
    "latentmix probe experiment=demo",
    "latentmix probe --class heart --draws 3 --offsets 0,0.2,0.4,0.8,1.6",
    "latentmix probe model=sd15 'data=synthetic' 'data.classes=[tree frog]' --region left --share 0.5",
)
def probe(
    overrides: Overrides = None,
    offsets: Annotated[str, Option(help="Offsets b; 0 is always included.")] = "0,0.1,0.2,0.4,0.8",
    channels: Annotated[str, Option(help="Channels: b is subtracted from the first, added to the second.")] = "0,1",
    region: Annotated[str, Option(help="Side of the frame that is offset: top, bottom, left or right.")] = "top",
    share: Annotated[float, Option(help="Share of the frame that is offset.")] = 0.25,
    class_name: ClassName = None,
    draws: Annotated[int, Option(help="Number of noises to start from; each is two rows of the figure.")] = 1,
    dry_run: DryRun = False,
) -> None:
    """Offset a part of the latent, before diffusion and after it, and measure what changes: probe.csv and Fig. 6."""
    from latentmix.commands import probe
    from latentmix.experiment.probe import parse

    wanted = parse(class_name, offsets, channels, region, share, draws)
    say_all(probe.run(prepared(overrides), wanted, dry_run))


@command(
    "latentmix reconstruct 'data.classes=[star]' pool=64 steps=50 guidance=1",
    "latentmix reconstruct inversion=null_text guidance=7.5",
)
def reconstruct(overrides: Overrides = None, multirun: Multirun = False, dry_run: DryRun = False) -> None:
    """Invert images, generate from their latents, and measure how close the result is: reconstruction.csv, a figure."""
    from latentmix.commands import reconstruct

    each_run("reconstruct", overrides, multirun, lambda experiment: say_all(reconstruct.run(experiment, dry_run)))


@command(
    "latentmix check-inversion ddim",
    "latentmix check-inversion null_text inversion.iterations=5",
    name="check-inversion",
)
def check_inversion(
    name: Annotated[str, Argument(help="A preset of configs/inversion, or of a folder of --config-dir.")],
    overrides: Overrides = None,
) -> None:
    """Check that an inversion keeps its contract: round trip, batches, guidance, determinism, evaluations."""
    from latentmix.commands import check_inversion

    name = name.removeprefix("inversion=")
    if given := [override for override in overrides or [] if override.startswith("inversion=")]:
        raise UserError(f"{name} is checked, and {given[0]} is another one; give one of them")
    if not check_inversion.run(prepared([f"inversion={name}", *(overrides or [])])):
        raise Exit(1)


@command(
    "latentmix figure fig8",
    "latentmix figure fig8 'data.classes=[heart]' seed=1",
    "latentmix figure fig10 model=sd15 data=imagenet-hub --dry-run",
    "latentmix figure fig7 experiment=demo",
)
def figure(
    name: Annotated[str, Argument(help="fig1 to fig12, as in the paper.")],
    overrides: Overrides = None,
    dry_run: DryRun = False,
) -> None:
    """Make a figure of the paper; run what is missing first. Write PNG, PDF and a caption that says what was run."""
    from latentmix.commands import figure

    say_all(figure.run(figure_name(name), overrides or [], sys.argv[1:], dry_run))
