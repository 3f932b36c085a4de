"""What is known of a published model without any of its files, so that a dry run fetches none of them."""

from dataclasses import dataclass
from functools import cached_property

import torch

from latentmix.features import embedded_folder
from latentmix.models.mmdit import MMDiTModel
from latentmix.models.pipeline import DTYPES
from latentmix.models.random_weights import SD15, SD35_MEDIUM
from latentmix.models.settings import ModelConfig
from latentmix.models.unet import UNetModel
from latentmix.sampling import Schedule

TOKENS = 77  # that CLIP reads


@dataclass(frozen=True)
class Placeholder:
    """The part of a `Model` that plans ask for. Schedule and autoencoder of the embedded model of the same family have
    the steps and the shape of latents that Stable Diffusion's have."""

    config: ModelConfig

    @property
    def identity(self) -> dict[str, str]:
        """No digest of weights: nothing can have been computed from what is not here."""
        return {"hub": str(self.config.hub), "revision": str(self.config.revision)}

    @property
    def dtype(self) -> torch.dtype:
        """What a GPU runs it in."""
        automatic = "bfloat16" if self._is_flow else "float16"
        return DTYPES[automatic if self.config.precision == "auto" else self.config.precision]

    def schedule(self, steps: int, spacing: str) -> Schedule:
        return self._kin.schedule(steps, spacing)

    def latent_shape(self, size: int) -> tuple[int, int, int]:
        return self._kin.vae.latent_shape(size, patch=2 if self._is_flow else 1)

    @property
    def text_shape(self) -> tuple[int, int]:
        if self._is_flow:
            return TOKENS + self.config.max_sequence_length, SD35_MEDIUM["joint_attention_dim"]
        return TOKENS, SD15["cross_attention_dim"]  # 2.x has a third more

    @property
    def _is_flow(self) -> bool:
        return self.config.counterpart is None

    @cached_property
    def _kin(self) -> UNetModel | MMDiTModel:
        if self._is_flow:
            return MMDiTModel(embedded_folder("tiny-sd3"), "float32", torch.device("cpu"), 0)
        return UNetModel(embedded_folder("tiny"), "float32", torch.device("cpu"))
