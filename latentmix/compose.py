"""Compose YAML presets and overrides such as `model=sd15` or `steps=30` into a checked `Config`, with Hydra.

Presets are in groups, a folder each: model/, data/, inversion/, launch/, experiment/. Further folders of presets are
named by `--config-dir` and LATENTMIX_CONFIGS. Every error is one line for the user.
"""

import dataclasses
import os
import re
from collections import ChainMap
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from latentmix.cache import read_json, user_cache, write_json
from latentmix.config import SBATCH, Config
from latentmix.embedded import DRAWN
from latentmix.errors import UserError, nearest
from latentmix.isolation import LOCK
from latentmix.overrides import for_hydra, mapping, takes_fractions
from latentmix.settings import expand_home, refusal_of_url

GROUPS = ("model", "data", "inversion", "launch", "experiment")
# Keys with which experiments choose settings by `model.domain`. They are no settings, and are removed.
BY_DOMAIN = ("_classes", "_draws", "_steps", "_prompt")
MISSING = ("missing", "missing_argument", "missing_keyword_only_argument")  # pydantic's kinds of error
DEFAULT_DATA = "shapes"  # of configs/config.yaml
RENAMED = {  # old key -> what to say instead
    "speed.offload": "model.offload",
    "model.world": "model.domain",
    "speed.shared_half": "speed.shared_prefix",
    "speed.prompts_once": "gone, as it saved 1 to 2 % of the time; leave it out",
}
SOURCES = {  # groups -> what to say if a path is given in place of a preset
    "model": "for a folder or a file, give a model of its family with it: model=sd15 model.path={}",
    "data": "for a folder of images, give data=folder data.path={}",
}
NAMED_BY_SOURCE = ("model", "data")  # groups whose `name` is that of the folder or repository that is read
FUNCTION = re.compile(r"([\w.+]+)=(\[?)(\w+\(.*\))\]?")  # functions of Hydra's sweeps, such as KEY=range(0,3)
Preset = dict[str, Any]


def compose(overrides: Sequence[str], config_dirs: Sequence[str | Path] = ()) -> Config:
    """Return the config of configs/config.yaml and overrides.

    Presets are searched in latentmix's own folder, then in `config_dirs`, then in those of LATENTMIX_CONFIGS.
    Raises: UserError.
    """
    presets = Presets(config_dirs)
    for override in overrides:
        if (key := override.split("=")[0].lstrip("+~")) in RENAMED:
            raise UserError(f"{key} is now {RENAMED[key]}")
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


def validate(plain: Any, presets: "Presets | None" = None) -> Config:
    """Return the config of plain values. Raises: UserError, which says of each wrong key what is wrong."""
    try:
        return TypeAdapter(Config).validate_python(plain)
    except ValidationError as error:
        found = presets or Presets()
        missing = [_key(e) for e in error.errors() if e["type"] in MISSING]
        reasons = [_describe(e, found) for e in error.errors() if e["type"] not in MISSING]
        if missing:
            needed = f"{' and '.join(missing)} {'are' if missing[1:] else 'is'} needed"
            reasons.append(f"{needed}; give {missing[0]}=..., or choose a preset that has it")
        raise UserError("; ".join(dict.fromkeys(reasons))) from error


def find_run(run: str) -> Path:
    """Return a run's folder, by its path, or by its name in any folder of outputs used before. Raises: UserError."""
    if (path := Path(expand_home(run))).is_dir():
        return path if path.name not in ("", "..") else path.resolve()  # callers use its name, which "." lacks
    outputs, run = compose([]).outputs, str(Path(run))  # without a slash at the end
    named = (folder / run for folder in (outputs, *_used_outputs()) if Path(run).name == run)
    found = list(dict.fromkeys(folder for folder in named if folder.is_dir()))
    if len(found) > 1 and found[0] != outputs / run:
        raise UserError(f"there are several runs {run!r}; give the folder: {' or '.join(map(str, found))}")
    if found:
        return found[0]
    done = sorted(path.parent.name for path in outputs.glob("*/done.json"))
    raise UserError(f"there is no run {run!r}, as a folder or as a name; in {outputs} are {', '.join(done) or 'none'}")


def remember_outputs(folder: Path) -> None:
    """Record a folder of outputs in the user's cache for `find_run`. Do nothing if that can't be written."""
    used = _used_outputs()
    if (folder := folder.absolute()) not in used:
        with suppress(UserError):
            write_json(user_cache() / "outputs.json", {"folders": [str(path) for path in (folder, *used)][:50]})


def _used_outputs() -> list[Path]:
    folders = read_json(user_cache() / "outputs.json").get("folders")
    return [Path(folder) for folder in folders if Path(folder).is_dir()] if isinstance(folders, list) else []


def config_folder() -> Path:
    """Return latentmix's own configs: beside the package in a checkout, inside it where it was installed."""
    inside = Path(__file__).resolve().parent / "configs"
    return inside if inside.is_dir() else inside.parent.parent / "configs"


