"""A CLIP in open_clip's format, of `clip_distance_embedded`."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from . import data
from .classifier import varied
from .loop import rounds
from .settings import SEED, Run
from .text import LONGEST, tokenizer


def clip(run: Run) -> None:
    """Train on captions by contrast. Images that share a caption count as each other's."""
    import open_clip

    folder = run.weights / "clip"
    architecture = write_configuration(folder)
    torch.manual_seed(SEED + 3)
    network: Any = open_clip.CLIP(**architecture)
    known = load(network, folder)
    network, words = network.to(run.device), open_clip.get_tokenizer(f"local-dir:{folder}")
    full = words(data.captions(run)).to(run.device)
    short = words([data.class_prompt(name) for name in data.CLASSES]).to(run.device)
    images, classes = data.training_images(run), data.class_numbers(run)
    batch = run.settings.stages["clip"].batch

    def losses() -> dict[str, Tensor]:
        x, number, described = data.pick(batch, images, classes, full)
        text = torch.where(torch.rand(batch, 1, device=run.device) < 0.25, short[number], described)
        image, caption, scale = network(varied(data.to_network(x)), text)
        with torch.autocast(run.device.type, enabled=False):  # 16 bits are too few for logits of up to 100
            logits = scale.float() * image.float() @ caption.float().T
        same = (text[:, None] == text[None]).all(-1).float()
        target = same / same.sum(1, keepdim=True)
        loss = nn.functional.cross_entropy(logits, target) + nn.functional.cross_entropy(logits.T, target)
        return {"loss": loss / 2}

    for _ in rounds(run, "clip", [network], losses, known=known):
        save(network, folder)


def write_configuration(folder: Path) -> dict[str, Any]:
    """Write the tokenizer and open_clip's configuration, and return the architecture."""
    tokenizer(folder)
    architecture = {
        "embed_dim": 64,
        "vision_cfg": {"image_size": data.SIZE, "layers": 4, "width": 128, "head_width": 32, "patch_size": 16},
        "text_cfg": {
            "context_length": LONGEST,
            "vocab_size": len(json.loads((folder / "vocab.json").read_text())),
            "hf_tokenizer_name": "clip",
            "width": 64,
            "heads": 4,
            "layers": 2,
        },
    }
    preprocess = {"size": [data.SIZE] * 2, "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic"}
    config = {"model_cfg": architecture, "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n")
    return architecture


def load(network: nn.Module, folder: Path) -> bool:
    """Load what an earlier run wrote, if there is any."""
    from safetensors.torch import load_file

    path = folder / "open_clip_model.safetensors"
    if path.exists():
        network.load_state_dict({k: v.float() for k, v in load_file(path).items()})
    return path.exists()


def save(network: nn.Module, folder: Path) -> None:
    """Write the weights in float16."""
    from safetensors.torch import save_file

    state = {k: v.half().contiguous() for k, v in network.state_dict().items()}
    save_file(state, folder / "open_clip_model.safetensors")
