"""The command that repeats a run: of its config, what differs from the defaults."""

import dataclasses
import re
import shlex
from collections.abc import Sequence
from typing import Any

import yaml

from latentmix.config import OF_A_MACHINE, Config, folder

GROUPS = ("model", "data", "inversion")
PLAIN = re.compile(r"(?!(null|true|false|nan|inf)$)[a-z_][\w/.-]*", re.ASCII | re.IGNORECASE)


def command(config: Config) -> str:
    """`latentmix sweep …`, as short as it gets; empty where no command line says the same."""
    wanted = _flat(config.as_dict())
    experiments = [[f"experiment={path.stem}"] for path in sorted((folder() / "experiment").glob("*.yaml"))]
    nearest = min([[], *experiments], key=lambda start: len(_differing(start, wanted)))
    overrides = _shortened(_completed(nearest, wanted), wanted)
    if _differing(overrides, wanted):
        return ""
    return shlex.join(["latentmix", "sweep", *overrides])


def _completed(overrides: list[str], wanted: dict[str, Any]) -> list[str]:
    """With presets and then, from the outside inwards as inner keys follow outer ones, single keys until all agree."""
    for group in GROUPS:
        if f"{group}.name" in _differing(overrides, wanted):
            choices = [overrides, *([*overrides, f"{group}={name}"] for name in _presets(group, wanted))]
            overrides = min(choices, key=lambda choice: len(_differing(choice, wanted)))
    differing = _differing(overrides, wanted)
    for key in sorted(wanted, key=lambda key: key.count(".")):
        if key in differing:
            overrides = [*overrides, f"{differing[key]}{key}={_value(wanted[key])}"]
            differing = _differing(overrides, wanted)
            if key in differing:  # nor will it ever agree
                break
    return overrides


def _shortened(overrides: list[str], wanted: dict[str, Any]) -> list[str]:
    """Without those that follow from others."""
    for override in overrides:
        fewer = [other for other in overrides if other != override]
        if not _differing(fewer, wanted):
            overrides = fewer
    return overrides


def _differing(overrides: Sequence[str], wanted: dict[str, Any]) -> dict[str, str]:
    """Keys whose values are not yet as wanted, and what goes before them: a + where the YAML does not have them."""
    from hydra import compose, initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        with initialize_config_dir(str(folder()), version_base="1.3"):
            there = _flat(OmegaConf.to_container(compose("config", overrides=list(overrides)), resolve=True))
    except (HydraException, OmegaConfBaseException, ValueError):  # of a value that no quotes bring through
        return dict.fromkeys(wanted, "")
    return {key: "" if key in there else "+" for key, value in wanted.items() if there.get(key, _default(key)) != value}


def _presets(group: str, wanted: dict[str, Any]) -> list[str]:
    """The presets of a group that go by the wanted name."""
    paths, name = sorted((folder() / group).glob("*.yaml")), wanted[f"{group}.name"]
    return [path.stem for path in paths if name in (path.stem, yaml.safe_load(path.read_text()).get("name"))]


def _flat(plain: Any) -> dict[str, Any]:
    """Keys as in `model.size`; without those that change no result."""
    flat = dict[str, Any]()
    for key, value in plain.items():
        if key in OF_A_MACHINE:
            continue
        flat |= {f"{key}.{inner}": v for inner, v in value.items()} if isinstance(value, dict) else {key: value}
    return flat


def _default(key: str) -> Any:
    """What a key is that no YAML names."""
    group, _, name = key.rpartition(".")
    kind = next((field.type for field in dataclasses.fields(Config) if field.name == group), None)
    fields = dataclasses.fields(kind) if isinstance(kind, type) and dataclasses.is_dataclass(kind) else ()
    default = next((field.default for field in fields if field.name == name), None)
    return list(default) if isinstance(default, tuple) else default


def _value(x: Any) -> str:
    """In Hydra's syntax."""
    if isinstance(x, list):
        return f"[{','.join(map(_value, x))}]"
    if x is None or isinstance(x, bool):
        return {None: "null", True: "true", False: "false"}[x]
    if not isinstance(x, str):
        return repr(x)
    if PLAIN.fullmatch(x):
        return x
    # Backslashes are themselves, except before a quote and at the end; OmegaConf takes ${ for a reference.
    quoted = re.sub(r"(\\*)('|$)", lambda found: found[1] * 2 + found[2].replace("'", r"\'"), x)
    return f"'{quoted}'".replace("${", r"\${")
