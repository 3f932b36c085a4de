"""`latentmix doctor`: its arguments, options and help."""

from typer import Exit

from latentmix.cli.shared import OfFigure, Overrides, command, needed


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
