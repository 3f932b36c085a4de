"""`latentmix compare`: its arguments, options and help."""

from pathlib import Path
from typing import Annotated

from typer import Option

from latentmix.cli.shared import Outputs, Runs, command, named_runs, say_all


@command(
    "latentmix compare demo-tiny outputs/demo-tiny-sd3",
    "latentmix compare inversions-ddim inversions-null_text --out outputs/inversions",
)
def compare(
    runs: Runs,
    out: Annotated[
        Path | None, Option(metavar="DIR", help="Write comparison.csv and comparison-pairs.csv there.")
    ] = None,
    outputs: Outputs = None,
) -> None:
    """Show several runs in one table, and their differences from the first one where the draws are the same."""
    from latentmix.commands import compare

    say_all(compare.run(named_runs(runs, outputs), out))
