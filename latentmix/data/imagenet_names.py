"""The names of ImageNet's 1000 classes. A class is known by its WordNet id, as names are not unique ("crane")."""

from collections.abc import Sequence
from difflib import get_close_matches
from functools import cache
from pathlib import Path

from latentmix.errors import UserError

TABLE = Path(__file__).with_name("imagenet_classes.tsv")


def names() -> dict[str, tuple[str, ...]]:
    """Return WordNet id -> all names of the class, for all 1000, in the order of their labels, which is that of ids."""
    return _table()[0]


def title(class_id: str) -> str:
    """Return the first of a class's names, which another class may have too."""
    return names()[class_id][0]


def resolve(name: str) -> str:
    """Return the WordNet id of a class, by its id or any of its names. Raises UserError for none, or several."""
    if name in names():
        return name
    meant = [class_id for class_id, called in names().items() if _plain(name) in map(_plain, called)]
    if len(meant) == 1:
        return meant[0]
    if meant:
        definitions = _table()[1]
        several = "; ".join(f"{class_id} ({definitions[class_id]})" for class_id in meant)
        raise UserError(f"{len(meant)} classes of ImageNet are called {name!r}: {several}. Give the id of one")
    every = {_plain(called): called for group in names().values() for called in group}
    near = [every[close] for close in get_close_matches(_plain(name), every)] or get_close_matches(name, names())
    hint = f"did you mean {' or '.join(map(repr, near))}?" if near else "give a WordNet id or a name, as 'tree frog'"
    raise UserError(f"no class of ImageNet is called {name!r}; {hint}")


def synsets(labels: Sequence[str]) -> tuple[str, ...]:
    """Return the WordNet id of each label of a data set.

    1000 labels are taken in ImageNet's order, fewer each by its id or names, and numbers by themselves. Raises
    UserError if the order is another, or a label is ambiguous.
    """
    if all(label.isdecimal() and int(label) < len(names()) for label in labels):  # as shards of WebDataset have them
        return tuple(list(names())[int(label)] for label in labels)
    if len(labels) != len(names()):
        return tuple(map(_synset, labels))
    agree = [
        class_id == label or not _words(label).isdisjoint(map(_plain, called))
        for label, (class_id, called) in zip(labels, names().items(), strict=True)
    ]
    if sum(agree) * 2 < len(labels):  # spelling varies, so some may differ
        raise UserError("the labels are not ImageNet's in their usual order; set data.synsets=false")
    return tuple(names())


@cache
def _table() -> tuple[dict[str, tuple[str, ...]], dict[str, str]]:
    """Return the names and the definition of each class, by WordNet id."""
    lines = [line.split("\t") for line in TABLE.read_text("utf-8").splitlines() if not line.startswith("#")]
    return {line[0]: tuple(line[1].split(", ")) for line in lines}, {line[0]: line[2] for line in lines}


def _synset(label: str) -> str:
    whole = [class_id for class_id, called in names().items() if _words(label) == set(map(_plain, called))]
    return whole[0] if len(whole) == 1 else resolve(label.split(", ")[0])


def _words(label: str) -> set[str]:
    return set(map(_plain, label.split(", ")))


def _plain(name: str) -> str:
    return name.strip().replace("_", " ").casefold()
