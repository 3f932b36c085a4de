"""Published architectures without their weights: to plan a dry run, which fetches nothing, and to measure speed.

The configs are in latentmix/embedded/architectures. With random weights, the diffusion network and the VAE have their
published sizes. Text encoders, which run once, have one layer; T5 is left out; tokenizers are those of `tiny`.
"""

import json
import shutil
from collections.abc import Collection
from functools import cache
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import torch

from latentmix.embedded import embedded_folder
from latentmix.errors import UserError
from latentmix.models.loading import DTYPES, read_index
from latentmix.models.protocol import Model
from latentmix.models.registry import FAMILIES, family_of
from latentmix.models.settings import ModelConfig, SpeedConfig

ARCHITECTURES = embedded_folder("architectures")  # pipeline folders of JSON files alone


def placeholder(config: ModelConfig, float32: Collection[str] = ()) -> Model:
    """Return a `Model` without weights, which knows its sizes, its schedule and its precision on a GPU.

    `float32` names denoisers that precision=auto leaves in 32 bits. The identity names the hub's repository, so no
    cached result has it. Raises: UserError where the settings name no known architecture.
    """
    folder = ARCHITECTURES / str(config.architecture)
    if config.architecture is None or not folder.is_dir():
        known = ", ".join(architectures())
        raise UserError(f"model {config.name!r} is not here; to plan without it, set model.architecture=, of {known}")
    family = family_of(folder)
    device = torch.device("cuda")  # for its precision; nothing is put there
    precision = family.precision(config.precision, device, float32)
    model = family.build(folder, config, precision, device, SpeedConfig())
    vars(model)["identity"] = {"hub": str(config.hub), "revision": str(config.revision)}
    return model


def architectures() -> list[str]:
    """Return the names of the published architectures that are known."""
    return sorted(folder.name for folder in ARCHITECTURES.iterdir())


def random_folder(name: str, parent: Path) -> Path:
    """Return the folder of an architecture with random weights, made at the first call. Raises: UserError."""
    if name not in architectures():
        raise UserError(f"--random knows the full sizes of {', '.join(architectures())}, not of {name}")
    source, folder = ARCHITECTURES / name, parent / name
    if (folder / "model_index.json").exists():  # it is written last
        return folder
    index = read_index(source)
    family = FAMILIES[index["_class_name"]]
    torch.manual_seed(0)
    for part, class_name in family.networks.items():
        if part not in family.optional:
            random_network(source / part, class_name).save_pretrained(folder / part)
    shutil.copytree(source / "scheduler", folder / "scheduler", dirs_exist_ok=True)
    for part in (part for part in family.others if part.startswith("tokenizer") and part not in family.optional):
        _tokenizer(index[part][1]).save_pretrained(folder / part)
    left_out = {part: [None, None] for part in family.optional}
    (folder / "model_index.json").write_text(json.dumps(index | left_out, indent=2))
    return folder


def random_network(folder: Path, class_name: str) -> Any:
    """Return a network of the config in a folder, with random weights in float16."""
    network = resolve_name(class_name)
    before = torch.get_default_dtype()
    torch.set_default_dtype(DTYPES["float16"])
    try:
        if class_name.startswith("diffusers."):
            return network.from_config(network.load_config(folder)).eval()
        return network(network.config_class.from_pretrained(folder, num_hidden_layers=1)).eval()
    finally:
        torch.set_default_dtype(before)


@cache
def denoiser_parameters(folder: Path) -> int:
    """Return the number of parameters of a pipeline's diffusion network, from its config alone."""
    family = family_of(folder)
    with torch.device("meta"):
        network = random_network(folder / family.denoiser, family.networks[family.denoiser])
    return sum(parameter.numel() for parameter in network.parameters())


def _tokenizer(class_name: str) -> Any:
    from transformers import CLIPTokenizer, T5TokenizerFast

    if class_name == "T5TokenizerFast":
        return T5TokenizerFast(vocab=[("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -1.0)], extra_ids=0)
    return CLIPTokenizer.from_pretrained(embedded_folder("tiny") / "tokenizer", model_max_length=77)
