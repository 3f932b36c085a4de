"""Feature networks: the embedded ones against open_clip and torchmetrics, DINOv2 against timm, LPIPS against its own
package's form of it on random weights, and what is said where one can't be had."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.error import URLError

import numpy as np
import open_clip
import pytest
import torch
import torchvision
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from torchmetrics.functional.multimodal import clip_score
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity
from transformers import Dinov2Config, Dinov2Model, ViTConfig

from latentmix.data.shapes import SHAPES, draw
from latentmix.embedded import embedded_folder
from latentmix.errors import UserError
from latentmix.feature_networks import (
    Classifier,
    Network,
    Perceptual,
    clip_network,
    embedded_classifier,
    frechet_network,
    perceptual_network,
)
from latentmix.feature_networks.dinov2 import DINOV2
from latentmix.feature_networks.lpips import LPIPS
from latentmix.metrics import METRICS, clip_scores, frechet_distance

CPU = torch.device("cpu")
BLACK = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
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
    return torch.from_numpy(np.stack([np.asarray(image_path) for image_path in pictures])).permute(0, 3, 1, 2)


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
    return model.encode_image(torch.stack([preprocess(image_path) for image_path in pictures]))  # type: ignore[operator]


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
    resized = [image_path.resize((size, size), Image.Resampling.BICUBIC) for image_path in pictures]
    noisy = [
        Image.fromarray(noise(image_path, seed)) for seed, image_path in enumerate(resized)
    ]  # where aliasing shows
    true = by_open_clip(theirs, noisy)
    assert distance(clip.extract(stacked(noisy)), true) < 0.02
    if size > 64:
        crude = [image_path.resize((64, 64), Image.Resampling.NEAREST) for image_path in noisy]
        assert distance(clip.extract(stacked(crude)), true) > 0.05


def noise(image_path: Image.Image, seed: int) -> np.ndarray:
    pixels = np.asarray(image_path).astype(float)
    return (pixels + 40 * np.random.default_rng(seed).standard_normal(pixels.shape)).clip(0, 255).astype(np.uint8)


def distance(a: Tensor, b: Tensor) -> float:
    return ((a - b).norm() / b.norm()).item()


# Texts


def described(clip: Network, text: str) -> Tensor:
    assert clip.embed_text is not None
    return clip.embed_text(text)


def test_clip_scores_are_torchmetrics(
    clip: Network, theirs: tuple[nn.Module, Preprocess], pictures: list[Image.Image]
) -> None:
    """Of the embedded CLIP in the form that torchmetrics takes; it averages over images, so one by one."""
    model, preprocess = theirs
    tokenizer = open_clip.get_tokenizer(f"local-dir:{embedded_folder('clip')}")

    def processor(text: list[str] | None = None, images: list[Tensor] | None = None, **_: Any) -> dict[str, Tensor]:
        if images is not None:
            shown = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]
            return {"pixel_values": torch.stack([preprocess(image) for image in shown])}
        tokens = tokenizer(text)
        return {"input_ids": tokens, "attention_mask": (tokens != 0).long()}

    class Model(nn.Module):
        config = SimpleNamespace()

        def get_image_features(self, pixels: Tensor) -> Tensor:
            return model.encode_image(pixels)  # type: ignore[operator]

        def get_text_features(self, tokens: Tensor, _: Tensor) -> Tensor:
            return model.encode_text(tokens)  # type: ignore[operator]

    prompt = "a photo of a star"
    ours = clip_scores(clip.extract(stacked(pictures)), described(clip, prompt))
    assert ours.min() > 1
    with torch.no_grad():
        scores = [clip_score(image, prompt, lambda: (Model(), processor)) for image in stacked(pictures)]
    assert furthest(ours.float(), torch.stack(scores)) < 1e-3


def test_a_tokenizer_out_of_reach_is_one_line_where_texts_are_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_clip, "get_tokenizer", raising(OSError("we couldn't connect")))
    assert clip_network("embedded", CPU, texts=False).embed_text is None
    text = refusal(lambda: clip_network("embedded", CPU).extract(BLACK))  # before any work, not at the first text
    assert "tokenizer" in text and "other metrics than clip_score" in text


def test_images_score_highest_with_the_prompt_of_their_class(clip: Network) -> None:
    texts = {name: described(clip, f"a photo of a {name}") for name in SHAPES}
    for name in ("star", "heart", "ring"):
        images = clip.extract(stacked([Image.fromarray(draw(name, index)) for index in range(24)]))
        scores = {other: clip_scores(images, text).mean().item() for other, text in texts.items()}
        assert scores.pop(name) > max(scores.values()) + 1


# The distance between two images


@pytest.fixture(scope="module")
def perceptual() -> Perceptual:
    return perceptual_network("embedded", CPU)


def test_the_embedded_distance_is_made_of_each_level(
    perceptual: Perceptual, classifier: Classifier, pictures: list[Image.Image]
) -> None:
    """By hooks, and cosines: ‖a − b‖² = 2 − 2 cos."""
    seen: list[Tensor] = []
    levels = [part for part in classifier.body if isinstance(part, nn.SiLU)]
    hooks = [level.register_forward_hook(lambda *what: seen.append(what[2])) for level in levels]
    a, b = stacked(pictures[:3]), stacked(pictures[3:6])
    classifier(torch.cat([a, b]).float() / 127.5 - 1)
    for hook in hooks:
        hook.remove()
    assert len(seen) == 7
    cosines = [nn.functional.cosine_similarity(x[:3], x[3:]).mean((1, 2)) for x in seen]
    assert furthest(perceptual.between(a, b), sum(2 - 2 * c for c in cosines)) < 1e-4  # type: ignore[arg-type]


def test_alike_images_are_near_each_other(perceptual: Perceptual) -> None:
    stars, hearts = (stacked([Image.fromarray(draw(name, i)) for i in range(8)]) for name in ("star", "heart"))
    assert perceptual.between(stars, stars).abs().max() < 1e-5
    assert furthest(perceptual.between(stars, hearts), perceptual.between(hearts, stars)) < 1e-5
    noisy = stacked([Image.fromarray(noise(Image.fromarray(draw("star", i)), i)) for i in range(8)])
    assert (perceptual.between(stars, noisy) < perceptual.between(stars, hearts)).all()
    assert perceptual.name == "embedded" and not perceptual.between(stars, hearts).requires_grad


@pytest.fixture
def torch_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    return tmp_path / "hub" / "checkpoints"


def test_lpips_is_that_of_torchmetrics(torch_home: Path, pictures: list[Image.Image]) -> None:
    """On random weights, where torchvision keeps what it downloads; against LPIPS of images in [-1, 1]."""
    torch.manual_seed(0)
    network = torchvision.models.squeezenet1_1(weights=None)
    torch.save(network.state_dict(), torch_home / "squeezenet1_1-b8a52dc0.pth")
    ours = perceptual_network("squeeze", CPU)
    assert (ours.name, ours.identity) == ("lpips-squeeze", {"perceptual": "lpips-squeeze", "version": "1"})
    a, b = stacked(pictures[:4]), stacked(pictures[4:8])
    theirs = LearnedPerceptualImagePatchSimilarity("squeeze", reduction="none")
    expected = theirs(a / 127.5 - 1, b / 127.5 - 1)
    assert expected.std() > 1e-3
    assert furthest(ours.between(a, b), expected) < 1e-5
    assert ours.between(a[:1], b[:1]).shape == (1,)
    assert ours.between(a, a).abs().max() == 0


@pytest.mark.parametrize("name", LPIPS)
def test_lpips_out_of_reach_is_one_line(torch_home: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr("torch.hub.download_url_to_file", raising(URLError("no such host")))
    distance = perceptual_network(name, CPU).between  # which reads no weights yet
    text = refusal(lambda: distance(BLACK, BLACK))
    assert LPIPS[name] in text and "online" in text and "model.perceptual=embedded" in text


def test_unknown_distances_are_named_with_the_known() -> None:
    assert "embedded, things, alex, vgg, squeeze" in refusal(lambda: perceptual_network("alx", CPU))


# Names


def test_embedded_distances_are_not_called_what_they_are_not(
    embedded: Network, clip: Network, perceptual: Perceptual
) -> None:
    networks = {"frechet": embedded.name, "clip": clip.name, "pairs": perceptual.name}
    labels = {name: metric.column(name, networks[metric.network]) for name, metric in METRICS.items()}
    assert labels["fid"] == "fd_embedded"
    assert labels["clip_distance"] == "clip_distance_embedded"
    for label in labels.values():
        assert label.endswith("_embedded")
        assert not label.startswith(("fid", "kid", "lpips"))


def test_identities_name_the_network_and_its_weights(embedded: Network, clip: Network) -> None:
    assert embedded.identity["features"] == "embedded"
    assert clip.identity["clip"] == "embedded"
    assert embedded.identity["weights"] != clip.identity["weights"]


def test_unknown_networks_are_named_with_the_known() -> None:
    text = refusal(lambda: frechet_network("incepton", CPU))
    assert "'incepton'" in text
    assert "embedded, things, inception, dinov2" in text


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
    network = frechet_network("inception", CPU)  # which reads no weights yet
    text = refusal(lambda: network.extract(BLACK))
    assert "weights-inception-2015-12-05-6726825d.pth" in text
    assert "online" in text
    assert "model.features=embedded or --features embedded" in text


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
    assert METRICS["fid"].column("fid", network.name) == "fid"
    assert made == []
    assert network.extract(torch.full((2, 3, 4, 4), 7, dtype=torch.uint8)).tolist() == [[7.0] * 3] * 2
    assert network.extract(torch.zeros(1, 3, 4, 4, dtype=torch.uint8)).dtype == torch.float32
    assert made == [("inception-v3-compat", ["2048"])]


@pytest.mark.parametrize("error", OFFLINE, ids=lambda error: type(error).__name__)
def test_a_clip_out_of_reach_is_one_line(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    monkeypatch.setattr(open_clip, "create_model", raising(error))
    network = clip_network("ViT-B-32/openai", CPU)  # which reads no weights yet
    text = refusal(lambda: network.extract(BLACK))
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
    assert network.identity == {"clip": f"{TINY}/some_tag", "version": "1"}


def test_openais_weights_get_the_activation_they_were_trained_with(named_clip: NamedClip) -> None:
    """QuickGELU; open_clip only warns where an architecture's config says otherwise, as that of ViT-L-14 does."""
    model = named_clip("openai", quick_gelu=True)
    assert_same_embeddings(clip_network(f"{TINY}/openai", CPU), model)


