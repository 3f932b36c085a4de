"""`latentmix figure`: its arguments, options and help."""

import sys
from typing import Annotated

from typer import Argument

from latentmix.cli.shared import DryRun, Overrides, command, figure_name, say_all


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
