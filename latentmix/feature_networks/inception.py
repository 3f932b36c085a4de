"""Inception-v3 with the weights of TensorFlow 2015: the network of FID."""

import torch

from latentmix.errors import optional_imports
from latentmix.feature_networks.base import Encoder, Network, identity, lazy
from latentmix.feature_networks.fetching import fetching

VERSION = 1
WIDTH = 2048


def frechet(device: torch.device) -> Network:
    """Return Inception-v3 as torchmetrics runs it; it resizes images to 299 px itself."""

    def load() -> Encoder:
        with optional_imports():
            from torchmetrics.image.fid import NoTrainInceptionV3

        file = "weights-inception-2015-12-05-6726825d.pth"
        with fetching(f"the weights of Inception-v3 (torch-fidelity's {file})", "features"):
            network = NoTrainInceptionV3("inception-v3-compat", ["2048"]).to(device)
        return torch.no_grad()(lambda images: network(images.to(device)).float())

    return Network("inception", identity(VERSION, features="inception-2015"), lazy(load))
