"""The classifier, whose 64 pooled activations are the features of `fd_embedded`."""

import json
from pathlib import Path

import torch
from torch import Tensor, nn

from . import data, package
from .latents import encode, read_vae
from .loop import Losses, rounds
from .muon import matrices
from .settings import SEED, Run


def classifier(run: Run) -> None:
    """Train the classifier to tell the class, the colours of ground and object, and the number of objects.

    Features that knew classes alone would not see an image turn to another colour. Half of what it sees has been
    through the autoencoder, which softens everything: it shall judge what an image shows, not its softness.
    """
    torch.manual_seed(SEED + 2)
    images, known = data.training_images(run), data.attributes(run)
    soft, every = reconstructions(run, images)
    network, heads = package.classifier(len(data.CLASSES)), nn.ModuleList()
    finished = load(network, run.weights / "classifier")
    heads.extend(nn.Linear(network.WIDTH, int(column.max()) + 1) for column in known[:, 1:].T)
    network, heads = network.to(run.device, memory_format=torch.channels_last), heads.to(run.device)
    criterion, batch = nn.CrossEntropyLoss(label_smoothing=0.05), run.settings.stages["classifier"].batch

    def losses() -> dict[str, Tensor]:
        x, targets = data.pick(batch // 2, images, known)
        softened, soft_targets = data.pick(batch - batch // 2, soft, known[::every])
        features = network.features(varied(data.to_network(torch.cat([x, softened]))))
        targets = torch.cat([targets, soft_targets]).T
        first, *others = (criterion(h(features), t) for h, t in zip([network.head, *heads], targets, strict=True))
        wrong = (network.head(features.detach()).argmax(1) != targets[0]).float().mean()
        return {"loss": first + 0.5 * sum(others), "wrong": wrong}

    for _ in rounds(run, "classifier", [network, heads], losses, matrices(network.body), known=finished):
        refresh_statistics(losses, run.settings.statistics_batches)
        save(network, run.weights / "classifier")


def varied(x: Tensor) -> Tensor:
    """Shift, mirror and soften a batch, as a whole, at random. No class changes by it."""
    mirror, soften = torch.rand(2) < torch.tensor([0.5, 0.25])
    x = data.rolled(x)
    x = x.flip(-1) if mirror else x
    if soften:
        small = nn.functional.interpolate(x, size=(int(torch.randint(48, 112, ())),) * 2, mode="area")
        x = nn.functional.interpolate(small, size=x.shape[-2:], mode="bicubic")
    return x.contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def reconstructions(run: Run, images: Tensor) -> tuple[Tensor, int]:
    """Return every k-th training image as the autoencoder of `tiny` gives it back, uint8, and k."""
    network, every = read_vae(run, run.weights / "tiny"), max(1, run.settings.per_class // run.settings.softened)
    parts = []
    for part in images[::every].split(100):
        with torch.autocast(run.device.type, torch.bfloat16, enabled=run.settings.half):
            pixels = network.decode(encode(run, network, part).mean).sample
        parts.append(((pixels.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8))
    return torch.cat(parts).contiguous(memory_format=torch.channels_last), every


@torch.no_grad()
def refresh_statistics(losses: Losses, batches: int) -> None:
    """Compute the statistics of batch normalisation again, since averaged weights have statistics of their own."""
    for _ in range(batches):
        losses()


def load(network: nn.Module, folder: Path) -> bool:
    """Load what an earlier run wrote, if there is any."""
    from safetensors.torch import load_file

    path = folder / "model.safetensors"
    if path.exists():
        network.load_state_dict(load_file(path))
    return path.exists()


def save(network: nn.Module, folder: Path) -> None:
    """Write the classifier in float16, without the heads that only training uses."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    state = {k: (v.half() if v.is_floating_point() else v).contiguous() for k, v in network.state_dict().items()}
    save_file(state, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"classes": data.CLASSES}, indent=2) + "\n")
