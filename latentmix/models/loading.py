"""How the parts of a pipeline folder are read: networks, tokenizers, schedulers."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from latentmix.errors import UserError
from latentmix.models.family import Family
from latentmix.weight_files import STEMS, digest, weight_files

DTYPES = {
    "float32": torch.float32,
    "tf32": torch.float32,  # see gpu.py
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}
ENDINGS = ("", ".index.json")  # of a file of weights, and of an index of several
TOKENIZER_FILES = (  # what transformers reads of a tokenizer's folder, where it is there
    "added_tokens.json",
    "merges.txt",
    "special_tokens_map.json",
    "spiece.model",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
)


def read_index(folder: Path) -> dict[str, Any]:
    """Return a pipeline's model_index.json. Raises: OSError or ValueError where it is not readable."""
    return json.loads((folder / "model_index.json").read_text())


def has(folder: Path, part: str) -> bool:
    """Return whether a pipeline was saved with an optional part."""
    return read_index(folder).get(part, [None])[0] is not None


def present_parts(folder: Path, family: Family) -> list[str]:
    """Return the parts that a pipeline of a family was saved with."""
    return [part for part in family.parts if part not in family.optional or has(folder, part)]


def read_scheduler(folder: Path) -> dict[str, Any]:
    """Return a pipeline's scheduler_config.json."""
    return dict(json.loads((folder / "scheduler" / "scheduler_config.json").read_text()))


def opened_files(folder: Path, family: Family) -> list[Path]:
    """Return the files of a pipeline folder that a model is read from, and no others."""
    files = [folder / "model_index.json"]
    for part in present_parts(folder, family):
        if part in family.networks:
            files += [folder / part / "config.json", *weight_files(folder / part, family.package(part), pickled=True)]
        elif part == "scheduler":
            files.append(folder / part / "scheduler_config.json")
        else:
            files += [folder / part / name for name in TOKENIZER_FILES if (folder / part / name).is_file()]
    return files


def identity(folder: Path, family: Family, precision: torch.dtype | str) -> dict[str, str]:
    """Return what the results of any model depend on: the bytes of its files, and the denoiser's precision."""
    return {"weights": digest(folder, opened_files(folder, family)), "precision": str(precision).removeprefix("torch.")}


def load_part(load: Callable[..., Any], folder: Path, **options: Any) -> Any:
    """Load a part of a pipeline. Raises: UserError, in one line, where its files are damaged."""
    from transformers.utils import logging

    logging.disable_progress_bar()  # small files load at once
    try:
        return load(folder, local_files_only=True, **options)
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"{folder} can't be loaded: {reason}") from error


def load_network(load: Callable[..., Any], folder: Path, onednn: bool = False, **options: Any) -> Any:
    """Load a network, frozen. Raises: UserError where its files lack weights, which libraries fill with random ones."""
    safe = any((folder / f"{stem}.safetensors{index}").is_file() for stem, _ in STEMS.values() for index in ENDINGS)
    network, info = load_part(load, folder, output_loading_info=True, use_safetensors=safe, **options)
    if info["missing_keys"]:
        names = ", ".join(sorted(info["missing_keys"])[:3])
        raise UserError(f"{folder} lacks the weights {names}; copy the whole folder again")
    network.requires_grad_(False)
    if not onednn:
        return network
    from latentmix.models.linear import by_onednn

    return by_onednn(network)


def encode_prompts(encoder: Any, tokenizer: Any, prompts: Sequence[str], length: int, **options: Any) -> list[Any]:
    """Return a text encoder's output for each prompt, padded and cut to `length` tokens.

    Prompts are encoded one by one, since rounding depends on what else is in a batch.
    """
    padding = {"padding": "max_length", "truncation": True, "return_tensors": "pt"}
    ids = tokenizer(list(prompts), max_length=length, **padding).input_ids
    return [encoder(row, **options) for row in ids.to(encoder.device).split(1)]
