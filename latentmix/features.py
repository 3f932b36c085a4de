"""Feature networks: uint8 images in, one vector per image out, or the distance between the two of a pair.

`inception`, DINOv2, LPIPS and any open_clip model are the field's own networks and need their weights; `embedded` ones
come with latentmix and measure the embedded world without downloads. Their numbers are named differently
(`fd_embedded`, not `fid`), because a Fréchet distance means nothing without the network that it was taken in.
"""

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from latentmix.cache import folder_digest
from latentmix.errors import UserError
from latentmix.metrics import activation_distances
from latentmix.profiling import timed

DINOV2 = {  # where each is on the hub, and how wide its features are
    "dinov2-vits14": ("facebook/dinov2-small", 384),
    "dinov2-vitb14": ("facebook/dinov2-base", 768),
    "dinov2-vitl14": ("facebook/dinov2-large", 1024),
    "dinov2-vitg14": ("facebook/dinov2-giant", 1536),
}
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LPIPS = {"alex": "AlexNet", "vgg": "VGG16", "squeeze": "SqueezeNet1_1"}  # as torchmetrics calls them, and torchvision


Encoder = Callable[..., Tensor]


class Classifier(nn.Module):
    """The embedded classifier of the drawn shapes; its 64 pooled activations serve as features, as Inception's do."""

    WIDTH = 64

    def __init__(self, classes: int) -> None:
        super().__init__()

        def level(width: int, out: int, kernel: int, stride: int) -> list[nn.Module]:
            around = nn.Conv2d(width, out, kernel, stride, kernel // 2, padding_mode="circular")  # as the plane repeats
            return [around, nn.BatchNorm2d(out), nn.SiLU()]

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
        """[B, 3, 64, 64] in [-1, 1] -> [B, 64]."""
        return functional.adaptive_avg_pool2d(self.body(x), 1).flatten(1)

    def activations(self, x: Tensor) -> list[Tensor]:
        """What leaves each of its seven levels: [B, C, H, W]."""
        left = []
        for part in self.body:
            x = part(x)
            if isinstance(part, nn.SiLU):
                left.append(x)
        return left

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, classes]."""
        return self.head(self.features(x))


@dataclass(frozen=True)
class Network:
    """A feature network: `extract` takes uint8 [B, 3, H, W] to float32 [B, D] on its device."""

    name: str  # as it stands in those of metrics
    identity: dict[str, str]
    extract: Callable[[Tensor], Tensor]
    describe: Callable[[str], Tensor] | None = None  # of CLIP: a text to [1, D], beside those of images


@dataclass(frozen=True)
class Perceptual:
    """A distance between images: `between` takes two of uint8 [B, 3, H, W] to float32 [B] on its device."""

    name: str
    identity: dict[str, str]
    between: Callable[[Tensor, Tensor], Tensor]


def _when_needed(read: Callable[[], Encoder]) -> Encoder:
    """What `read` makes of weights, read when it is first used: a plan needs none, and fetches none."""
    made = cache(timed("loading weights")(read))
    return lambda *given: made()(*given)


def frechet_network(name: str, device: torch.device) -> Network:
    """The network of the Fréchet distance, `inception` (FID), `embedded`, or a DINOv2, by its name or from a folder;
    UserError where there is none such and, when it is first used, if its weights can't be had."""
    if name == "embedded":
        return _embedded_classifier(device)
    if name == "inception":
        return _inception(device)
    folder = dinov2_folder(name)
    return _dinov2(name, device) if folder is None else _dinov2_of_folder(folder, device)


def perceptual_network(name: str, device: torch.device) -> Perceptual:
    """LPIPS in `alex`, `vgg` or `squeeze`, or the like of it in the `embedded` classifier; UserError where there is
    none such and, when it is first used, if its weights can't be had."""
    if name == "embedded":
        return _embedded_perceptual(device)
    if name in LPIPS:
        return _lpips(name, device)
    raise UserError(f"there is no perceptual distance {name!r}; there are embedded, {', '.join(LPIPS)}")


def clip_network(name: str, device: torch.device, texts: bool = True) -> Network:
    """A CLIP's encoder of images, and of `texts` where these are wanted: `embedded`, or ARCHITECTURE/PRETRAINED of
    open_clip. UserError where there is none such and, when it is first used, if its weights can't be had."""
    identity = _clip_identity(name)

    @cache
    @timed("loading weights")
    def encoders() -> tuple[Encoder, Encoder | None]:
        model = _open_clip(name).to(device).eval().requires_grad_(False)
        return _image_encoder(model, device), _describer(name, model, device) if texts else None

    def describe(text: str) -> Tensor:
        return encoders()[1](text)  # type: ignore[misc]

    called = name.replace("/", "-").lower()
    return Network(called, identity, lambda images: encoders()[0](images), describe if texts else None)


