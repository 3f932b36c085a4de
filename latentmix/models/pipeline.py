"""Pipeline folders in diffusers' layout: where a model's is, whether it is whole, and how its parts are read."""

import json
import math
from collections.abc import Callable, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch

from latentmix.cache import read_json
from latentmix.errors import UserError
from latentmix.features import embedded_folder
from latentmix.models.linear import by_onednn
from latentmix.models.settings import ModelConfig

NETWORKS = {  # the parts that hold weights
    "StableDiffusionPipeline": ("text_encoder", "unet", "vae"),
    "StableDiffusion3Pipeline": ("text_encoder", "text_encoder_2", "text_encoder_3", "transformer", "vae"),
}
OTHERS = {
    "StableDiffusionPipeline": ("scheduler", "tokenizer"),
    "StableDiffusion3Pipeline": ("scheduler", "tokenizer", "tokenizer_2", "tokenizer_3"),
}
KNOWN = {  # the classes that networks are read as, whatever else a folder asks for
    ("transformers", "CLIPTextModel"),
    ("transformers", "CLIPTextModelWithProjection"),
    ("transformers", "T5EncoderModel"),
    ("diffusers", "UNet2DConditionModel"),
    ("diffusers", "SD3Transformer2DModel"),
    ("diffusers", "AutoencoderKL"),
}
OPTIONAL = ("text_encoder_3", "tokenizer_3")  # T5, which Stable Diffusion 3 can do without
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def find(config: ModelConfig) -> Path:
    """The pipeline folder that a model's config names: `path`, the embedded one, or a snapshot from the hub."""
    if config.path is not None:
        return _checked(Path(config.path).expanduser(), config.pickled)
    if config.embedded:
        return _checked(embedded_folder(config.name))
    if config.hub is None:
        raise UserError(f"model {config.name!r} says neither path nor hub; give the folder with model.path=FOLDER")
    return _checked(_snapshot(config.hub, config.revision))


def wanted_files() -> dict[str, Any]:
    """Which files of a repository are a pipeline's, as `snapshot_download` takes it: hubs hold the same weights in
    several formats and precisions."""
    networks = ("text_encoder*", "transformer", "unet", "vae")
    allowed = ["model_index.json", "scheduler/*.json"]
    allowed += [f"tokenizer*/*.{kind}" for kind in ("json", "txt", "model")]
    allowed += [f"{part}/*.{kind}" for part in networks for kind in ("json", "safetensors")]
    return {"allow_patterns": allowed, "ignore_patterns": ["*fp16*", "*bf16*", "*non_ema*"]}


def cached(hub: str, revision: str | None) -> Path | None:
    """The repository's folder in the hub's cache; None where it is not there, or not whole. No network is asked."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        place = snapshot_download(hub, revision=revision, local_files_only=True, **wanted_files())
        return check_weights(_checked(Path(place)))
    except (LocalEntryNotFoundError, HFValidationError, UserError, OSError):
        return None


def _snapshot(hub: str, revision: str | None) -> Path:
    """The repository's folder in the hub's cache, filled if need be."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError

    if (folder := cached(hub, revision)) is not None:
        return folder
    elsewhere = "or give its folder with model.path=FOLDER"
    try:
        return Path(snapshot_download(hub, revision=revision, **wanted_files()))
    except GatedRepoError as error:
        raise UserError(
            f"{hub} is gated: accept its licence at https://huggingface.co/{hub}, log in with `hf auth login` (or set "
            f"HF_TOKEN), and try again, {elsewhere}"
        ) from error
    except Exception as error:  # of httpx, of the hub's library, of the system
        raise UserError(
            f"{hub} is not in the local cache and could not be fetched ({type(error).__name__}); "
            f"fetch it on a machine that is online, {elsewhere}"
        ) from error


def pipeline_class(folder: Path) -> str:
    """The name of the diffusers class that a folder was saved by."""
    return str(_index(folder)["_class_name"])


def has(folder: Path, part: str) -> bool:
    """Whether a pipeline was saved with an optional part."""
    return _index(folder).get(part, [None])[0] is not None


def _index(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "model_index.json").read_text())


def _checked(folder: Path, pickled: bool = False) -> Path:
    """`folder`, if a Stable Diffusion pipeline lies there whole; else UserError says what is missing.

    No code of its own is ever run, and weights that are `pickled` only do where they are asked for.
    """
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}; model.path must be a pipeline folder in diffusers' layout")
    try:
        name = pipeline_class(folder)
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{folder} has no readable model_index.json, so it is no diffusers pipeline folder") from None
    if name not in NETWORKS:
        raise UserError(f"{folder} holds a {name}; only folders of {' and '.join(NETWORKS)} can be read")
    for part in (*OTHERS[name], *NETWORKS[name]):
        if part in OPTIONAL and not has(folder, part):
            continue
        if not any((folder / part).glob("*.json")):
            raise UserError(f"the pipeline folder {folder} lacks its part {part!r}; copy the folder again, whole")
        if part in NETWORKS[name]:
            _check_class(folder, part)
            _check_names(folder / part, pickled)
    return folder


