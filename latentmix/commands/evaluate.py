"""`latentmix evaluate`: images -> features -> metrics, for images that were generated before."""

from collections.abc import Sequence

from latentmix.commands import session, sweep
from latentmix.experiment.diversity import COMPARE_PAIRS
from latentmix.experiment.experiment import Experiment
from latentmix.experiment.stages import MEASURE, MEASURE_REFERENCES, SYNTHESIZE

STAGES = (SYNTHESIZE, MEASURE_REFERENCES, MEASURE, COMPARE_PAIRS)


def run(experiment: Experiment, arguments: Sequence[str], dry_run: bool) -> None:
    """Measure all images of a run, and write its tables and figures."""
    if dry_run:
        session.report_plan(experiment, STAGES)
        return
    session.refuse_to_overwrite(experiment.config)
    session.run_stages(experiment, STAGES, "evaluate")
    sweep.finish(experiment, arguments)
