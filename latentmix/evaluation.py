"""`lm.evaluate`: metrics of any images against any others. No run is needed."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import groupby
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from latentmix.data.caller_images import is_one, list_of, read_pictures
from latentmix.data.image_files import digest, image_files
from latentmix.data.protocol import first_few
from latentmix.errors import UserError, naming_arguments, no_such, warn_once
from latentmix.feature_networks import Network, clip_network, frechet_network, is_clip, load, perceptual_network
from latentmix.feature_networks.base import distinct
from latentmix.gpu import find_device
from latentmix.isolation import isolated
from latentmix.metrics import METRICS, Estimate, Metric
from latentmix.runner.progress import Progress, bar, shown
from latentmix.runner.tasks import split
from latentmix.settings import expand_home, refusal_of_url
from latentmix.threads import on_all_threads

BATCH = 32  # images
PAIRS = 50  # of images, whose perceptual distance is the diversity
DEFAULT = ("fid", "kid", "precision", "recall")


@naming_arguments
@isolated()
def evaluate(
    images: Any,
    reference: Any,
    metrics: str | Sequence[str] = DEFAULT,
    *,
    features: str | Path = "inception",
    clip: str = "ViT-L-14/openai",
    perceptual: str = "alex",
    device: str | torch.device | None = None,
    progress: Progress = True,
) -> dict[str, Estimate]:
    """Return each metric of `images` against `reference`, with its 95 % interval.

    Each of the two is a folder (all image files in it and below it), uint8 arrays [N, H, W, 3] or tensors
    [N, 3, H, W], or a list of paths and PIL images. Metrics are those of runs, except `clip_score`; one text may name
    several, with commas between. A metric is named after the network that it is taken in, such as `fid`, `fd_embedded`
    or `cmmd_vit-l-14-openai`: `features` is that of Fréchet distances and the like, `clip` that of CLIP distances and
    `perceptual` that of `diversity`. Images are measured at their own size; CLIP sees their central square. Intervals
    are over `images` alone. `progress=False` hides the bars; a function is called in place of them, as
    `progress("images", done, total)`.

        lm.evaluate("generated", "photos", ["fid", "clip_distance"])["fid"].value

    Raises: UserError for an unknown metric or network, and for anything that is no image.
    """
    return against(images, reference, metrics, str(features), clip, perceptual, device, progress, halves=False)[0]


def against(
    images: Any,
    reference: Any,
    metrics: str | Sequence[str],
    features: str,
    clip: str,
    perceptual: str,
    device: str | torch.device | None = None,
    progress: Progress = True,
    halves: bool = True,
) -> tuple[dict[str, Estimate], dict[str, float]]:
    """Return what `evaluate` does and, if `halves`, each metric of reference images against reference images.

    These are as many as there are images, but at most one half, against the other half. Of fewer than four reference
    images there are no halves. The diversity of reference images is not measured.
    """
    names = metrics.split(",") if isinstance(metrics, str) else _names(metrics)
    wanted = {name.strip(): _metric(name.strip()) for name in names if name.strip()}
    if not wanted:
        raise UserError(f"name at least one metric, such as {DEFAULT[0]}")
    kinds = {metric.network for metric in wanted.values()}
    place = find_device(str(device or ("cuda" if torch.cuda.is_available() else "cpu")))
    networks = dict[str, Network]()
    if "frechet" in kinds:
        networks["frechet"] = frechet_network(features, place)
    if "clip" in kinds:
        networks["clip"] = clip_network(clip, place, texts=False)
    networks |= {own: load(own, place) for metric in wanted.values() if (own := metric.own_network) is not None}
    labels = {kind: network.name for kind, network in networks.items()}
    items, others = _items(images, "images"), _items(reference, "reference")
    _warn_of_shared_files(items, others)
    with shown(progress):
        x, y = (_features(side, networks) for side in (items, others))
    if "pairs" in kinds:
        between = perceptual_network(perceptual, place)
        labels["pairs"], x["pairs"] = between.name, _distances(items, between.between)
        y["pairs"] = x["pairs"]  # diversity does not use it
    found, real = dict[str, Estimate](), dict[str, float]()
    for name, metric in wanted.items():
        of, column = y[metric.network], metric.column(name, labels[metric.network])
        found[column] = metric.sample(x[metric.network], of).interval()
        if halves and metric.network != "pairs" and len(of) >= 4:
            half = of[::2]
            spread = torch.linspace(0, len(half) - 1, min(len(half), len(x[metric.network]))).long()
            real[column] = metric.sample(half[spread], of[1::2]).value
    return found, real


def _names(metrics: Any) -> list[str]:
    """Return the names of metrics as a list. Raises: UserError for anything else."""
    names = list(metrics) if isinstance(metrics, Iterable) else [metrics]
    if wrong := [name for name in names if not isinstance(name, str)]:
        raise UserError(f"a metric is given by its name, such as {DEFAULT[0]!r}, not {wrong[0]!r}")
    return names


def _metric(name: str) -> Metric:
    known = [known for known in METRICS if not METRICS[known].of_prompt]
    if name in known:
        return METRICS[name]
    if name in METRICS:
        raise UserError(f"{name} compares images with a prompt, and there is none here; leave it out")
    raise UserError(no_such("metric", name, known))


Item = tuple[str, Any]  # the name of an image in errors, and the image


def _items(images: Any, side: str) -> list[Item]:
    """Return the images of one side, "images" or "reference". Raises: UserError for fewer than two."""
    if not isinstance(images, str | PathLike):
        found, what = [images] if is_one(images) else list_of(images), "one side"
    else:
        folder, what = Path(expand_home(fspath(images))), str(images)
        if reason := refusal_of_url(folder):
            raise UserError(f"{what} {reason}")
        found = list(image_files(folder, "give a folder of images"))
    if len(found) < 2:
        raise UserError(f"{what} has {len(found)} image{'s' * (not found)}; metrics compare at least 2 with at least 2")
    return [(str(x) if isinstance(x, str | Path) else f"{side}[{index}]", x) for index, x in enumerate(found)]


def _warn_of_shared_files(items: Sequence[Item], others: Sequence[Item]) -> None:
    """Warn of files on both sides, such as originals among generated images: they make distances too small."""
    sides = [
        [Path(expand_home(image)) for _, image in side if isinstance(image, str | Path)] for side in (items, others)
    ]
    if {*map(str, sides[0])} == {*map(str, sides[1])}:  # compared with itself, as a test
        return
    with suppress(OSError):  # what can't be read is refused later
        own, other = ({file: file.stat().st_size for file in side} for side in sides)
        sizes = set(other.values())
        alike = [file for file in own if own[file] in sizes]
        wanted = {own[file] for file in alike}
        known = {digest(file.read_bytes()) for file in other if other[file] in wanted}
        if shared := [file.name for file in alike if digest(file.read_bytes()) in known]:
            warn_once(
                f"{len(shared)} of the {len(items)} images are among the reference images, and make distances smaller "
                f"than they are: {first_few(shared)}; leave them out to measure the others"
            )


def _read(item: Item) -> Tensor:
    label, image = item
    return read_pictures([image], None, [label])[0][0]


def _features(items: Sequence[Item], networks: Mapping[str, Network]) -> dict[str, Tensor]:
    """Return the features [N, D] of images by each network; one that has two names extracts once."""
    first = distinct(networks)
    found: dict[str, list[Tensor]] = {kind: [] for kind in first.values()}
    with bar("images", len(items), unit="image", disable=None, leave=False) as moved:
        for batch in split(items, BATCH) if networks else []:
            for _, group in groupby(on_all_threads(_read, batch), key=lambda image: image.shape):
                pixels = torch.stack(list(group))
                for kind, rows in found.items():
                    seen = _square(pixels) if kind == "clip" or is_clip(kind) else pixels
                    rows.append(networks[kind].extract(seen).cpu())
            moved.update(len(batch))
    features = {kind: torch.cat(rows) for kind, rows in found.items()}
    return {kind: features[first[kind]] for kind in networks}


def _square(pixels: Tensor) -> Tensor:
    """Return the central square of images [B, 3, H, W]."""
    height, width = pixels.shape[2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return pixels[:, :, top : top + side, left : left + side]


def _distances(items: Sequence[Item], between: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Return the perceptual distances [K, 1] of the first and second image, the third and fourth, and so on."""
    rows = []
    for first, second in list(zip(items[::2], items[1::2], strict=False))[:PAIRS]:
        one, other = _read(first), _read(second)
        if one.shape != other.shape:
            raise UserError(f"diversity compares pairs, and {first[0]} and {second[0]} differ in size; resize them")
        rows.append(between(one[None], other[None]).cpu())
    return torch.cat(rows)[:, None]
