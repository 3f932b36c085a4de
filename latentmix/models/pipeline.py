"""Pipeline folders in diffusers' layout: where a model's folder is, and whether latentmix can read it."""

from pathlib import Path
from typing import Any

from latentmix.embedded import embedded_folder
from latentmix.errors import UserError
from latentmix.models.family import Family
from latentmix.models.family_table import FAMILIES
from latentmix.models.loading import TOKENIZER_FILES, has, present_parts, read_index
from latentmix.models.settings import ModelConfig
from latentmix.weight_files import check_whole, weight_files


def find(config: ModelConfig) -> Path:
    """Return the pipeline folder that settings name: `path`, an embedded one, or a snapshot from the hub.

    Raises: UserError where it can't be had, or latentmix can't read it.
    """
    if config.path is not None:
        return _checked(Path(config.path).expanduser(), config.pickled)
    if config.embedded is not None:
        return _checked(embedded_folder(config.embedded))
    if config.hub is None:
        raise UserError(f"model {config.name!r} has neither path nor hub; give the folder with model.path=FOLDER")
    return _checked(_snapshot(config.hub, config.revision))


def family_of(folder: Path) -> Family:
    """Return the family of the pipeline in a folder. Raises: KeyError where no family has its class."""
    return FAMILIES[str(read_index(folder)["_class_name"])]


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
    """Return the arguments by which diffusers' `from_pretrained` leaves out the parts that latentmix does not read."""
    family = family_of(folder)
    return {**family.unread, **{part: None for part in family.optional if not has(folder, part)}}


# --- on the hub -----------------------------------------------------------------------------------------------------


def wanted_files() -> dict[str, Any]:
    """Return which files of a repository to fetch, as arguments of `snapshot_download`.

    Repositories hold the same weights in several formats and precisions.
    """
    networks = sorted({part for family in FAMILIES.values() for part in family.networks})
    allowed = ["model_index.json", "scheduler/*.json", *(f"tokenizer*/{name}" for name in TOKENIZER_FILES)]
    allowed += [f"{part}/*.{kind}" for part in networks for kind in ("json", "safetensors")]
    return {"allow_patterns": allowed, "ignore_patterns": ["*fp16*", "*bf16*", "*non_ema*"]}


def cached(hub: str, revision: str | None) -> Path | None:
    """Return a repository's folder in the hub's cache; None where it is not there whole. No network is used."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        folder = snapshot_download(hub, revision=revision, local_files_only=True, **wanted_files())
        return check_weights(_checked(Path(folder)))
    except (LocalEntryNotFoundError, HFValidationError, UserError, OSError):
        return None


def _snapshot(hub: str, revision: str | None) -> Path:
    """Return a repository's folder in the hub's cache, fetched if it is not there."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError

    if (folder := cached(hub, revision)) is not None:
        return folder
    instead = "or give its folder with model.path=FOLDER"
    try:
        return Path(snapshot_download(hub, revision=revision, **wanted_files()))
    except GatedRepoError as error:
        raise UserError(
            f"{hub} is gated: accept its licence at https://huggingface.co/{hub}, log in with `hf auth login` (or set "
            f"HF_TOKEN), and try again, {instead}"
        ) from error
    except Exception as error:  # of httpx, of the hub's library, of the system
        raise UserError(
            f"{hub} is not in the local cache and could not be fetched ({type(error).__name__}); "
            f"fetch it on a machine that is online, {instead}"
        ) from error


# --- whether it can be read -----------------------------------------------------------------------------------------


def _checked(folder: Path, pickled: bool = False) -> Path:
    """Return `folder` if a pipeline of a known family is there, whole. Raises: UserError that says what is missing.

    Code of the folder's own is never run, and pickled weights are read only where the settings allow them.
    """
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}; model.path must be a pipeline folder in diffusers' layout")
    try:
        index = read_index(folder)
        name = str(index["_class_name"])
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{folder} has no readable model_index.json, so it is no diffusers pipeline folder") from None
    if name not in FAMILIES:
        raise UserError(f"{folder} holds a {name}; only folders of {', '.join(FAMILIES)} can be read")
    family = FAMILIES[name]
    for part in present_parts(folder, family):
        if not any((folder / part).glob("*.json")):
            raise UserError(f"the pipeline folder {folder} lacks its part {part!r}; copy the whole folder again")
        if part not in family.networks:
            continue
        found = index.get(part)
        if not isinstance(found, list) or ".".join(map(str, found)) != family.networks[part]:
            raise UserError(
                f"{folder / 'model_index.json'} asks for {part}={found}, which is not known here, and not run"
            )
    network_files(folder, pickled)
    return folder
