"""The embedded classifiers of drawn images: feature networks for the embedded models, without downloads.

`embedded` knows the shapes of `tiny` and `tiny-sd3`, `things` the objects of `tiny-128`. Their metrics are named after
them (`fd_embedded`, not `fid`): Fréchet distances of different networks can't be compared.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from latentmix.embedded import NETWORK_FOLDERS, embedded_folder
from latentmix.feature_networks.base import Network, Perceptual, identity
from latentmix.metrics import activation_distances
from latentmix.weight_files import digest

VERSION = 1


class Classifier(nn.Module):
    """A classifier of images [B, 3, H, W] in [-1, 1]; its 64 pooled activations are features, as Inception's are."""

    WIDTH = 64

    def __init__(self, classes: int) -> None:
        super().__init__()

        def level(width: int, out: int, kernel: int, stride: int) -> list[nn.Module]:
            convolution = nn.Conv2d(width, out, kernel, stride, kernel // 2, padding_mode="circular")  # shapes wrap
            return [convolution, nn.BatchNorm2d(out), nn.SiLU()]

        self.body = nn.Sequential(
            *level(3, 32, 7, 2),
            *level(32, 32, 3, 1),
            *level(32, 64, 3, 2),
            *level(64, 64, 3, 1),
            *level(64, 128, 3, 2),
            *level(128, 128, 3, 1),
            *level(128, self.WIDTH, 3, 1),
        )
        self.head = nn.Linear(self.WIDTH, classes)

    def features(self, x: Tensor) -> Tensor:
        """Return the pooled activations [B, 64]."""
        return functional.adaptive_avg_pool2d(self.body(x), 1).flatten(1)

    def activations(self, x: Tensor) -> list[Tensor]:
        """Return the output [B, C, H, W] of each of the seven levels."""
        outs = []
        for part in self.body:
            x = part(x)
            if isinstance(part, nn.SiLU):
                outs.append(x)
        return outs

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [B, classes]."""
        return self.head(self.features(x))


def classifier_folder(name: str) -> Path:
    """Return the folder of an embedded classifier, `embedded` or `things`."""
    return embedded_folder(NETWORK_FOLDERS[name]) / "classifier"


def embedded_classifier(folder: Path) -> Classifier:
    """Load the classifier in a folder, in float32 on the CPU. Logits are in the order of its config's classes."""
    network = Classifier(len(json.loads((folder / "config.json").read_text())["classes"]))
    network.load_state_dict(load_file(folder / "model.safetensors"))
    return network.eval().requires_grad_(False)


def frechet(name: str, device: torch.device) -> Network:
    """Return a classifier, `embedded` or `things`, as a feature network."""
    network, weights = _load(name, device)

    def extract(images: Tensor) -> Tensor:
        return network.features(images.to(device).float() / 127.5 - 1)

    return Network(name, identity(VERSION, features=name, weights=weights), torch.no_grad()(extract))


def perceptual(name: str, device: torch.device) -> Perceptual:
    """Return a distance like LPIPS, from the activations of a classifier's levels; see `activation_distances`."""
    network, weights = _load(name, device)

    def between(a: Tensor, b: Tensor) -> Tensor:
        return activation_distances(*(network.activations(x.to(device).float() / 127.5 - 1) for x in (a, b)))

    return Perceptual(name, identity(VERSION, perceptual=name, weights=weights), torch.no_grad()(between))


def _load(name: str, device: torch.device) -> tuple[Classifier, str]:
    folder = classifier_folder(name)
    network = embedded_classifier(folder).to(memory_format=torch.channels_last).to(device)  # type: ignore[call-overload]
    return network, digest(folder, [folder / "config.json", folder / "model.safetensors"])
