"""What looks at runs that exist."""

from typing import Annotated

import typer

from latentmix.cli.shared import app, example, say


@app.command(epilog=example("latentmix status demo", "latentmix status outputs/demo"))
def status(run: Annotated[str, typer.Argument(help="A run: its folder, or its name.")]) -> None:
    """Show what of a run is done, running and left, and which workers are alive."""
    from latentmix.commands import status

    status.run(run)


@app.command(epilog=example("latentmix report demo", "latentmix report outputs/demo"))
def report(run: Annotated[str, typer.Argument(help="A finished run: its folder, or its name.")]) -> None:
    """Write report.html in a finished run's folder: curves, a table, pictures and settings, on one page to send."""
    from latentmix.report import write_report

    say(str(write_report(run)))
