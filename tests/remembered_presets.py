"""Hydra as the tests use it: latentmix's own YAML files are read once, and merged once for each choice of presets.

The tests compose some thousand configs. Hydra reads and merges sixteen files for each, which took three quarters of
the time of `compose` and changes nothing, as the files in configs/ stay as they are while the tests run. What Hydra
does with values is not remembered, nor anything where a user's folder of presets is searched. Beside Hydra, what
latentmix's own presets build on is remembered.
"""

import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hydra._internal import config_loader_impl as hydra_loader
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import ConfigRepository
from hydra._internal.defaults_list import DefaultsList, Overrides

from latentmix.presets import Preset, Presets, config_folder

config_loader_impl: Any = hydra_loader  # whose functions are replaced
Loader: Any = ConfigLoaderImpl
Repository: Any = ConfigRepository
OwnPresets: Any = Presets
OWN = {"hydra.conf", str(config_folder()), ""}  # where Hydra looks when no other folder is named
create: Callable[..., DefaultsList] = config_loader_impl.create_defaults_list
merge, search = Loader._compose_config_from_defaults_list, Loader._process_config_searchpath
load, lineage = Repository.load_config, OwnPresets.lineage
chosen: dict[Any, DefaultsList] = {}
merged: dict[Any, bytes] = {}
files: dict[str, bytes] = {}
lineages: dict[Any, list[Preset]] = {}


def install() -> None:
    """Let Hydra use this module's functions, for as long as this process runs."""
    config_loader_impl.create_defaults_list = create_remembered
    Loader._compose_config_from_defaults_list = merge_remembered
    Loader._process_config_searchpath = search_if_asked_to
    Repository.load_config = load_remembered
    OwnPresets.lineage = lineage_remembered


def only_own(repo: Any) -> bool:
    return {source.path for source in repo.get_sources()} == OWN


def create_remembered(repo: Any, config_name: Any, overrides_list: Any, **more: Any) -> DefaultsList:
    overrides = Overrides(repo=repo, overrides_list=overrides_list)
    values = [override.input_line for override in overrides.config_overrides]
    key = config_name, tuple(o.input_line for o in overrides_list if o.input_line not in values), tuple(more.items())
    if not only_own(repo):
        return create(repo, config_name, overrides_list, **more)
    if key not in chosen:
        chosen[key] = create(repo, config_name, overrides_list, **more)
    overrides.known_choices = dict(chosen[key].overrides.known_choices)
    return DefaultsList(chosen[key].defaults, chosen[key].defaults_tree, overrides.config_overrides, overrides)


def merge_remembered(loader: Any, defaults: Any, repo: Any) -> Any:
    if not only_own(repo):
        return merge(loader, defaults, repo)
    key = tuple((default.config_path, default.package, default.is_self) for default in defaults)
    if key not in merged:
        merged[key] = pickle.dumps(merge(loader, defaults, repo))
    return pickle.loads(merged[key])  # a copy, sooner than by copy.deepcopy


def search_if_asked_to(loader: Any, config_name: Any, parsed_overrides: Any, repo: Any) -> None:
    if not only_own(repo) or any(override.get_key_element() == "hydra.searchpath" for override in parsed_overrides):
        search(loader, config_name, parsed_overrides, repo)


def load_remembered(repo: Any, config_path: str) -> Any:
    if not only_own(repo):
        return load(repo, config_path)
    if config_path not in files:
        files[config_path] = pickle.dumps(load(repo, config_path))
    return pickle.loads(files[config_path])


def lineage_remembered(presets: Presets, group: str, option: str, above: tuple[str, ...] = ()) -> list[Preset]:
    if presets.dirs or above:
        return lineage(presets, group, option, above)
    key = config_folder(), group, option
    if key not in lineages:
        lineages[key] = lineage(presets, group, option)
    return lineages[key]


@contextmanager
def set_aside() -> Iterator[None]:
    """Let Hydra do all its work in this context."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(config_loader_impl, "create_defaults_list", create)
        patch.setattr(Loader, "_compose_config_from_defaults_list", merge)
        patch.setattr(Loader, "_process_config_searchpath", search)
        patch.setattr(Repository, "load_config", load)
        patch.setattr(OwnPresets, "lineage", lineage)
        yield
