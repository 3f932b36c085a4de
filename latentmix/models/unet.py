"""Stable Diffusion 1.x and 2.x: a U-Net on CLIP text embeddings, on discrete time steps.

A pipeline folder in diffusers' layout is read part by part, each when it is first needed, so the text encoder can go
before the U-Net comes. Latents stay in float32 here whatever the U-Net runs in: schedulers cast them, and many steps in
16 bits drift.
"""

import json
import math
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from latentmix import ladder
from latentmix.config import ModelConfig
from latentmix.errors import UserError
from latentmix.features import embedded_folder
from latentmix.ladder import Ladder, Level
from latentmix.models import Conditioning
from latentmix.store import folder_digest

PARTS = ("scheduler", "text_encoder", "tokenizer", "unet", "vae")
PREDICTIONS = {"epsilon": ladder.from_epsilon, "v_prediction": ladder.from_v}


def find(config: ModelConfig) -> Path:
    """The pipeline folder that a model's config names: `path`, the embedded one, or a snapshot from the hub."""
    if config.path is not None:
        return _checked(Path(config.path).expanduser())
    if config.embedded:
        return _checked(embedded_folder(config.name))
    if config.hub is None:
        raise UserError(f"model {config.name!r} says neither path nor hub; give the folder with model.path=FOLDER")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    wanted = ["model_index.json", *(f"{part}/*" for part in PARTS)]
    try:
        return _checked(Path(snapshot_download(config.hub, revision=config.revision, allow_patterns=wanted)))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise UserError(
            f"{config.hub} is not in the local cache and could not be fetched ({type(error).__name__}); "
            "fetch it on a machine that is online, or give its folder with model.path=FOLDER"
        ) from error


def _checked(folder: Path) -> Path:
    """`folder`, if a Stable Diffusion pipeline lies there whole; else UserError says what is missing."""
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}; model.path must be a pipeline folder in diffusers' layout")
    try:
        pipeline = json.loads((folder / "model_index.json").read_text())["_class_name"]
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{folder} has no readable model_index.json, so it is no diffusers pipeline folder") from None
    if pipeline != "StableDiffusionPipeline":
        raise UserError(f"{folder} holds a {pipeline}; only StableDiffusionPipeline folders can be read")
    for part in PARTS:
        if not any((folder / part).glob("*.json")):
            raise UserError(f"the pipeline folder {folder} lacks its part {part!r}; copy the folder again, whole")
    for part in ("text_encoder", "unet", "vae"):
        if not any((folder / part).glob("*.safetensors")):
            raise UserError(
                f"{folder / part} holds no *.safetensors; copy the folder again (pickled weights are not read)"
            )
    return folder


def _loaded(load: Callable[..., Any], folder: Path, **how: Any) -> Any:
    """A part of the pipeline, with one line instead of a traceback where its files are damaged."""
    from transformers.utils import logging

    logging.disable_progress_bar()  # for files that are read in no time
    try:
        return load(folder, local_files_only=True, **how)
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"{folder} can't be loaded: {reason}") from error


def _weights(load: Callable[..., Any], folder: Path, **how: Any) -> Any:
    """A network, whole: what its files lack, libraries would fill with chance."""
    network, about = _loaded(load, folder, output_loading_info=True, **how)
    if about["missing_keys"]:
        raise UserError(
            f"{folder} lacks the weights {', '.join(sorted(about['missing_keys'])[:3])}; copy it again, whole"
        )
    return network


