"""Pipeline folders for models that are not read as they are: a single file, a variant, LoRA, another VAE, without T5.

All code that reads a model reads a pipeline folder. Where settings change what is read, such a folder is written to the
user's cache. It holds the JSON files of all parts and, beside each network's config.json, a file that says where its
weights are.
"""

import gzip
import importlib.util
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import torch

from latentmix.errors import UserError, optional_imports
from latentmix.models import lora, single_file
from latentmix.models.architectures import ARCHITECTURES, architectures
from latentmix.models.family import Family
from latentmix.models.loading import TOKENIZER_FILES
from latentmix.models.registry import family_of
from latentmix.models.settings import ModelConfig
from latentmix.storage import key, write_atomic
from latentmix.weight_files import SOURCE, STEMS, assembled_folder, read_config, variants

COPIED = ("config.json", "scheduler_config.json", *TOKENIZER_FILES)


def assembled(base: Path, config: ModelConfig) -> Path:
    """Return `base` or, where settings change what is read, the folder that is written for them. Raises: UserError."""
    asked = [config.variant, config.lora, config.vae, config.t5, config.prediction]
    if base.is_dir() and asked == [None, (), None, True, None]:
        return base
    source, files = (base, dict[str, bytes]()) if base.is_dir() else _of_single_file(base, config)
    family = family_of(source)
    if config.prediction is not None and family.flow:
        raise UserError(f"model.prediction is for diffusion, and {family.pipeline} is a rectified flow; leave it out")
    left_out, index = _left_out(family, config), (source / "model_index.json").read_bytes()
    if left_out or source is not base:
        index = json.dumps(json.loads(index) | {part: [None, None] for part in left_out}, indent=2).encode()
    files["model_index.json"] = index
    for part in (part for part in family.parts if part not in left_out):
        files = {**_copied(_json_folder(source, part, config), part), **files}
    if config.prediction is not None:
        _set_scheduler(files, prediction_type=config.prediction)
    files |= _weight_sources(base, source, family, config, files)
    folder = assembled_folder() / key([str(base.absolute()), *asked, config.architecture, _named_paths(config)])
    for name, content in files.items():
        if not (folder / name).is_file() or (folder / name).read_bytes() != content:
            write_atomic(folder / name, content)
    return folder


def _named_paths(config: ModelConfig) -> list[str]:
    """Return the absolute paths of files that settings name: a relative one depends on the current folder."""
    files = [str(lora.parse(setting)[0]) for setting in config.lora] + [config.vae, config.architecture]
    return [str(Path(file).absolute()) for file in files if file is not None and Path(file).exists()]


def _left_out(family: Family, config: ModelConfig) -> tuple[str, ...]:
    """Return the parts that are not read although the pipeline has them."""
    if config.t5:
        return ()
    if not family.optional:
        able = "model.t5=false is for pipelines that can do without T5"
        raise UserError(f"{able}, and {family.pipeline} can't; leave it out")
    return family.optional


def _json_folder(source: Path, part: str, config: ModelConfig) -> Path:
    """Return the folder of a part's JSON files."""
    if part != "vae" or config.vae is None or Path(config.vae).is_file():
        return source / part
    given = Path(config.vae)
    if not given.is_dir():
        raise UserError(f"there is no model.vae={given}; give a folder or a single file of an AutoencoderKL")
    folder = given if (given / "config.json").is_file() else given / "vae"
    name = read_config(folder).get("_class_name", "AutoencoderKL")
    if name != "AutoencoderKL":
        raise UserError(f"model.vae={config.vae} is of {name}; only an AutoencoderKL can be read")
    return folder


def _copied(folder: Path, part: str) -> dict[str, bytes]:
    """Return the contents of a part's config or tokenizer files, by their names in the new folder."""
    return {f"{part}/{name}": (folder / name).read_bytes() for name in COPIED if (folder / name).is_file()}


def _weight_sources(
    base: Path, source: Path, family: Family, config: ModelConfig, files: Mapping[str, bytes]
) -> dict[str, bytes]:
    """Return the files that say where the weights of each network are. Raises: UserError where they do not fit."""
    loras = [lora.parse(setting) for setting in config.lora]
    changed = {file: lora.parts(file) for file, _ in loras}
    for file, parts in changed.items():
        if other := sorted(parts - family.networks.keys()):
            kohya = "unet" in other and family.flow
            instead = "; of FLUX.1, diffusers' names are read, and not kohya's" if kohya else ""
            unfit = f"{file} changes {', '.join(other)}, which {family.pipeline} does not have"
            raise UserError(f"{unfit}; leave it out, or give the model that it was made for{instead}")
    sources: dict[str, bytes] = {}
    held = single_file.headers(base, config.pickled) if base.is_file() else {}
    for part in (part for part in family.networks if f"{part}/config.json" in files):
        place = base if held and single_file.holds(held, part) else _json_folder(source, part, config)
        if part == "vae" and config.vae is not None and Path(config.vae).is_file():
            place = Path(config.vae)
        own = [(str(file.absolute()), factor) for file, factor in loras if part in changed[file]]
        network = (files[f"{part}/config.json"], family.networks[part], part)
        if place.is_file():
            _check_file(*network, place, place.stat().st_mtime_ns, config.pickled)
        for file in (Path(file) for file, _ in own):
            _check_lora(*network, file, file.stat().st_mtime_ns)
        weights = {"place": str(place.absolute()), "variant": config.variant, "loras": own}
        sources[f"{part}/{SOURCE}"] = json.dumps(weights).encode()
    if config.variant is not None and base.is_dir():
        _check_variant(base, family, config.variant)
    return sources


