"""The autoencoder between pixels and latents: the same class in every family."""

import math
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from latentmix.gpu import tf32
from latentmix.models.compile import compiled
from latentmix.models.loading import load_network
from latentmix.models.settings import USUAL, SpeedConfig
from latentmix.profiling import timed
from latentmix.settings import height_width
from latentmix.weight_files import read_config

TILE = 512  # pixels along a side, where the VAE works in tiles; neighbours overlap by a quarter and are blended


class VAE:
    """An `AutoencoderKL` in float32, as some decoders overflow in float16. `speed.vae` sets the decoder's precision."""

    def __init__(self, folder: Path, device: torch.device, speed: SpeedConfig = USUAL) -> None:
        self.folder = folder
        self.device = device
        self.speed = speed

    @timed("VAE")
    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Return clean latents [B, C, h, w], float32, of uint8 images [B, 3, H, W]: the scaled posterior mean."""
        config = self._network.config
        pixels = (images.to(self.device).float() / 127.5 - 1).contiguous(memory_format=self._layout)
        with tf32(False):  # inversions start here, and few images are encoded
            means = [self._network.encode(part).latent_dist.mean for part in self._parts(pixels, pixels.shape[2:])]
        return ((torch.cat(means) - (config.shift_factor or 0.0)) * config.scaling_factor).contiguous()

    @timed("VAE")
    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Return uint8 images [B, 3, H, W] of clean latents [B, C, h, w], rounded."""
        config, dtype = self._network.config, torch.bfloat16 if self.speed.vae == "bfloat16" else torch.float32
        z = latents / config.scaling_factor + (config.shift_factor or 0.0)
        z = z.contiguous(memory_format=self._layout).to(dtype)
        size = [side * self.reduction for side in z.shape[2:]]
        with tf32(self.speed.vae == "tf32"):
            pixels = torch.cat([self._network.decode(part).sample for part in self._parts(z, size)])
        return ((pixels.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).contiguous()

    @property
    def identity(self) -> dict[str, str]:
        """Return what images depend on besides the weights: a decoder in 16 bits, and tiles."""
        decoder = {"decoder": self.speed.vae} if self.speed.vae == "bfloat16" else {}
        return decoder | ({"vae tiles": str(TILE)} if self.speed.vae_tiling else {})

    def latent_shape(self, size: int | str, patch: int = 1) -> tuple[int, int, int]:
        """Return C, h, w for images of a size. Raises: ValueError unless h and w are multiples of `patch`."""
        height, width = height_width(size)
        if height % (self.reduction * patch) or width % (self.reduction * patch):
            raise ValueError(f"must be a multiple of {self.reduction * patch} for this model")
        return self.channels, height // self.reduction, width // self.reduction

    @property
    def channels(self) -> int:
        """Return the number of channels of the latents."""
        return self._config.get("latent_channels", 4)

    @property
    def reduction(self) -> int:
        """Return the pixels per latent position along a side."""
        return 2 ** (len(self._config["block_out_channels"]) - 1)

    @property
    def _layout(self) -> torch.memory_format:
        """Return the memory layout. On a GPU, channels-last convolutions in full float32 are slow."""
        slow = self.device.type == "cuda" and self.speed.vae == "ieee"
        return torch.channels_last if self.speed.channels_last and not slow else torch.contiguous_format

    @cached_property
    def _config(self) -> dict[str, Any]:
        return read_config(self.folder)

    def _parts(self, batch: Tensor, size: Sequence[int]) -> tuple[Tensor, ...]:
        """Return a batch in parts: single images if the VAE works in tiles, else as many as have the pixels of two
        images of 512 px, which keep a GPU busy and take 1.5 GiB."""
        return batch.split(1 if self.speed.vae_tiling else max(1, 2 * 512**2 // math.prod(size)))

    @cached_property
    @timed("loading weights")
    def _network(self) -> Any:
        from diffusers import AutoencoderKL

        network = load_network(
            AutoencoderKL.from_pretrained, self.folder, onednn=self.speed.onednn, torch_dtype=torch.float32
        )
        if self.speed.vae == "bfloat16":
            for part in (network.post_quant_conv, network.decoder):
                _ = part if part is None else part.to(torch.bfloat16)
        if self.speed.vae_tiling:
            network.enable_tiling()
            network.tile_sample_min_size, network.tile_latent_min_size = TILE, TILE // self.reduction
        network = network.to(self.device, memory_format=self._layout)
        if self.speed.compile is True and self.device.type == "cuda":
            compiled(network.decoder)
        return network
