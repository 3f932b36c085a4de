"""Stable Diffusion 3 and 3.5: a multimodal diffusion transformer (MMDiT) that predicts a rectified flow's velocity.

It reads two CLIP text encoders and T5. They are loaded one after another, before the transformer, and each is freed
when the prompts are encoded: T5 alone has twice the size of the 3.5-medium transformer.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from latentmix.models import fitness, text_encoders
from latentmix.models.base import FlowModel
from latentmix.models.family import Family
from latentmix.models.loading import has
from latentmix.models.protocol import Text
from latentmix.profiling import timed
from latentmix.settings import height_width
from latentmix.weight_files import read_config


class MMDiTModel(FlowModel):
    """A `Model` from the folder of a Stable Diffusion 3 pipeline."""

    def check(self) -> None:
        fitness.check_flow(self.folder)
        t5 = self.folder / "text_encoder_3"
        width = read_config(t5).get("d_model") if has(self.folder, t5.name) and t5.is_dir() else None
        fitness.check_transformer(self.folder, self.denoiser_config, self.vae.channels, width)

    @property
    def family(self) -> Family:
        return FAMILY

    @property
    def text_shape(self) -> tuple[int, int]:
        clip = read_config(self.folder / "text_encoder")["max_position_embeddings"]
        return clip + self.config.max_sequence_length, self.denoiser_config["joint_attention_dim"]

    @timed("text encoders")
    @torch.no_grad()
    def embed(self, prompts: Sequence[str]) -> Text:
        first, second = (self._clip(prompts, suffix) for suffix in ("", "_2"))
        clip = torch.cat([first.states, second.states], dim=-1)
        t5 = self._t5(prompts)
        clip = pad(clip, (0, t5.shape[-1] - clip.shape[-1]))
        return Text(torch.cat([clip, t5], dim=1), torch.cat([first.pooled, second.pooled], dim=-1))

    def output(self, z: Tensor, text: Text, timestep: float) -> Tensor:
        # In float32: bfloat16 has a spacing of 4 near 1000. An integer would be compiled for once more.
        time = torch.full([len(z)], float(timestep), device=z.device)
        return self.denoiser(z.to(self.dtype), text.states, text.pooled, time).sample.float()

    def latent_shape(self, size: int | str) -> tuple[int, int, int]:
        config = self.denoiser_config
        shape = self.vae.latent_shape(size, patch=config["patch_size"])
        largest = config["pos_embed_max_size"] * config["patch_size"] * self.vae.reduction
        if max(height_width(size)) > largest:
            raise ValueError(f"must be at most {largest} for this model")
        return shape

    def _clip(self, prompts: Sequence[str], suffix: str) -> Text:
        """Return the tokens' hidden states before the last layer, and the projected embedding of the prompt."""
        outs = text_encoders.clip(self.folder, suffix, prompts, self.device, True, output_hidden_states=True)
        states = torch.cat([out.hidden_states[-2] for out in outs])
        return Text(states.to(self.dtype), torch.cat([out.text_embeds for out in outs]).to(self.dtype))

    def _t5(self, prompts: Sequence[str]) -> Tensor:
        """Return states [B, max_sequence_length, D]; zeros where the pipeline was saved without T5."""
        length = self.config.max_sequence_length
        if not has(self.folder, "text_encoder_3"):
            width = self.denoiser_config["joint_attention_dim"]
            return torch.zeros(len(prompts), length, width, dtype=self.dtype, device=self.device)
        return text_encoders.t5(self.folder, "_3", prompts, length, self.dtype, self.device)


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
    build=MMDiTModel,
    optional=("text_encoder_3", "tokenizer_3"),
)
