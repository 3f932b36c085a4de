"""Diffusion models as the rest of latentmix sees them."""

from collections.abc import Collection

import torch

from latentmix.errors import UserError
from latentmix.models.protocol import Model, Sized
from latentmix.models.settings import USUAL, ModelConfig, SpeedConfig


def load_model(
    config: ModelConfig, device: torch.device, float32: Collection[str] = (), speed: SpeedConfig = USUAL
) -> Model:
    """The model that a config names, its networks read when they are first needed; UserError if it can't be had.

    `float32` names the kinds of network, `unet` or `transformer`, that an automatic precision leaves in 32 bits.
    """
    from latentmix.models.mmdit import MMDiTModel
    from latentmix.models.pipeline import find, pipeline_class
    from latentmix.models.unet import UNetModel

    folder = find(config)
    model: Model
    flow = pipeline_class(folder) == "StableDiffusion3Pipeline"
    exact = config.precision == "auto" and ("transformer" if flow else "unet") in float32
    precision = "float32" if exact else config.precision
    if flow:
        model = MMDiTModel(folder, precision, device, config.max_sequence_length, speed)
    else:
        model = UNetModel(folder, precision, device, speed)
    check_size(model, config.size)
    return model


def check_size(model: Sized, size: int) -> None:
    """UserError where a model can't take images of so many pixels."""
    try:
        model.latent_shape(size)
    except ValueError as error:
        raise UserError(f"model.size={size}: {error}") from error
