"""Checks of memory and disk space."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch

from latentmix.checks.downloads import nearest_folder
from latentmix.checks.finding import Finding, readable_size
from latentmix.experiment.experiment import Experiment
from latentmix.models.family_table import family_of
from latentmix.models.pipeline import find, network_files
from latentmix.runner.tasks import Stage
from latentmix.weight_files import parameters

QUANTIZED = {"int8": 1.0, "fp8": 1.0, "nf4": 0.57}  # bytes of a weight, roughly


def check_memory(experiment: Experiment) -> Finding:
    """Return whether the largest network fits into memory; networks are loaded one after another."""
    needed, free = _largest_network(experiment), free_memory(experiment.device)
    text = f"the model's largest network takes {readable_size(needed)}"
    if free is None or needed < free:
        return Finding("ok", "memory", text)
    owner = "the GPU" if experiment.device.type != "cpu" else "this machine"
    is_float32 = experiment.model.dtype.itemsize == 4
    instead = "model.precision=bfloat16" if is_float32 else "model.quantize=int8 or nf4, or model.offload=true"
    return Finding("warning", "memory", f"{text}, and {owner} has {readable_size(free)}; try {instead}")


def free_memory(device: torch.device) -> int | None:
    """Return the GPU's free memory, or a machine's whole memory; None if the system does not say."""
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
    """Return whether what planned stages will write fits on the disk of `outputs`."""
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
