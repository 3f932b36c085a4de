"""The weights that an experiment reads: where they are, and whether and how they can be downloaded.

Local files are found without network access. Only for missing files a server is asked, within seconds, whether they can
be downloaded, unless HF_HUB_OFFLINE is set.
"""

import shutil
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from latentmix.checks.finding import Finding, readable_size
from latentmix.data.hub_errors import TIMEOUT, disk_is_full, hub_refusal
from latentmix.embedded import NETWORK_FOLDERS, embedded_folder
from latentmix.errors import UserError
from latentmix.feature_networks import FRECHET, dinov2_folder, is_clip, perceptual_network
from latentmix.feature_networks.clip import clip_folder, pretrained_config
from latentmix.feature_networks.dinov2 import DINOV2, dinov2_name
from latentmix.feature_networks.embedded import classifier_folder
from latentmix.feature_networks.lpips import LPIPS
from latentmix.models.pipeline import check_weights, files_on_hub, find, is_on_hub, network_files, snapshot
from latentmix.models.settings import ModelConfig
from latentmix.storage import DiskFull
from latentmix.weight_files import VARIANTS

INCEPTION_URL = (  # torch-fidelity's; importing it takes seconds
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
)


@dataclass(frozen=True)
class Files:
    """Files that a part of the experiment reads, and how to get them if they are missing."""

    name: str
    look: Callable[[], Path | None]  # returns where they are, without network access; UserError if settings are wrong
    refusal: Callable[[], str | None] = lambda: None  # returns why they can't be downloaded from here
    get: Callable[[], Any] = lambda: None  # downloads them
    size: Callable[[], int | None] = lambda: None  # returns the bytes to download, if they are known
    copy: str = ""  # what to copy from another machine, and to where
    note: Callable[[], str] = lambda: ""  # returns a remark on files that are here

    def check_download(self) -> int | None:
        """Return the bytes to download, if they are known. Raises UserError if the files are refused or too large."""
        from huggingface_hub import constants

        refusal = self.refusal()
        size = None if refusal else self.size()
        if size is not None and (free := shutil.disk_usage(nearest_folder(Path(constants.HF_HUB_CACHE))).free) <= size:
            sizes = f"{readable_size(free)} for its {readable_size(size)}"
            refusal = f"{constants.HF_HUB_CACHE} has {sizes}: free some space, or set HF_HOME"
        if refusal:
            raise UserError(f"{self.name} is not here, and {refusal}")
        return size


def look(part: str, config: ModelConfig) -> Finding:
    """Return a finding on the files of a part: here, to be downloaded, or missing."""
    try:
        files = files_of(part, config)
        path = files.look()
    except UserError as error:
        return Finding("missing", part, str(error))
    if path is not None:
        return Finding("ok", part, f"{files.name} {location(path)}{files.note()}")
    try:
        size = files.check_download()
    except UserError as error:
        return Finding("missing", part, str(error), (elsewhere(files.copy),))
    name = files.name if size is None else f"{files.name}, {readable_size(size)},"
    return Finding("fetch", part, f"{name} is not here yet; latentmix fetch gets it, otherwise the run does")


def elsewhere(copy: str) -> str:
    """Return advice on copying files from a machine that is online."""
    return f"On a machine that is online, run latentmix fetch with the same settings; then copy {copy}"


def download(files: Files) -> None:
    """Download files; raise DiskFull or another UserError if that fails."""
    files.check_download()
    try:
        files.get()
    except Exception as error:  # of any type, from libraries for networks
        if disk_is_full(error):
            full = f"the disk is full: {files.name} could not be fetched; free some space"
            instead = "set HF_HOME and TORCH_HOME to folders with more, and give the same command again"
            raise DiskFull(f"{full}, or {instead}") from error
        if isinstance(error, UserError):
            raise
        raise UserError(f"{files.name} could not be fetched ({type(error).__name__}); try again later") from error


def location(path: Path | None) -> str:
    """Return where files are, as the end of a sentence."""
    own = path is not None and path.is_relative_to(embedded_folder(""))
    return "comes with latentmix, so there is nothing to fetch" if own else f"is in {path}"


def nearest_folder(folder: Path) -> Path:
    """Return a folder, or the first one above it that exists."""
    folder = folder.absolute()
    return next(path for path in (folder, *folder.parents) if path.exists())


def local_pipeline(config: ModelConfig) -> Path | None:
    """Return the pipeline folder of a model; None if it is missing in the hub's cache, or incomplete there."""
    if is_on_hub(config) and snapshot(config) is None:
        return None
    return check_weights(find(config))


def _model(config: ModelConfig) -> Files:
    def origin() -> Path | None:  # where the user put the files, not where settings assembled them
        folder = snapshot(config) if is_on_hub(config) else check_weights(find(config))
        return folder if config.path is None else Path(config.path)

    def variants_read() -> str:
        names = [file.name for files in network_files(find(config)).values() for file in files]
        known = dict.fromkeys((config.variant, *VARIANTS))
        read = [variant for variant in known if variant and any(f".{variant}" in name for name in names)]
        return f"; its {' and '.join(read)} weights are read" if read else ""

    if not is_on_hub(config):
        return Files(config.name, origin, note=variants_read)
    hub, revision = str(config.hub), config.revision
    return Files(
        f"{config.name} ({hub})",
        origin,
        lambda: hub_refusal(hub, "model_index.json", revision),
        lambda: find(config),
        lambda: _download_size(hub, lambda: {"revision": revision, **files_on_hub(config)}),
        f"{_hub_copy(hub)}; or copy the pipeline's folder, and give it as model.path=FOLDER",
        variants_read,
    )


