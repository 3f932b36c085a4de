"""What an experiment needs, and whether it is here: device, weights, images and room on the disk.

Looking costs no network. Only for what is not here is it asked, within seconds, whether it could be fetched; never when
HF_HUB_OFFLINE is set.
"""

import errno
import json
import math
import os
import platform
import shutil
import sys
import urllib.error
import urllib.request
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, cast

import torch

from latentmix.cache import DiskFull, user_cache
from latentmix.data import Dataset, NotFetched, load_dataset
from latentmix.errors import UserError
from latentmix.experiment.experiment import Experiment
from latentmix.features import DINOV2, LPIPS, Classifier, dinov2_folder, dinov2_name, embedded_folder
from latentmix.models import check_size
from latentmix.models.pipeline import (
    NETWORKS,
    cached,
    check_weights,
    find,
    parameters,
    pipeline_class,
    wanted_files,
    weights,
)
from latentmix.models.placeholder import Placeholder
from latentmix.models.protocol import Model
from latentmix.models.settings import ModelConfig

PACKAGES = ("torch", "diffusers", "transformers", "open_clip_torch", "torchmetrics", "datasets")
INCEPTION = (  # torch-fidelity's, said here too since importing it takes seconds
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
)
PATIENCE = 5  # seconds that a server has to answer
PNG = 2  # bytes that a pixel of a photograph takes

# What each command leaves on the disk; those that keep features also need the networks that make them.
WRITES = {
    "invert": ("synthetic images", "latents"),
    "diagnose": ("synthetic images", "latents"),
    "probe": ("a probe",),
    "reconstruct": ("synthetic images", "latents", "reconstructions"),
    "mix": ("synthetic images", "latents", "centroids"),
    "generate": ("synthetic images", "latents", "all pictures"),
    "evaluate": ("features of real images", "features"),
    "sweep": ("synthetic images", "latents", "features of real images", "features", "pictures"),
}
OF_IMAGES = WRITES.keys() - {"probe"}  # commands that read any of the data's
SIZES: dict[str, Callable[[Experiment], int]] = {  # in bytes
    "synthetic images": lambda experiment: _synthetic(experiment) * _picture(experiment),
    "latents": lambda experiment: len(experiment.classes) * experiment.config.pool * _inverted(experiment),
    "reconstructions": lambda experiment: (
        len(experiment.classes) * experiment.config.pool * 9 * experiment.config.model.size**2
    ),
    "centroids": lambda experiment: _images(experiment) * _latent(experiment),
    "features of real images": lambda experiment: (
        sum(len(experiment.references(c)) for c in experiment.classes) * _features(experiment)
    ),
    "features": lambda experiment: _images(experiment) * _features(experiment),
    "pictures": lambda experiment: (
        len(experiment.generated) * min(experiment.pictures, experiment.config.draws) * _picture(experiment)
    ),
    "all pictures": lambda experiment: (
        2 * _images(experiment) * _picture(experiment)
    ),  # in the cache, and under readable names
    "a probe": lambda experiment: (
        10 * (_latent(experiment) + _picture(experiment))
    ),  # of five offsets, before and after
}


@dataclass(frozen=True)
class Finding:
    """What a check found, in a line, and more lines on what to do. To "fetch" is what a run can get by itself."""

    state: Literal["ok", "fetch", "warning", "missing"]
    what: str
    text: str
    advice: tuple[str, ...] = ()

    @property
    def line(self) -> str:
        return _line(self.state, self.what, self.text)

    def lines(self) -> Iterator[str]:
        yield self.line
        yield from (_line("", "", line) for line in self.advice)


def _line(state: str, what: str, text: str) -> str:
    return f"{state:<9}{what:<10}{text}"


