"""Compose YAML presets and overrides such as `model=sd15` or `steps=30` into a checked `Config`, with Hydra.

Every error is one line for the user.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from latentmix.config import Config
from latentmix.embedded import DRAWN
from latentmix.errors import UserError
from latentmix.isolation import LOCK
from latentmix.models.settings import SpeedConfig
from latentmix.overrides import for_hydra, mapping
from latentmix.presets import Preset, Presets, config_folder
from latentmix.setting_errors import RENAMED, describe, explain, key_of, renamed
from latentmix.settings import expand_home

# Keys with which experiments choose settings by `model.domain`. They are no settings, and are removed.
BY_DOMAIN = ("_classes", "_draws", "_steps", "_prompt")
MISSING = ("missing", "missing_argument", "missing_keyword_only_argument")  # pydantic's kinds of error
DEFAULT_DATA = "shapes"  # of configs/config.yaml
NAMED_BY_SOURCE = ("model", "data")  # groups whose `name` is that of the folder or repository that is read


def compose(overrides: Sequence[str], config_dirs: Sequence[str | Path] = ()) -> Config:
    """Return the config of configs/config.yaml and overrides.

    Presets are searched in latentmix's own folder, then in `config_dirs`, then in those of LATENTMIX_CONFIGS.
    Raises: UserError.
    """
    presets = Presets(config_dirs)
    for override in overrides:
        if now := renamed(override.split("=")[0].lstrip("+~")):
            raise UserError(now)
    return validate(_composed(overrides, presets), presets)


def in_one_list(settings: Iterable[str | Iterable[str]]) -> list[str]:
    """Return settings that a caller gave one by one or in lists as one list. Raises: UserError for what is no text."""
    found: list[str] = []
    for setting in settings:
        several = [setting] if isinstance(setting, str) or not isinstance(setting, Iterable) else list(setting)
        if wrong := [one for one in several if not isinstance(one, str)]:
            raise UserError(f"a setting is a text such as 'steps=30', not {wrong[0]!r}")
        found += several
    return found


def validate(plain: Any, presets: Presets | None = None) -> Config:
    """Return the config of plain values. Raises: UserError, which says of each wrong key what is wrong."""
    try:
        return TypeAdapter(Config).validate_python(plain)
    except ValidationError as error:
        found = presets or Presets()
        missing = [key_of(e) for e in error.errors() if e["type"] in MISSING]
        reasons = [describe(e, found) for e in error.errors() if e["type"] not in MISSING]
        if missing:
            needed = f"{' and '.join(missing)} {'are' if missing[1:] else 'is'} needed"
            reasons.append(f"{needed}; give {missing[0]}=..., or choose a preset that has it")
        raise UserError("; ".join(dict.fromkeys(reasons))) from error


def of_a_run(plain: Mapping[str, Any]) -> Config:
    """Return the config that a run has kept, `Config.as_dict` of this or of an earlier release.

    Renamed settings get their new names, techniques that are gone are left out, and new settings have their defaults.
    Raises: UserError.
    """
    found = {name: dict(value) if isinstance(value, Mapping) else value for name, value in plain.items()}
    for old, new in RENAMED.items():
        (group, name), (new_group, new_name) = old.split("."), new.split(".")
        if name in found.get(group, {}):
            found[new_group].setdefault(new_name, found[group].pop(name))
    techniques = {field.name for field in fields(SpeedConfig)}
    found["speed"] = {name: value for name, value in found.get("speed", {}).items() if name in techniques}
    is_whole = {field.name for field in fields(Config)} <= found.keys()
    return validate(found if is_whole else compose([]).as_dict() | found)


def _composed(overrides: Sequence[str], presets: Presets) -> Preset:
    """Return the plain values that Hydra composes. Raises: UserError."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    mappings = {override: found for override in overrides if (found := mapping(override))}
    typed = [f"{mappings[o][0]}={{}}" if o in mappings else for_hydra(o) for o in overrides]
    try:
        with LOCK, _apart_from_the_callers_hydra(), initialize_config_dir(str(config_folder()), version_base="1.3"):
            composed = hydra_compose("config", [*typed, *presets.overrides], return_hydra_config=True)
            if domain := _drawn_domain(composed, overrides, presets):
                typed = [f"data={domain}", *typed]
                composed = hydra_compose("config", [*typed, *presets.overrides], return_hydra_config=True)
        config = OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"])
        for key, names in mappings.values():
            OmegaConf.update(config, key, names, force_add=True)
        _unpin_other(config, composed.hydra.runtime.choices["model"], overrides, presets)
        for group in NAMED_BY_SOURCE:
            if not any(override.lstrip("+").startswith(f"{group}.name=") for override in overrides):
                _name_by_source(config, group, composed.hydra.runtime.choices[group], presets)
        plain: Any = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        if isinstance(error, UnicodeDecodeError):
            presets.check(overrides)
        raise UserError(explain(error, typed, presets)) from error
    except (YAMLError, RecursionError) as error:  # also a tag that would build an object
        presets.check(overrides)
        folders = ", ".join(map(str, (config_folder(), *presets.dirs)))
        raise UserError(f"the configs in {folders} can't be read: {' '.join(str(error).split())}") from error
    return {key: value for key, value in plain.items() if key not in BY_DOMAIN}


