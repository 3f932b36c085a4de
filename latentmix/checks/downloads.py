"""The weights that an experiment reads: where they are, and whether and how they can be downloaded.

Looking for local files asks no network. Only for missing files is it asked, within seconds, whether they could be
downloaded; never if HF_HUB_OFFLINE is set.
"""

import errno
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from latentmix.cache import DiskFull
from latentmix.checks.finding import Finding, readable_size
from latentmix.embedded import embedded_folder
from latentmix.errors import UserError
from latentmix.feature_networks import DINOV2, LPIPS, dinov2_folder, dinov2_name
from latentmix.models.pipeline import check_weights, files_on_hub, find, network_files, snapshot
from latentmix.models.settings import ModelConfig
from latentmix.weight_files import VARIANTS

INCEPTION_URL = (  # torch-fidelity's; importing it takes seconds
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
)
TIMEOUT = 5  # seconds that a server has to answer


@dataclass(frozen=True)
class Files:
    """Files that a part of the experiment reads, and what to do if they are missing."""

    name: str
    look: Callable[[], Path | None]  # asks no network; UserError if the user named them and they are wrong
    refusal: Callable[[], str | None] = lambda: None  # why they can't be downloaded from here
    get: Callable[[], Any] = lambda: None
    size: Callable[[], int | None] = lambda: None  # bytes to download, if the hub says
    copy: str = ""  # what to bring from another machine, and where to put it
    note: Callable[[], str] = lambda: ""  # what else to say of files that are here


def look(part: str, config: ModelConfig) -> Finding:
    """Return whether the files of a part are here, or can be downloaded."""
    try:
        files = FILES[part](config)
        path = files.look()
    except UserError as error:
        return Finding("missing", part, str(error))
    if path is not None:
        return Finding("ok", part, f"{files.name} {location(path)}{files.note()}")
    refusal = files.refusal()
    size = None if refusal else files.size()
    if refusal := refusal or _no_room(size):
        return Finding("missing", part, f"{files.name} is not here, and {refusal}", (elsewhere(files.copy),))
    name = files.name if size is None else f"{files.name}, {readable_size(size)},"
    return Finding("fetch", part, f"{name} is not here yet; latentmix fetch gets it, otherwise the run does")


def elsewhere(copy: str) -> str:
    """Return how to bring files from a machine that is online."""
    return f"On a machine that is online, run latentmix fetch with the same settings; then copy {copy}"


def download(files: Files) -> None:
    """Download files; raise DiskFull or another UserError if that fails."""
    if refusal := files.refusal() or _no_room(files.size()):
        raise UserError(f"{files.name} is not here, and {refusal}")
    try:
        files.get()
    except Exception as error:  # libraries for networks raise nearly anything
        if _is_disk_full(error):
            raise DiskFull(
                f"the disk is full: {files.name} could not be fetched; free some space, or set HF_HOME and TORCH_HOME "
                "to folders with more, and give the same command again"
            ) from error
        if isinstance(error, UserError):
            raise
        raise UserError(f"{files.name} could not be fetched ({type(error).__name__}); try again later") from error


