"""Feature networks: the embedded ones against open_clip and torchmetrics, and what is said where one can't be had."""

from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

from latentmix.data.shapes import SHAPES, draw
from latentmix.errors import UserError
from latentmix.features import (
    Classifier,
    Network,
    clip_network,
    embedded_classifier,
    embedded_folder,
    frechet_network,
)
from latentmix.metrics import METRICS, frechet_distance

CPU = torch.device("cpu")
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
TINY = "ViT-latentmix-test"  # an architecture of open_clip's that exists in these tests alone


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return embedded_classifier(embedded_folder("classifier"))


@pytest.fixture(scope="module")
def embedded() -> Network:
    return frechet_network("embedded", CPU)


@pytest.fixture(scope="module")
def clip() -> Network:
    return clip_network("embedded", CPU)


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    """One of each class, 64 px."""
    return [Image.fromarray(draw(name, 0)) for name in SHAPES]


def stacked(pictures: list[Image.Image]) -> Tensor:
    """uint8 [B, 3, H, W]."""
    return torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures])).permute(0, 3, 1, 2)


def furthest(a: Tensor, b: Tensor) -> float:
    assert a.shape == b.shape
    return (a - b).abs().max().item()


def refusal(act: Callable[[], Any]) -> str:
    with pytest.raises(UserError) as caught:
        act()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# The embedded classifier


def test_features_are_what_the_classifiers_head_reads(
    classifier: Classifier, embedded: Network, pictures: list[Image.Image]
) -> None:
    images = stacked(pictures)
    x = images.float() / 127.5 - 1
    features = embedded.extract(images)
    assert features.shape == (len(pictures), 64)
    assert features.dtype == torch.float32
    assert furthest(features, classifier.body(x).mean((2, 3))) < 1e-5
    assert furthest(classifier(x), features @ classifier.head.weight.T + classifier.head.bias) < 1e-5
    assert furthest(classifier.head(features), classifier(x)) < 1e-5
    assert classifier(x).shape == (len(pictures), len(SHAPES))


def test_features_tell_images_apart(embedded: Network, clip: Network, pictures: list[Image.Image]) -> None:
    for network in (embedded, clip):
        features = network.extract(stacked(pictures))
        assert torch.cdist(features, features).add(torch.eye(len(pictures))).min() > 1e-3


def test_a_rows_features_do_not_depend_on_the_others(
    embedded: Network, clip: Network, pictures: list[Image.Image]
) -> None:
    images = stacked(pictures)
    for network in (embedded, clip):
        assert furthest(network.extract(images)[3:4], network.extract(images[3:4])) < 1e-5


def test_features_carry_no_gradient(embedded: Network, clip: Network, pictures: list[Image.Image]) -> None:
    for network in (embedded, clip):
        assert not network.extract(stacked(pictures[:1])).requires_grad


# The embedded CLIP


Preprocess = Callable[[Image.Image], Tensor]


@pytest.fixture(scope="module")
def theirs() -> tuple[nn.Module, Preprocess]:
    """The embedded CLIP as open_clip gives it to anyone, with its own preprocessing."""
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{embedded_folder('clip')}")
    return model.eval(), preprocess


@torch.no_grad()
def by_open_clip(theirs: tuple[nn.Module, Preprocess], pictures: list[Image.Image]) -> Tensor:
    model, preprocess = theirs
    return model.encode_image(torch.stack([preprocess(picture) for picture in pictures]))  # type: ignore[operator]


def test_embeddings_are_those_of_open_clip(
    clip: Network, theirs: tuple[nn.Module, Preprocess], pictures: list[Image.Image]
) -> None:
    ours = clip.extract(stacked(pictures))
    assert ours.dtype == torch.float32
    assert furthest(ours, by_open_clip(theirs, pictures)) < 1e-4


@pytest.mark.parametrize("size", [128, 96, 48])
def test_other_sizes_are_resized_nearly_as_open_clip_does(
    clip: Network, theirs: tuple[nn.Module, Preprocess], pictures: list[Image.Image], size: int
) -> None:
    """Pillow rounds to 8 bits on the way; more than that, such as another filter, would show."""
    resized = [picture.resize((size, size), Image.Resampling.BICUBIC) for picture in pictures]
    noisy = [Image.fromarray(noise(picture, seed)) for seed, picture in enumerate(resized)]  # where aliasing shows
    true = by_open_clip(theirs, noisy)
    assert distance(clip.extract(stacked(noisy)), true) < 0.02
    if size > 64:
        crude = [picture.resize((64, 64), Image.Resampling.NEAREST) for picture in noisy]
        assert distance(clip.extract(stacked(crude)), true) > 0.05


def noise(picture: Image.Image, seed: int) -> np.ndarray:
    pixels = np.asarray(picture).astype(float)
    return (pixels + 40 * np.random.default_rng(seed).standard_normal(pixels.shape)).clip(0, 255).astype(np.uint8)


def distance(a: Tensor, b: Tensor) -> float:
    return ((a - b).norm() / b.norm()).item()


# Names


def test_embedded_distances_are_not_called_what_they_are_not(embedded: Network, clip: Network) -> None:
    networks = {"frechet": embedded, "clip": clip}
    labels = {name: metric.label(name, networks[metric.network].name) for name, metric in METRICS.items()}
    assert labels["fid"] == "fd_embedded"
    assert labels["clip_distance"] == "clip_distance_embedded"
    for label in labels.values():
        assert label.endswith("_embedded")
        assert not label.startswith(("fid", "kid"))


def test_identities_name_the_network_and_its_weights(embedded: Network, clip: Network) -> None:
    assert embedded.identity["features"] == "embedded"
    assert clip.identity["clip"] == "embedded"
    assert embedded.identity["weights"] != clip.identity["weights"]


