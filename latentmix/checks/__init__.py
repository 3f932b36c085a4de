"""Check that everything that the stages of a run need is here: device, weights, images, memory and disk space."""

import sys
import warnings
from collections.abc import Sequence
from contextlib import suppress
from importlib import metadata

from latentmix.checks.data import check_data, doubts, offline
from latentmix.checks.downloads import look
from latentmix.checks.finding import Finding
from latentmix.checks.machine import check_device, check_disk, check_memory, check_speed
from latentmix.config import Config
from latentmix.data import load_dataset
from latentmix.errors import UserError
from latentmix.experiment.batch_size import determine
from latentmix.experiment.experiment import Experiment
from latentmix.experiment.stages import StageType, reads
from latentmix.feature_networks import frechet_width
from latentmix.metrics.distances import PARTS
from latentmix.mixing import HALF_A_POOL
from latentmix.runner.tasks import Stage

# Packages that results depend on.
PACKAGES = ("latentmix", "torch", "diffusers", "transformers", "open_clip_torch", "torchmetrics", "datasets", "numpy")


def measuring_parts(stages: Sequence[StageType], experiment: Experiment) -> tuple[str, ...]:
    """Return the networks that the stages measure with: keys of `downloads.FILES`, and names of metrics' own."""
    needed, config = reads(stages), experiment.config
    parts: tuple[str, ...] = (*experiment.measured_with, *experiment.own_networks) if "networks" in needed else ()
    return (*parts, "pairs") if "perceptual" in needed and config.measures_diversity else parts


def examine(experiment: Experiment, stages: Sequence[StageType], plan: bool = True) -> list[Finding]:
    """Return a finding for each thing that the stages need.

    Without `plan`, the work is planned only if something is missing, to check the disk before a download.
    """
    config = experiment.config
    (device, *better), model = check_device(experiment), look("model", config.model)
    if device.state == model.state == "ok":
        model = _check_settings(experiment, model)
    if load_dataset(config.data).from_model and model.state != "ok":
        data = Finding("fetch", "data", "the images are generated once the model is here")
    else:
        data = check_data(experiment, reads(stages))
    warned = doubts(experiment) if data.state == "ok" else []
    networks = [look(part, config.model) for part in measuring_parts(stages, experiment)]
    warned += _check_extrapolation(config) if "networks" in reads(stages) else []
    warned += _check_pool(config)
    ready = device.state == model.state == data.state == "ok"
    memory = [check_memory(experiment)] if ready else []
    work = _check_work(experiment, stages, ready) if plan or not ready else [check_disk(config.outputs, [])]
    return [device, *better, model, data, *warned, *networks, *memory, *work]


def _check_extrapolation(config: Config) -> list[Finding]:
    """Return a warning if the smallest part that `fid_infinity` extrapolates from has fewer draws than features."""
    if "fid_infinity" not in config.metrics:
        return []
    width, smallest = frechet_width(config.model.features), config.draws // PARTS
    if smallest >= width:
        return []
    text = (
        f"fid_infinity is no better than fid here: it extrapolates from parts of {smallest} to {config.draws} draws, "
        f"and needs at least {width}, the length of the features, in each; take draws={PARTS * width}, or fid or kid"
    )
    return [Finding("warning", "meaning", text)]


def _check_pool(config: Config) -> list[Finding]:
    """Return a warning if methods of the pool's mean mix more than half of it."""
    pooled, n = [str(method) for method in config.methods if method.of_pool], max(config.n)
    if not pooled or 2 * n <= config.pool:
        return []
    return [Finding("warning", "meaning", f"{', '.join(pooled)}: N = {n} of pool={config.pool}; {HALF_A_POOL}")]


def require(experiment: Experiment, stages: Sequence[StageType]) -> None:
    """Raise UserError, which names everything that is missing, before any work is done.

    Warn of what may go wrong, and print what will be downloaded. Checks that need plans are in `require_work`.
    """
    _act_on(examine(experiment, stages, plan=False))


def require_work(experiment: Experiment, planned: Sequence[Stage]) -> None:
    """Raise UserError if the disk is too small for what is planned. Warn if it takes long on this CPU."""
    _act_on([check_disk(experiment.config.outputs, planned), *check_speed(experiment, planned)])


def _act_on(findings: Sequence[Finding]) -> None:
    for finding in findings:
        if finding.state == "warning":
            warnings.warn(finding.text, stacklevel=2)
    missing = [finding for finding in findings if finding.state == "missing"]
    if missing:
        more = "; latentmix doctor says what to do" if any(finding.advice for finding in missing) else ""
        raise UserError("; ".join(finding.text for finding in missing) + more)
    for finding in findings:
        if finding.state == "fetch":
            print(f"latentmix: {finding.text}", file=sys.stderr)


def versions() -> dict[str, str]:
    """Return the versions of the packages that results depend on, or "not installed"."""
    found = dict.fromkeys(PACKAGES, "not installed")  # as latentmix itself is, if it is run from its folder
    for name in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def _check_settings(experiment: Experiment, found: Finding) -> Finding:
    """Return `found`, or a finding that the model's settings can't be used."""
    try:
        with offline():
            _ = experiment.model, experiment.inversion_schedule, experiment.generation_schedule
    except UserError as error:
        return Finding("missing", "model", str(error))
    return found


def _check_work(experiment: Experiment, stages: Sequence[StageType], ready: bool) -> list[Finding]:
    """Return findings on disk and CPU for the work of the stages; unless `ready`, it is planned with stand-ins."""
    planned = experiment if ready else experiment.planned()
    try:
        work = [stage.plan(planned, determine(planned, measure=False)) for stage in stages]
        slow = [] if planned.config.launch.on_gpus_elsewhere else check_speed(planned, work)
        return [check_disk(planned.config.outputs, work), *slow]
    except UserError:  # the stages can't be planned, and their own plan will say why
        return [check_disk(planned.config.outputs, [])]