class Presets:
    """The YAML files that can be chosen as GROUP=OPTION, latentmix's own and then the user's."""

    def __init__(self, config_dirs: Sequence[str | Path] = ()) -> None:
        environment = [entry for entry in os.environ.get("LATENTMIX_CONFIGS", "").split(os.pathsep) if entry]
        self.dirs = [Path(expand_home(entry)).absolute() for entry in (*config_dirs, *environment)]
        for folder in self.dirs:
            if not folder.is_dir():
                raise UserError(f"there is no folder {folder}, which --config-dir or LATENTMIX_CONFIGS names")
            for group in GROUPS:
                for path in (folder / group).glob("*.yaml"):
                    if (config_folder() / group / path.name).exists():
                        raise UserError(f"{path} has the name of latentmix's own {group}={path.stem}; rename it")

    def options(self, group: str) -> list[str]:
        """Return the names of a group's presets."""
        folders = (config_folder(), *self.dirs)
        return sorted({file.stem for folder in folders for file in (folder / group).glob("*.yaml")})

    def instead(self, group: str, option: str) -> str:
        """Say what to give where a group has no such preset."""
        if reason := refusal_of_url(option):
            return f"it {reason}"
        if group in SOURCES and (Path(expand_home(option)).exists() or option.startswith((".", "/", "~"))):
            return SOURCES[group].format(option)
        if group == "model" and option.count("/") == 1:
            return f"for a model of the hub, give one of its family with it: model=sd15 model.hub={option}"
        for folder in self.dirs:
            if (file := folder / group / f"{option}.yml").is_file():
                return f"rename {file} to {option}.yaml, as only *.yaml is read"
            if (file := folder / f"{option}.yaml").is_file():
                return f"put {file} into a folder {group}, and give the folder above that as --config-dir"
        near, options = nearest(option, self.options(group), cutoff=0.8), ", ".join(self.options(group))
        return f"{f'did you mean {near}? ' if near else ''}there are {options or 'none'}"

    def read(self, group: str, option: str) -> Preset:
        """Return the settings of a preset, with those of presets that it builds on, except their `name`."""
        own, *inherited = self.lineage(group, option)
        return dict(ChainMap(own, {"name": option}, *inherited))

    def owners(self, group: str, setting: str) -> list[str]:
        """Return the presets of a group that have a setting."""
        found = []
        for option in self.options(group):
            with suppress(UserError):  # a file that can't be read matters only where it is chosen
                found += [option] if setting in self.read(group, option) else []
        return found

    def check(self, overrides: Sequence[str]) -> None:
        """Raise UserError if a preset that overrides choose, or one that it builds on, can't be read."""
        for group, _, option in (override.lstrip("+").partition("=") for override in overrides):
            if group in GROUPS and option in self.options(group):
                self.lineage(group, option)

    def overridden(self, group: str, experiment: str | None) -> bool:
        """Return whether an experiment, or one that it builds on, chooses the preset of another group."""
        lineage = self.lineage("experiment", experiment) if experiment else []
        entries = [entry for preset in lineage for entry in preset.get("defaults", []) if isinstance(entry, dict)]
        return any(key.endswith(f"/{group}") for entry in entries for key in entry)

    @property
    def overrides(self) -> list[str]:
        """Return the override with which Hydra finds the user's presets."""
        quoted = ("'file://" + str(folder).replace("'", r"\'") + "'" for folder in self.dirs)
        return [f"hydra.searchpath=[{','.join(quoted)}]"] if self.dirs else []

    def lineage(self, group: str, option: str, above: tuple[str, ...] = ()) -> list[Preset]:
        """Return a preset and those that it builds on, the nearest first. Raises: UserError for an unreadable file."""
        import yaml

        files = (folder / group / f"{option}.yaml" for folder in (config_folder(), *self.dirs))
        file = next(file for file in files if file.is_file())
        if option in above:
            raise UserError(f"{file} builds on itself, by way of {' and '.join(above)}; mend its defaults")
        try:
            own = yaml.safe_load(file.read_text(encoding="utf-8-sig")) or {}
            bases = [entry for entry in reversed(own.get("defaults", [])) if entry in self.options(group)]
        except (OSError, ValueError, AttributeError, TypeError, yaml.YAMLError) as error:
            raise UserError(f"{file} can't be read as a preset: {' '.join(str(error).split())}") from error
        return [own, *(preset for base in bases for preset in self.lineage(group, base, (*above, option)))]


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
        raise UserError(_explain(error, typed, presets)) from error
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


def _key(error: Any) -> str:
    """Return the key that one of pydantic's errors is about."""
    return ".".join(str(part) for part in error["loc"] if not str(part).startswith(("literal", "constrained", "int")))


def _describe(error: Any, presets: Presets) -> str:
    """Return one of pydantic's errors as "KEY=VALUE: reason"."""
    key = _key(error)
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


def _explain(error: Exception, overrides: Sequence[str], presets: Presets) -> str:
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