@dataclass(frozen=True)
class Files:
    """Files that a part of the experiment reads: where they are, and what to do where they are not."""

    name: str
    look: Callable[[], Path | None]  # without a network; UserError where the user gave them, and they are wrong
    refusal: Callable[[], str | None] = lambda: None  # why they can't be fetched from here
    get: Callable[[], Any] = lambda: None
    size: Callable[[], int | None] = lambda: None  # bytes to fetch, where the hub says
    advice: tuple[str, ...] = ()  # how to bring them from another machine


def examine(experiment: Experiment, command: str = "sweep") -> list[Finding]:
    """What a command needs, thing by thing."""
    kinds, config = WRITES[command], experiment.config.model
    device, model = _device(experiment), _look("model", config)
    if device.state == model.state == "ok":
        model = _model(experiment, model)
    if load_dataset(experiment.config.data).from_model and model.state != "ok":
        data = Finding("fetch", "data", "the images are generated once the model is here")
    else:
        data = _data(experiment, images=command in OF_IMAGES, references="features" in kinds)
    doubts = _doubts(experiment) if data.state == "ok" else []
    networks = [_look(what, config) for what in _measuring(experiment) if "features" in kinds]
    states = {device.state, model.state, data.state}
    if any(network.state == "missing" for network in networks) or not states <= {"ok", "fetch"}:
        sizes = [_disk(experiment, ())]
    elif states == {"ok"}:
        sizes = [_memory(experiment), _disk(experiment, kinds)]
    else:
        sizes = [_disk_in_outline(Experiment(experiment.config), kinds)]
    return [device, model, data, *doubts, *networks, *sizes]


