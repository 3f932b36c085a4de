"""Stable Diffusion XL: a U-Net on two CLIP text encoders, a pooled embedding and the size of the image.

The refiner is not read: it starts from latents that the base model has partly denoised, so it has no inversion.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from latentmix.models import text_encoders, unet
from latentmix.models.family import Family
from latentmix.models.loading import read_index
from latentmix.models.protocol import Text
from latentmix.profiling import timed


class SDXLModel(unet.UNetModel):
    """A `Model` from the folder of a Stable Diffusion XL pipeline."""

    addition = "text_time"

    @property
    def family(self) -> Family:
        return FAMILY

    @timed("text encoders")
    def embed(self, prompts: Sequence[str]) -> Text:
        """Return encoded prompts. The empty one is zeros if the pipeline says so, as in diffusers under guidance."""
        encoders = (("", False), ("_2", True))
        first, second = (
            text_encoders.clip(self.folder, suffix, prompts, self.device, projection, output_hidden_states=True)
            for suffix, projection in encoders
        )
        states = [torch.cat([out.hidden_states[-2] for out in outs]) for outs in (first, second)]
        text = Text(torch.cat(states, dim=-1).to(self.dtype), torch.cat([out.text_embeds for out in second]))
        keep = torch.ones(len(prompts), 1, device=self.device, dtype=self.dtype)
        if read_index(self.folder).get("force_zeros_for_empty_prompt", True):
            keep[[not prompt for prompt in prompts]] = 0
        return Text(text.states * keep[:, None], text.pooled.to(self.dtype) * keep)

    def _added(self, z: Tensor, text: Text) -> dict[str, Any]:
        """Return the pooled embedding, and original size, crop and target size of an image that is not cropped."""
        height, width = (side * self.vae.reduction for side in z.shape[2:])
        ids = torch.tensor([height, width, 0, 0, height, width], dtype=torch.float32, device=z.device)
        return {"added_cond_kwargs": {"text_embeds": text.pooled, "time_ids": ids.expand(len(z), -1)}}


FAMILY = Family(
    pipeline="StableDiffusionXLPipeline",
    networks={
        "text_encoder": "transformers.CLIPTextModel",
        "text_encoder_2": "transformers.CLIPTextModelWithProjection",
        "unet": "diffusers.UNet2DConditionModel",
        "vae": "diffusers.AutoencoderKL",
    },
    others=("scheduler", "tokenizer", "tokenizer_2"),
    denoiser="unet",
    flow=False,
    gpu_precision="float16",
    spacing="trailing",
    build=SDXLModel,
    unread={"image_encoder": None, "feature_extractor": None, "add_watermarker": False},
)
