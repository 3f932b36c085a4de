"""`latentmix check-inversion`: its arguments, options and help."""

from typing import Annotated

from typer import Argument, Exit

from latentmix.cli.shared import Overrides, command, prepared
from latentmix.errors import UserError


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
