"""Stable Diffusion 1.x and 2.x: a U-Net on CLIP text embeddings, on discrete time steps.

Parts are loaded when they are first needed, so the text encoder is freed before the U-Net is loaded. Latents stay in
float32 whatever the U-Net runs in: schedulers cast them, and many steps in 16 bits drift.
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from latentmix import sampling
from latentmix.errors import UserError
from latentmix.models import fitness, text_encoders
from latentmix.models.attention import attention
from latentmix.models.denoiser import load_denoiser
from latentmix.models.family import Family
from latentmix.models.loading import dtype_of, identity, load_part
from latentmix.models.protocol import Conditioning, Text, guided, products
from latentmix.models.settings import USUAL, SpeedConfig
from latentmix.models.shared_prefix import SharedPrefix, prefix_modules
from latentmix.models.vae import VAE
from latentmix.profiling import timed
from latentmix.sampling import Level, Schedule
from latentmix.weight_files import read_config

PREDICTIONS = {"epsilon": sampling.from_epsilon, "v_prediction": sampling.from_v}


class UNetModel:
    """A `Model` (see models/protocol.py) from the folder of a Stable Diffusion pipeline."""

    addition: str | None = None  # what its U-Net reads beside time and text: `addition_embed_type` of its config

    def __init__(self, folder: Path, precision: str, device: torch.device, speed: SpeedConfig = USUAL) -> None:
        self.folder = folder
        self.device = device
        self.speed = speed
        self.precision, self.dtype = precision, dtype_of(precision)
        self.vae = VAE(folder / "vae", device, self.speed)
        self.encode, self.decode, self.latent_shape = self.vae.encode, self.vae.decode, self.vae.latent_shape
        fitness.check_discrete(folder, PREDICTIONS)
        unet = read_config(folder / "unet")
        fitness.check_unet(folder, unet, self.addition, self.vae.channels, self.text_shape[1])

    @cached_property
    def identity(self) -> dict[str, str]:
        return identity(self.folder, self._family, self.precision) | self.vae.identity

    @property
    def _family(self) -> Family:
        return FAMILY

    def schedule(self, steps: int, spacing: str) -> Schedule:
        config, alphas = self._scheduler, self._ddim.alphas_cumprod
        try:
            timesteps = sampling.timesteps(steps, spacing, config.num_train_timesteps, config.steps_offset)
        except ValueError as error:
            raise UserError(str(error)) from error
        fitness.check_levels(self.folder, alphas.tolist(), timesteps, config.prediction_type)
        return sampling.discrete_schedule(alphas, timesteps, first=1.0 if config.set_alpha_to_one else alphas[0].item())

    @property
    def text_shape(self) -> tuple[int, int]:
        config = read_config(self.folder / "text_encoder")
        return config["max_position_embeddings"], config["hidden_size"]

    @timed("text encoders")
    def embed(self, prompts: Sequence[str]) -> Text:
        outs = text_encoders.clip(self.folder, "", prompts, self.device, projection=False)
        states = torch.cat([out.last_hidden_state for out in outs]).to(self.dtype)
        return Text(states, states.new_empty(len(states), 0))

    @timed("diffusion")
    def predict(self, z: Tensor, level: Level, timestep: float, conditioning: Conditioning) -> tuple[Tensor, Tensor]:
        def network(z: Tensor, text: Text) -> Tensor:
            time = torch.full([len(z)], float(timestep), device=z.device)  # compiling would make a number a constant
            return self._unet(z.to(self.dtype), time, text.states, **self._added(z, text)).sample.float()

        one_half = self._prefix.on_one_half(conditioning.guidance != 1)
        with attention(self.speed.attention, self.device), products(self), one_half:
            out = guided(network, z, conditioning)
        return PREDICTIONS[self._scheduler.prediction_type](out, z, level)

    def _added(self, z: Tensor, text: Text) -> dict[str, Any]:
        """Return further arguments of the U-Net, for the families that have some."""
        return {}

    @cached_property
    @timed("loading weights")
    def _unet(self) -> Any:
        from diffusers import UNet2DConditionModel

        load, folder = UNet2DConditionModel.from_pretrained, self.folder / "unet"
        return load_denoiser(load, folder, self.precision, self.device, self.speed)

    @cached_property
    def _prefix(self) -> SharedPrefix:
        return SharedPrefix(prefix_modules(self._unet) if self.speed.shared_prefix else iter(()))

    @property
    def _scheduler(self) -> Any:
        return self._ddim.config

    @cached_property
    def _ddim(self) -> Any:
        """Its settings and ᾱ; `sampling` does the steps. Configs of other discrete schedulers are read alike."""
        from diffusers import DDIMScheduler

        return load_part(DDIMScheduler.from_pretrained, self.folder / "scheduler")


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
    build=lambda folder, config, precision, device, speed: UNetModel(folder, precision, device, speed),
    unread={"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False},
)
