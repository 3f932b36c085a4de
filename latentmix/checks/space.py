"""Checks of memory and disk space."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch

from latentmix.checks.downloads import nearest_folder
from latentmix.checks.finding import Finding, readable_size
from latentmix.errors import UserError
from latentmix.experiment.batch_size import estimate
from latentmix.experiment.experiment import Experiment
from latentmix.experiment.stages import StageType
from latentmix.models.pipeline import find, network_files
from latentmix.threads import usable_cores
from latentmix.weight_files import parameters

NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")
ADVICE = (  # where torch can't use a GPU that is there
    "nvidia-smi shows the newest CUDA that the driver knows; install torch >= 2.11 for it or for an older one,",
    "as https://pytorch.org/get-started/locally says, or a newer driver; device=cpu uses the CPU without this warning",
)


def check_device(experiment: Experiment) -> Finding:
    """Return whether the device can be used."""
    try:
        device = experiment.device
    except UserError as error:
        return Finding("missing", "device", str(error))
    name = experiment.device_name if device.type == "cuda" else f"{device.type}, {usable_cores()} cores"
    free = _free_memory(device)
    text = name if free is None else f"{name}, {readable_size(free)} of memory"
    if experiment.config.device == "auto" and device.type == "cpu" and NVIDIA_DRIVER.exists():
        found = f"this machine has an NVIDIA GPU, which torch {torch.__version__} can't use; the device is {text}"
        return Finding("warning", "device", found, ADVICE)
    return Finding("ok", "device", text)


def check_memory(experiment: Experiment) -> Finding:
    """Return whether the largest network fits into memory; networks are loaded one after another."""
    needed, free = _largest_network(experiment), _free_memory(experiment.device)
    text = f"the model's largest network takes {readable_size(needed)}"
    if free is None or needed < free:
        return Finding("ok", "memory", text)
    owner = "the GPU" if experiment.device.type == "cuda" else "this machine"
    is_float32 = experiment.model.dtype.itemsize == 4
    instead = "model.precision=bfloat16 or a smaller model" if is_float32 else "a smaller model"
    return Finding("warning", "memory", f"{text}, and {owner} has {readable_size(free)}; try {instead}")


def _free_memory(device: torch.device) -> int | None:
    """Return the GPU's free memory, or a machine's whole memory; None if the system does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def _largest_network(experiment: Experiment) -> int:
    """Return the bytes of the largest of the model's networks, in the precision that it runs in."""
    networks = network_files(find(experiment.config.model)).values()
    return max(sum(map(parameters, files)) for files in networks) * experiment.model.dtype.itemsize


def check_disk(experiment: Experiment, stages: Sequence[StageType]) -> Finding:
    """Return whether what the stages will write fits on the disk of `outputs`."""
    outputs = experiment.config.outputs
    folder = nearest_folder(outputs)
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        return Finding("missing", "disk", f"{folder} can't be written to; choose another place with outputs=")
    free, needed = shutil.disk_usage(folder).free, bytes_written(experiment, stages)
    if needed > free:
        text = f"about {readable_size(needed)} will be written to {outputs}, which has {readable_size(free)} left"
        advice = "free some space, choose another place with outputs=, or lower draws, pool or keep"
        return Finding("missing", "disk", f"the disk is too small: {text}; {advice}")
    text = f"{readable_size(free)} are free at {outputs}"
    return Finding("ok", "disk", f"{text}, and about {readable_size(needed)} will be written" if stages else text)


def bytes_written(experiment: Experiment, stages: Sequence[StageType]) -> int:
    """Return the bytes that the unfinished tasks of stages write."""
    return sum(stage.plan(experiment, estimate(experiment)).bytes for stage in stages)