def _image_encoder(model: Any, device: torch.device) -> Encoder:
    import open_clip

    pre = open_clip.get_model_preprocess_cfg(model)
    size = pre["size"] if isinstance(pre["size"], int) else pre["size"][0]
    mean, std = (torch.tensor(pre[k], device=device).view(1, 3, 1, 1) for k in ("mean", "std"))

    def extract(images: Tensor) -> Tensor:
        x = images.to(device).float() / 255
        if x.shape[-1] != size:
            x = functional.interpolate(x, size=(size, size), mode="bicubic", antialias=True).clamp(0, 1)
        return model.encode_image((x - mean) / std).float()

    return torch.no_grad()(extract)


def _clip_identity(name: str) -> dict[str, str]:
    """UserError where there is no such CLIP."""
    import open_clip

    if name == "embedded":
        return {"clip": "embedded", "weights": folder_digest(embedded_folder("clip"))}
    architecture, _, pretrained = name.partition("/")
    if (architecture, pretrained) not in open_clip.list_pretrained():
        raise UserError(f"open_clip has no {name!r}; give clip as ARCHITECTURE/PRETRAINED, such as ViT-L-14/openai")
    return {"clip": name}


def _open_clip(name: str) -> Any:
    import open_clip

    if name == "embedded":
        return open_clip.create_model(_architecture(name))
    architecture, _, pretrained = name.partition("/")
    with _weights_of(f"open_clip's {name}", "model.clip=embedded"):
        # OpenAI's weights want QuickGELU, which the architectures' own configs do not name.
        quick = bool(open_clip.get_pretrained_cfg(architecture, pretrained).get("quick_gelu", False))
        return open_clip.create_model(architecture, pretrained=pretrained, force_quick_gelu=quick)


def _describer(name: str, model: Any, device: torch.device) -> Callable[[str], Tensor]:
    """Some models' tokenizers are on the hub, beside those that come with open_clip."""
    import open_clip

    with _weights_of(f"the tokenizer of open_clip's {name}", "other metrics than clip_score", "files"):
        tokenize = open_clip.get_tokenizer(_architecture(name))

    def describe(text: str) -> Tensor:
        return model.encode_text(tokenize([text]).to(device)).float()

    return torch.no_grad()(describe)


def _architecture(name: str) -> str:
    """As open_clip calls it."""
    return f"local-dir:{embedded_folder('clip')}" if name == "embedded" else name.partition("/")[0]


def embedded_folder(name: str) -> Path:
    return Path(str(resources.files("latentmix"))) / "embedded" / name


def _embedded_classifier(device: torch.device) -> Network:
    folder = embedded_folder("classifier")
    network = embedded_classifier(folder).to(memory_format=torch.channels_last).to(device)

    def extract(images: Tensor) -> Tensor:
        return network.features(images.to(device).float() / 127.5 - 1)

    return Network("embedded", {"features": "embedded", "weights": folder_digest(folder)}, torch.no_grad()(extract))


def embedded_classifier(folder: Path) -> Classifier:
    """The classifier in a folder, in float32 on the CPU; its logits are in the order of its config's classes."""
    network = Classifier(len(json.loads((folder / "config.json").read_text())["classes"]))
    network.load_state_dict(load_file(folder / "model.safetensors"))
    return network.eval().requires_grad_(False)


def _inception(device: torch.device) -> Network:
    """Inception-v3 with the weights of TensorFlow 2015, which resizes to 299 px itself, as torchmetrics runs it."""

    def read() -> Encoder:
        from torchmetrics.image.fid import NoTrainInceptionV3

        with _weights_of(
            "Inception-v3 (torch-fidelity's weights-inception-2015-12-05-6726825d.pth)", "model.features=embedded"
        ):
            network = NoTrainInceptionV3("inception-v3-compat", ["2048"]).to(device)
        return torch.no_grad()(lambda images: network(images.to(device)).float())

    return Network("inception", {"features": "inception-2015"}, _when_needed(read))


def _embedded_perceptual(device: torch.device) -> Perceptual:
    folder = embedded_folder("classifier")
    network = embedded_classifier(folder).to(memory_format=torch.channels_last).to(device)

    def between(a: Tensor, b: Tensor) -> Tensor:
        return activation_distances(*(network.activations(x.to(device).float() / 127.5 - 1) for x in (a, b)))

    identity = {"perceptual": "embedded", "weights": folder_digest(folder)}
    return Perceptual("embedded", identity, torch.no_grad()(between))


def _lpips(name: str, device: torch.device) -> Perceptual:
    """Torchmetrics has LPIPS' own weights; those of the network below come from torchvision."""

    def read() -> Encoder:
        from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

        with _weights_of(f"torchvision's {LPIPS[name]} (for LPIPS)", "model.perceptual=embedded"):
            network = LearnedPerceptualImagePatchSimilarity(name).net.to(device)  # type: ignore[arg-type]

        def between(a: Tensor, b: Tensor) -> Tensor:
            return network(*(x.to(device).float() / 255 for x in (a, b)), normalize=True).flatten()

        return torch.no_grad()(between)

    return Perceptual(f"lpips-{name}", {"perceptual": f"lpips-{name}"}, _when_needed(read))


