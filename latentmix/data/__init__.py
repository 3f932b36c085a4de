"""Where images come from. A data set lists its classes and yields their images, the same way for every use."""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from hashlib import sha256

from latentmix.data import folder, hub, imagenet, shapes, synthetic, things
from latentmix.data.protocol import Dataset, NotFetched, Source
from latentmix.data.settings import RANDOM, DataConfig
from latentmix.errors import UserError
from latentmix.plugins import table

__all__ = ["DATASETS", "Dataset", "NotFetched", "Source", "choose", "is_plain", "load_dataset"]

# data.kind -> the function that makes a data set of its settings.
DATASETS: Mapping[str, Callable[[DataConfig], Dataset]] = table(
    "datasets",
    {
        "shapes": shapes.Shapes.load,
        "things": things.Things.load,
        "folder": folder.load,
        "imagenet": imagenet.load,
        "hub": hub.load,
        "synthetic": synthetic.load,
    },
)


def load_dataset(config: DataConfig) -> Dataset:
    """Return the data set that settings describe. Raises UserError if a setting that its kind needs is missing."""
    return DATASETS[config.kind](config)


def choose(data: Dataset, wanted: Sequence[str] | None, seed: int, reserved: Collection[str] = ()) -> tuple[str, ...]:
    """Return the identifiers of the classes that `data.classes` asks for: all (None), those named, or `random:K`.

    The K drawn by a seed are among the K + 1 drawn by it, and come sorted. Raises UserError if a class does not exist,
    or has a name that tables use for something else, one of `reserved`.
    """
    for class_id in (chosen := _chosen(data, wanted, seed)):
        if class_id in reserved:
            raise UserError(
                f"tables call the average over classes {class_id!r}, so no class can have that name; rename the class, "
                "or choose others by 'data.classes=[...]'"
            )
        if not is_plain(class_id):
            raise UserError(f"the class {class_id!r} has control or undecodable characters in its name; rename it")
    return chosen


def is_plain(text: str) -> bool:
    """Return True if text has no control characters and no bytes that are not UTF-8."""
    return not re.search(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]", text)


def _chosen(data: Dataset, wanted: Sequence[str] | None, seed: int) -> tuple[str, ...]:
    if wanted is None:
        return data.classes()
    if not (drawn := RANDOM.fullmatch(wanted[0])):
        return tuple(dict.fromkeys(data.resolve(name) for name in wanted))
    classes, count = data.classes(), int(drawn[1])
    if count > len(classes):
        raise UserError(f"data.classes={wanted[0]} asks for more than the {len(classes)} classes that there are")

    def rank(class_id: str) -> bytes:
        return sha256(f"{seed} {class_id}".encode(errors="surrogateescape")).digest()

    return tuple(sorted(sorted(classes, key=rank)[:count]))
