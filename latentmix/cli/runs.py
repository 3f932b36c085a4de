"""Runs that exist: status, compare, report."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from latentmix.cli.shared import Outputs, PushToHub, command, named_runs, say, say_all

Runs = Annotated[
    list[str], Argument(metavar="RUN...", help="Runs: their folders, or their names. outputs=DIR says where they are.")
]


@command("latentmix status demo", "latentmix status outputs/demo")
def status(runs: Runs, outputs: Outputs = None) -> None:
    """Show what of a run is done, running and left, and which workers are alive."""
    from latentmix.commands import status

    for run in named_runs(runs, outputs):
        status.run(run)


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


@command("latentmix report demo", "latentmix report demo-tiny demo-tiny-sd3")
def report(runs: Runs, push_to_hub: PushToHub = None, outputs: Outputs = None) -> None:
    """Write a page of a finished run, or of several beside each other: the answer, curves, pictures, tables, settings.

    The page of one run is report.html in its folder, as each sweep leaves it. A page needs no other files.
    """
    from latentmix.commands import push
    from latentmix.errors import UserError
    from latentmix.report import write_report

    runs = named_runs(runs, outputs)
    page = write_report(runs)
    say(str(page))
    if push_to_hub is not None:
        if len(runs) > 1:
            raise UserError("--push-to-hub pushes one run; name the runs one by one")
        say(push.push(page.parent, push_to_hub))
