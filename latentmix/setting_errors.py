"""Errors of Hydra and pydantic about settings, each in one line that says what to write instead."""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

from latentmix.config import SBATCH, Config
from latentmix.errors import nearest
from latentmix.overrides import takes_fractions
from latentmix.presets import Presets

RENAMED = {  # old key -> new key
    "speed.offload": "model.offload",
    "speed.shared_half": "speed.shared_prefix",
    "model.world": "model.domain",
}
GONE = {"speed.prompts_once": "it saved 1 to 2 % of the time"}  # key -> why
FUNCTION = re.compile(r"([\w.+]+)=(\[?)(\w+\(.*\))\]?")  # functions of Hydra's sweeps, such as KEY=range(0,3)


def key_of(error: Any) -> str:
    """Return the key that one of pydantic's errors is about."""
    return ".".join(str(part) for part in error["loc"] if not str(part).startswith(("literal", "constrained", "int")))


def renamed(key: str) -> str:
    """Return what to write instead of a key of an earlier release; "" for any other."""
    if key in GONE:
        return f"{key} is gone, as {GONE[key]}; leave it out"
    return f"{key} is now {RENAMED[key]}" if key in RENAMED else ""


def describe(error: Any, presets: Presets) -> str:
    """Return one of pydantic's errors as "KEY=VALUE: reason"."""
    key = key_of(error)
    reason = error["msg"].removeprefix("Value error, ").replace("Input should be", "should be")
    if error["type"] == "value_error" or not key:
        return f"{key}: {reason}" if key else reason
    if error["type"] == "tuple_type" and error["input"] is None:
        return f"{key}=null is no list; {key}=[] is an empty one"
    if error["type"] == "unexpected_keyword_argument":
        return _no_key(key, presets)
    quote = "; put it in quotes, as YAML reads yes, no, on and off as true and false, and null as nothing"
    word = error["type"] == "string_type" and isinstance(error["input"], bool | None)
    return f"{key}={error['input']!r}: {reason}{quote if word else ''}"


def explain(error: Exception, overrides: Sequence[str], presets: Presets) -> str:
    """Return one of Hydra's errors in one line."""
    from hydra.errors import OverrideParseException

    cause = error.__cause__ or error
    first = str(cause).strip().splitlines()[0]
    for override in overrides:
        key, equals, value = override.partition("=")
        if override.startswith("~") and key.lstrip("~") in _keys(presets):
            return f"{key.lstrip('~')} is needed and can't be removed"
        if not key or (not equals and not override.startswith("~")):
            return f"{override!r} is not KEY=VALUE"
        several = first.startswith(f"Ambiguous value for argument '{override}'")
        if several or (isinstance(error, OverrideParseException) and error.override == override):
            if not any(f"{key}.".lstrip("+").startswith(f"{known}.") for known in (*_keys(presets), "experiment")):
                return _no_key(key, presets)
            advice = f"give {key} one value; `latentmix sweep -m {override}` makes a run for each"
            if key == "model.size":
                advice = "write pixels as 512, or as 768x512 for width and height"
            elif takes_fractions(key) and re.fullmatch(r"\d*,\d+", value):
                advice = (
                    f"write {value.replace(',', '.')}, with a point; or `latentmix sweep -m {override}` for two runs"
                )
            elif re.fullmatch(r"[1-9]\d{0,2}(,\d{3})+", value):
                advice = f"write {value.replace(',', '')}, without commas"
            return f"{override}: {advice if several else f'the value cannot be read; write {_template(key, value)}'}"
    for override in overrides:  # for_hydra wrote n=range(2,8) as n=[range(2,8)]
        if (found := FUNCTION.fullmatch(override)) and override in str(error):
            key, opened, call = found.groups()
            written = f"'{key}=[VALUE,VALUE]'" if opened else "one value"
            return f"{key}={call}: write {written}; `latentmix sweep -m {key}={call}` makes a run for each"
    for override in overrides:
        key = override.split("=")[0].lstrip("+~")
        if override.startswith("+") and "already" in first and key in _keys(presets):
            return f"{override}: leave out the +, as there is a setting {key}"
        if f"'{key.split('.')[-1]}'" in first or f"'{key}'" in first:
            return _no_key(key, presets)
    for old, new in RENAMED.items():
        if f"'{old}'" in first:
            return f"a preset or experiment uses {old}, which is now {new}"
    if first.startswith("Missing mandatory value"):
        needed = str(cause).split("full_key: ")[1].split()[0]
        return f"{needed} is needed here; give it as {needed}=..."
    if missing := re.match(r"In '(.*)': Could not (?:find|load) '(\w+)/(.*?)'", first):
        preset, group, option = missing.groups()
        where = "" if preset == "config" else f", which {preset} builds on"
        return f"there is no {group}={option}{where}; {presets.instead(group, option)}"
    reason = " ".join(line.strip() for line in str(error).strip().splitlines()[:2])
    return f"{' '.join(overrides)}: {reason}"


def _template(key: str, value: str) -> str:
    """Return how to write a value that Hydra can't read."""
    if "{" in value:
        return f"'{key}={{NAME: VALUE, NAME: VALUE}}', with quotes around a value of other than letters and digits"
    return f"'{key}=[VALUE,VALUE]'" if "[" in value or "]" in value else f"{key}=VALUE, a plain number or word"


def _no_key(key: str, presets: Presets) -> str:
    """Return the message for a missing key; it names the presets that have it, the nearest key, or all keys."""
    group, _, setting = key.partition(".")
    if now := renamed(key):
        return now
    if key == "experiment":
        return "an experiment's file must begin with the line `# @package _global_`, as those of latentmix do"
    if group == "launch" and (own := SBATCH.get(setting.replace("_", "-"))):
        return f"there is no key {key!r}; it is called launch.{own}"
    if setting and (owners := presets.owners(group, setting)):
        *others, last = owners
        return f"there is no key {key!r}; it belongs to {group}={', '.join(others)}{' and ' * bool(others)}{last}"
    near = nearest(key, _keys(presets), cutoff=0.6)
    keys = ", ".join(field.name for field in dataclasses.fields(Config))
    return f"there is no key {key!r}; " + (f"did you mean {near!r}?" if near else f"the keys are {keys}")


def _keys(presets: Presets) -> list[str]:
    """Return all keys, those in groups as `model.size`."""
    fields = dataclasses.fields(Config)
    groups = [(field.name, dataclasses.fields(field.type)) for field in fields if dataclasses.is_dataclass(field.type)]
    inside = [f"{group}.{setting.name}" for group, settings in groups for setting in settings]
    kinds = {f"inversion.{key}" for option in presets.options("inversion") for key in presets.read("inversion", option)}
    return [field.name for field in fields] + inside + sorted(kinds)
