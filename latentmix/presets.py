"""The YAML presets in the folders model/, data/, inversion/, launch/ and experiment/ of configs/, and those of users.

Further folders of presets are named by `--config-dir` and LATENTMIX_CONFIGS.
"""

import os
from collections import ChainMap
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from latentmix.errors import UserError, nearest
from latentmix.settings import expand_home, refusal_of_url

GROUPS = ("model", "data", "inversion", "launch", "experiment")
SOURCES = {  # groups -> what to say if a path is given in place of a preset
    "model": "for a folder or a file, give a model of its family with it: model=sd15 model.path={}",
    "data": "for a folder of images, give data=folder data.path={}",
}
Preset = dict[str, Any]


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
