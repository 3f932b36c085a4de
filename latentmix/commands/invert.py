"""`latentmix invert`: images -> latents at t = T, kept in the cache."""

from latentmix.commands.shared import session
from latentmix.experiment.experiment import Experiment
from latentmix.experiment.stages import INVERT
from latentmix.experiment.synthesis import SYNTHESIZE

STAGES = (SYNTHESIZE, INVERT)


def run(experiment: Experiment, dry_run: bool) -> None:
    """Invert the pool of every class."""
    if session.run_stages(experiment, STAGES, "invert", dry_run):
        session.say(f"latents of {len(experiment.classes)} classes are in {experiment.config.cache / 'latents'}")
