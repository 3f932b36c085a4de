"""`latentmix cache`: its arguments, options and help."""

from typing import Annotated

from typer import Argument, Option

from latentmix.cli.shared import DryRun, Outputs, command, composed, use_outputs
from latentmix.errors import UserError


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
