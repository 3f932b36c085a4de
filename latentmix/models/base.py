"""Base classes of models: what all families share, and what all rectified flows share."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property, partial
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import torch
from torch import Tensor

from latentmix import sampling
from latentmix.errors import UserError
from latentmix.models.attention import attention
from latentmix.models.denoiser import load_denoiser
from latentmix.models.family import Family
from latentmix.models.loading import dtype_of, load_scheduler, opened_files
from latentmix.models.protocol import Conditioning, Text, guided, matmul_precision
from latentmix.models.settings import USUAL, ModelConfig, SpeedConfig
from latentmix.models.vae import VAE
from latentmix.profiling import timed
from latentmix.sampling import Level, Schedule
from latentmix.weight_files import digest_named, read_config


class PipelineModel(ABC):
    """The part of a `Model` (see models/protocol.py) that all families share. It is read from a pipeline folder.

    The denoiser is loaded when it is first used. Latents stay in float32, whatever precision it runs in.
    """

    def __init__(
        self, folder: Path, config: ModelConfig, precision: str, device: torch.device, speed: SpeedConfig = USUAL
    ) -> None:
        self.folder = folder
        self.config = config
        self.precision = precision
        self.dtype = dtype_of(precision)
        self.device = device
        self.speed = speed
        self.vae = VAE(folder / "vae", device, speed)
        self.encode, self.decode = self.vae.encode, self.vae.decode
        self.check()

    @property
    @abstractmethod
    def family(self) -> Family:
        """Return the family's description."""

    @abstractmethod
    def check(self) -> None:
        """Raise UserError where the pipeline or the settings do not fit the family."""

    @abstractmethod
    def output(self, z: Tensor, text: Text, timestep: float) -> Tensor:
        """Return the denoiser's output, in float32, for a batch of latents with a row of text for each."""

    @abstractmethod
    def x0_and_noise(self, output: Tensor, z: Tensor, level: Level) -> tuple[Tensor, Tensor]:
        """Return x0 and ε from the denoiser's output, which is ε, v or a velocity."""

    def own_identity(self) -> dict[str, str]:
        """Return what results of this family depend on besides weights and precision."""
        return {}

    def guidance_context(self, conditioning: Conditioning) -> AbstractContextManager[None]:
        """Return a context for the denoiser's run; U-Nets compute what both halves of a guided batch share once."""
        return nullcontext()

    @cached_property
    def identity(self) -> dict[str, str]:
        weights = digest_named(opened_files(self.folder, self.family).items())
        return {"weights": weights, "precision": self.precision} | self.vae.identity | self.own_identity()

    @timed("diffusion")
    def predict(self, z: Tensor, level: Level, timestep: float, conditioning: Conditioning) -> tuple[Tensor, Tensor]:
        with attention(self.speed.attention, self.device), matmul_precision(self), self.guidance_context(conditioning):
            output = guided(partial(self.output, timestep=timestep), z, conditioning)
        return self.x0_and_noise(output, z, level)

    def latent_shape(self, size: int | str) -> tuple[int, int, int]:
        return self.vae.latent_shape(size)

    @cached_property
    @timed("loading weights")
    def denoiser(self) -> Any:
        load = resolve_name(self.family.networks[self.family.denoiser]).from_pretrained
        folder, offload = self.folder / self.family.denoiser, self.config.offload
        return load_denoiser(load, folder, self.precision, self.device, self.speed, offload)

    @cached_property
    def denoiser_config(self) -> dict[str, Any]:
        return read_config(self.folder / self.family.denoiser)


class FlowModel(PipelineModel):
    """A rectified flow: its denoiser predicts a velocity, on levels of FlowMatchEulerDiscreteScheduler."""

    def own_identity(self) -> dict[str, str]:
        return {"max_sequence_length": str(self.config.max_sequence_length)}

    def x0_and_noise(self, output: Tensor, z: Tensor, level: Level) -> tuple[Tensor, Tensor]:
        return sampling.from_velocity(output, z, level)

    def schedule(self, steps: int, spacing: str) -> Schedule:
        train_steps = self.scheduler["num_train_timesteps"]
        try:
            sigmas = sampling.flow_sigmas(steps, spacing, self.shift, train_steps, self._lowest)
            return sampling.flow_schedule(sigmas, train_steps)
        except ValueError as error:
            raise UserError(str(error)) from error

    @property
    def shift(self) -> float:
        """Return the shift of the levels towards noise."""
        return float(self.scheduler["shift"])

    @property
    def _lowest(self) -> float:
        """Return the lowest level of training, to which diffusers applies a constant shift at construction already."""
        first = 1 / self.scheduler["num_train_timesteps"]
        return first if self.scheduler["use_dynamic_shifting"] else sampling.shifted(first, self.shift)

    @cached_property
    def scheduler(self) -> Mapping[str, Any]:
        from diffusers import FlowMatchEulerDiscreteScheduler

        return load_scheduler(FlowMatchEulerDiscreteScheduler, self.folder).config
