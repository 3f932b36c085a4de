"""LPIPS (Zhang et al.): the perceptual distance of diversity."""

import torch
from torch import Tensor

from latentmix.errors import optional_imports
from latentmix.feature_networks.base import Encoder, Perceptual, identity, lazy
from latentmix.feature_networks.fetching import fetching

VERSION = 1
LPIPS = {"alex": "AlexNet", "vgg": "VGG16", "squeeze": "SqueezeNet1_1"}  # torchmetrics' names -> torchvision's


def perceptual(name: str, device: torch.device) -> Perceptual:
    """Return LPIPS with the network `name`; torchmetrics has LPIPS' own weights, torchvision the network's."""

    def load() -> Encoder:
        with optional_imports():
            from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

        with fetching(f"the weights of torchvision's {LPIPS[name]} (for LPIPS)", "perceptual"):
            network = LearnedPerceptualImagePatchSimilarity(name).net.to(device)  # type: ignore[arg-type]

        def between(a: Tensor, b: Tensor) -> Tensor:
            return network(*(x.to(device).float() / 255 for x in (a, b)), normalize=True).flatten()

        return torch.no_grad()(between)

    return Perceptual(f"lpips-{name}", identity(VERSION, perceptual=f"lpips-{name}"), lazy(load))