def _drawn_domain(composed: Any, overrides: Sequence[str], presets: Presets) -> str | None:
    """Return the drawn data that the model was trained on, if no data were chosen and they are not the default."""
    domain, experiment = composed.model.get("domain"), composed.hydra.runtime.choices.get("experiment")
    chosen = any(override.lstrip("+").startswith("data=") for override in overrides)
    if chosen or domain not in DRAWN or domain == DEFAULT_DATA or presets.overridden("data", experiment):
        return None
    return domain


def _unpin_other(config: Any, option: str, overrides: Sequence[str], presets: Presets) -> None:
    """Remove the preset's pinned revision if `model.hub` names another repository, which does not have it."""
    preset, model = presets.read("model", option), config.model
    if any(override.lstrip("+").startswith("model.revision=") for override in overrides):
        return
    if model.get("hub") != preset.get("hub") and model.get("revision") == preset.get("revision"):
        model["revision"] = None


@contextmanager
def _apart_from_the_callers_hydra() -> Iterator[None]:
    """Replace the Hydra of an application that calls latentmix, if it uses one, in this context."""
    from hydra.core.global_hydra import GlobalHydra

    instance = GlobalHydra.instance()
    own = instance.hydra
    instance.clear()
    try:
        yield
    finally:  # Hydra's own context leaves a copy
        instance.hydra = own
        GlobalHydra.set_instance(instance)


def _name_by_source(config: Any, group: str, option: str, presets: Presets) -> None:
    """Set `model.name` or `data.name`, unless an experiment has set it, to the name of what is read.

    That is the folder or repository if it is not the preset's own, otherwise the chosen preset.
    """
    from omegaconf import OmegaConf

    values: Any = OmegaConf.to_container(config[group], resolve=True)
    if values.get("name") not in [preset.get("name") for preset in presets.lineage(group, option)]:
        return
    preset = presets.read(group, option)
    name = preset["name"]
    if [values.get(key) for key in ("path", "hub")] != [preset.get(key) for key in ("path", "hub")]:
        source = values.get("path") or values.get("hub")
        name = plain_name(source) if isinstance(source, str) and source != "???" else name
    OmegaConf.update(config, f"{group}.name", name, force_add=True)


def plain_name(source: str) -> str:
    """Return the last part of a path or of OWNER/NAME, without characters that a folder's name should not have."""
    path = Path(expand_home(source))
    name = path.resolve().name if path.name in ("", "..") else path.name
    return re.sub(r"[^\w.+-]+", "-", name).strip("-.") or "unnamed"
