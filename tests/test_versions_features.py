"""The embedded feature networks give today what they gave when their version was set, on weights made here.

Cached features are found by this version. Where a value below changes, raise VERSION in the network's file, and put the
new values here.
"""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from latentmix import feature_networks as features
from latentmix.feature_networks import clip, embedded

CPU = torch.device("cpu")
TOLERANCE = 2e-3  # of the largest value: processors and versions of torch round differently


def images() -> Tensor:
    """Two smooth random images, the same everywhere: uint8 [2, 3, 64, 64]."""
    coarse = np.random.default_rng(0).integers(0, 256, (2, 3, 8, 8), dtype=np.uint8)
    return torch.from_numpy(coarse.repeat(8, axis=2).repeat(8, axis=3))


def summary(x: Tensor) -> list[float]:
    """Return a few numbers that depend on all values, and on their order."""
    x = x.flatten().double()
    ramp = torch.linspace(-1, 1, len(x), dtype=torch.float64)
    return [x.mean().item(), x.std().item() if len(x) > 1 else 0.0, (x * ramp).mean().item(), x[0].item()]


def fill(network: nn.Module) -> nn.Module:
    """Give a network weights that no training changes."""
    for index, (_, tensor) in enumerate(sorted(network.state_dict().items())):
        if tensor.is_floating_point():
            drawn = torch.from_numpy(np.random.default_rng(index).standard_normal(tensor.numel())).view_as(tensor)
            tensor.copy_(drawn.abs() + 0.1 if tensor.ndim <= 1 else drawn / tensor[0].numel() ** 0.5)
    return network


def values(monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    load_classifier, load_clip = embedded.embedded_classifier, clip._load
    monkeypatch.setattr(embedded, "embedded_classifier", lambda folder: fill(load_classifier(folder)))
    monkeypatch.setattr(clip, "_load", lambda name: fill(load_clip(name)))
    network = features.clip_network("embedded", CPU)
    assert network.embed_text is not None
    a, b = images().split(1)
    return {
        "classifier": features.frechet_network("embedded", CPU)(images()),
        "perceptual": features.perceptual_network("embedded", CPU).between(a, b),
        "clip images": network(images()),
        "clip text": network.embed_text("a photo of a star"),
    }


GOLDEN: dict[str, tuple[int, int, list[float]]] = {  # the network's version now, the golden values' version, the values
    "classifier": (embedded.VERSION, 1, [1.94882, 2.55017, 0.0412457, 2.2369]),
    "perceptual": (embedded.VERSION, 1, [1.00174, 0.0, -1.00174, 1.00174]),
    "clip images": (clip.VERSION, 1, [-0.507969, 1.9648, 0.0542469, -1.13532]),
    "clip text": (clip.VERSION, 1, [0.0428245, 1.5504, 0.144062, -0.439067]),
}


@torch.no_grad()
@pytest.mark.parametrize("name", GOLDEN)
def test_values_are_those_of_the_version(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    version, golden_version, expected = GOLDEN[name]
    found = summary(values(monkeypatch)[name])
    assert version == golden_version, f"put the values of version {version} of {name} here: {found}"
    scale = max(map(abs, expected))
    apart = max(abs(a - b) for a, b in zip(found, expected, strict=True)) / scale
    assert apart < TOLERANCE, f"{name} gives other values: raise its VERSION, and put {found} here"


def test_all_networks_say_their_version() -> None:
    identities = [features.FRECHET[name](CPU).identity for name in features.FRECHET]
    identities += [features.PERCEPTUAL[name](CPU).identity for name in features.PERCEPTUAL]
    identities += [features.clip_network(name, CPU).identity for name in ("embedded", "ViT-L-14/openai")]
    assert all(identity["version"].isdigit() for identity in identities)
