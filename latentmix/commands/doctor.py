"""`latentmix doctor`: check that everything that a run needs is here, and say what to do about what is missing."""

import platform
from collections.abc import Sequence

from latentmix import checks
from latentmix.checks.finding import Finding
from latentmix.commands.shared import session
from latentmix.experiment.experiment import Experiment
from latentmix.experiment.stages import StageType


def run(experiments: Sequence[Experiment], stages: Sequence[StageType]) -> bool:
    """Print what was found. Return False if something is missing."""
    versions = {"python": platform.python_version()} | checks.versions()
    findings = [Finding("ok", "versions", ", ".join(f"{name} {version}" for name, version in versions.items()))]
    for experiment in experiments:
        findings += checks.examine(experiment, stages)
    for line in dict.fromkeys(line for finding in findings for line in finding.lines()):
        session.say(line)
    return all(finding.state != "missing" for finding in findings)
