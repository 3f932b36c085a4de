"""What every feature network provides, and how its weights are loaded."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from torch import Tensor

from latentmix.profiling import timed

Encoder = Callable[..., Tensor]


@dataclass(frozen=True)
class Network:
    """A feature network: images, uint8 [B, 3, H, W] -> features, float32 [B, D] on its device."""

    name: str  # in the names of metrics, such as "fd_embedded"
    identity: dict[str, str]  # what features depend on, with a `version` to raise when code changes them
    extract: Callable[[Tensor], Tensor]
    embed_text: Callable[[str], Tensor] | None = None  # CLIP's: a text -> [1, D], comparable with images
    width: int | None = None  # D, for estimates; only networks of other packages need to say it

    def __call__(self, images: Any) -> Tensor:
        """Return features of images, uint8 [B, 3, H, W]; networks from `lm.features` take other images, too."""
        return self.extract(images)


@dataclass(frozen=True)
class Perceptual:
    """A perceptual distance: two batches of images, uint8 [B, 3, H, W] -> float32 [B] on its device."""

    name: str
    identity: dict[str, str]
    between: Callable[[Tensor, Tensor], Tensor]


def distinct(networks: Mapping[str, Network]) -> dict[str, str]:
    """Return for each network's name the first name of the same network, by identity: they have the same features."""
    first: dict[str, str] = {}
    return {name: first.setdefault(repr(sorted(one.identity.items())), name) for name, one in networks.items()}


def lazy(load: Callable[[], Encoder]) -> Encoder:
    """Return an encoder that calls `load` when it is first used, so that planning needs no weights."""
    loaded = cache(timed("loading weights")(load))
    return lambda *args: loaded()(*args)


def identity(version: int, **what: Any) -> dict[str, str]:
    """Return a network's identity from its version and what else its features depend on."""
    return {**{name: str(value) for name, value in what.items()}, "version": str(version)}