def _check_class(folder: Path, part: str) -> None:
    asked = _index(folder).get(part)
    if not isinstance(asked, list) or tuple(map(str, asked)) not in KNOWN:
        raise UserError(f"{folder / 'model_index.json'} asks for {part}={asked}, which is not known here, and not run")


def _check_names(folder: Path, pickled: bool) -> None:
    """UserError where weights are in files that may hold more than weights, or in other folders."""
    if not any(folder.glob("*.safetensors")):
        if not pickled or not any(folder.glob("*.bin")):
            raise UserError(
                f"{folder} holds no *.safetensors; copy the folder again, or, where its weights are pickled (*.bin) "
                "and you trust whoever made them, set model.pickled=true"
            )
        return
    for index in folder.glob("*.safetensors.index.json"):
        for name in _named(read_json(index)):
            if Path(name).name != name or not name.endswith(".safetensors"):
                raise UserError(f"{index} names the file {name!r}; only *.safetensors beside it are read")


def _named(index: dict[str, Any]) -> list[str]:
    """The files that an index of weights names; none where it is damaged, which comes up when they are read."""
    names = index.get("weight_map")
    return [str(name) for name in names.values()] if isinstance(names, dict) else []


def check_weights(folder: Path) -> Path:
    """The pipeline folder, if no file of weights is cut short or missing beside others; else UserError."""
    for part in NETWORKS[pipeline_class(folder)]:
        _check_part(folder / part)
    return folder


def _check_part(folder: Path) -> None:
    from safetensors import SafetensorError

    files = {*weights(folder)}
    file = folder
    try:
        for file in folder.glob("*.safetensors.index.json"):
            files |= {folder / name for name in json.loads(file.read_bytes())["weight_map"].values()}
        for file in sorted(files):
            parameters(file)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise UserError(f"{file} is missing or cut short; copy the folder again, whole") from error


def weights(folder: Path) -> list[Path]:
    """A network's files of weights that are read: not those of other precisions beside them."""
    ignored = wanted_files()["ignore_patterns"]
    return [f for f in sorted(folder.glob("*.safetensors")) if not any(fnmatch(f.name, p) for p in ignored)]


def parameters(file: Path) -> int:
    """How many numbers a file of weights holds, by its header."""
    from safetensors import safe_open

    with safe_open(file, "pt") as opened:
        return sum(math.prod(opened.get_slice(name).get_shape()) for name in opened.keys())  # noqa: SIM118


def load_part(load: Callable[..., Any], folder: Path, **how: Any) -> Any:
    """A part of the pipeline, with one line instead of a traceback where its files are damaged."""
    from transformers.utils import logging

    logging.disable_progress_bar()  # for files that are read in no time
    try:
        return load(folder, local_files_only=True, **how)
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"{folder} can't be loaded: {reason}") from error


def read_config(folder: Path) -> dict[str, Any]:
    """A part's config.json; one line where it can't be read."""
    try:
        return dict(json.loads((folder / "config.json").read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{folder / 'config.json'} can't be read: {error}") from error


def load_network(load: Callable[..., Any], folder: Path, onednn: bool = True, **how: Any) -> Any:
    """A network, whole and frozen: what its files lack, libraries would fill with chance."""
    safe = any(folder.glob("*.safetensors"))  # else pickled weights were asked for, or `find` had refused the folder
    network, about = load_part(load, folder, output_loading_info=True, use_safetensors=safe, **how)
    if about["missing_keys"]:
        raise UserError(
            f"{folder} lacks the weights {', '.join(sorted(about['missing_keys'])[:3])}; copy it again, whole"
        )
    network.requires_grad_(False)
    return by_onednn(network) if onednn else network


def encoded(encoder: Any, tokenizer: Any, prompts: Sequence[str], length: int, **how: Any) -> list[Any]:
    """A text encoder's output for each prompt, padded and cut to `length` tokens; one by one, as rounding depends on
    what else is in a batch."""
    padding = {"padding": "max_length", "truncation": True, "return_tensors": "pt"}
    ids = tokenizer(list(prompts), max_length=length, **padding).input_ids
    return [encoder(row, **how) for row in ids.to(encoder.device).split(1)]
