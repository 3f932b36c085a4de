"""Translate overrides as people type them to Hydra's syntax: `name=2024`, `n=2,8`, `metrics=fid`, `data.classes=[0,1]`.

Hydra reads a value without knowing the type of its key. So it takes `name=2024` for a number and `name=007` for 7, and
refuses a path with an accent. Here the type of the key decides: texts are quoted, single entries become lists.
"""

import dataclasses
import itertools
import re
import types
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from latentmix.config import Config
from latentmix.errors import UserError
from latentmix.inversion import INVERSIONS
from latentmix.mixing import Method

# What is not text to be quoted: nothing, null, ???, quoted text, interpolations, mappings.
AS_IT_IS = re.compile(r"\s*(|null|\?\?\?|'.*'|\".*\"|.*\$\{.*|\{.*:.*\})\s*", re.IGNORECASE | re.DOTALL)
ONE_LINE = ("launch.setup",)  # lists of shell commands, in which a comma separates nothing
QUOTES = (("'", "'"), ('"', '"'), ("‘", "’"), ("“", "”"))
TRUTH = {"true": True, "false": False}
ENTRY = re.compile(r"""\s*('(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|[^,]*?)\s*(?:,|$)""", re.DOTALL)


def unwrapped(override: str) -> str:
    """Return an override without quotes around all of it, which some shells leave, and spaces around its key."""
    for opening, closing in QUOTES:
        if override.startswith(opening) and override.endswith(closing) and len(override) > 2:
            override = override[1:-1]
    found = re.fullmatch(r"\s*([\w./+~@-]+)\s*=(.*)", override, re.DOTALL)
    return f"{found[1]}={found[2]}" if found else override


def mapping(override: str) -> tuple[str, dict[str, Any]] | None:
    """Return key and value of KEY={NAME: VALUE} if Hydra can't read it, for example an accent in a name; else None."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException
    from yaml import BaseLoader, YAMLError, load

    key, _, value = override.partition("=")
    if key.lstrip("+") not in _mappings() or not value.startswith("{"):
        return None
    try:
        OverridesParser.create().parse_override(override)
        return None
    except HydraException:
        with suppress(YAMLError):
            found = load(value, BaseLoader)
            if isinstance(found, dict) and all(
                isinstance(text, str) and text for pair in found.items() for text in pair
            ):
                return key.lstrip("+"), {name: TRUTH.get(text, text) for name, text in found.items()}
    return None


def takes_fractions(key: str) -> bool:
    """Return True if a key takes numbers with a fraction."""
    return dict(_hints(Config)).get(key, (None,))[0] is float


def for_hydra(override: str) -> str:
    """Return KEY=VALUE with the value written as Hydra reads it; anything else as it is."""
    if override == "experiment=null":
        return "~experiment"
    key, equals, value = override.partition("=")
    is_list, is_text, is_optional = _kinds().get(key.lstrip("+"), (False, False, False))
    if is_optional and value == "None":
        return f"{key}=null"
    if not equals or not (is_list or is_text):
        return override
    if not is_list:
        return f"{key}={_quoted(value)}"
    if not is_text and (quoted := re.fullmatch(r"""(['"])(.*)\1""", value)):  # of numbers; a text may have commas
        value = quoted[2]
    inner = re.fullmatch(r"\s*\[(.*)\]\s*", value, re.DOTALL)
    if "${" in value or value.strip().lower() == "null" or (inner is None and value.lstrip().startswith("[")):
        return override
    whole = inner is None and key in ONE_LINE and value.strip()[:1] not in ("'", '"')
    entries = [value] if whole else [entry for entry in ENTRY.findall(inner[1] if inner else value) if entry]
    if is_text:
        entries = [_quoted(entry) for entry in entries]
    elif any(re.fullmatch(r"0\d+", entry) for entry in entries):  # one number, or two of which one begins with 0?
        raise UserError(f"{override}: write {''.join(entries)} for one number, or each number without a 0 before it")
    return f"{key}=[{','.join(entries)}]"


def grid(overrides: Sequence[str]) -> list[dict[str, str]]:
    """Return all combinations of overrides with several values, such as seed=0,1 or seed=range(0,3).

    Raises: UserError if no override has several values.
    """
    several = {key: values for key, values in map(_values, overrides) if len(values) > 1}
    if not several:
        raise UserError("-m runs all combinations of several values; name some, as in seed=0,1,2")
    return [dict(zip(several, values, strict=True)) for values in itertools.product(*several.values())]


def _values(override: str) -> tuple[str, list[str]]:
    """Return the key and all values of an override."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    key, _, value = override.partition("=")
    if _kinds().get(key) in ((False, True, False), (False, True, True)):  # text, which Hydra may be unable to read
        return key, [entry for entry in ENTRY.findall(value) if entry]
    try:
        parsed = OverridesParser.create().parse_override(override)
        return key, list(parsed.sweep_string_iterator()) if parsed.is_sweep_override() else [value]
    except HydraException:  # text that must be quoted
        return key, [value]


def _quoted(value: str) -> str:
    """Return text in Hydra's quotes."""
    if AS_IT_IS.fullmatch(value):
        return value
    escaped = re.sub(r"(\\*)('|$)", lambda found: found[1] * 2 + (r"\'" if found[2] else ""), value)
    return f"'{escaped}'"


@cache
def _kinds() -> dict[str, tuple[bool, bool, bool]]:
    """Return for each key whether it takes a list, whether it or an entry is text, and whether null is allowed."""
    hints = dict(_hints(Config))
    for inversion in INVERSIONS.values():
        hints |= {f"inversion.{key}": hint for key, hint in _hints(inversion.settings)}
    return {key: (get_origin(hint) is tuple, _is_text(hint), optional) for key, (hint, optional) in hints.items()}


@cache
def _mappings() -> frozenset[str]:
    """Return the keys that take mappings."""
    return frozenset(key for key, (hint, _) in _hints(Config) if get_origin(hint) is dict)


def _hints(settings: Any) -> Iterator[tuple[str, tuple[Any, bool]]]:
    """Yield the keys of a settings class, such as `model.size`, with their types and whether null is allowed."""
    for key, hint in get_type_hints(settings).items():
        alternatives = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
        (needed, *others) = [part for part in alternatives if part is not type(None)]
        if dataclasses.is_dataclass(needed):
            yield from ((f"{key}.{name}", inner) for name, inner in _hints(needed))
        elif not others:
            yield key, (needed, len(alternatives) > 1)


def _is_text(hint: Any) -> bool:
    if get_origin(hint) is Literal:
        return all(isinstance(value, str) for value in get_args(hint))
    if get_origin(hint) is tuple:
        return _is_text(get_args(hint)[0])
    return hint in (str, Path, Method)
