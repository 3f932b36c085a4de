"""Stable Diffusion 3 and 3.5: a multimodal diffusion transformer (MMDiT) that predicts a rectified flow's velocity.

It reads two CLIP text encoders and T5. They are loaded one after another, before the transformer, and each is freed
when the prompts are encoded: T5 alone has twice the size of the 3.5-medium transformer.
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from latentmix import sampling
from latentmix.errors import UserError
from latentmix.models import fitness, text_encoders
from latentmix.models.attention import attention
from latentmix.models.denoiser import load_denoiser
from latentmix.models.family import Family
from latentmix.models.loading import dtype_of, has, identity, load_part
from latentmix.models.protocol import Conditioning, Text, guided, products
from latentmix.models.settings import USUAL, SpeedConfig
from latentmix.models.vae import VAE
from latentmix.profiling import timed
from latentmix.sampling import Level, Schedule
from latentmix.settings import height_width
from latentmix.weight_files import read_config


class MMDiTModel:
    """A `Model` (see models/protocol.py) from the folder of a Stable Diffusion 3 pipeline."""

    def __init__(
        self,
        folder: Path,
        precision: str,
        device: torch.device,
        max_sequence_length: int,
        speed: SpeedConfig = USUAL,
    ) -> None:
        self.folder = folder
        self.device = device
        self.speed = speed
        self.precision, self.dtype = precision, dtype_of(precision)
        self.max_sequence_length = max_sequence_length
        self.vae = VAE(folder / "vae", device, self.speed)
        self.encode, self.decode = self.vae.encode, self.vae.decode
        fitness.check_flow(folder)
        t5 = folder / "text_encoder_3"
        width = read_config(t5).get("d_model") if has(folder, t5.name) and t5.is_dir() else None
        fitness.check_transformer(folder, self._transformer_config, self.vae.channels, width)

    @cached_property
    def identity(self) -> dict[str, str]:
        own = {"max_sequence_length": str(self.max_sequence_length)}
        return identity(self.folder, FAMILY, self.precision) | self.vae.identity | own

    def schedule(self, steps: int, spacing: str) -> Schedule:
        config = self._scheduler
        try:
            sigmas = sampling.flow_sigmas(steps, spacing, config["shift"], config["num_train_timesteps"])
        except ValueError as error:
            raise UserError(str(error)) from error
        return sampling.flow_schedule(sigmas, config["num_train_timesteps"])

    @property
    def text_shape(self) -> tuple[int, int]:
        clip = read_config(self.folder / "text_encoder")["max_position_embeddings"]
        return clip + self.max_sequence_length, self._transformer_config["joint_attention_dim"]

    @timed("text encoders")
    @torch.no_grad()
    def embed(self, prompts: Sequence[str]) -> Text:
        first, second = (self._clip(prompts, suffix) for suffix in ("", "_2"))
        clip = torch.cat([first.states, second.states], dim=-1)
        t5 = self._t5(prompts)
        clip = pad(clip, (0, t5.shape[-1] - clip.shape[-1]))
        return Text(torch.cat([clip, t5], dim=1), torch.cat([first.pooled, second.pooled], dim=-1))

    @timed("diffusion")
    def predict(self, z: Tensor, level: Level, timestep: float, conditioning: Conditioning) -> tuple[Tensor, Tensor]:
        def network(z: Tensor, text: Text) -> Tensor:
            # In float32: bfloat16 has a spacing of 4 near 1000. An integer would be compiled for once more.
            time = torch.full([len(z)], float(timestep), device=z.device)
            return self._transformer(z.to(self.dtype), text.states, text.pooled, time).sample.float()

        with attention(self.speed.attention, self.device), products(self):
            out = guided(network, z, conditioning)
        return sampling.from_velocity(out, z, level)

    def latent_shape(self, size: int | str) -> tuple[int, int, int]:
        config = self._transformer_config
        shape = self.vae.latent_shape(size, patch=config["patch_size"])
        largest = config["pos_embed_max_size"] * config["patch_size"] * self.vae.reduction
        if max(height_width(size)) > largest:
            raise ValueError(f"must be at most {largest} for this model")
        return shape

    def _clip(self, prompts: Sequence[str], suffix: str) -> Text:
        """Return the last hidden state but one of each token, and the projection of the last token's."""
        outs = text_encoders.clip(self.folder, suffix, prompts, self.device, True, output_hidden_states=True)
        states = torch.cat([out.hidden_states[-2] for out in outs])
        return Text(states.to(self.dtype), torch.cat([out.text_embeds for out in outs]).to(self.dtype))

    def _t5(self, prompts: Sequence[str]) -> Tensor:
        """Return states [B, max_sequence_length, D]; zeros where the pipeline was saved without T5."""
        length = self.max_sequence_length
        if not has(self.folder, "text_encoder_3"):
            width = self._transformer_config["joint_attention_dim"]
            return torch.zeros(len(prompts), length, width, dtype=self.dtype, device=self.device)
        return text_encoders.t5(self.folder, "_3", prompts, length, self.dtype, self.device)

    @cached_property
    @timed("loading weights")
    def _transformer(self) -> Any:
        from diffusers import SD3Transformer2DModel

        load, folder = SD3Transformer2DModel.from_pretrained, self.folder / "transformer"
        return load_denoiser(load, folder, self.precision, self.device, self.speed)

    @cached_property
    def _transformer_config(self) -> dict[str, Any]:
        """The network's config, with the class's defaults for missing entries."""
        from diffusers import SD3Transformer2DModel

        return load_part(SD3Transformer2DModel.load_config, self.folder / "transformer")

    @cached_property
    def _scheduler(self) -> dict[str, Any]:
        from diffusers import FlowMatchEulerDiscreteScheduler

        return dict(load_part(FlowMatchEulerDiscreteScheduler.from_pretrained, self.folder / "scheduler").config)


FAMILY = Family(
    pipeline="StableDiffusion3Pipeline",
    networks={
        "text_encoder": "transformers.CLIPTextModelWithProjection",
        "text_encoder_2": "transformers.CLIPTextModelWithProjection",
        "text_encoder_3": "transformers.T5EncoderModel",
        "transformer": "diffusers.SD3Transformer2DModel",
        "vae": "diffusers.AutoencoderKL",
    },
    others=("scheduler", "tokenizer", "tokenizer_2", "tokenizer_3"),
    denoiser="transformer",
    flow=True,
    gpu_precision="bfloat16",  # as it was trained; float16 overflows in T5
    spacing="linspace",
    build=lambda folder, config, precision, device, speed: MMDiTModel(
        folder, precision, device, config.max_sequence_length, speed
    ),
    optional=("text_encoder_3", "tokenizer_3"),
)
