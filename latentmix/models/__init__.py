"""Diffusion models: `load_model` returns the `Model` that settings name."""

from collections.abc import Collection, Sequence
from copy import copy
from dataclasses import replace

import torch

from latentmix.errors import UserError
from latentmix.models.protocol import Model
from latentmix.models.settings import USUAL, ModelConfig, SpeedConfig
from latentmix.settings import height_width


def load_model(
    config: ModelConfig,
    device: torch.device,
    float32: Collection[str] = (),
    speed: SpeedConfig = USUAL,
    only_planned: bool = False,
) -> Model:
    """Return the model that settings name. Its networks are loaded when they are first used.

    `float32` names the denoisers, `unet` or `transformer`, that precision=auto leaves in 32 bits. If it is
    `only_planned`, a model of the hub that is not here has a stand-in without weights.
    Raises: UserError where the model can't be read or fetched, or can't take images of the size.
    """
    from latentmix.models.denoiser import check_quantization
    from latentmix.models.pipeline import find, is_on_hub, snapshot
    from latentmix.models.registry import family_of

    if only_planned and is_on_hub(config) and snapshot(config) is None:
        from latentmix.models.architectures import placeholder

        model = placeholder(config, float32)
        check_size(model, config.size)
        return model
    folder = find(config)
    family = family_of(folder)
    precision = family.precision(config.precision, device, float32)
    if config.quantize is not None:
        check_quantization(config.quantize, device)
        if config.offload:
            raise UserError("model.quantize and model.offload can't be combined; leave out one of them")
        precision += f"+{config.quantize}"
    model = family.build(folder, config, precision, device, speed)
    check_size(model, config.size)
    return model


def of_latents(model: Model, config: ModelConfig, latent: Sequence[int]) -> Model:
    """Return a model whose size is that of latents [C, h, w]; the schedules of some models depend on it.

    Raises: UserError for latents that are not of this model.
    """
    own = model.latent_shape(config.size)
    if latent[0] != own[0]:
        raise UserError(f"these latents have {latent[0]} channels, and those of this model {own[0]}")
    if tuple(latent) == own:
        return model
    reduction = height_width(config.size)[0] // own[1]
    height, width = (side * reduction for side in latent[1:])
    size = height if height == width else f"{width}x{height}"
    check_size(model, size)
    sized = copy(model)
    vars(sized)["config"] = replace(config, size=size)
    return sized


def check_size(model: Model, size: int | str) -> None:
    """Raise UserError where a model can't take images of a size."""
    try:
        model.latent_shape(size)
    except ValueError as error:
        raise UserError(f"model.size={size}: {error}") from error
    except TypeError as error:
        if isinstance(size, int):
            raise
        raise UserError(f"model.size={size}: this family of models knows squares alone; give one number") from error
