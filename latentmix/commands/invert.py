"""`latentmix invert`: images -> latents at t = T, kept in the cache."""

from latentmix.commands import session
from latentmix.experiment.experiment import Experiment
from latentmix.experiment.stages import INVERT, SYNTHESIZE

STAGES = (SYNTHESIZE, INVERT)


def run(experiment: Experiment, dry_run: bool) -> None:
    """Invert the pool of every class."""
    if dry_run:
        session.report_plan(experiment, STAGES)
        return
    session.run_stages(experiment, STAGES, "invert")
    session.say(f"latents of {len(experiment.classes)} classes are in {experiment.config.cache / 'latents'}")
