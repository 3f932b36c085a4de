"""DINOv2: the network of FD-DINOv2 (Stein et al.), from the hub or from a folder as transformers saves it."""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from latentmix.errors import UserError
from latentmix.feature_networks.base import Encoder, Network, identity, lazy
from latentmix.feature_networks.fetching import fetching
from latentmix.isolation import quiet
from latentmix.weight_files import digest, read_config, weight_files

VERSION = 1
DINOV2 = {  # name -> its repository on the hub, and the width of its features
    "dinov2-vits14": ("facebook/dinov2-small", 384),
    "dinov2-vitb14": ("facebook/dinov2-base", 768),
    "dinov2-vitl14": ("facebook/dinov2-large", 1024),
    "dinov2-vitg14": ("facebook/dinov2-giant", 1536),
}
SHORT = {"dinov2": "dinov2-vitl14"}  # the network of FD-DINOv2
SIZE = 224  # px
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def dinov2_name(name: str) -> str:
    """Return the full name of a DINOv2 on the hub."""
    return SHORT.get(name, name)


def of_hub(name: str, device: torch.device) -> Network:
    """Return a DINOv2 of the hub, which is fetched at the first use."""
    name = dinov2_name(name)
    hub, _ = DINOV2[name]

    def load() -> Encoder:
        with fetching(f"the weights of {name} ({hub})", "features", hub):
            return _encoder(hub, device)

    return Network(name, identity(VERSION, features=name), lazy(load))


def of_folder(folder: Path, device: torch.device) -> Network:
    """Return the DINOv2 in a folder, which is loaded at the first use."""
    label = folder.resolve().name.lower()
    files = [folder / "config.json", *weight_files(folder, "transformers")]
    known = identity(VERSION, features="dinov2", weights=digest(folder, files))
    name = label if label.startswith("dinov2") else f"dinov2-{label}"
    return Network(name, known, lazy(partial(_encoder, folder, device)))


def is_dinov2(folder: Path) -> bool:
    """Return whether a folder holds a DINOv2 with weights as safetensors."""
    try:
        weight_files(folder, "transformers")
        return read_config(folder)["model_type"] == "dinov2"
    except (UserError, KeyError):
        return False


def _encoder(source: str | Path, device: torch.device) -> Callable[[Tensor], Tensor]:
    """Return DINOv2 as the code of FD-DINOv2 runs it.

    Images are resized to 224 px, rounded to 8 bits, and normalised by ImageNet's mean and standard deviation. Features
    are the final state of the class token.
    """
    from transformers import Dinov2Model
    from transformers.utils import logging

    with quiet(logging):
        model, info = Dinov2Model.from_pretrained(source, use_safetensors=True, output_loading_info=True)
    if info["missing_keys"]:  # transformers would fill them with random numbers
        raise UserError(f"{source} lacks the weights {', '.join(sorted(info['missing_keys'])[:3])}; copy it again")
    embeddings = model.embeddings
    side = SIZE // embeddings.patch_size
    embeddings.position_embeddings = nn.Parameter(_resized(embeddings.position_embeddings, side))
    model = model.float().to(device).eval().requires_grad_(False)
    mean, std = (torch.tensor(rgb, device=device).view(1, 3, 1, 1) for rgb in (IMAGENET_MEAN, IMAGENET_STD))

    def extract(images: Tensor) -> Tensor:
        x = images.to(device).float()
        if x.shape[-2:] != (SIZE, SIZE):
            x = functional.interpolate(x, size=(SIZE, SIZE), mode="bicubic", antialias=True).round().clamp(0, 255)
        return model((x / 255 - mean) / std).pooler_output

    return torch.no_grad()(extract)


def _resized(positions: Tensor, side: int) -> Tensor:
    """Resize position embeddings [1, 1 + before², D] to [1, 1 + side², D] as DINOv2's own code does.

    That code scales to a grid that is a tenth of a patch wider, unlike transformers; published distances include this.
    """
    before = math.isqrt(positions.shape[1] - 1)
    if side == before:
        return positions
    grid = positions[:, 1:].unflatten(1, (before, before)).permute(0, 3, 1, 2).float()
    factor = (side + 0.1) / before
    grid = functional.interpolate(grid, scale_factor=(factor, factor), mode="bicubic")
    return torch.cat([positions[:, :1], grid.flatten(2).mT], 1)
