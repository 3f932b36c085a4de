"""`latentmix status`: its arguments, options and help."""

from latentmix.cli.shared import Outputs, Runs, command, named_runs


@command("latentmix status demo", "latentmix status outputs/demo")
def status(runs: Runs, outputs: Outputs = None) -> None:
    """Show what of a run is done, running and left, and which workers are alive."""
    from latentmix.commands import status

    for run in named_runs(runs, outputs):
        status.run(run)
