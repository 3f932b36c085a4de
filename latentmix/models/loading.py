"""Reading the parts of a pipeline folder: networks, tokenizers, schedulers."""

import inspect
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from latentmix.errors import UserError, warn_once
from latentmix.isolation import quiet
from latentmix.models import lora, single_file
from latentmix.models.family import Family
from latentmix.models.linear import by_onednn
from latentmix.weight_files import STEMS, JSONObject, read_object, read_source, under_plain_names, weight_files

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
DTYPES["tf32"] = torch.float32  # see gpu.py
SHOWN = 60  # characters of a prompt that a warning shows
NETWORKS: dict[Path, Any] = {}  # networks and tokenizers of callers' own pipelines (from_diffusers.py), by folder
TOKENIZERS: dict[Path, Any] = {}
TOKENIZER_FILES = (  # the files that transformers may read in a tokenizer's folder
    *("added_tokens.json", "merges.txt", "special_tokens_map.json", "spiece.model", "tokenizer.json"),
    *("tokenizer_config.json", "vocab.json"),
)


def dtype_of(precision: str) -> torch.dtype:
    """Return the dtype of products in a precision such as "bfloat16", or "bfloat16+nf4" with quantized weights."""
    return DTYPES[precision.partition("+")[0]]


def read_index(folder: Path) -> dict[str, Any]:
    """Return a pipeline's model_index.json. Raises: OSError or ValueError where it is not readable."""
    return json.loads((folder / "model_index.json").read_text())


def has(folder: Path, part: str) -> bool:
    """Return whether a pipeline was saved with an optional part."""
    return read_index(folder).get(part, [None])[0] is not None


def present_parts(folder: Path, family: Family) -> list[str]:
    """Return the parts that a pipeline of a family was saved with."""
    return [part for part in family.parts if part not in family.optional or has(folder, part)]


def read_scheduler(folder: Path) -> JSONObject:
    """Return a pipeline's scheduler_config.json. Raises: UserError where it can't be read."""
    return read_object(folder / "scheduler" / "scheduler_config.json")


def opened_files(folder: Path, family: Family) -> dict[str, Path]:
    """Return the files that a model is read from, and no others, by names that do not depend on where they are.

    A checkpoint is the file of several networks. The file of one network has the same name as in a folder.
    """
    files = {"model_index.json": folder / "model_index.json"}
    checkpoint = read_source(folder / family.denoiser).place
    for part in present_parts(folder, family):
        if part in family.networks:
            source, stems = read_source(folder / part), STEMS[family.package(part)]
            own = []
            for file in weight_files(folder / part, family.package(part), pickled=True):
                name = file.name if file.name.startswith(stems) else f"{stems[0]}{file.suffix}"
                own.append(("checkpoint" if file == checkpoint else f"{part}/{name}", file))
            own += [(f"lora {number} * {factor:g}", file) for number, (file, factor) in enumerate(source.loras)]
            for name, file in own:  # parts may have several checkpoints, and each its own first LoRA
                files[name if files.get(name, file) == file else f"{part} {name}"] = file
            names = ["config.json"]
        else:
            names = ["scheduler_config.json"] if part == "scheduler" else list(TOKENIZER_FILES)
        files |= {f"{part}/{name}": folder / part / name for name in names if (folder / part / name).is_file()}
    return files


def load_part(load: Callable[..., Any], folder: Path, name: Path | None = None, **options: Any) -> Any:
    """Load a part of a pipeline. Raises: UserError, which names `name` or the folder, where its files are damaged."""
    if folder in TOKENIZERS:
        return TOKENIZERS[folder]
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging

    try:
        with quiet(logging, diffusers_logging):
            return load(folder, local_files_only=True, **options)
    except UserError:
        raise
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"{name or folder} can't be loaded: {reason}") from error


def load_scheduler(kind: Any, folder: Path) -> Any:
    """Return a pipeline's scheduler as one of class `kind`, with those settings that this class knows.

    `from_pretrained` would first import all compatible schedulers, which takes half a second.
    """
    known = inspect.signature(kind).parameters
    settings = {name: value for name, value in read_scheduler(folder).items() if name in known}
    return load_part(lambda _, **__: kind(**settings), folder, folder / "scheduler")


def load_network(load: Callable[..., Any], folder: Path, onednn: bool = False, **options: Any) -> Any:
    """Load a network, frozen. Raises: UserError where its files lack weights; libraries would make random ones."""
    if folder in NETWORKS:
        return NETWORKS[folder]
    library = load.__self__.__module__.partition(".")[0]  # type: ignore[attr-defined]
    source, files = read_source(folder), weight_files(folder, library, pickled=True)
    if source.place.is_file():
        network, missing = load_part(partial(single_file.load, load), folder, source.place, **options)
    else:
        safe = files[-1].suffix == ".safetensors"
        with under_plain_names(folder, files, library) as place:
            network, info = load_part(load, place, folder, output_loading_info=True, use_safetensors=safe, **options)
        missing = info["missing_keys"]
    if missing:
        names = ", ".join(sorted(missing)[:3])
        raise UserError(f"{files[0].parent} lacks the weights {names}; copy the whole folder again")
    for file, factor in source.loras:
        lora.add(network, folder.name, file, factor)
    network.requires_grad_(False)
    return by_onednn(network) if onednn else network


def warn_of_cut_prompts(tokenizer: Any, prompts: Sequence[str], length: int) -> None:
    """Warn of prompts that have more than `length` tokens, whose ends have no effect."""
    for prompt, ids in zip(prompts, tokenizer(list(prompts), verbose=False).input_ids, strict=True):
        if len(ids) > length:
            shown = prompt if len(prompt) <= SHOWN else f"{prompt[:SHOWN]}..."
            warn_once(
                f"the text encoder reads {length} tokens, and the prompt {shown!r} has {len(ids)}: the rest "
                "has no effect"
            )


def encode_prompts(encoder: Any, tokenizer: Any, prompts: Sequence[str], length: int, **options: Any) -> list[Any]:
    """Return a text encoder's output for each prompt, padded or cut to `length` tokens.

    Prompts are encoded one by one, as the rounding of a network depends on its batch.
    """
    padding = {"padding": "max_length", "truncation": True, "return_tensors": "pt"}
    ids = tokenizer(list(prompts), max_length=length, **padding).input_ids
    hooks = [getattr(module, "_hf_hook", None) for module in encoder.modules()]  # of offloaded weights
    devices = [device for hook in hooks if (device := getattr(hook, "execution_device", None)) is not None]
    device = devices[0] if devices else encoder.device
    return [encoder(row, **options) for row in ids.to(device).split(1)]