def _within_memory(batch: Tensor, size: Sequence[int]) -> tuple[Tensor, ...]:
    """`batch` in parts of at most eight images of 512 px, or as many pixels: a VAE in float32 takes a GiB for each."""
    return batch.split(max(1, 8 * 512**2 // math.prod(size)))


class UNetModel:
    """A `Model` (see the protocol) from a Stable Diffusion pipeline folder."""

    def __init__(self, folder: Path, precision: str, device: torch.device) -> None:
        self.folder = folder
        self.device = device
        if precision == "auto":
            precision = "float32" if device.type == "cpu" else "float16"
        self.dtype = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}[precision]
        config = self._scheduler
        if config.prediction_type not in PREDICTIONS:
            raise UserError(f"{folder} predicts {config.prediction_type!r}; known are {', '.join(PREDICTIONS)}")

    @cached_property
    def identity(self) -> dict[str, str]:
        return {"weights": folder_digest(self.folder), "precision": str(self.dtype).removeprefix("torch.")}

    def ladder(self, steps: int, spacing: str) -> Ladder:
        config, alphas = self._scheduler, self._alphas_cumprod
        try:
            clocks = ladder.timesteps(steps, spacing, config.num_train_timesteps, config.steps_offset)
        except ValueError as error:
            raise UserError(str(error)) from error
        return ladder.discrete_ladder(alphas, clocks, first=1.0 if config.set_alpha_to_one else alphas[0].item())

    @torch.no_grad()
    def embed(self, prompts: Sequence[str]) -> Conditioning:
        from transformers import CLIPTextModel, CLIPTokenizer

        tokenizer = _loaded(CLIPTokenizer.from_pretrained, self.folder / "tokenizer")
        encoder = _weights(CLIPTextModel.from_pretrained, self.folder / "text_encoder", dtype=torch.float32)
        length = encoder.config.max_position_embeddings
        ids = tokenizer(
            [*prompts, ""], padding="max_length", max_length=length, truncation=True, return_tensors="pt"
        ).input_ids
        states = encoder.to(self.device)(ids.to(self.device)).last_hidden_state.to(self.dtype)
        return Conditioning(states[:-1], states[-1:])  # and the encoder goes

    def predict(self, z: Tensor, here: Level, clock: float, conditioning: Conditioning) -> tuple[Tensor, Tensor]:
        text = conditioning.text.expand(len(z), -1, -1)
        if conditioning.guidance == 1:
            out = self._network(z, clock, text)
        else:
            null = conditioning.null.expand(len(z), -1, -1)
            out_null, out_text = self._network(torch.cat([z, z]), clock, torch.cat([null, text])).chunk(2)
            out = out_null + conditioning.guidance * (out_text - out_null)
        return PREDICTIONS[self._scheduler.prediction_type](out, z, here)

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        pixels = (images.to(self.device).float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)
        means = [self._vae.encode(part).latent_dist.mean for part in _within_memory(pixels, pixels.shape[2:])]
        return (torch.cat(means) * self._vae.config.scaling_factor).contiguous()

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        z = (latents / self._vae.config.scaling_factor).contiguous(memory_format=torch.channels_last)
        size = [side * 2 ** (len(self._vae.config.block_out_channels) - 1) for side in z.shape[2:]]
        pixels = torch.cat([self._vae.decode(part).sample for part in _within_memory(z, size)])
        return ((pixels.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).contiguous()

    def _network(self, z: Tensor, clock: float, text: Tensor) -> Tensor:
        return self._unet(z.to(self.dtype), clock, text).sample.float()

    @cached_property
    def _unet(self) -> Any:
        from diffusers import UNet2DConditionModel

        network = _weights(UNet2DConditionModel.from_pretrained, self.folder / "unet", torch_dtype=self.dtype)
        return network.requires_grad_(False).to(self.device, memory_format=torch.channels_last)

    @cached_property
    def _vae(self) -> Any:
        from diffusers import AutoencoderKL

        # Always float32: in float16 some decoders overflow to NaN.
        network = _weights(AutoencoderKL.from_pretrained, self.folder / "vae", torch_dtype=torch.float32)
        return network.requires_grad_(False).to(self.device, memory_format=torch.channels_last)

    @cached_property
    def _scheduler(self) -> Any:
        return self._ddim.config

    @cached_property
    def _alphas_cumprod(self) -> Tensor:
        return self._ddim.alphas_cumprod

    @cached_property
    def _ddim(self) -> Any:
        from diffusers import DDIMScheduler

        return _loaded(DDIMScheduler.from_pretrained, self.folder / "scheduler")
