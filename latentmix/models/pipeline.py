"""Pipeline folders in diffusers' layout: where a model's folder is, and whether latentmix can read it."""

import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from latentmix.data.hub_errors import TIMEOUT, disk_is_full, is_of_network, refusal
from latentmix.data.protocol import one_line
from latentmix.embedded import embedded_folder
from latentmix.errors import UserError
from latentmix.models.assembly import assembled
from latentmix.models.loading import TOKENIZER_FILES, has, present_parts, read_index
from latentmix.models.registry import FAMILIES, family_of, pipeline_class
from latentmix.models.settings import ModelConfig
from latentmix.models.single_file import is_single_file
from latentmix.storage import DiskFull, read_json
from latentmix.weight_files import (
    STEMS,
    are_plain,
    check_whole,
    choose,
    read_object,
    read_source,
    variants,
    weight_files,
)

INSIDE = ("*", "snapshots/*", "*/snapshots/*")  # where a folder that is no pipeline, or the hub's cache, may have one


def find(config: ModelConfig) -> Path:
    """Return the pipeline folder for settings: from a path, embedded, or fetched from the hub. Raises: UserError."""
    if config.path is not None:
        return _checked(Path(config.path), config)
    if config.embedded is not None:
        return _checked(embedded_folder(config.embedded), config)
    if config.hub is None:
        raise UserError(f"model {config.name!r} has neither path nor hub; give the folder with model.path=FOLDER")
    return _checked(snapshot(config) or _fetched(config), config)


def is_on_hub(config: ModelConfig) -> bool:
    """Return whether a model comes from the Hugging Face hub."""
    return config.path is None and not config.embedded and config.hub is not None


def network_files(folder: Path, pickled: bool = True) -> dict[str, list[Path]]:
    """Return the files of weights of each network of a pipeline."""
    family = family_of(folder)
    parts = [part for part in present_parts(folder, family) if part in family.networks]
    return {part: weight_files(folder / part, family.package(part), pickled) for part in parts}


def check_weights(folder: Path) -> Path:
    """Return a pipeline folder. Raises: UserError where a file of weights is cut short or missing beside others."""
    for files in network_files(folder).values():
        check_whole(files)
    return folder


def diffusers_options(folder: Path) -> dict[str, Any]:
    """Return the arguments with which diffusers reads the same parts. Raises: UserError where it can't read them."""
    family = family_of(folder)
    for part, files in network_files(folder).items():
        if not are_plain(folder / part, files, family.package(part)) or read_source(folder / part).loras:
            raise UserError(f"diffusers can't read {folder / part} as it is set; compare a plain pipeline folder")
    return {**family.unread, **{part: None for part in family.optional if not has(folder, part)}}


def wanted_files(config: ModelConfig, names: Collection[str] = ()) -> dict[str, Any]:
    """Return which files of a repository to fetch, as arguments of `snapshot_download`.

    Repositories hold the same weights in several formats and precisions. If the `names` of all files are given, those
    are chosen that would be read from a folder.
    """
    unread = set() if config.t5 else {part for family in FAMILIES.values() for part in family.optional}
    unread |= {"vae"} if config.vae else set()
    allowed = ["model_index.json", "scheduler/*.json", *(f"tokenizer*/{name}" for name in TOKENIZER_FILES)]
    for part, package in sorted(
        {(part, family.package(part)) for family in FAMILIES.values() for part in family.networks}
    ):
        paths = [Path(name) for name in names if Path(name).parent == Path(part)]
        chosen = choose(variants(paths, STEMS[package][0], "safetensors"), config.variant)
        allowed += [f"{part}/*.json", *([f"{part}/*.safetensors"] if chosen is None else map(str, chosen))]
    others = [f"*{variant}*" for variant in ("fp16", "bf16", "non_ema") if variant != config.variant]
    return {
        "allow_patterns": allowed,
        "ignore_patterns": [*(f"{part}/*" for part in sorted(unread)), *([] if names else others)],
    }


def files_on_hub(config: ModelConfig) -> dict[str, Any]:
    """Return which files of a repository to fetch, by what the hub lists; if it lists nothing, by their usual names.

    Raises the library's error if the hub can't be reached: other requests would be repeated for half a minute.
    """
    from huggingface_hub import HfApi

    try:
        listed = HfApi().model_info(str(config.hub), revision=config.revision, timeout=TIMEOUT).siblings or ()
        return wanted_files(config, [file.rfilename for file in listed])
    except Exception as error:
        if is_of_network(error):
            raise
        return wanted_files(config)  # the download itself will say what is wrong


