"""Stable Diffusion 1.x and 2.x: a U-Net on CLIP text embeddings, on discrete time steps."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from latentmix import sampling
from latentmix.errors import UserError, warn_once
from latentmix.models import fitness, text_encoders
from latentmix.models.base import PipelineModel
from latentmix.models.family import Family
from latentmix.models.loading import load_scheduler
from latentmix.models.protocol import Conditioning, Text
from latentmix.models.shared_prefix import SharedPrefix, prefix_modules
from latentmix.profiling import timed
from latentmix.sampling import Level, Schedule
from latentmix.weight_files import read_config

PREDICTIONS = {"epsilon": sampling.from_epsilon, "v_prediction": sampling.from_v}


class UNetModel(PipelineModel):
    """A `Model` from the folder of a Stable Diffusion pipeline."""

    addition: str | None = None  # the U-Net's `addition_embed_type`: what it reads besides time and text

    def check(self) -> None:
        fitness.check_discrete(self.folder, PREDICTIONS)
        fitness.check_unet(self.folder, self.denoiser_config, self.addition, self.vae.channels, self.text_shape[1])
        if read_config(self.folder / "vae").get("latents_mean") is not None:
            raise UserError(f"{self.folder / 'vae'} sets latents_mean, which is not known here")

    @property
    def family(self) -> Family:
        return FAMILY

    def schedule(self, steps: int, spacing: str) -> Schedule:
        config, alphas = self._scheduler.config, self._scheduler.alphas_cumprod
        try:
            timesteps = sampling.timesteps(steps, spacing, config.num_train_timesteps, config.steps_offset)
        except ValueError as error:
            raise UserError(str(error)) from error
        fitness.check_levels(self.folder, alphas.tolist(), timesteps, config.prediction_type)
        if steps >= 10 and timesteps[-1] < 0.9 * len(alphas):  # leading spacing rounds its stride down
            warn_once(
                f"{steps} steps of {spacing} spacing end at t = {timesteps[-1]} of {len(alphas) - 1}, before latents "
                "are noise; take a number of steps that divides 1000, or spacing=trailing inversion.spacing=trailing"
            )
        return sampling.discrete_schedule(alphas, timesteps, first=1.0 if config.set_alpha_to_one else alphas[0].item())

    @property
    def text_shape(self) -> tuple[int, int]:
        encoders = [part for part in self.family.networks if part.startswith("text_encoder")]
        configs = [read_config(self.folder / part) for part in encoders]  # their states are concatenated
        return configs[0]["max_position_embeddings"], sum(config["hidden_size"] for config in configs)

    @timed("text encoders")
    def embed(self, prompts: Sequence[str]) -> Text:
        outs = text_encoders.clip(self.folder, "", prompts, self.device, projection=False)
        states = torch.cat([out.last_hidden_state for out in outs]).to(self.dtype)
        return Text(states, states.new_empty(len(states), 0))

    def output(self, z: Tensor, text: Text, timestep: float) -> Tensor:
        time = torch.full([len(z)], float(timestep), device=z.device)  # compiling would make a number a constant
        return self.denoiser(z.to(self.dtype), time, text.states, **self._added(z, text)).sample.float()

    def x0_and_noise(self, output: Tensor, z: Tensor, level: Level) -> tuple[Tensor, Tensor]:
        return PREDICTIONS[self._scheduler.config.prediction_type](output, z, level)

    def guidance_context(self, conditioning: Conditioning) -> AbstractContextManager[None]:
        return self._prefix.on_one_half(conditioning.guidance != 1)

    def _added(self, z: Tensor, text: Text) -> dict[str, Any]:
        """Return further arguments of the U-Net."""
        return {}

    @cached_property
    def _prefix(self) -> SharedPrefix:
        return SharedPrefix(prefix_modules(self.denoiser) if self.speed.shared_prefix else iter(()))

    @cached_property
    def _scheduler(self) -> Any:
        """Return a DDIM scheduler, whatever discrete one the pipeline has: only its settings and ᾱ are used."""
        from diffusers import DDIMScheduler

        return load_scheduler(DDIMScheduler, self.folder)


FAMILY = Family(
    pipeline="StableDiffusionPipeline",
    networks={
        "text_encoder": "transformers.CLIPTextModel",
        "unet": "diffusers.UNet2DConditionModel",
        "vae": "diffusers.AutoencoderKL",
    },
    others=("scheduler", "tokenizer"),
    denoiser="unet",
    flow=False,
    gpu_precision="float16",
    spacing="trailing",
    build=UNetModel,
    unread={"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False},
)
