"""`latentmix figure`: draw one figure of the paper, after running what it needs."""

from collections.abc import Sequence
from pathlib import Path

from latentmix import checks
from latentmix.commands import sweep
from latentmix.commands.shared import session
from latentmix.experiment.experiment import Experiment
from latentmix.experiment.stages import StageType
from latentmix.experiment.sweep import SWEEP
from latentmix.figures import registry


def run(name: str, overrides: Sequence[str], arguments: Sequence[str], dry_run: bool) -> list[Path]:
    """Run what a figure needs and draw it. Return the files written: PNG, PDF and the caption."""
    experiments, stages = needs(name, overrides)
    if dry_run:
        for experiment in experiments:
            session.report_plan(experiment, stages)
        return []
    for experiment in experiments[1:]:
        checks.require(experiment, stages)  # the second model must be here before the first one runs for hours
    for experiment in experiments:
        if stages is SWEEP:
            session.refuse_to_overwrite(experiment.config)
        if stages:
            session.run_stages(experiment, stages, name)
        if experiment is not experiments[-1]:
            experiment.release()  # two models need not fit into memory
    if stages is SWEEP:
        sweep.finish(experiments[0], arguments)  # a whole run, which `latentmix report` takes too
    return registry.draw(name, experiments, registry.stem(name, overrides))


def needs(name: str, overrides: Sequence[str]) -> tuple[list[Experiment], Sequence[StageType]]:
    """Return the experiments of a figure, one for each model that it shows, and the stages that each must run."""
    figure = registry.find(name)
    return [session.prepare(config) for config in registry.configs(name, overrides)], figure.stages
