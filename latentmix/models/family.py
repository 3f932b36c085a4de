"""The description of a family of models, which needs none of their weights."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from latentmix.models.protocol import Model
from latentmix.models.settings import ModelConfig, SpeedConfig


@dataclass(frozen=True)
class Family:
    """All models that one pipeline class of diffusers can hold.

    To add a family, write a file with a `Model` and a `Family`, and name it in `registry.py` or by an entry point
    `latentmix.models`.
    """

    pipeline: str  # the diffusers class in model_index.json
    networks: Mapping[str, str]  # the parts that have weights -> the class that each must have, "library.Class"
    others: tuple[str, ...]  # the parts without weights: tokenizers and the scheduler
    denoiser: str  # which of the networks predicts the noise or the velocity
    flow: bool  # whether it is a rectified flow
    gpu_precision: str  # of the denoiser on a GPU, under precision=auto; on a CPU it is float32
    spacing: str  # of the time steps, by default
    build: Callable[[Path, ModelConfig, str, torch.device, SpeedConfig], Model]  # from a folder, in a precision
    call: Callable[[Tensor, float, ModelConfig], dict[str, Any]] = lambda z, guidance, _: {
        "latents": z,
        "guidance_scale": guidance,
    }  # (latents, guidance, settings) -> the arguments with which `bench` calls the diffusers pipeline
    optional: tuple[str, ...] = ()  # parts that a pipeline can be saved without
    unread: Mapping[str, Any] = field(default_factory=dict)  # arguments for diffusers that leave out unused parts

    @property
    def parts(self) -> tuple[str, ...]:
        return (*self.others, *self.networks)

    def package(self, part: str) -> str:
        """Return the library that reads a network."""
        return self.networks[part].partition(".")[0]

    def precision(self, asked: str, device: torch.device, float32: Collection[str] = ()) -> str:
        """Return the denoiser's precision. `float32` names denoisers that precision=auto leaves in 32 bits.

        On a GPU, precision=auto then is TF32. On another device TF32 is float32.
        """
        if asked == "auto":
            on_gpu = "tf32" if self.denoiser in float32 else self.gpu_precision
            asked = "float32" if device.type == "cpu" else on_gpu
        return "float32" if asked == "tf32" and device.type != "cuda" else asked