def versions() -> Finding:
    """Of Python, latentmix and what the numbers depend on."""
    there = {"python": platform.python_version()}
    missing = []
    for name in ("latentmix", *PACKAGES):
        try:
            there[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            missing.append(name)
    if missing:
        return Finding("missing", "versions", f"{', '.join(missing)} can't be found; install latentmix again")
    return Finding("ok", "versions", ", ".join(f"{name} {version}" for name, version in there.items()))


def require(experiment: Experiment, command: str) -> None:
    """Stop before any work where something is missing: UserError names all of it. What is short is warned of, and what
    will be fetched is said before it holds the run up."""
    findings = examine(experiment, command)
    for finding in findings:
        if finding.state == "warning":
            warnings.warn(finding.text, stacklevel=2)
    missing = [finding for finding in findings if finding.state == "missing"]
    if missing:
        more = "; latentmix doctor says what to do" if any(finding.advice for finding in missing) else ""
        raise UserError("; ".join(finding.text for finding in missing) + more)
    for finding in findings:
        if finding.state == "fetch":
            print(f"latentmix: {finding.text}", file=sys.stderr)


def outlined(experiment: Experiment, command: str) -> list[Finding]:
    """Let a bench plan without what is not here, and fetch nothing; what is not here, or to be warned of."""
    outline(experiment)
    return [found for found in examine(Experiment(experiment.config), command) if found.state != "ok"]


def outline(experiment: Experiment) -> None:
    """Put what is known of them in the place of a model and images of the hub that are not here."""
    config = experiment.config
    if _on_hub(config.model) and _pipeline(config.model) is None:
        known = Placeholder(config.model)
        check_size(known, config.model.size)
        experiment.model = cast(Model, known)  # plans ask for no more
    if (data := load_dataset(config.data)).repository() is not None:
        experiment.data = data.planned()


def needed(experiment: Experiment, command: str) -> str:
    """What a command takes of the disk, what it finds there of its own included."""
    return _size(sum(SIZES[kind](experiment) for kind in WRITES[command]))


def fetch(experiment: Experiment, command: str = "sweep") -> Iterator[str]:
    """Get all that a command needs and is not here; a line for each part, once it is."""
    config, measured = experiment.config, "features" in WRITES[command]
    for what in ("model", *(_measuring(experiment) if measured else ())):
        files = FILES[what](config.model)
        there = files.look()
        if there is None:
            _get(files)
        yield _line("new" if there is None else "there", what, f"{files.name} {_where(there or files.look())}")
    before = _data(experiment, command in OF_IMAGES, measured)
    if before.state == "missing":
        raise UserError(before.text)
    classes = experiment.classes  # whose names may be elsewhere too
    if command not in OF_IMAGES:
        return
    images = {source.id for c in classes for source in experiment.pool(c)}
    images |= {source.id for c in classes if measured for source in experiment.references(c)}
    state = "there" if before.state == "ok" else "new"
    yield _line(state, "data", f"{len(images):,} images of {_classes(experiment)} {experiment.data.home()}")


def _get(files: Files) -> None:
    """DiskFull or another UserError where that fails."""
    if refusal := files.refusal() or _no_room(files.size()):
        raise UserError(f"{files.name} is not here, and {refusal}")
    try:
        files.get()
    except Exception as error:  # of libraries for networks, which raise nearly anything
        if _is_full(error):
            raise DiskFull(
                f"the disk is full: {files.name} could not be fetched; free some space, or set HF_HOME and TORCH_HOME "
                "to folders with more, and give the same command again"
            ) from error
        if isinstance(error, UserError):
            raise
        raise UserError(f"{files.name} could not be fetched ({type(error).__name__}); try again later") from error


def _is_full(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        error = error.__cause__ or error.__context__
    return False


def _where(place: Path | None) -> str:
    own = place is not None and place.is_relative_to(embedded_folder(""))
    return "comes with latentmix, so there is nothing to fetch" if own else f"is in {place}"


# --- the device -----------------------------------------------------------------------------------------------------


def _device(experiment: Experiment) -> Finding:
    try:
        device = experiment.device
    except UserError as error:
        return Finding("missing", "device", str(error))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device.type}, {cores} cores"
    free = _free_memory(device)
    return Finding("ok", "device", name if free is None else f"{name}, {_size(free)} of memory")


def _memory(experiment: Experiment) -> Finding:
    """Whether the largest network fits beside nothing else; they come and go one by one."""
    needed, free = _weights(experiment), _free_memory(experiment.device)
    text = f"the model's largest network takes {_size(needed)}"
    if free is None or needed < free:
        return Finding("ok", "memory", text)
    where = "the GPU" if experiment.device.type == "cuda" else "this machine"
    instead = "model.precision=bfloat16 or a smaller model" if _bytes_each(experiment) == 4 else "a smaller model"
    return Finding("warning", "memory", f"{text}, and {where} has {_size(free)}; try {instead}")


def _free_memory(device: torch.device) -> int | None:
    """Of the GPU, what others leave; of a machine, all. None where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def _weights(experiment: Experiment) -> int:
    """Bytes of the largest of the model's networks, in the precision that they run in."""
    folder = find(experiment.config.model)
    parts = [sum(map(parameters, weights(folder / part))) for part in NETWORKS[pipeline_class(folder)]]
    return max(parts) * _bytes_each(experiment)


def _bytes_each(experiment: Experiment) -> int:
    return experiment.model.dtype.itemsize


# --- the model ------------------------------------------------------------------------------------------------------


def _look(what: str, config: ModelConfig) -> Finding:
    """Whether the files of a part are here, or can be fetched."""
    try:
        files = FILES[what](config)
        place = files.look()
    except UserError as error:
        return Finding("missing", what, str(error))
    if place is not None:
        return Finding("ok", what, f"{files.name} {_where(place)}")
    refusal = files.refusal()
    size = None if refusal else files.size()
    if refusal := refusal or _no_room(size):
        return Finding("missing", what, f"{files.name} is not here, and {refusal}", files.advice)
    name = files.name if size is None else f"{files.name}, {_size(size)},"
    return Finding("fetch", what, f"{name} is not here yet; latentmix fetch gets it, or else the run does")


def _model(experiment: Experiment, found: Finding) -> Finding:
    """What was found, unless the model's settings can't be used."""
    try:
        with _offline():  # for what is here, the hub is not asked whether there is more
            _ = experiment.model, experiment.inversion_schedule, experiment.generation_schedule
    except UserError as error:
        return Finding("missing", "model", str(error))
    return found


def _model_files(config: ModelConfig) -> Files:
    if not _on_hub(config):
        return Files(config.name, lambda: _pipeline(config))
    hub, revision = str(config.hub), config.revision
    wanted, unwanted = (wanted_files()[name] for name in ("allow_patterns", "ignore_patterns"))
    options = [f"--revision {revision}"] if revision else []
    options += [f"--include '{pattern}'" for pattern in wanted] + [f"--exclude '{pattern}'" for pattern in unwanted]
    instead = "; or add --local-dir FOLDER to the command, and give that folder here as model.path=FOLDER"
    return Files(
        f"{config.name} ({hub})",
        lambda: _pipeline(config),
        lambda: _access(hub, "model_index.json", revision),
        lambda: find(config),
        lambda: _to_fetch(hub, revision, wanted, unwanted),
        _elsewhere(hub, f"hf download {hub} {' '.join(options)}", instead),
    )


def _on_hub(config: ModelConfig) -> bool:
    return config.path is None and not config.embedded and config.hub is not None


def _pipeline(config: ModelConfig) -> Path | None:
    """The folder of a model's files; None where it is not, or not whole, in the hub's cache."""
    if _on_hub(config):
        return cached(str(config.hub), config.revision)
    return check_weights(find(config))


# --- the networks that measure --------------------------------------------------------------------------------------


def _frechet_files(config: ModelConfig) -> Files:
    if config.features == "embedded":
        return Files("the embedded classifier", lambda: embedded_folder("classifier"))
    if config.features == "inception":
        return _inception()
    folder = dinov2_folder(config.features)
    if folder is not None:
        return Files(f"DINOv2 ({folder.name})", lambda: folder)
    return _dinov2(dinov2_name(config.features))


def _dinov2(name: str) -> Files:
    hub, _ = DINOV2[name]
    wanted = ["config.json", "model.safetensors"]

    def get() -> None:
        from huggingface_hub import snapshot_download

        snapshot_download(hub, allow_patterns=wanted)

    return Files(
        f"{name} ({hub})",
        lambda: _cached(hub, "model.safetensors") if _cached(hub, "config.json") else None,
        lambda: _access(hub, "model.safetensors"),
        get,
        lambda: _to_fetch(hub, None, wanted),
        _elsewhere(
            hub,
            f"hf download {hub} {' '.join(wanted)}",
            "; or add --local-dir FOLDER to the command, and give that folder here as model.features=FOLDER",
        ),
    )


def _perceptual_files(config: ModelConfig) -> Files:
    """Of LPIPS, the network of torchvision's; what LPIPS learned comes with torchmetrics."""
    if config.perceptual == "embedded":
        return Files("the embedded classifier", lambda: embedded_folder("classifier"))
    if config.perceptual not in LPIPS:
        raise UserError(
            f"there is no perceptual distance {config.perceptual!r}; there are embedded, {', '.join(LPIPS)}"
        )
    from torchvision.models import get_model_weights

    name = LPIPS[config.perceptual]
    return _of_torch_hub(f"torchvision's {name} (for LPIPS)", get_model_weights(name).DEFAULT.url)


def _clip_files(config: ModelConfig) -> Files:
    if config.clip == "embedded":
        return Files("the embedded CLIP", lambda: embedded_folder("clip"))
    return _open_clip(config.clip)


FILES: dict[str, Callable[[ModelConfig], Files]] = {
    "model": _model_files,
    "features": _frechet_files,
    "clip": _clip_files,
    "pairs": _perceptual_files,
}


def _measuring(experiment: Experiment) -> tuple[str, ...]:
    """Of `FILES`, the networks that a run measures with."""
    return ("features", "clip", "pairs") if experiment.pairing else ("features", "clip")


def _inception() -> Files:
    return _of_torch_hub("Inception-v3", INCEPTION)


def _of_torch_hub(name: str, url: str) -> Files:
    """A file at an address, which its library keeps among torch's."""
    place = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]

    def get() -> None:
        place.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(place))

    advice = (f"On a machine that is online: curl -LO {url}", f"Then copy it to {place.parent}")
    return Files(name, lambda: place if place.is_file() else None, lambda: _url_refusal(url), get, advice=advice)