# DINOv2


@pytest.fixture(scope="module")
def dino() -> Dinov2Model:
    """Small, with random weights, for images of 140 px: ten patches a side."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 140, "patch_size": 14}
    model = Dinov2Model(Dinov2Config(**sizes, layerscale_value=0.7)).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter += 0.3 * torch.randn_like(parameter)
    return model


@pytest.fixture
def dino_folder(dino: Dinov2Model, tmp_path: Path) -> Path:
    dino.save_pretrained(tmp_path / "Tiny")
    return tmp_path / "Tiny"


def resized(positions: np.ndarray, size: int) -> np.ndarray:
    """[s, s, D] -> [size, size, D] by cubic convolution (Keys, a = -0.75), as if it were size + 0.1 wide."""
    side, a = len(positions), -0.75
    rows = np.zeros((size, side))
    for i in range(size):
        at = (i + 0.5) * side / (size + 0.1) - 0.5
        for j in range(int(np.floor(at)) - 1, int(np.floor(at)) + 3):
            t = abs(at - j)
            near, far = (a + 2) * t**3 - (a + 3) * t**2 + 1, a * (t**3 - 5 * t**2 + 8 * t - 4)
            rows[i, np.clip(j, 0, side - 1)] += near if t <= 1 else far
    return np.einsum("ik,jl,kld->ijd", rows, rows, positions)


def in_timm(folder: Path) -> nn.Module:
    """The same weights, under the names they have on the hub, in timm's vision transformer of 224 px."""
    from timm.models.vision_transformer import VisionTransformer

    held, about = load_file(folder / "model.safetensors"), json.loads((folder / "config.json").read_text())
    width, layers, heads = (about[name] for name in ("hidden_size", "num_hidden_layers", "num_attention_heads"))
    places = held["embeddings.position_embeddings"]
    grid = torch.from_numpy(resized(places[0, 1:].view(10, 10, width).double().numpy(), 16)).float()
    weights = {
        "pos_embed": torch.cat([places[:, :1], grid.view(1, 256, width)], 1),
        "cls_token": held["embeddings.cls_token"],
    }
    names = {"patch_embed.proj": "embeddings.patch_embeddings.projection", "norm": "layernorm"}
    for i in range(layers):
        ours, there = f"blocks.{i}", f"encoder.layer.{i}"
        names |= {f"{ours}.norm{j}": f"{there}.norm{j}" for j in (1, 2)}
        names |= {f"{ours}.mlp.fc{j}": f"{there}.mlp.fc{j}" for j in (1, 2)}
        names[f"{ours}.attn.proj"] = f"{there}.attention.output.dense"
        for kind in ("weight", "bias"):
            parts = [held[f"{there}.attention.attention.{part}.{kind}"] for part in ("query", "key", "value")]
            weights[f"{ours}.attn.qkv.{kind}"] = torch.cat(parts)
        weights |= {f"{ours}.ls{j}.gamma": held[f"{there}.layer_scale{j}.lambda1"] for j in (1, 2)}
    for kind in ("weight", "bias"):
        weights |= {f"{ours}.{kind}": held[f"{there}.{kind}"] for ours, there in names.items()}
    model = VisionTransformer(
        patch_size=14, embed_dim=width, depth=layers, num_heads=heads, init_values=1.0, num_classes=0
    )
    model.load_state_dict(weights)
    return model.eval()


