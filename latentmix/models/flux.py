"""FLUX.1: a transformer that predicts a rectified flow's velocity, guided by a number that it was distilled to read.

Outside this file latents are [B, C, h, w], as in every family. The transformer reads them packed: a token holds all
channels of a square of 2 × 2 latents. Packing only reorders numbers, so norms are those of the unpacked latents.
"""

import math
from collections.abc import Sequence
from copy import copy
from functools import cached_property

import torch
from torch import Tensor

from latentmix.errors import UserError
from latentmix.models import fitness, text_encoders
from latentmix.models.base import FlowModel
from latentmix.models.family import Family
from latentmix.models.protocol import Text
from latentmix.profiling import timed
from latentmix.weight_files import read_config

PATCH = 2  # latents along a side of a token's square
LARGEST_SHIFT = 16.0  # the logarithm of a shift; FLUX.1 at 4096 px has 11.6


class FluxModel(FlowModel):
    """A `Model` from the folder of a FLUX.1 pipeline."""

    def check(self) -> None:
        fitness.check_flow(self.folder, dynamic=True)
        unpacked = copy(self.denoiser_config)
        unpacked["in_channels"] //= PATCH**2
        width = read_config(self.folder / "text_encoder_2")["d_model"]
        fitness.check_transformer(self.folder, unpacked, self.vae.channels, width)
        reads, given = self.denoiser_config.get("guidance_embeds", False), self.config.embedded_guidance is not None
        if reads and not given:
            raise UserError(f"{self.folder} reads embedded guidance; set model.embedded_guidance=3.5 or another number")
        if given and not reads:
            raise UserError(f"{self.folder} does not read embedded guidance; set model.embedded_guidance=null")

    @property
    def family(self) -> Family:
        return FAMILY

    def own_identity(self) -> dict[str, str]:
        given = self.config.embedded_guidance
        return super().own_identity() | ({} if given is None else {"embedded_guidance": str(given)})

    @property
    def shift(self) -> float:
        """Return the shift towards noise: a constant, or one that grows with the number of tokens of an image.

        Raises: ValueError where an image is so large that only noise would be left of the schedule.
        """
        config = self.scheduler
        if not config["use_dynamic_shifting"]:
            return super().shift
        _, h, w = self.latent_shape(self.config.size)
        base, largest = config["base_image_seq_len"], config["max_image_seq_len"]
        share = (h * w // PATCH**2 - base) / (largest - base)
        mu = config["base_shift"] + share * (config["max_shift"] - config["base_shift"])
        if mu > LARGEST_SHIFT:
            raise ValueError(f"model.size={self.config.size} is too large for {self.folder / 'scheduler'}")
        return mu if config["time_shift_type"] == "linear" else math.exp(mu)

    @property
    def text_shape(self) -> tuple[int, int]:
        return self.config.max_sequence_length, self.denoiser_config["joint_attention_dim"]

    @timed("text encoders")
    def embed(self, prompts: Sequence[str]) -> Text:
        """Return T5's states, and CLIP's pooled embedding."""
        pooled = [out.pooler_output for out in text_encoders.clip(self.folder, "", prompts, self.device, False)]
        length = self.config.max_sequence_length
        states = text_encoders.t5(self.folder, "_2", prompts, length, self.dtype, self.device)
        return Text(states, torch.cat(pooled).to(self.dtype))

    def output(self, z: Tensor, text: Text, timestep: float) -> Tensor:
        h, w = (side // PATCH for side in z.shape[2:])
        out = self.denoiser(
            pack(z).to(self.dtype),
            encoder_hidden_states=text.states,
            pooled_projections=text.pooled,
            timestep=torch.full([len(z)], timestep / self.scheduler["num_train_timesteps"], device=z.device),
            guidance=None if self.config.embedded_guidance is None else self._guidance.expand(len(z)),
            txt_ids=torch.zeros(text.states.shape[1], 3, device=z.device),
            img_ids=positions(h, w, z.device),
        )
        return unpack(out.sample.float(), h, w)

    def latent_shape(self, size: int | str) -> tuple[int, int, int]:
        return self.vae.latent_shape(size, patch=PATCH)

    @cached_property
    def _guidance(self) -> Tensor:
        return torch.tensor([self.config.embedded_guidance], dtype=torch.float32, device=self.device)


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
    build=FluxModel,
    call=lambda z, guidance, config: {
        "latents": pack(z),
        "true_cfg_scale": guidance,
        "negative_prompt": [""] * len(z),
        "guidance_scale": config.embedded_guidance or 0.0,
    },
    unread={"image_encoder": None, "feature_extractor": None},
)