def snapshot(config: ModelConfig) -> Path | None:
    """Return a repository's folder in the hub's cache, without network access; None unless it is complete."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    patterns = wanted_files(config)
    try:
        folder = Path(snapshot_download(str(config.hub), revision=config.revision, local_files_only=True, **patterns))
        check_weights(_checked(folder, config))
        return folder
    except (LocalEntryNotFoundError, HFValidationError, UserError, OSError):
        return None


def _fetched(config: ModelConfig) -> Path:
    """Fetch a repository, and return its folder in the hub's cache. Raises: UserError where it can't be fetched."""
    from huggingface_hub import snapshot_download

    hub, instead = str(config.hub), "or give its folder with model.path=FOLDER"
    try:
        return Path(snapshot_download(hub, revision=config.revision, **files_on_hub(config)))
    except Exception as error:  # of httpx, of the hub's library, of the system
        if disk_is_full(error):
            advice = "free some space, or set HF_HOME to a folder with more"
            raise DiskFull(f"the disk is full: {hub} could not be fetched; {advice}") from error
        here = f"{hub} is not in the local cache"
        if (reason := refusal(error, hub, config.revision)) is not None:
            raise UserError(f"{here}, and {reason}, {instead}") from error
        if is_of_network(error):
            where = f"could not be fetched ({type(error).__name__}); fetch it on a machine that is online"
            raise UserError(f"{here} and {where}, {instead}") from error
        raise UserError(f"{here} and could not be fetched: {one_line(error)}; try again, {instead}") from error


def _checked(base: Path, config: ModelConfig) -> Path:
    """Return the pipeline folder for `base`, a folder or a single file, and settings; see `assembled`.

    Code in the folder is never run, and pickled weights are read only where the settings allow it.
    Raises: UserError, which says what is missing, unless it is a complete pipeline of a known family.
    """
    if not is_single_file(base):
        check_index(base)
    folder = assembled(base, config)
    family, index = family_of(folder), read_index(folder)
    for part in present_parts(folder, family):
        if not any((folder / part).glob("*.json")):
            if index.get(part) == [None, None]:
                raise UserError(f"{base} was saved without {part}, as refiners and cascades are; it can't be read")
            raise UserError(f"the pipeline folder {base} lacks its part {part!r}; copy the whole folder again")
        if part.startswith("tokenizer"):
            _check_tokenizer(folder / part, index.get(part))
        if part not in family.networks:
            continue
        found = index.get(part)
        if not isinstance(found, list) or ".".join(map(str, found)) != family.networks[part]:
            raise UserError(f"{base / 'model_index.json'} has {part}={found}, which is not known here, and not run")
    network_files(folder, config.pickled)
    return folder


def _check_tokenizer(folder: Path, kind: Any) -> None:
    """Raise UserError where a tokenizer's files are missing or don't fit: its library would split prompts wrongly."""
    if (folder / "tokenizer.json").is_file() or (folder / "spiece.model").is_file():
        return
    files = ["spiece.model"] if "T5" in str(kind) else ["vocab.json", "merges.txt"]
    if missing := [name for name in files if not (folder / name).is_file()]:
        raise UserError(f"{folder} lacks {' and '.join(missing)} (or tokenizer.json); copy the whole folder again")
    vocabulary, merges = read_object(folder / files[0]), folder / files[1]
    try:
        lines = merges.read_text(encoding="utf-8").split("\n")
    except (OSError, ValueError) as error:
        raise UserError(f"{merges} can't be read: {error}; copy the whole folder again") from error
    merged = {"".join(line.split()) for line in lines if not line.startswith("#version")} - {""}
    basic = {word for word in vocabulary if len(word.removesuffix("</w>")) == 1 or re.fullmatch("<.*>", word)}
    if missing_merges := vocabulary.keys() - merged - basic - read_json(folder / "added_tokens.json").keys():
        raise UserError(f"{merges} is cut short: {len(missing_merges)} tokens are missing; copy the whole folder again")
    if merged - vocabulary.keys():
        raise UserError(f"{folder / files[0]} is not that of {merges}; copy the whole folder again")


def check_index(folder: Path) -> str:
    """Return the class of the pipeline in a folder. Raises: UserError where there is none of a known family."""
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}; model.path must be a diffusers pipeline or a single file")
    try:
        name = pipeline_class(str(read_index(folder)["_class_name"]))
    except (OSError, ValueError, KeyError, TypeError):
        files = ", ".join(sorted(file.name for file in folder.glob("*.safetensors"))[:3])
        inside = next(iter(sorted(p for depth in INSIDE for p in folder.glob(f"{depth}/model_index.json"))), None)
        instead = f"; for a single file give model.path=FILE, one of {files}" if files else ""
        instead = f"; {inside.parent} is one" if inside else instead
        raise UserError(f"{folder} has no readable model_index.json, so it is no pipeline folder{instead}") from None
    if name not in FAMILIES:
        raise UserError(f"{folder} holds a {name}; only folders of {', '.join(FAMILIES)} can be read")
    return name