def photographs(size: int, count: int = 3) -> list[Image.Image]:
    blocks = np.random.default_rng(0).integers(0, 256, (count, size // 8, size // 8, 3), dtype=np.uint8)
    return [Image.fromarray(block).resize((size, size), Image.Resampling.BILINEAR) for block in blocks]


@pytest.mark.parametrize("size", [64, 224, 512])
def test_dinov2_is_timms_on_what_the_code_of_fd_dinov2_makes_of_an_image(dino_folder: Path, size: int) -> None:
    """Which is torchvision's, on Pillow images; Pillow rounds between rows and columns too."""
    from torchvision.transforms import Compose, InterpolationMode, Normalize, Resize, ToTensor

    images = photographs(size)
    prepare = Compose([
        Resize((224, 224), InterpolationMode.BICUBIC),
        ToTensor(),
        Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ])  # fmt: skip
    with torch.no_grad():
        expected = in_timm(dino_folder)(torch.stack([prepare(image) for image in images]))
    ours = frechet_network(str(dino_folder), CPU).extract(stacked(images))
    assert ours.shape == (3, 32) and ours.dtype == torch.float32
    assert distance(ours, expected) < (1e-5 if size == 224 else 1.5e-2)
    assert distance(ours[:1], ours[1:2]) > 0.1


def test_dinov2_is_never_called_fid(dino_folder: Path) -> None:
    network = frechet_network(str(dino_folder), CPU)
    assert network.name == "dinov2-tiny"
    assert METRICS["fid"].column("fid", network.name) == "fd_dinov2-tiny"
    assert METRICS["kid"].column("kid", network.name) == "kd_dinov2-tiny"
    assert network.identity["features"] == "dinov2" and len(network.identity["weights"]) == 16


@pytest.mark.parametrize("name", ["dinov2", *DINOV2])
def test_a_dinov2_of_the_hub_is_asked_for_by_its_name(
    dino: Dinov2Model, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    asked = []

    def from_pretrained(source: str, **how: Any) -> tuple[Dinov2Model, dict[str, set[str]]]:
        asked.append((source, how["use_safetensors"]))
        return Dinov2Model(dino.config), {"missing_keys": set()}

    monkeypatch.setattr(Dinov2Model, "from_pretrained", from_pretrained)
    monkeypatch.setattr("latentmix.feature_networks.fetching.hub_refusal", lambda *_: None)
    network = frechet_network(name, CPU)
    called = "dinov2-vitl14" if name == "dinov2" else name
    assert (network.name, network.identity, asked) == (called, {"features": called, "version": "1"}, [])
    assert network.extract(BLACK).shape == (1, 32)
    assert asked == [(DINOV2[called][0], True)]


def test_a_dinov2_out_of_reach_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Down to the hub's library, which is told to stay offline."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    text = refusal(lambda: frechet_network("dinov2", CPU).extract(BLACK))
    assert "dinov2-vitl14 (facebook/dinov2-large)" in text and "online" in text


def test_folders_that_hold_no_dinov2(dino_folder: Path) -> None:
    assert "nor such a folder" in refusal(lambda: frechet_network("no/such/folder", CPU))
    about = json.loads((dino_folder / "config.json").read_text())
    (dino_folder / "config.json").write_text(ViTConfig().to_json_string())
    assert "holds no DINOv2" in refusal(lambda: frechet_network(str(dino_folder), CPU))
    (dino_folder / "config.json").write_text(json.dumps(about | {"num_hidden_layers": 3}))
    assert "lacks the weights encoder.layer.2" in refusal(lambda: frechet_network(str(dino_folder), CPU).extract(BLACK))
    (dino_folder / "config.json").write_text(json.dumps(about))
    (dino_folder / "model.safetensors").unlink()
    assert "*.safetensors" in refusal(lambda: frechet_network(str(dino_folder), CPU))


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
