"""`latentmix probe`: its arguments, options and help."""

from typing import Annotated

from typer import Option

from latentmix.cli.shared import ClassName, DryRun, Overrides, command, prepared, say_all


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
