"""Feature networks: uint8 images in, one vector per image out.

`inception` and any open_clip model are the field's own networks and need their weights; `embedded` ones come with
latentmix and measure the embedded world without downloads. Their numbers are named differently (`fd_embedded`, not
`fid`), because a Fréchet distance means nothing without the network that it was taken in.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from latentmix.errors import UserError
from latentmix.store import folder_digest


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

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, classes]."""
        return self.head(self.features(x))


@dataclass(frozen=True)
class Network:
    """A feature network: `extract` takes uint8 [B, 3, H, W] to float32 [B, D] on its device."""

    name: str  # as it stands in those of metrics
    identity: dict[str, str]
    extract: Callable[[Tensor], Tensor]


def frechet_network(name: str, device: torch.device) -> Network:
    """The network of the Fréchet distance, `inception` (FID) or `embedded`; UserError if it can't be had."""
    if name == "embedded":
        return _embedded_classifier(device)
    if name == "inception":
        return _inception(device)
    raise UserError(f"there is no feature network {name!r}; there are embedded and inception")


def clip_network(name: str, device: torch.device) -> Network:
    """A CLIP image encoder: `embedded`, or ARCHITECTURE/PRETRAINED of open_clip. UserError if it can't be had."""
    import open_clip

    if name == "embedded":
        folder = embedded_folder("clip")
        model, identity = (
            open_clip.create_model(f"local-dir:{folder}"),
            {"clip": "embedded", "weights": folder_digest(folder)},
        )
    else:
        architecture, _, pretrained = name.partition("/")
        if (architecture, pretrained) not in open_clip.list_pretrained():
            raise UserError(f"open_clip has no {name!r}; give clip as ARCHITECTURE/PRETRAINED, such as ViT-L-14/openai")
        with _weights_of(f"open_clip's {name}", "model.clip=embedded"):
            # OpenAI's weights want QuickGELU, which the architectures' own configs do not name.
            quick = bool(open_clip.get_pretrained_cfg(architecture, pretrained).get("quick_gelu", False))
            model = open_clip.create_model(architecture, pretrained=pretrained, force_quick_gelu=quick)
        identity = {"clip": name}
    model = model.to(device).eval().requires_grad_(False)
    pre = open_clip.get_model_preprocess_cfg(model)
    size = pre["size"] if isinstance(pre["size"], int) else pre["size"][0]
    mean, std = (torch.tensor(pre[k], device=device).view(1, 3, 1, 1) for k in ("mean", "std"))

    def extract(images: Tensor) -> Tensor:
        x = images.to(device).float() / 255
        if x.shape[-1] != size:
            x = functional.interpolate(x, size=(size, size), mode="bicubic", antialias=True).clamp(0, 1)
        return model.encode_image((x - mean) / std).float()

    slug = name.replace("/", "-").lower()
    return Network(slug, identity, torch.no_grad()(extract))


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
    from torchmetrics.image.fid import NoTrainInceptionV3

    with _weights_of(
        "Inception-v3 (torch-fidelity's weights-inception-2015-12-05-6726825d.pth)", "model.features=embedded"
    ):
        network = NoTrainInceptionV3("inception-v3-compat", ["2048"])
    network = network.to(device)
    return Network(
        "inception", {"features": "inception-2015"}, torch.no_grad()(lambda images: network(images.to(device)).float())
    )


@contextmanager
def _weights_of(what: str, otherwise: str) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"the weights of {what} are not at hand and could not be fetched ({type(error).__name__}); "
            f"fetch them on a machine that is online, or measure with {otherwise}"
        ) from error
