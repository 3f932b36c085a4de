"""CLIP: embeddings of images and of texts, by an embedded network or any of open_clip's."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from latentmix.embedded import NETWORK_FOLDERS, embedded_folder
from latentmix.errors import UserError, optional_imports
from latentmix.feature_networks.base import Encoder, Network, identity
from latentmix.feature_networks.fetching import fetching
from latentmix.isolation import without_root_handlers
from latentmix.profiling import timed
from latentmix.weight_files import digest

VERSION = 1


def clip_network(name: str, device: torch.device, texts: bool = True) -> Network:
    """Return a CLIP, `embedded`, `things` or open_clip's ARCHITECTURE/PRETRAINED, with its text encoder if `texts`.

    Its weights, and the tokenizer if `texts`, are loaded at the first use.
    Raises: UserError where there is no such CLIP and, at the first use, where its weights can't be loaded.
    """
    known = _identity(name)

    @cache
    @timed("loading weights")
    def encoders() -> tuple[Encoder, Encoder | None]:
        with without_root_handlers():
            model = _load(name).to(device).eval().requires_grad_(False)
            return _image_encoder(model, device), _text_encoder(name, model, device) if texts else None

    def embed_text(text: str) -> Tensor:
        return encoders()[1](text)  # type: ignore[misc]

    label = name.replace("/", "-").lower()
    return Network(label, known, lambda images: encoders()[0](images), embed_text if texts else None)


def _identity(name: str) -> dict[str, str]:
    if name not in NETWORK_FOLDERS:
        pretrained_config(name)
        return identity(VERSION, clip=name)
    folder = clip_folder(name)
    return identity(VERSION, clip=name, weights=digest(folder, folder.iterdir()))


def clip_folder(name: str) -> Path:
    """Return the folder of an embedded CLIP, `embedded` or `things`."""
    return embedded_folder(NETWORK_FOLDERS[name]) / "clip"


def clip_width(name: str) -> int:
    """Return the number of features of a CLIP; no weights are read."""
    if name in NETWORK_FOLDERS:
        return json.loads((clip_folder(name) / "open_clip_config.json").read_text())["model_cfg"]["embed_dim"]
    return _open_clip().get_model_config(name.partition("/")[0])["embed_dim"]


def pretrained_config(name: str) -> dict[str, Any]:
    """Return open_clip's settings of ARCHITECTURE/PRETRAINED. Raises: UserError where it has no such CLIP."""
    open_clip = _open_clip()
    architecture, _, pretrained = name.partition("/")
    if (architecture, pretrained) not in open_clip.list_pretrained():
        raise UserError(f"open_clip has no {name!r}; give clip as ARCHITECTURE/PRETRAINED, such as ViT-L-14/openai")
    return open_clip.get_pretrained_cfg(architecture, pretrained)


def _open_clip() -> Any:
    with optional_imports():
        import open_clip

    return open_clip


def _load(name: str) -> Any:
    open_clip = _open_clip()
    if name in NETWORK_FOLDERS:
        return open_clip.create_model(_architecture(name))
    architecture, _, pretrained = name.partition("/")
    # OpenAI's weights need QuickGELU, which is a setting of the weights, not of the architecture.
    about = pretrained_config(name)
    quick, hub = bool(about.get("quick_gelu", False)), about.get("hf_hub", "").rpartition("/")[0]
    with fetching(f"the weights of open_clip's {name}", "clip", hub):
        return open_clip.create_model(architecture, pretrained=pretrained, force_quick_gelu=quick)


def _image_encoder(model: Any, device: torch.device) -> Encoder:
    pre = _open_clip().get_model_preprocess_cfg(model)
    size = pre["size"] if isinstance(pre["size"], int) else pre["size"][0]
    mean, std = (torch.tensor(pre[k], device=device).view(1, 3, 1, 1) for k in ("mean", "std"))

    def extract(images: Tensor) -> Tensor:
        x = images.to(device).float() / 255
        if x.shape[2:] != (size, size):
            x = functional.interpolate(x, size=(size, size), mode="bicubic", antialias=True).clamp(0, 1)
        return model.encode_image((x - mean) / std).float()

    return torch.no_grad()(extract)


def _text_encoder(name: str, model: Any, device: torch.device) -> Callable[[str], Tensor]:
    """Return the text encoder. Some tokenizers come with open_clip; others are fetched from the hub."""
    with fetching(f"the files of the tokenizer of open_clip's {name}", "other metrics than clip_score"):
        tokenize = _open_clip().get_tokenizer(_architecture(name))

    def embed_text(text: str) -> Tensor:
        return model.encode_text(tokenize([text]).to(device)).float()

    return torch.no_grad()(embed_text)


def _architecture(name: str) -> str:
    """Return open_clip's name of a CLIP's architecture."""
    return f"local-dir:{clip_folder(name)}" if name in NETWORK_FOLDERS else name.partition("/")[0]
