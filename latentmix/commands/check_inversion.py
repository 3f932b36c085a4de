"""`latentmix check-inversion`: check an inversion against its contract, on a few images of the config's data."""

import torch

from latentmix import checks
from latentmix.commands.shared import session
from latentmix.experiment.experiment import Experiment
from latentmix.experiment.generation import pixels
from latentmix.experiment.stages import INVERT
from latentmix.inversion.contract_check import Trial, check

IMAGES = 3


@torch.no_grad()
def run(experiment: Experiment) -> bool:
    """Print a line for each rule of the contract. Return False if one of them is broken."""
    checks.require(experiment, [INVERT])
    experiment.check()
    config, class_id = experiment.config, experiment.classes[0]
    images = pixels(experiment.data.pool(class_id)[:IMAGES], config.model.size)
    trial = Trial(
        experiment.inversion,
        config.inversion,
        experiment.inverter,
        experiment.inversion_schedule,
        experiment.model.encode(images),
        experiment.texts.conditioning(class_id, config.inversion.guidance, experiment.inverter),
    )
    findings = check(trial)
    for finding in findings:
        session.say(f"{'ok' if finding.passed else 'broken':<8}{finding.name:<26}{finding.detail}")
    return all(finding.passed for finding in findings)