def _is_disk_full(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        error = error.__cause__ or error.__context__
    return False


def location(path: Path | None) -> str:
    """Return where files are, as the end of a sentence."""
    own = path is not None and path.is_relative_to(embedded_folder(""))
    return "comes with latentmix, so there is nothing to fetch" if own else f"is in {path}"


# The parts


def on_hub(config: ModelConfig) -> bool:
    """Return whether a model comes from the Hugging Face hub."""
    return config.path is None and not config.embedded and config.hub is not None


def local_pipeline(config: ModelConfig) -> Path | None:
    """Return the pipeline folder that is read of a model; None if it is not in the hub's cache, or incomplete there."""
    if on_hub(config) and snapshot(config) is None:
        return None
    return check_weights(find(config))


def _variants(config: ModelConfig) -> str:
    """Say which variants of a model's weights are read in place of full precision."""
    names = [file.name for files in network_files(find(config)).values() for file in files]
    known = dict.fromkeys((config.variant, *VARIANTS))
    read = [variant for variant in known if variant and any(f".{variant}" in name for name in names)]
    return f"; its {' and '.join(read)} weights are read" if read else ""


def _origin(config: ModelConfig) -> Path | None:
    """Return where a user put a model's files; None as `local_pipeline` does."""
    if on_hub(config):
        return snapshot(config)
    folder = check_weights(find(config))
    return folder if config.path is None else Path(config.path)


def _model(config: ModelConfig) -> Files:
    if not on_hub(config):
        return Files(config.name, lambda: _origin(config), note=lambda: _variants(config))

    def on_hub_now() -> HubFiles:
        patterns = files_on_hub(config)
        return HubFiles(hub, patterns["allow_patterns"], patterns["ignore_patterns"], config.revision)

    hub = str(config.hub)
    files = _of_hub(
        f"{config.name} ({hub})",
        HubFiles(hub, ["model_index.json"], revision=config.revision),
        lambda: _origin(config),
        lambda: find(config),
        "; or copy the pipeline's folder, and give it as model.path=FOLDER",
    )
    return replace(files, size=lambda: on_hub_now().size(), note=lambda: _variants(config))


def _features(config: ModelConfig) -> Files:
    if config.features == "embedded":
        return EMBEDDED_CLASSIFIER
    if config.features == "inception":
        return _torch_hub_file("Inception-v3", INCEPTION_URL)
    folder = dinov2_folder(config.features)
    if folder is not None:
        return Files(f"DINOv2 ({folder.name})", lambda: folder)
    name = dinov2_name(config.features)
    files = HubFiles(DINOV2[name][0], ["config.json", "model.safetensors"])
    note = "; or copy its folder, and give it as model.features=FOLDER"
    return _of_hub(
        f"{name} ({files.hub})", files, lambda: files.look("model.safetensors", "config.json"), files.get, note
    )


def _perceptual(config: ModelConfig) -> Files:
    """Return torchvision's network that LPIPS is taken in; what LPIPS learned comes with torchmetrics."""
    if config.perceptual == "embedded":
        return EMBEDDED_CLASSIFIER
    if config.perceptual not in LPIPS:
        names = ", ".join(LPIPS)
        raise UserError(f"there is no perceptual distance {config.perceptual!r}; there are embedded, {names}")
    from torchvision.models import get_model_weights

    name = LPIPS[config.perceptual]
    return _torch_hub_file(f"torchvision's {name} (for LPIPS)", get_model_weights(name).DEFAULT.url)


def _clip(config: ModelConfig) -> Files:
    """Return the embedded CLIP, or what open_clip itself looks for: files of the hub, safetensors first."""
    if config.clip == "embedded":
        return Files("the embedded CLIP", lambda: embedded_folder("clip"))
    import open_clip
    from open_clip.constants import HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME

    name = config.clip
    architecture, _, pretrained = name.partition("/")
    if (architecture, pretrained) not in open_clip.list_pretrained():
        raise UserError(f"open_clip has no {name!r}; give clip as ARCHITECTURE/PRETRAINED, such as ViT-L-14/openai")
    about = open_clip.get_pretrained_cfg(architecture, pretrained)
    hub, _, file = about["hf_hub"].rpartition("/")
    safe = str(Path(file).with_suffix(".safetensors")) if file else HF_SAFE_WEIGHTS_NAME
    files = HubFiles(hub, [safe])
    return _of_hub(
        f"open_clip's {name} ({hub})",
        files,
        lambda: files.look(safe) or files.look(file or HF_WEIGHTS_NAME),
        lambda: open_clip.download_pretrained(about),
    )


EMBEDDED_CLASSIFIER = Files("the embedded classifier", lambda: embedded_folder("classifier"))
FILES: dict[str, Callable[[ModelConfig], Files]] = {
    "model": _model,
    "features": _features,
    "clip": _clip,
    "pairs": _perceptual,
}


# The Hugging Face hub and other servers


@dataclass(frozen=True)
class HubFiles:
    """Files of a repository of the hub: patterns of those that are wanted, and of exceptions."""

    hub: str
    wanted: list[str]
    unwanted: list[str] | None = None
    revision: str | None = None

    def look(self, *names: str) -> Path | None:
        """Return the first of some files in the hub's cache; None if any of them is missing."""
        from huggingface_hub import try_to_load_from_cache

        paths = [try_to_load_from_cache(self.hub, name) for name in names]
        return Path(str(paths[0])) if all(isinstance(path, str) for path in paths) else None

    def get(self) -> None:
        """Download the files."""
        from huggingface_hub import snapshot_download

        snapshot_download(self.hub, allow_patterns=self.wanted)

    def size(self) -> int | None:
        """Return the bytes of the files that are not in the hub's cache; None if that is not known."""
        from huggingface_hub import snapshot_download

        patterns: Any = {"allow_patterns": self.wanted, "ignore_patterns": self.unwanted}
        try:
            files = snapshot_download(self.hub, revision=self.revision, dry_run=True, **patterns)
        except Exception:
            return None
        return sum(file.file_size or 0 for file in files if file.will_download) or None


def _of_hub(
    name: str, files: HubFiles, look: Callable[[], Path | None], get: Callable[[], Any], note: str = ""
) -> Files:
    from huggingface_hub import constants

    folder = f"models--{files.hub.replace('/', '--')} from its cache (~/.cache/huggingface/hub, or HF_HOME/hub)"
    copy = f"{folder} to {constants.HF_HUB_CACHE}, with its links (cp -a){note}"
    return Files(name, look, lambda: hub_refusal(files.hub, files.wanted[0], files.revision), get, files.size, copy)


def _torch_hub_file(name: str, url: str) -> Files:
    """Return a file of a URL that its library keeps among torch's."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]

    def get() -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path))

    copy = f"{path.name}, which comes from {url}, to {path.parent}"
    return Files(name, lambda: path if path.is_file() else None, lambda: _url_refusal(url), get, copy=copy)


def hub_refusal(hub: str, file: str, revision: str | None = None, kind: str = "model") -> str | None:
    """Return why a file of the hub can't be read from here, by asking for its headers; None if it can.

    A missing model_index.json is a refusal too: without one, a repository holds no pipeline.
    """
    from huggingface_hub import constants, errors, get_hf_file_metadata, hf_hub_url

    if constants.is_offline_mode():
        return "HF_HUB_OFFLINE is set"
    page = f"https://huggingface.co/{'datasets/' if kind == 'dataset' else ''}{hub}"
    login = "log in with `hf auth login` (or set HF_TOKEN)"
    try:
        get_hf_file_metadata(hf_hub_url(hub, file, revision=revision, repo_type=kind), timeout=TIMEOUT)
    except errors.GatedRepoError:
        return f"is gated: accept its terms at {page}, and {login}"
    except errors.RepositoryNotFoundError:
        return f"the hub has no {hub}, or it is private: check the name, or {login}"
    except errors.RevisionNotFoundError:
        return f"the hub has no revision {revision} of it"
    except errors.HFValidationError:
        return f"{hub!r} is not OWNER/NAME, as the hub names things"
    except errors.EntryNotFoundError:
        if file == "model_index.json":
            return f"the hub's {hub} has no {file}, so it is no pipeline; if it has one file, get that: model.path="
        return None  # this file may have another name; the others can be read
    except Exception as error:  # of the network or the hub, from several libraries
        return f"the Hugging Face hub can't be reached ({type(error).__name__})"
    return None


def _no_room(needed: int | None) -> str | None:
    """Return why so many bytes don't fit into the hub's cache; None if they do, or if their number is not known."""
    from huggingface_hub import constants

    if needed is None:
        return None
    free = shutil.disk_usage(nearest_folder(Path(constants.HF_HUB_CACHE))).free
    if needed < free:
        return None
    sizes = f"{readable_size(free)} for its {readable_size(needed)}"
    return f"{constants.HF_HUB_CACHE} has {sizes}: free some space, or set HF_HOME"


def nearest_folder(folder: Path) -> Path:
    """Return a folder, or the first one above it that exists."""
    folder = folder.absolute()
    return next(path for path in (folder, *folder.parents) if path.exists())


def _url_refusal(url: str) -> str | None:
    from huggingface_hub import constants

    if constants.is_offline_mode():
        return "HF_HUB_OFFLINE is set"
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT):
            return None
    except (OSError, urllib.error.URLError) as error:
        return f"{url} can't be reached ({type(error).__name__})"
