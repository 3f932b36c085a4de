"""FLUX.1: a transformer that predicts a rectified flow's velocity, guided by a number that it was distilled to read.

Outside this file latents are [B, C, h, w], as in every family. The transformer reads them packed: a token holds all
channels of a square of 2 × 2 latents. Packing only reorders numbers, so norms are those of the unpacked latents.
"""

import math
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
from latentmix.models.settings import USUAL, ModelConfig, SpeedConfig
from latentmix.models.vae import VAE
from latentmix.profiling import timed
from latentmix.sampling import Level, Schedule
from latentmix.weight_files import read_config

PATCH = 2  # latents along a side of a token's square
LARGEST_SHIFT = 16.0  # the logarithm of a shift; FLUX.1 at 4096 px has 11.6


class FluxModel:
    """A `Model` (see models/protocol.py) from the folder of a FLUX.1 pipeline."""

    def __init__(
        self, folder: Path, config: ModelConfig, precision: str, device: torch.device, speed: SpeedConfig = USUAL
    ) -> None:
        self.folder = folder
        self.config = config
        self.device = device
        self.speed = speed
        self.precision = precision
        self.dtype = dtype_of(precision)
        self.vae = VAE(folder / "vae", device, self.speed)
        self.encode, self.decode = self.vae.encode, self.vae.decode
        fitness.check_flow(folder, dynamic=True)
        unpacked = self._transformer_config | {"in_channels": self._transformer_config["in_channels"] // PATCH**2}
        fitness.check_transformer(
            folder, unpacked, self.vae.channels, read_config(folder / "text_encoder_2")["d_model"]
        )
        reads, given = self._transformer_config.get("guidance_embeds", False), config.embedded_guidance is not None
        if reads and not given:
            raise UserError(f"{folder} reads embedded guidance; set model.embedded_guidance=3.5 or another number")
        if given and not reads:
            raise UserError(f"{folder} does not read embedded guidance; set model.embedded_guidance=null")

    @cached_property
    def identity(self) -> dict[str, str]:
        own = {"max_sequence_length": str(self.config.max_sequence_length)}
        if self.config.embedded_guidance is not None:
            own["embedded_guidance"] = str(self.config.embedded_guidance)
        return identity(self.folder, FAMILY, self.precision) | self.vae.identity | own

    def schedule(self, steps: int, spacing: str) -> Schedule:
        train_steps = self._scheduler["num_train_timesteps"]
        try:
            sigmas = sampling.flow_sigmas(steps, spacing, self._shift, train_steps)
        except ValueError as error:
            raise UserError(str(error)) from error
        return sampling.flow_schedule(sigmas, train_steps)

    @property
    def _shift(self) -> float:
        """Return the shift towards noise: a constant, or one that grows with the number of tokens of an image.

        Raises: ValueError where an image is so large that only noise would be left of the schedule.
        """
        config = self._scheduler
        if not config["use_dynamic_shifting"]:
            return float(config["shift"])
        _, h, w = self.latent_shape(self.config.size)
        share = (h * w // PATCH**2 - config["base_image_seq_len"]) / (
            config["max_image_seq_len"] - config["base_image_seq_len"]
        )
        mu = config["base_shift"] + share * (config["max_shift"] - config["base_shift"])
        if mu > LARGEST_SHIFT:
            raise ValueError(f"model.size={self.config.size} is too large for {self.folder / 'scheduler'}")
        return mu if config["time_shift_type"] == "linear" else math.exp(mu)

    @property
    def text_shape(self) -> tuple[int, int]:
        return self.config.max_sequence_length, self._transformer_config["joint_attention_dim"]

    @timed("text encoders")
    def embed(self, prompts: Sequence[str]) -> Text:
        """Encode prompts: T5's states, and CLIP's summary of the last token."""
        pooled = [out.pooler_output for out in text_encoders.clip(self.folder, "", prompts, self.device, False)]
        length = self.config.max_sequence_length
        states = text_encoders.t5(self.folder, "_2", prompts, length, self.dtype, self.device)
        return Text(states, torch.cat(pooled).to(self.dtype))

    @timed("diffusion")
    def predict(self, z: Tensor, level: Level, timestep: float, conditioning: Conditioning) -> tuple[Tensor, Tensor]:
        def network(z: Tensor, text: Text) -> Tensor:
            h, w = (side // PATCH for side in z.shape[2:])
            time = torch.full([len(z)], timestep / self._scheduler["num_train_timesteps"], device=z.device)
            out = self._transformer(
                pack(z).to(self.dtype),
                encoder_hidden_states=text.states,
                pooled_projections=text.pooled,
                timestep=time,
                guidance=None if self.config.embedded_guidance is None else self._guidance.expand(len(z)),
                txt_ids=torch.zeros(text.states.shape[1], 3, device=z.device),
                img_ids=positions(h, w, z.device),
            )
            return unpack(out.sample.float(), h, w)

        with attention(self.speed.attention, self.device), products(self):
            out = guided(network, z, conditioning)
        return sampling.from_velocity(out, z, level)

    def latent_shape(self, size: int | str) -> tuple[int, int, int]:
        return self.vae.latent_shape(size, patch=PATCH)

    @cached_property
    def _guidance(self) -> Tensor:
        return torch.tensor([self.config.embedded_guidance], dtype=torch.float32, device=self.device)

    @cached_property
    @timed("loading weights")
    def _transformer(self) -> Any:
        from diffusers import FluxTransformer2DModel

        load, folder = FluxTransformer2DModel.from_pretrained, self.folder / "transformer"
        return load_denoiser(load, folder, self.precision, self.device, self.speed)

    @cached_property
    def _transformer_config(self) -> dict[str, Any]:
        return read_config(self.folder / "transformer")

    @cached_property
    def _scheduler(self) -> dict[str, Any]:
        from diffusers import FlowMatchEulerDiscreteScheduler

        return dict(load_part(FlowMatchEulerDiscreteScheduler.from_pretrained, self.folder / "scheduler").config)


def pack(z: Tensor) -> Tensor:
    """Return latents [B, C, h, w] as tokens [B, h·w / 4, 4·C]."""
    b, c, h, w = z.shape
    squares = z.reshape(b, c, h // PATCH, PATCH, w // PATCH, PATCH).permute(0, 2, 4, 1, 3, 5)
    return squares.reshape(b, (h // PATCH) * (w // PATCH), c * PATCH**2)


def unpack(tokens: Tensor, h: int, w: int) -> Tensor:
    """Return `h` × `w` tokens [B, h·w, 4·C] as latents [B, C, 2·h, 2·w]."""
    squares = tokens.reshape(len(tokens), h, w, -1, PATCH, PATCH).permute(0, 3, 1, 4, 2, 5)
    return squares.reshape(len(tokens), -1, h * PATCH, w * PATCH)


def positions(h: int, w: int, device: torch.device) -> Tensor:
    """Return the positions [h·w, 3] of tokens: 0, row, column."""
    rows, columns = torch.meshgrid(torch.arange(h, device=device), torch.arange(w, device=device), indexing="ij")
    return torch.stack([torch.zeros_like(rows), rows, columns], -1).view(-1, 3).float()


FAMILY = Family(
    pipeline="FluxPipeline",
    networks={
        "text_encoder": "transformers.CLIPTextModel",
        "text_encoder_2": "transformers.T5EncoderModel",
        "transformer": "diffusers.FluxTransformer2DModel",
        "vae": "diffusers.AutoencoderKL",
    },
    others=("scheduler", "tokenizer", "tokenizer_2"),
    denoiser="transformer",
    flow=True,
    gpu_precision="bfloat16",
    spacing="trailing",
    build=lambda folder, config, precision, device, speed: FluxModel(folder, config, precision, device, speed),
    call=lambda z, guidance, config: {
        "latents": pack(z),
        "true_cfg_scale": guidance,
        "negative_prompt": [""] * len(z),
        "guidance_scale": config.embedded_guidance or 0.0,
    },
    unread={"image_encoder": None, "feature_extractor": None},
)
