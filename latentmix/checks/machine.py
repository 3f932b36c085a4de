"""Checks of this machine: its device, the speed of its CPU, memory and disk space."""

import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch

from latentmix.checks.downloads import local_pipeline, nearest_folder
from latentmix.checks.finding import Finding, readable_size
from latentmix.errors import UserError
from latentmix.experiment.experiment import Experiment
from latentmix.models.architectures import ARCHITECTURES, denoiser_parameters
from latentmix.models.pipeline import find, network_files
from latentmix.models.registry import family_of
from latentmix.runner.console import duration
from latentmix.runner.tasks import Stage
from latentmix.threads import usable_cores
from latentmix.weight_files import parameters

# Operations of an evaluation of SD 1.5, its parameters, and the positions of its latents.
SD15_OPERATIONS, SD15_PARAMETERS, SD15_AREA = 0.8e12, 8.6e8, 64 * 64
ADVICE = (  # if torch can't use an existing GPU
    "nvidia-smi shows the newest CUDA that the driver knows; install torch >= 2.11 for it or for an older one,",
    "as https://pytorch.org/get-started/locally says, or a newer driver; device=cpu uses the CPU without this warning",
)
LONG = 900  # estimated seconds on a CPU from which there is a warning
QUANTIZED = {"int8": 1.0, "fp8": 1.0, "nf4": 0.57}  # bytes of a weight, roughly


def check_device(experiment: Experiment) -> list[Finding]:
    """Return a finding on the device, and a warning if there is a GPU that device=auto can't use."""
    try:
        device = experiment.device
    except UserError as error:
        return [Finding("missing", "device", str(error))]
    name = f"cpu, {usable_cores()} cores" if device.type == "cpu" else experiment.device_name
    free = free_memory(device)
    text = name if free is None else f"{name}, {readable_size(free)} of memory"
    text += " here; each Slurm job asks for a GPU" * experiment.config.launch.on_gpus_elsewhere
    found = Finding("ok", "device", text)
    if device.type != "cpu" or experiment.config.device != "auto" or (gpu := _nvidia_gpu()) is None:
        return [found]
    text = f"there is an NVIDIA GPU that this torch ({torch.__version__}) cannot use ({gpu}), so the CPU is taken"
    return [found, Finding("warning", "device", text, ADVICE)]


def _nvidia_gpu() -> str | None:
    """Return name and driver of the first NVIDIA GPU from nvidia-smi; None if there is none."""
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
    """Return a warning with a rough estimate of time if the work takes long on this CPU."""
    config = experiment.config.model
    if experiment.device.type != "cpu" or (config.embedded and config.path is None):
        return []
    _, height, width = experiment.model.latent_shape(config.size)
    count = denoiser_parameters(local_pipeline(config) or ARCHITECTURES / str(config.architecture))
    operations = SD15_OPERATIONS * count / SD15_PARAMETERS * height * width / SD15_AREA
    each, evaluations = operations / _operations_per_second(), sum(stage.nfe for stage in work)
    if evaluations * each < LONG:
        return []
    time = f"{each:.2g} s" if each < 60 else duration(each)
    text = (
        f"{config.name} is slow on a CPU: {evaluations:,} network evaluations of about {time} "
        f"take some {duration(evaluations * each)}; use a GPU, or take fewer draws, steps and methods"
    )
    return [Finding("warning", "device", text)]


@cache
def _operations_per_second() -> float:
    """Return the floating-point operations a second of large matrix products on this CPU."""
    a, seconds = torch.ones(1024, 1024), []
    for _ in range(3):
        start = time.perf_counter()
        _ = a @ a
        seconds.append(time.perf_counter() - start)
    return 2 * 1024**3 / min(seconds)


def check_memory(experiment: Experiment) -> Finding:
    """Return a finding on memory for the largest network, as networks are loaded one after another."""
    needed, free = _largest_network(experiment), free_memory(experiment.device)
    text = f"the model's largest network takes {readable_size(needed)}"
    if free is None or needed < free:
        return Finding("ok", "memory", text)
    owner = "the GPU" if experiment.device.type != "cpu" else "this machine"
    is_float32 = experiment.model.dtype.itemsize == 4
    instead = "model.precision=bfloat16" if is_float32 else "model.quantize=int8 or nf4, or model.offload=true"
    return Finding("warning", "memory", f"{text}, and {owner} has {readable_size(free)}; try {instead}")


def free_memory(device: torch.device) -> int | None:
    """Return the GPU's free memory, or the machine's whole memory, in bytes; None if it is not known."""
    module = torch.get_device_module(device)
    if hasattr(module, "mem_get_info"):
        return int(module.mem_get_info(device)[0])
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def _largest_network(experiment: Experiment) -> int:
    """Return the bytes of the largest of the model's networks, in the precision that it runs in."""
    config, folder = experiment.config, find(experiment.config.model)
    count = {part: sum(map(parameters, files)) for part, files in network_files(folder).items()}
    size = max(model.dtype.itemsize for model in (experiment.model, experiment.inverter))
    needed: dict[str, float] = {part: number * size for part, number in count.items()}
    denoiser = family_of(folder).denoiser
    if config.model.quantize is not None:
        needed[denoiser] = count[denoiser] * QUANTIZED[config.model.quantize]
    if config.model.offload and experiment.device.type != "cpu":
        del needed[denoiser]
    return int(max(needed.values()))


def check_disk(outputs: Path, work: Sequence[Stage]) -> Finding:
    """Return a finding on the disk of `outputs`: whether the output of planned stages fits."""
    folder = nearest_folder(outputs)
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        return Finding("missing", "disk", f"{folder} can't be written to; choose another place with outputs=")
    free, needed = shutil.disk_usage(folder).free, sum(stage.bytes for stage in work)
    if needed > free:
        text = f"about {readable_size(needed)} will be written to {outputs}, which has {readable_size(free)} left"
        advice = "free some space, choose another place with outputs=, or lower draws, pool or keep"
        return Finding("missing", "disk", f"the disk is too small: {text}; {advice}")
    text = f"{readable_size(free)} are free at {outputs}"
    return Finding("ok", "disk", f"{text}, and about {readable_size(needed)} will be written" if work else text)
