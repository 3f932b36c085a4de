"""The settings that the name of a model stands for: a preset, a folder, a file, or a repository of the hub."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from latentmix.compose import compose
from latentmix.data.hub_errors import hub_refusal, refusal
from latentmix.errors import UserError
from latentmix.models import single_file
from latentmix.models.architectures import ARCHITECTURES
from latentmix.models.loading import read_index
from latentmix.models.pipeline import check_index
from latentmix.models.registry import FAMILIES
from latentmix.presets import Presets
from latentmix.settings import expand_home, refusal_of_url
from latentmix.weight_files import read_config

_READ = ["model_index.json", *(f"{part}/config.json" for part in ("transformer", "unet", "vae"))]
_LOADED = "; for a pipeline of diffusers that is loaded, call from_diffusers"


def overrides_for(name: str | Path, settings: Sequence[str] = ()) -> list[str]:
    """Return overrides for the model of a name, such as ["model=sd15", "model.path=..."]; a `Path` is never of the hub.

    `settings` are the caller's further ones. Raises: UserError where there is no such model.
    """
    if not isinstance(name, str | Path) or not str(name).strip():
        what = repr(name) if isinstance(name, str | int | None) else f"a {type(name).__name__}"
        raise UserError(f"a model is named by a preset, a folder, a file or OWNER/NAME, not {what}{_LOADED}")
    presets, is_path, name = Presets(), isinstance(name, Path), str(name)
    path = Path(expand_home(name))
    if name in presets.options("model") and not (is_path and path.exists()):
        return [f"model={name}"]
    if path.is_dir():
        return [*_like(path), f"model.path={_quoted(path)}"]
    if path.is_file():
        kind = single_file.architecture(path, single_file.headers(path, _pickled(settings)))
        alike = [o for o in presets.options("model") if presets.read("model", o).get("architecture") == kind]
        return [f"model={kind if kind in alike else alike[0]}", f"model.path={_quoted(path)}"]
    if is_path or path.exists() or name.count("/") != 1 or name.startswith((".", "~")):
        options = ", ".join(presets.options("model"))
        no_path = refusal_of_url(name) or f"is no preset ({options}), and no folder or file"
        raise UserError(f"there is no model {name!r}: it {no_path}")
    return [*_like(_indices(name)), f"model.hub={name}", "model.revision=null"]


def nearest_preset(pipeline: str, config: Mapping[str, Any]) -> str:
    """Return the preset of a pipeline class whose denoiser's config is most like `config`. Raises: UserError."""
    presets, scores = Presets(), dict[str, int]()
    for option in presets.options("model"):
        folder = ARCHITECTURES / str(presets.read("model", option).get("architecture"))
        if folder.is_dir() and read_index(folder)["_class_name"] == pipeline:
            known = read_config(folder / FAMILIES[pipeline].denoiser)
            scores[option] = sum(config.get(key) == value for key, value in known.items())
    if not scores:
        raise UserError(f"no preset is of a {pipeline}; write one, as docs/extending.md shows, and give its name")
    return max(scores, key=lambda option: scores[option])


def native_size(denoiser: Mapping[str, Any], vae: Mapping[str, Any]) -> int | None:
    """Return the side, in pixels, of the images that a model was trained on; None where its config does not say."""
    side = denoiser.get("sample_size")
    return side * 2 ** (len(vae["block_out_channels"]) - 1) if isinstance(side, int) else None


def _pickled(settings: Sequence[str]) -> bool:
    """Return whether settings allow a single file to be a pickle."""
    own = [setting for setting in settings if setting.lstrip("+").startswith("model.pickled=")]
    return bool(own) and compose(own).model.pickled


def _like(folder: Path) -> list[str]:
    """Return overrides for the preset that is nearest to the model in a folder, and for the model's own size."""
    pipeline = check_index(folder)
    denoiser, vae = (read_config(folder / part) for part in (FAMILIES[pipeline].denoiser, "vae"))
    size = native_size(denoiser, vae)
    return [f"model={nearest_preset(pipeline, denoiser)}", *([f"model.size={size}"] if size else [])]


def _indices(hub: str) -> Path:
    """Return the folder of a repository's configs, fetched if they are not here.

    The hub is asked first, as `snapshot_download` waits for it without a limit.
    """
    from huggingface_hub import snapshot_download

    refused = hub_refusal(hub, "model_index.json")
    try:
        return Path(snapshot_download(hub, allow_patterns=_READ, local_files_only=refused is not None))
    except Exception as error:  # of httpx, of the hub's library, of the system
        failed = f"the hub's repository of this name could not be fetched ({type(error).__name__})"
        reason = refused or refusal(error, hub) or failed
        advice = "" if ":" in reason else "; check its name, be online"  # a refusal that is no failure has its own
        raise UserError(f"there is no preset and no folder {hub!r}, and {reason}{advice}") from error


def _quoted(path: Path) -> str:
    return json.dumps(str(path.absolute()), ensure_ascii=False)