def _check_variant(base: Path, family: Family, variant: str) -> None:
    """Raise UserError where no network has a variant."""
    found = set[str]()
    for part in family.networks:
        for stem, suffix in zip(STEMS[family.package(part)], ("safetensors", "bin"), strict=True):
            found |= variants((base / part).glob(f"*.{suffix}"), stem, suffix).keys()
    if variant not in found:
        known = f"its variants are: {', '.join(sorted(found - {''})) or 'none'}"
        raise UserError(f"{base} has no weights of model.variant={variant}; {known}; take one, or leave it out")


@cache
def _check_lora(config: bytes, class_name: str, part: str, file: Path, _mtime: int) -> None:
    """Raise UserError where a LoRA does not fit a network of this config."""
    lora.check(_empty(config, class_name), part, file)


@cache
def _check_file(config: bytes, class_name: str, part: str, file: Path, _mtime: int, pickled: bool) -> None:
    """Raise UserError where a single file's weights do not fit a network of this config."""
    try:
        single_file.check(_empty(config, class_name), part, single_file.headers(file, pickled))
    except ValueError as error:
        instead = "model.vae=FOLDER, with its config.json" if part == "vae" else "model.architecture=FOLDER"
        advice = f"if it is of another size, give the folder of its configs with {instead}"
        raise UserError(f"{file} does not have the usual {part}: {error}; {advice}") from error


def _empty(config: bytes, class_name: str) -> Any:
    """Return a network of this config on torch's meta device."""
    network = resolve_name(class_name)
    with torch.device("meta"):
        if class_name.startswith("diffusers."):
            return network.from_config(json.loads(config))
        return network(network.config_class(**json.loads(config)))


def _of_single_file(file: Path, config: ModelConfig) -> tuple[Path, dict[str, bytes]]:
    """Return the folder with a checkpoint's configs, and the contents of files that it lacks or needs changed."""
    tensors = single_file.headers(file, config.pickled)
    kind = single_file.architecture(file, tensors)
    own = None if config.architecture in (None, *architectures()) else Path(str(config.architecture))
    source = own or ARCHITECTURES / kind
    if not (source / "model_index.json").is_file():
        raise UserError(f"{source} is no pipeline folder; give model.architecture=FOLDER, one with a model_index.json")
    family = family_of(source)
    if family is not family_of(ARCHITECTURES / kind):
        raise UserError(f"{file} holds {kind}, and model.architecture={source} a {family.pipeline}; give one of {kind}")
    given = {*_left_out(family, config), *(["vae"] if config.vae else [])}
    lacking = [part for part in family.networks if part not in given and not single_file.holds(tensors, part)]
    if lacking and own is None:
        advice = "give a pipeline folder that has them with model.architecture=FOLDER"
        raise UserError(f"{file} lacks {', '.join(lacking)}; {advice}")
    files: dict[str, bytes] = {}
    for part in (part for part in family.parts if part.startswith("tokenizer")):
        if not (source / part).is_dir():
            tokenizer = clip_tokenizer(zero_padded=kind == "sd21" or part == "tokenizer_2")
            files |= {f"{part}/{name}": content for name, content in tokenizer.items()}
    files |= _copied(source / "scheduler", "scheduler")
    if "v_pred" in tensors:
        _set_scheduler(files, prediction_type="v_prediction")
    elif kind == "sd21" and config.prediction is None:
        choice = "v_prediction (as most for 768 px do) or model.prediction=epsilon (as most for 512 px)"
        unsaid = f"{file} is a Stable Diffusion 2, and does not say what it predicts"
        raise UserError(f"{unsaid}: set model.prediction={choice}")
    if "ztsnr" in tensors:
        _set_scheduler(files, rescale_betas_zero_snr=True)
    return source, files


def _set_scheduler(files: dict[str, bytes], **settings: Any) -> None:
    name = "scheduler/scheduler_config.json"
    files[name] = json.dumps(json.loads(files[name]) | settings, indent=2).encode()


@cache
def clip_tokenizer(zero_padded: bool = False) -> dict[str, bytes]:
    """Return the files of CLIP's tokenizer, made from the merges that come with open_clip.

    Pipelines pad prompts of OpenAI's CLIP with the end-of-text token, and those of OpenCLIP with token 0, which is "!".
    """
    with optional_imports():
        spec = importlib.util.find_spec("open_clip")
        if spec is None:
            raise ModuleNotFoundError(name="open_clip")
    place = Path(str(spec.origin)).parent / "bpe_simple_vocab_16e6.txt.gz"
    lines = gzip.decompress(place.read_bytes()).decode().split("\n")
    merges = lines[1 : 49152 - 256 - 2 + 1]
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = [*map(chr, printable), *(chr(256 + number) for number in range(len(others)))]
    words = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(merge.split()) for merge in merges)]
    start, end = "<|startoftext|>", "<|endoftext|>"
    vocabulary = {word: number for number, word in enumerate([*words, start, end])}
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "bos_token": start, "eos_token": end}
    settings |= {"unk_token": end, "pad_token": "!" if zero_padded else end}
    return {
        "vocab.json": json.dumps(vocabulary, ensure_ascii=False).encode(),
        "merges.txt": "\n".join(["#version: 0.2", *merges]).encode(),
        "tokenizer_config.json": json.dumps(settings, indent=2).encode(),
    }
