"""The classes that `data.classes` asks for."""

import re
from collections.abc import Collection, Sequence
from hashlib import sha256

from latentmix.data.protocol import Dataset
from latentmix.data.settings import RANDOM
from latentmix.errors import UserError


def choose(data: Dataset, wanted: Sequence[str] | None, seed: int, reserved: Collection[str] = ()) -> tuple[str, ...]:
    """Return the identifiers of the classes that `data.classes` asks for: all (None), those named, or `random:K`.

    The K drawn by a seed are among the K + 1 drawn by it, and come sorted. A class called `random:K` is itself. Raises
    UserError if a class does not exist, or has a name that tables use for something else, one of `reserved`.
    """
    if wanted is None:
        chosen = data.classes()
    elif (drawn := RANDOM.fullmatch(wanted[0])) and wanted[0] not in (classes := data.classes()):
        count = int(drawn[1])
        if count > len(classes):
            raise UserError(f"data.classes={wanted[0]} asks for more than the {len(classes)} classes that there are")
        ranked = sorted(classes, key=lambda name: sha256(f"{seed} {name}".encode(errors="surrogateescape")).digest())
        chosen = tuple(sorted(ranked[:count]))
    else:
        chosen = tuple(dict.fromkeys(map(data.resolve, wanted)))
    for class_id in chosen:
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
