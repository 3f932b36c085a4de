"""Published models at their full size with random weights, to measure speed where their weights are not here.

Sizes are those of the published configs, in latentmix/embedded/architectures. Text encoders have one layer, as they run
once; T5 is left out; tokenizers are those of `tiny`.
"""

import json
import shutil
from functools import cache
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import torch

from latentmix.embedded import embedded_folder
from latentmix.errors import UserError
from latentmix.models.family_table import FAMILIES, family_of
from latentmix.models.loading import DTYPES, read_index
from latentmix.models.placeholder import ARCHITECTURES, architectures


def random_folder(name: str, parent: Path) -> Path:
    """Return the folder of an architecture with random weights, made at the first call. Raises: UserError."""
    if name not in architectures():
        raise UserError(f"--random knows the full sizes of {', '.join(architectures())}, not of {name}")
    source, folder = ARCHITECTURES / name, parent / name
    if (folder / "model_index.json").exists():  # which is written last
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
    """Return a network with the config in a folder and random weights, in 16 bits, which takes half the memory."""
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
