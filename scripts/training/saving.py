"""Reading and writing of weights, which are stored in float16 and trained in float32."""

import copy
import json
from pathlib import Path
from typing import Any

import torch

LARGEST = "8MB"  # of a file of weights; larger networks are written as several, as is usual for large models


def load(network: Any, folder: Path) -> bool:
    """Load what an earlier run wrote. Return False, and leave the network as it is, if there is nothing that fits."""
    if not (folder / "config.json").exists():
        return False
    known, own = type(network).from_pretrained(folder, torch_dtype=torch.float32).state_dict(), network.state_dict()
    if {k: v.shape for k, v in known.items()} != {k: v.shape for k, v in own.items()}:
        print(f"{folder}: sizes differ from the settings; training starts anew", flush=True)
        return False
    network.load_state_dict(known)
    return True


def float16(network: Any) -> Any:
    """Return a copy of the network with its weights in float16."""
    return copy.deepcopy(network).half().to(memory_format=torch.contiguous_format)


def write_network(network: Any, folder: Path) -> None:
    """Write a network of diffusers or transformers in float16."""
    _remove_weights(folder)
    float16(network).save_pretrained(folder, max_shard_size=LARGEST)
    _forget_path(folder / "config.json")


def write_pipeline(pipeline: Any, folder: Path) -> None:
    """Write a pipeline whose networks are in float16 already."""
    _remove_weights(folder)
    pipeline.save_pretrained(folder, max_shard_size=LARGEST)
    _forget_path(folder / "vae" / "config.json")


def _remove_weights(folder: Path) -> None:
    """Remove weights of an earlier round, which may be in another number of files."""
    for file in folder.rglob("*.safetensors*"):
        file.unlink()


def _forget_path(config: Path) -> None:
    """Remove the path that a network was read from."""
    plain = json.loads(config.read_text())
    plain.pop("_name_or_path", None)
    config.write_text(json.dumps(plain, indent=2, sort_keys=True) + "\n")
