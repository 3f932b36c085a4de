"""Checks of the device: whether it can be used, whether there is a better one, and whether a CPU will do."""

import shutil
import subprocess
import time
from collections.abc import Sequence

import torch

from latentmix.checks.downloads import local_pipeline
from latentmix.checks.finding import Finding, readable_size
from latentmix.checks.space import free_memory
from latentmix.errors import UserError
from latentmix.experiment.experiment import Experiment
from latentmix.models.placeholder import ARCHITECTURES
from latentmix.models.random_weights import denoiser_parameters
from latentmix.runner.console import duration
from latentmix.runner.tasks import Stage
from latentmix.threads import usable_cores

# Of SD 1.5: the operations of an evaluation, its parameters, the area of its latents.
SD15_OPERATIONS, SD15_PARAMETERS, SD15_AREA = 0.8e12, 8.6e8, 64 * 64
ADVICE = (  # where torch can't use a GPU that is there
    "nvidia-smi shows the newest CUDA that the driver knows; install torch >= 2.11 for it or for an older one,",
    "as https://pytorch.org/get-started/locally says, or a newer driver; device=cpu uses the CPU without this warning",
)
LONG = 900  # estimated seconds on a CPU that are worth a warning


def check_device(experiment: Experiment) -> list[Finding]:
    """Return whether the device can be used, and a warning of a GPU that device=auto could not take."""
    try:
        device = experiment.device
    except UserError as error:
        return [Finding("missing", "device", str(error))]
    name = f"cpu, {usable_cores()} cores" if device.type == "cpu" else experiment.device_name
    free = free_memory(device)
    found = Finding("ok", "device", name if free is None else f"{name}, {readable_size(free)} of memory")
    if device.type != "cpu" or experiment.config.device != "auto" or (gpu := _nvidia_gpu()) is None:
        return [found]
    text = f"there is an NVIDIA GPU that this torch ({torch.__version__}) cannot use ({gpu}), so the CPU is taken"
    return [found, Finding("warning", "device", text, ADVICE)]


def _nvidia_gpu() -> str | None:
    """Return name and driver of the first NVIDIA GPU, as its driver's own tool says; None if it names none."""
    if (tool := shutil.which("nvidia-smi")) is None:
        return None
    query = [tool, "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        said = subprocess.run(query, capture_output=True, text=True, timeout=5, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    name, _, driver = said.partition("\n")[0].rpartition(", ")
    return f"{name}, driver {driver}" if name else None


def check_speed(experiment: Experiment, work: Sequence[Stage]) -> list[Finding]:
    """Return a warning with a rough estimate where the diffusion network takes long on a CPU."""
    config = experiment.config.model
    if experiment.device.type != "cpu" or (config.embedded and config.path is None):
        return []
    _, height, width = experiment.model.latent_shape(config.size)
    parameters = denoiser_parameters(local_pipeline(config) or ARCHITECTURES / str(config.architecture))
    operations = SD15_OPERATIONS * parameters / SD15_PARAMETERS * height * width / SD15_AREA
    each, evaluations = operations / _operations_per_second(), sum(stage.nfe for stage in work)
    if evaluations * each < LONG:
        return []
    text = (
        f"{config.name} is slow on a CPU: {evaluations:,} network evaluations of about {each:.2g} s "
        f"take some {duration(evaluations * each)}; use a GPU, or take fewer draws, steps and methods"
    )
    return [Finding("warning", "device", text)]


def _operations_per_second() -> float:
    """Return the floating-point operations a second of large matrix products on this CPU."""
    a, seconds = torch.ones(1024, 1024), []
    for _ in range(3):
        start = time.perf_counter()
        _ = a @ a
        seconds.append(time.perf_counter() - start)
    return 2 * 1024**3 / min(seconds)
