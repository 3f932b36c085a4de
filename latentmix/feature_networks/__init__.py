"""Feature networks: images to one vector each, or to the distance between two.

    extract = latentmix.feature_networks.load("inception")
    features = extract(images)  # uint8 [B, 3, H, W] -> float32 [B, 2048]

`embedded` and `things` come with latentmix; `inception`, DINOv2, LPIPS and the models of open_clip have published
weights, which are fetched if need be. Weights are loaded at the first use. `registry.py` lists the networks.
"""

from latentmix.feature_networks.base import Network, Perceptual
from latentmix.feature_networks.clip import clip_network, clip_width
from latentmix.feature_networks.embedded import Classifier, embedded_classifier
from latentmix.feature_networks.registry import (
    FRECHET,
    PERCEPTUAL,
    dinov2_folder,
    frechet_network,
    frechet_width,
    is_clip,
    load,
    network_width,
    perceptual_network,
)

__all__ = ["FRECHET", "PERCEPTUAL", "Classifier", "Network", "Perceptual", "clip_network", "clip_width"]
__all__ += ["dinov2_folder", "embedded_classifier", "frechet_network", "frechet_width", "is_clip", "load"]
__all__ += ["network_width", "perceptual_network"]