def test_unknown_networks_are_named_with_the_known() -> None:
    text = refusal(lambda: frechet_network("incepton", CPU))
    assert "'incepton'" in text
    assert "embedded and inception" in text


@pytest.mark.parametrize("name", ["ViT-L-14/opnai", "ViT-L-14", "openai", "", "/", "embeded", "ViT-L-14/openai/x"])
def test_unknown_clip_models_are_named_with_an_example(name: str) -> None:
    text = refusal(lambda: clip_network(name, CPU))
    assert repr(name) in text
    assert "ViT-L-14/openai" in text


# Networks with weights of their own


def raising(error: Exception) -> Callable[..., Any]:
    def fail(*_: Any, **__: Any) -> Any:
        raise error

    return fail


OFFLINE = [URLError("no such host"), OSError("connection\nreset"), RuntimeError("invalid hash value")]


@pytest.mark.parametrize("error", OFFLINE, ids=lambda error: type(error).__name__)
def test_inception_out_of_reach_is_one_line(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """Down to where torch-fidelity would download."""
    monkeypatch.setattr("torch_fidelity.feature_extractor_inceptionv3.load_state_dict_from_url", raising(error))
    text = refusal(lambda: frechet_network("inception", CPU))
    assert "weights-inception-2015-12-05-6726825d.pth" in text
    assert "online" in text
    assert "model.features=embedded" in text


def test_inception_is_called_fid_and_fed_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    class Inception(nn.Module):
        def __init__(self, *how: Any) -> None:
            super().__init__()
            made.append(how)

        def forward(self, images: Tensor) -> Tensor:
            assert images.dtype == torch.uint8
            return images.double().mean((2, 3))

    monkeypatch.setattr("torchmetrics.image.fid.NoTrainInceptionV3", Inception)
    network = frechet_network("inception", CPU)
    assert METRICS["fid"].label("fid", network.name) == "fid"
    assert made == [("inception-v3-compat", ["2048"])]
    assert network.extract(torch.full((2, 3, 4, 4), 7, dtype=torch.uint8)).tolist() == [[7.0] * 3] * 2
    assert network.extract(torch.zeros(1, 3, 4, 4, dtype=torch.uint8)).dtype == torch.float32


@pytest.mark.parametrize("error", OFFLINE, ids=lambda error: type(error).__name__)
def test_a_clip_out_of_reach_is_one_line(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    monkeypatch.setattr(open_clip, "create_model", raising(error))
    text = refusal(lambda: clip_network("ViT-B-32/openai", CPU))
    assert "ViT-B-32/openai" in text
    assert "online" in text
    assert "model.clip=embedded" in text


NamedClip = Callable[..., open_clip.CLIP]


@pytest.fixture
def named_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NamedClip:
    """Adds a small architecture to open_clip, with random weights under a tag; returns it as a model."""
    shape: dict[str, Any] = {
        "embed_dim": 8,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 16, "head_width": 8, "patch_size": 16},
        "text_cfg": {"context_length": 8, "vocab_size": 50, "width": 16, "heads": 2, "layers": 1},
    }
    weights = tmp_path / "weights.pt"

    def add(tag: str, **about: Any) -> open_clip.CLIP:
        torch.manual_seed(0)
        model = open_clip.CLIP(**shape, **about).eval()
        torch.save(model.state_dict(), weights)
        pre = {"interpolation": "bicubic", "resize_mode": "shortest", "mean": MEAN, "std": STD}
        monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, TINY, shape)
        monkeypatch.setitem(open_clip.pretrained._PRETRAINED, TINY, {tag: {"url": "", "hf_hub": "", **pre, **about}})
        monkeypatch.setattr(open_clip.factory, "download_pretrained", lambda *_, **__: str(weights))
        return model

    return add


@torch.no_grad()
def assert_same_embeddings(network: Network, model: open_clip.CLIP) -> None:
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    true = model.encode_image((images / 255 - mean) / std)
    assert true.std() > 0.01
    assert furthest(network.extract(images), true) < 1e-5


def test_a_clip_of_open_clip_is_used_as_its_preprocessing_says(named_clip: NamedClip) -> None:
    model = named_clip("some_tag")
    network = clip_network(f"{TINY}/some_tag", CPU)
    assert_same_embeddings(network, model)
    assert network.name == "vit-latentmix-test-some_tag"
    assert network.identity == {"clip": f"{TINY}/some_tag"}


def test_openais_weights_get_the_activation_they_were_trained_with(named_clip: NamedClip) -> None:
    """QuickGELU; open_clip only warns where an architecture's config says otherwise, as that of ViT-L-14 does."""
    model = named_clip("openai", quick_gelu=True)
    assert_same_embeddings(clip_network(f"{TINY}/openai", CPU), model)


# Distances between features


class Wrapped(nn.Module):
    """A feature network in the form that torchmetrics takes."""

    num_features = 64

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network.extract(images)


def test_the_frechet_distance_of_images_is_that_of_torchmetrics(embedded: Network) -> None:
    """80 generated images against 100 real ones; of the same class, then of others, which must be further."""
    real = stacked([Image.fromarray(draw("star", index)) for index in range(100)])
    values = []
    for name in ("star", "heart"):
        made = stacked([Image.fromarray(draw(name, 1000 + index)) for index in range(80)])
        metric = FrechetInceptionDistance(feature=Wrapped(embedded), normalize=False)
        metric.set_dtype(torch.float64)
        metric.update(real, real=True)
        metric.update(made, real=False)
        ours = frechet_distance(embedded.extract(made), embedded.extract(real))
        assert ours == pytest.approx(metric.compute().item(), rel=1e-3)
        values.append(ours)
    assert values[1] > 1.5 * values[0] > 0