# --- How wide features are --------------------------------------------------------------------------------------------


def frechet_width(name: str) -> int:
    """Return the number of features of the network of the Fréchet distance; no weights are read."""
    known = {"embedded": Classifier.WIDTH, "inception": 2048} | {name: width for name, (_, width) in DINOV2.items()}
    if dinov2_name(name) in known:
        return known[dinov2_name(name)]
    return json.loads((Path(name).expanduser() / "config.json").read_text())["hidden_size"]


def clip_width(name: str) -> int:
    """Return the number of features of a CLIP; no weights are read."""
    if name == "embedded":
        return json.loads((embedded_folder("clip") / "open_clip_config.json").read_text())["model_cfg"]["embed_dim"]
    import open_clip

    return open_clip.get_model_config(name.partition("/")[0])["embed_dim"]


# --- DINOv2 ---------------------------------------------------------------------------------------------------------


def dinov2_name(name: str) -> str:
    """`dinov2` is the one that FD-DINOv2 is taken in (Stein et al.); all others are called what they are."""
    return "dinov2-vitl14" if name == "dinov2" else name


def dinov2_folder(name: str) -> Path | None:
    """The folder of a DINOv2 that lies in one, as transformers saves it; None for one of the hub's, by its name.
    UserError where there is neither."""
    if dinov2_name(name) in DINOV2:
        return None
    folder = Path(name).expanduser()
    if not folder.is_dir():
        names = f"embedded, inception, dinov2, {', '.join(DINOV2)}"
        raise UserError(f"there is no feature network {name!r}, nor such a folder; there are {names}")
    try:
        kind = json.loads((folder / "config.json").read_text())["model_type"]
    except (OSError, ValueError, KeyError, TypeError):
        kind = None
    if kind != "dinov2" or not any(folder.glob("*.safetensors")):
        raise UserError(f"{folder} holds no DINOv2: it needs a config.json that says so, and weights in *.safetensors")
    return folder


def _dinov2(name: str, device: torch.device) -> Network:
    name = dinov2_name(name)
    hub, _ = DINOV2[name]

    def read() -> Encoder:
        with _weights_of(f"{name} ({hub})", "model.features=embedded, or name its folder"):
            return _dinov2_extractor(hub, device)

    return Network(name, {"features": name}, _when_needed(read))


def _dinov2_of_folder(folder: Path, device: torch.device) -> Network:
    called = folder.resolve().name.lower()
    name = called if called.startswith("dinov2") else f"dinov2-{called}"
    return Network(name, {"features": "dinov2", "weights": folder_digest(folder)}, _dinov2_extractor(folder, device))


def _dinov2_extractor(source: str | Path, device: torch.device) -> Callable[[Tensor], Tensor]:
    """As the code of FD-DINOv2 has it: 224 px in 8 bits, ImageNet's mean and deviation, the class token at the end."""
    from transformers import Dinov2Model
    from transformers.utils import logging

    logging.disable_progress_bar()
    model, about = Dinov2Model.from_pretrained(source, use_safetensors=True, output_loading_info=True)
    if about["missing_keys"]:  # which transformers would fill with chance
        raise UserError(f"{source} lacks the weights {', '.join(sorted(about['missing_keys'])[:3])}; copy it again")
    places = model.embeddings
    places.position_embeddings = nn.Parameter(_resized(places.position_embeddings, 224 // places.patch_size))
    model = model.float().to(device).eval().requires_grad_(False)
    mean, std = (torch.tensor(rgb, device=device).view(1, 3, 1, 1) for rgb in (IMAGENET_MEAN, IMAGENET_STD))

    def extract(images: Tensor) -> Tensor:
        x = images.to(device).float()
        if x.shape[-2:] != (224, 224):
            x = functional.interpolate(x, size=(224, 224), mode="bicubic", antialias=True).round().clamp(0, 255)
        return model((x / 255 - mean) / std).pooler_output

    return torch.no_grad()(extract)


def _resized(positions: Tensor, side: int) -> Tensor:
    """Embeddings of places, [1, 1 + before², D] -> [1, 1 + side², D], as DINOv2's own code resizes them: as if the new
    grid were a tenth of a patch wider, by which published distances were taken, and which transformers leaves out."""
    before = math.isqrt(positions.shape[1] - 1)
    if side == before:
        return positions
    grid = positions[:, 1:].unflatten(1, (before, before)).permute(0, 3, 1, 2).float()
    factor = (side + 0.1) / before
    grid = functional.interpolate(grid, scale_factor=(factor, factor), mode="bicubic")
    return torch.cat([positions[:, :1], grid.flatten(2).mT], 1)


@contextmanager
def _weights_of(what: str, otherwise: str, kind: str = "weights") -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"the {kind} of {what} are not at hand and could not be fetched ({type(error).__name__}); "
            f"fetch them on a machine that is online, or measure with {otherwise}"
        ) from error