def _features(features: str) -> Files:
    if features in NETWORK_FOLDERS:
        return _classifier(features)
    if features == "inception":
        return _torch_hub_file("Inception-v3", INCEPTION_URL)
    if (folder := dinov2_folder(features)) is not None:
        return Files(f"DINOv2 ({folder.name})", lambda: folder)
    from huggingface_hub import snapshot_download

    if dinov2_name(features) not in DINOV2:  # of another package, which brings its weights
        return Files(features, lambda: FRECHET.file(features))
    name, wanted = dinov2_name(features), ["config.json", "model.safetensors"]
    hub = DINOV2[name][0]
    return Files(
        f"{name} ({hub})",
        lambda: _cached(hub, "model.safetensors") if _cached(hub, "config.json") else None,
        lambda: hub_refusal(hub, "config.json"),
        lambda: snapshot_download(hub, allow_patterns=wanted),
        lambda: _download_size(hub, lambda: {"allow_patterns": wanted}),
        f"{_hub_copy(hub)}; or copy its folder, and give it as model.features=FOLDER",
    )


def _classifier(name: str) -> Files:
    return Files("the embedded classifier", lambda: classifier_folder(name))


def _perceptual(config: ModelConfig) -> Files:
    """Return the files of torchvision's network for LPIPS; LPIPS' own weights come with torchmetrics."""
    perceptual_network(config.perceptual, torch.device("cpu"))  # raises UserError if there is none
    if config.perceptual in NETWORK_FOLDERS:
        return _classifier(config.perceptual)
    from torchvision.models import get_model_weights

    name = LPIPS[config.perceptual]
    return _torch_hub_file(f"torchvision's {name} (for LPIPS)", get_model_weights(name).DEFAULT.url)


def _clip(clip: str) -> Files:
    """Return the files of an embedded CLIP, or those that open_clip looks for on the hub, safetensors first."""
    if clip in NETWORK_FOLDERS:
        return Files("the embedded CLIP", lambda: clip_folder(clip))
    import open_clip
    from open_clip.constants import HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME

    about = pretrained_config(clip)
    hub, _, file = about["hf_hub"].rpartition("/")
    safe = str(Path(file).with_suffix(".safetensors")) if file else HF_SAFE_WEIGHTS_NAME
    return Files(
        f"open_clip's {clip} ({hub})",
        lambda: _cached(hub, safe) or _cached(hub, file or HF_WEIGHTS_NAME),
        lambda: hub_refusal(hub, safe),
        lambda: open_clip.download_pretrained(about),
        lambda: _download_size(hub, lambda: {"allow_patterns": [safe]}),
        _hub_copy(hub),
    )


FILES: dict[str, Callable[[ModelConfig], Files]] = {
    "model": _model,
    "features": lambda config: _features(config.features),
    "clip": lambda config: _clip(config.clip),
    "pairs": _perceptual,
}


def files_of(part: str, config: ModelConfig) -> Files:
    """Return the files of a part of an experiment: a key of `FILES`, or the name of a feature network."""
    if part in FILES:
        return FILES[part](config)
    return _clip(part) if is_clip(part) else _features(part)


def _cached(hub: str, name: str) -> Path | None:
    """Return a file of the hub in its cache; None if it is not there."""
    from huggingface_hub import try_to_load_from_cache

    path = try_to_load_from_cache(hub, name)
    return Path(path) if isinstance(path, str) else None


def _download_size(hub: str, wanted: Callable[[], dict[str, Any]]) -> int | None:
    """Return the bytes of those wanted files that are not in the hub's cache; None if that is not known."""
    from huggingface_hub import snapshot_download

    try:
        files = snapshot_download(hub, dry_run=True, **wanted())
    except Exception:
        return None
    return sum(file.file_size or 0 for file in files if file.will_download) or None


def _hub_copy(hub: str) -> str:
    from huggingface_hub import constants

    folder = f"models--{hub.replace('/', '--')} from its cache (~/.cache/huggingface/hub, or HF_HOME/hub)"
    return f"{folder} to {constants.HF_HUB_CACHE}, with its links (cp -a)"


def _torch_hub_file(name: str, url: str) -> Files:
    """Return the file of a URL, which its library keeps in torch's hub folder."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]

    def get() -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path))

    copy = f"{path.name}, which comes from {url}, to {path.parent}"
    return Files(name, lambda: path if path.is_file() else None, lambda: _url_refusal(url), get, copy=copy)


def _url_refusal(url: str) -> str | None:
    from huggingface_hub import constants

    if constants.is_offline_mode():
        return "HF_HUB_OFFLINE is set"
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT):
            return None
    except OSError as error:
        return f"{url} can't be reached ({type(error).__name__})"
