"""`latentmix fetch`: download the weights and images that a run needs, ahead of time."""

from collections.abc import Iterator, Sequence

from latentmix import checks
from latentmix.checks.data import check_data, class_count
from latentmix.checks.downloads import download, files_of, location
from latentmix.checks.finding import row
from latentmix.errors import UserError
from latentmix.experiment.experiment import Experiment
from latentmix.experiment.stages import StageType, reads


def run(experiment: Experiment, stages: Sequence[StageType]) -> Iterator[str]:
    """Download everything that stages need and that is not here. Yield a line for each part when it is here."""
    config, needed = experiment.config, reads(stages)
    for part in ("model", *checks.measuring_parts(stages, experiment)):
        files = files_of(part, config.model)
        existing = files.look()
        if existing is None:
            download(files)
        state = "new" if existing is None else "there"
        yield row(state, part, f"{files.name} {location(existing or files.look())}")
    before = check_data(experiment, needed)
    if before.state == "missing":
        raise UserError(before.text)
    classes = experiment.classes  # may fetch their names
    if "pool" not in needed:
        return
    read = [experiment.data.pool, *([experiment.data.references] if "references" in needed else [])]
    images = {source.id for images_of in read for class_id in classes for source in images_of(class_id)}
    state = "there" if before.state == "ok" else "new"
    yield row(state, "data", f"{len(images):,} images of {class_count(experiment)} {experiment.data.dataset.home()}")
