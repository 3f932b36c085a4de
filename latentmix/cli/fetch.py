"""`latentmix fetch`: its arguments, options and help."""

from latentmix.cli.shared import OfFigure, Overrides, command, needed, say


@command("latentmix fetch model=sd15", "latentmix fetch --figure fig5 model=sd15")
def fetch(overrides: Overrides = None, figure: OfFigure = None) -> None:
    """Download the weights and images that an experiment needs, ahead of time."""
    from latentmix.commands import fetch

    experiments, stages = needed(overrides, figure)
    for experiment in experiments:
        for line in fetch.run(experiment, stages):
            say(line)