def _open_clip(name: str) -> Files:
    """Where open_clip looks itself: on the hub, for safetensors first."""
    import open_clip
    from open_clip.constants import HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME

    architecture, _, pretrained = name.partition("/")
    if (architecture, pretrained) not in open_clip.list_pretrained():
        raise UserError(f"open_clip has no {name!r}; give clip as ARCHITECTURE/PRETRAINED, such as ViT-L-14/openai")
    about = open_clip.get_pretrained_cfg(architecture, pretrained)
    hub, _, file = about["hf_hub"].rpartition("/")
    safe = str(Path(file).with_suffix(".safetensors")) if file else HF_SAFE_WEIGHTS_NAME
    other = file or HF_WEIGHTS_NAME
    return Files(
        f"open_clip's {name} ({hub})",
        lambda: _cached(hub, safe, other),
        lambda: _access(hub, safe),
        lambda: open_clip.download_pretrained(about),
        lambda: _to_fetch(hub, None, [safe]),
        _elsewhere(hub, f"hf download {hub} {safe}", f"; should there be no such file, take {other}"),
    )


def _cached(hub: str, *names: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    found = (try_to_load_from_cache(hub, name) for name in names)
    return next((Path(place) for place in found if isinstance(place, str)), None)


# --- what could be fetched ------------------------------------------------------------------------------------------


def _access(hub: str, file: str, revision: str | None = None, kind: str = "model") -> str | None:
    """Why a file on the hub can't be read from here, by asking for its headers; None if it can."""
    from huggingface_hub import constants, errors, get_hf_file_metadata, hf_hub_url

    if constants.is_offline_mode():
        return "HF_HUB_OFFLINE is set"
    page = f"https://huggingface.co/{'datasets/' if kind == 'dataset' else ''}{hub}"
    login = "log in with `hf auth login` (or set HF_TOKEN)"
    try:
        get_hf_file_metadata(hf_hub_url(hub, file, revision=revision, repo_type=kind), timeout=PATIENCE)
    except errors.GatedRepoError:
        return f"is gated: accept its terms at {page}, and {login}"
    except errors.RepositoryNotFoundError:
        return f"the hub has no {hub}, or it is private: check the name, or {login}"
    except errors.RevisionNotFoundError:
        return f"the hub has no revision {revision} of it"
    except errors.HFValidationError:
        return f"{hub!r} is not OWNER/NAME, as the hub names things"
    except errors.EntryNotFoundError:
        return None  # this file may have another name; the others are to be had
    except Exception as error:  # of the network or the hub, of several libraries' kinds
        return f"the Hugging Face hub can't be reached ({type(error).__name__})"
    return None


def _to_fetch(hub: str, revision: str | None, wanted: list[str], unwanted: list[str] | None = None) -> int | None:
    """Bytes of a repository's files that are not in the hub's cache; None where that can't be told."""
    from huggingface_hub import snapshot_download

    try:
        files = snapshot_download(hub, revision=revision, dry_run=True, allow_patterns=wanted, ignore_patterns=unwanted)
    except Exception:
        return None
    return sum(file.file_size or 0 for file in files if file.will_download) or None


def _no_room(needed: int | None) -> str | None:
    """Why so many bytes have no room in the hub's cache; None if they have, or where their number is not known."""
    from huggingface_hub import constants

    if needed is None:
        return None
    free = shutil.disk_usage(_nearest(Path(constants.HF_HUB_CACHE))).free
    if needed < free:
        return None
    return f"{constants.HF_HUB_CACHE} has {_size(free)} for its {_size(needed)}: free some space, or set HF_HOME"


def _url_refusal(url: str) -> str | None:
    from huggingface_hub import constants

    if constants.is_offline_mode():
        return "HF_HUB_OFFLINE is set"
    try:
        with urllib.request.urlopen(url, timeout=PATIENCE):
            return None
    except (OSError, urllib.error.URLError) as error:
        return f"{url} can't be reached ({type(error).__name__})"


def _elsewhere(hub: str, command: str, note: str) -> tuple[str, ...]:
    from huggingface_hub import constants

    folder = f"models--{hub.replace('/', '--')}"
    return (
        f"On a machine that is online: {command}",
        f"Then copy {folder} from its cache (~/.cache/huggingface/hub, or HF_HOME/hub) to {constants.HF_HUB_CACHE}, "
        f"with its links (cp -a){note}",
    )


# --- the images -----------------------------------------------------------------------------------------------------


def _data(experiment: Experiment, images: bool = True, references: bool = True) -> Finding:
    """Whether all that is read of the data is here: the classes' names, images to invert, and those to measure against.
    What is of a data set on the hub may also come later."""
    if experiment.data.repository() is not None:
        import datasets  # noqa: F401 - it reads only once whether there is a network
    try:
        with _offline():
            for class_id in experiment.classes:
                experiment.prompt(class_id)
                if images:
                    experiment.pool(class_id)
                if references:
                    experiment.references(class_id)
    except NotFetched:
        return _elsewhere_data(experiment.data, images)
    except UserError as error:
        return Finding("missing", "data", str(error))
    if experiment.data.from_model:
        return Finding("ok", "data", f"{_classes(experiment)}, of which the model makes the images itself")
    enough = "with images enough" if images else "of which only the names are used"
    return Finding("ok", "data", f"{_classes(experiment)} of {experiment.config.data.name}, {enough}")


def _classes(experiment: Experiment) -> str:
    return f"{len(experiment.classes)} class{'es' if len(experiment.classes) > 1 else ''}"


def _doubts(experiment: Experiment) -> list[Finding]:
    """What could run, and would not mean what it seems to."""
    model = experiment.config.model
    texts = []
    world = experiment.data.world
    if model.world == "imagenet" and world == "shapes":
        texts.append(f"{model.name} knows photographs, not drawn shapes; take data=imagenet or another of photographs")
    if model.embedded and model.path is None and world != "shapes" and not experiment.data.from_model:
        texts.append(f"{model.name} knows nothing but drawn shapes; take model=sd15 for other images, or data=shapes")
    titles: dict[str, list[str]] = {}
    for class_id in experiment.data.classes():
        titles.setdefault(experiment.title(class_id).casefold(), []).append(class_id)
    for alike in titles.values():
        if len(alike) > 1 and not set(experiment.classes).isdisjoint(alike):
            both, title = " and ".join(alike), experiment.title(alike[0])
            another = f"'data.titles={{{alike[0]}: another name}}'"
            texts.append(f"prompts call {both} by the same name, {title!r}; tell them apart with {another}")
    return [Finding("warning", "meaning", text) for text in texts]


def _elsewhere_data(data: Dataset, images: bool) -> Finding:
    hub = str(data.repository())
    refusal = _access(hub, ".gitattributes", kind="dataset")
    if refusal is None:
        text = f"{hub} is not all here yet; latentmix fetch gets what is wanted of it, or else the run does"
        return Finding("fetch", "data", f"{text}: {data.volume(images)}")
    advice = f"On a machine that is online: latentmix fetch, as here; then copy its latentmix cache to {user_cache()}"
    return Finding("missing", "data", f"{hub} is not here, and {refusal}", (advice,))


@contextmanager
def _offline() -> Iterator[None]:
    """Whatever is not here is an error at once, instead of a download."""
    from huggingface_hub import constants

    before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


# --- the disk -------------------------------------------------------------------------------------------------------


def _disk(experiment: Experiment, kinds: Sequence[str]) -> Finding:
    """Whether what a run keeps has room at `outputs`, less what is kept already."""
    outputs = experiment.config.outputs
    place = _nearest(outputs)
    if not place.is_dir() or not os.access(place, os.W_OK):
        return Finding("missing", "disk", f"{place} can't be written to; choose another place with outputs=")
    free, needed = shutil.disk_usage(place).free, sum(SIZES[kind](experiment) for kind in kinds)
    if needed > free:  # looking takes long where much is kept
        needed = max(0, needed - _kept(experiment))
    if needed > free:
        text = f"about {_size(needed)} will be written to {outputs}, which has {_size(free)} left"
        advice = "free some space, choose another place with outputs=, or lower draws, pool or keep"
        return Finding("missing", "disk", f"the disk is too small: {text}; {advice}")
    text = f"{_size(free)} are free at {outputs}"
    return Finding("ok", "disk", f"{text}, and about {_size(needed)} will be written" if kinds else text)


def _disk_in_outline(experiment: Experiment, kinds: Sequence[str]) -> Finding:
    """`_disk` before everything is here, where what is known is enough to tell."""
    try:
        outline(experiment)
        return _disk(experiment, kinds)
    except UserError:
        return _disk(experiment, ())


def _kept(experiment: Experiment) -> int:
    """Bytes of what is there of the latents, features and pictures of a run."""
    folders = [experiment.latents(c).folder for c in experiment.classes] + [
        experiment.cell_folder(cell) for cell in experiment.generated
    ]
    files = (file for folder in (*folders, experiment.config.folder) for file in folder.rglob("*") if file.is_file())
    return sum(file.stat().st_size for file in files)


def _nearest(folder: Path) -> Path:
    """The folder, or of those above it the first that is there."""
    folder = folder.absolute()
    return next(place for place in (folder, *folder.parents) if place.exists())


def _images(experiment: Experiment) -> int:
    return len(experiment.generated) * experiment.config.draws


def _synthetic(experiment: Experiment) -> int:
    config = experiment.config
    most = max(config.pool, config.data.reference or 0)
    return len(experiment.classes) * most if experiment.data.from_model else 0


def _latent(experiment: Experiment) -> int:
    return 4 * math.prod(experiment.model.latent_shape(experiment.config.model.size))


def _inverted(experiment: Experiment) -> int:
    """Bytes of one image's clean latent, of that at t = T, and of what else its inversion leaves."""
    extras = experiment.inversion.extras
    nulls = 4 * experiment.config.inversion.steps * math.prod(experiment.model.text_shape) if "nulls" in extras else 0
    return (2 + ("partner" in extras)) * _latent(experiment) + nulls


def _picture(experiment: Experiment) -> int:
    return PNG * experiment.config.model.size**2


def _features(experiment: Experiment) -> int:
    """Of one image, by both networks."""
    config = experiment.config.model
    if config.clip == "embedded":
        about = json.loads((embedded_folder("clip") / "open_clip_config.json").read_text())["model_cfg"]
    else:
        import open_clip

        about = open_clip.get_model_config(config.clip.partition("/")[0])
    return 4 * (_width(config.features) + about["embed_dim"])


def _width(features: str) -> int:
    """Of the features that the Fréchet distance is taken of."""
    known = {"embedded": Classifier.WIDTH, "inception": 2048} | {name: width for name, (_, width) in DINOV2.items()}
    if (name := dinov2_name(features)) in known:
        return known[name]
    return json.loads((Path(features).expanduser() / "config.json").read_text())["hidden_size"]


def _size(count: float) -> str:
    """Bytes, in the largest unit that leaves a number above 1."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            break
        count /= 1024
    return f"{count:.0f} {unit}" if count >= 10 or unit == "bytes" else f"{count:.1f} {unit}"
