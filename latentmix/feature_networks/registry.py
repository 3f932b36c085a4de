"""The feature networks by name. A new one is a file beside this one and an entry in a table below, or an entry point
`latentmix.feature_networks` of another package. A metric names its network in `metrics/registry.py`.
"""

from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path

import torch

from latentmix.embedded import NETWORK_FOLDERS
from latentmix.errors import UserError
from latentmix.feature_networks import dinov2, embedded, inception, lpips
from latentmix.feature_networks.base import Network, Perceptual
from latentmix.feature_networks.clip import clip_network, clip_width
from latentmix.feature_networks.dinov2 import DINOV2, dinov2_name
from latentmix.feature_networks.embedded import Classifier
from latentmix.feature_networks.lpips import LPIPS
from latentmix.plugins import Table
from latentmix.settings import expand_home
from latentmix.weight_files import read_config

FRECHET: Table[Callable[[torch.device], Network]] = Table(
    "feature_networks",
    {
        **{name: partial(embedded.frechet, name) for name in NETWORK_FOLDERS},
        "inception": inception.frechet,
        **{name: partial(dinov2.of_hub, name) for name in (*dinov2.SHORT, *DINOV2)},
    },
)
PERCEPTUAL: Mapping[str, Callable[[torch.device], Perceptual]] = {
    **{name: partial(embedded.perceptual, name) for name in NETWORK_FOLDERS},
    **{name: partial(lpips.perceptual, name) for name in LPIPS},
}


def load(name: str, device: str | torch.device = "cpu") -> Network:
    """Return a feature network by name: one of `FRECHET`, a folder of a DINOv2, or a CLIP as ARCHITECTURE/PRETRAINED.

    Raises: UserError where there is no such network and, at the first use, where its weights can't be loaded.
    """
    if is_clip(name):
        return clip_network(name, torch.device(device))
    return frechet_network(name, torch.device(device))


def is_clip(name: str) -> bool:
    """Return whether a name is that of a CLIP of open_clip, ARCHITECTURE/PRETRAINED."""
    return name not in FRECHET and not Path(expand_home(name)).is_dir() and "/" in name


def frechet_network(name: str, device: torch.device) -> Network:
    """Return the network of the Fréchet distance: one of `FRECHET`, or a DINOv2 in a folder. Raises as `load` does."""
    if name in FRECHET:
        return FRECHET[name](device)
    return dinov2.of_folder(_folder(name), device)


def perceptual_network(name: str, device: torch.device) -> Perceptual:
    """Return the distance between two images: one of `PERCEPTUAL`. Raises as `load` does."""
    if name not in PERCEPTUAL:
        raise UserError(f"there is no perceptual distance {name!r}; there are {', '.join(PERCEPTUAL)}")
    return PERCEPTUAL[name](device)


def network_width(name: str) -> int:
    """Return the number of features of a network by name, as `load` takes it; no weights are read."""
    return clip_width(name) if is_clip(name) else frechet_width(name)


def frechet_width(name: str) -> int:
    """Return the number of features of a network of the Fréchet distance; no weights are read."""
    widths = dict.fromkeys(NETWORK_FOLDERS, Classifier.WIDTH) | {"inception": inception.WIDTH}
    widths |= {network: width for network, (_, width) in DINOV2.items()}
    if dinov2_name(name) in widths:
        return widths[dinov2_name(name)]
    if name in FRECHET:  # of another package
        return _width_elsewhere(name)
    return read_config(_folder(name))["hidden_size"]


@cache
def _width_elsewhere(name: str) -> int:
    """Return the number of features of another package's network; that of Inception where it does not say it."""
    return FRECHET[name](torch.device("cpu")).width or inception.WIDTH


def dinov2_folder(name: str) -> Path | None:
    """Return the folder that `name` names; None for one of `FRECHET`. Raises: UserError where it holds no DINOv2."""
    return None if name in FRECHET else _folder(name)


def _folder(name: str) -> Path:
    folder = Path(expand_home(name))
    if not folder.is_dir():
        raise UserError(f"there is no feature network {name!r}, nor such a folder; there are {', '.join(FRECHET)}")
    if not dinov2.is_dinov2(folder):
        raise UserError(f"{folder} holds no DINOv2: it needs a config.json that says so, and weights in *.safetensors")
    return folder
