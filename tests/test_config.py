"""The config: what its parts compose to, what is refused and in which words, and what of it makes a result another."""

import dataclasses
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from driver import invoke
from PIL import Image

from latentmix import presets, setting_errors
from latentmix.compose import compose, validate
from latentmix.config import Config, differences, result_settings
from latentmix.data import DATASETS
from latentmix.data.caller_images import read_pictures
from latentmix.data.settings import BUILT_IN, READERS
from latentmix.errors import UserError
from latentmix.experiment.draws import Cell
from latentmix.experiment.experiment import Experiment
from latentmix.inversion.fixed_point import FixedPointSettings
from latentmix.mixing import Method
from latentmix.models.pipeline import find
from latentmix.overrides import unwrapped
from latentmix.presets import config_folder
from latentmix.run_folders import find_run
from latentmix.storage import key, user_cache

GROUPS = ("model", "data", "inversion", "experiment", "launch")
OPTIONS = [(group, path.stem) for group in GROUPS for path in sorted((config_folder() / group).glob("*.yaml"))]
NEEDED = {  # what an option cannot do without
    ("data", "folder"): ["data.path=some/folder"],
    ("data", "imagenet"): ["data.path=some/imagenet"],
    ("data", "hub"): ["data.hub=owner/hub"],
    ("data", "synthetic"): ["data.classes=[star]"],
}


def refusal(*overrides: str) -> str:
    """What is said of overrides, in one line."""
    with pytest.raises(UserError) as caught:
        compose(overrides)
    text = str(caught.value)
    assert "\n" not in text
    assert caught.value.exit_code == 2
    return text


def written(group: str, option: str) -> dict[str, Any]:
    """What stands in an option's file, but for what is YAML's and Hydra's own."""
    found = yaml.safe_load((config_folder() / group / f"{option}.yaml").read_text())
    return {name: value for name, value in found.items() if name != "defaults" and not name.startswith("_")}


# What is composed


def test_the_configs_are_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert (config_folder() / "config.yaml").is_file()
    assert config_folder().is_absolute()
    assert compose([]).model.name == "tiny"


def test_the_configs_of_an_installed_latentmix_lie_inside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presets, "__file__", str(tmp_path / "site" / "latentmix" / "presets.py"))
    assert config_folder() == tmp_path / "site" / "configs"
    (tmp_path / "site" / "latentmix" / "configs").mkdir(parents=True)
    assert config_folder() == tmp_path / "site" / "latentmix" / "configs"


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_composes_to_what_stands_in_its_file(group: str, option: str) -> None:
    plain = compose([f"{group}={option}", *NEEDED.get((group, option), [])]).as_dict()
    own = written(group, option)
    there = plain if group == "experiment" or group in own else plain[group]  # some are for the whole config
    for name, value in own.items():
        if isinstance(value, dict):
            assert there[name] | {k: v for k, v in value.items() if "${" not in str(v)} == there[name]
        elif not (isinstance(value, str) and ("${" in value or value == "???")):
            assert there[name] == value, name


def test_every_group_has_options() -> None:
    assert {group for group, _ in OPTIONS} == set(GROUPS)


def test_every_option_of_a_group_says_the_same_keys() -> None:
    """Or a key that one lacks would fall back silently to something else than the file next to it says."""
    for group in ("model", "data"):
        keys = {option: set(written(group, option)) for g, option in OPTIONS if g == group}
        assert len(set(map(frozenset, keys.values()))) == 1, keys


def test_the_demo_is_the_papers_figure_in_miniature() -> None:
    demo, default = compose(["experiment=demo"]), compose([])
    assert demo.name == "demo"
    assert demo.folder == Path("outputs/demo")
    assert demo.cache == default.cache == Path("outputs/cache")
    assert demo.model == compose(["model=tiny-128"]).model
    assert (demo.model.name, demo.data.name, demo.data.classes) == ("tiny-128", "things", ("fish", "house", "sailboat"))
    assert demo.steps == demo.inversion.steps == 20
    assert demo.draws < default.draws
    assert {"fix/0", "nin/0", "fix/chm", "nin/chm"} < {str(method) for method in demo.methods}


def test_an_embedded_model_brings_the_data_that_it_knows(tmp_path: Path) -> None:
    def data(*overrides: str) -> str:
        return compose(overrides).data.name

    assert data() == data("model=tiny-sd3") == data("model=sd15") == "shapes"
    assert data("model=tiny-128") == data("model=tiny-128", "experiment=fig7") == "things"
    assert data("model=tiny-128", "data=shapes") == data("experiment=demo", "model=tiny") == "shapes"
    assert compose(["model=tiny-128", "data.classes=[cup]", "data.limit=900"]).data.limit == 900
    assert compose(["experiment=demo", "model=tiny-sd3"]).data.classes == ("circle", "heart", "star")
    assert data("model=tiny", "model.domain=imagenet") == "shapes"
    (tmp_path / "experiment").mkdir()
    mine = "# @package _global_\ndefaults:\n  - override /data: shapes\n"
    (tmp_path / "experiment" / "mine.yaml").write_text(mine)
    (tmp_path / "experiment" / "longer.yaml").write_text("# @package _global_\ndefaults: [mine]\nsteps: 9\n")
    for experiment in ("mine", "longer"):
        assert compose(["model=tiny-128", f"experiment={experiment}"], [tmp_path]).data.name == "shapes"


def test_fig7_is_the_papers() -> None:
    fig7 = compose(["experiment=fig7", "model=sd15", "data=imagenet", "data.path=/x"])
    assert fig7.name == "fig7-sd15"
    assert fig7.n == (2, 4, 8, 16, 32, 48, 64)
    assert [str(method) for method in fig7.methods] == ["fix/0", "nin/0", "fix/m", "nin/m", "fix/chm", "nin/chm"]
    assert fig7.data.classes == ("random:10",)
    assert (fig7.draws, fig7.steps, fig7.guidance, fig7.inversion.guidance) == (1000, 50, 7.5, 1)
    assert (fig7.model.size, fig7.model.features, fig7.model.clip) == (512, "inception", "ViT-L-14/openai")
    assert fig7.spacing == fig7.inversion.spacing == "trailing"


def test_what_is_not_given_follows_what_is() -> None:
    made = compose(["model=sd15", "steps=30", "spacing=leading"])
    assert (made.inversion.steps, made.inversion.spacing, made.guidance) == (30, "leading", 7.5)
    assert made.name == "sd15-shapes"
    made = compose(["steps=30", "inversion.steps=500", "inversion.spacing=linspace", "guidance=1"])
    assert (made.steps, made.inversion.steps) == (30, 500)
    assert (made.spacing, made.inversion.spacing) == ("trailing", "linspace")
    assert (made.guidance, made.model.guidance) == (1, 3)


def test_overrides_win_over_experiments() -> None:
    made = compose(["draws=8", "experiment=demo", "n=[2,3]", "methods=[slerp/chm,lol/m]", "data.classes=[ring]"])
    assert (made.draws, made.n, made.data.classes) == (8, (2, 3), ("ring",))
    assert made.methods == (Method("slerp", "chm"), Method("lol", "m"))
    assert made.pool == compose(["experiment=demo"]).pool
    assert compose(["experiment=null", "draws=8"]) == compose(["draws=8"])


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("model.path='/a b/c=d'", "/a b/c=d"),
        ("model.prompt='a drawing of a {}, black on white'", "a drawing of a {}, black on white"),
        ("data.reference=null", None),
        ("data.classes=[t-shirt,'two words']", ["t-shirt", "two words"]),
        ("data.classes=[tree frog,n02012849]", ["tree frog", "n02012849"]),
        ("data.classes=random:10", ["random:10"]),
        ("batch=8", 8),
        ("batch=auto", "auto"),
        ("guidance=0", 0),
        ("outputs=/x/y", "/x/y"),
        ("++seed=7", 7),
        ("launch.threads=2", 2),
        ("launch.threads=None", None),
        ("n=2", [2]),
        ("n=2,8", [2, 8]),
        ("n='2'", [2]),
        ("metrics=fid", ["fid"]),
        ("metrics=fid,kid", ["fid", "kid"]),
        ("methods=fix/0", ["fix/0"]),
        ("controls=noise", ["noise"]),
        ("name=2024", "2024"),
        ("name=007", "007"),
        ("name=1e5", "1e5"),
        ("name=true", "true"),
        ("name=a,b", "a,b"),
        ("model.revision=12345678", "12345678"),
        ("data.classes=star", ["star"]),
        ("data.classes=[0,1]", ["0", "1"]),
        ("data.classes=0,007", ["0", "007"]),
        ("data.classes=[crane (bird),no,'a, b']", ["crane (bird)", "no", "a, b"]),
        ("data.titles={0: 1}", {"0": "1"}),
        ("data.options={a: 3}", {"a": 3}),
        ("model.prompt=a photo, of {} (x)", "a photo, of {} (x)"),
        ("model.path=/home/andré (1)/it's=b", "/home/andré (1)/it's=b"),
        ("model.path=C:\\a\\", "C:\\a\\"),
        ("seed='3'", 3),
        ("draws=1e2", 100),
        ("device=1", "cuda:1"),
        ("device=gpu:1", "cuda:1"),
        ("device=CPU", "cpu"),
        ('n="2,8"', [2, 8]),
        ("n='[2,8]'", [2, 8]),
        ('data.classes="a,b"', ["a,b"]),
        ("model.precision=fp16", "float16"),
        ("budget=90", 90),
        ("budget=1h 30m", 5400),
        ("budget=2 Hours", 7200),
        ("budget=.5h", 1800),
        ("budget=1:30:00", 5400),
        ("budget=2-00:00:00", 2 * 86400),
        ("until=5%", 0.05),
        ("data.titles={café (old): it's closed}", {"café (old)": "it's closed"}),
        ("data.titles={'tree frog': frog}", {"tree frog": "frog"}),
        ("data.options={é: true}", {"é": True}),
    ],
)
def test_an_override_arrives(override: str, value: Any) -> None:
    at: Any = compose([override]).as_dict()
    for part in override.split("=")[0].lstrip("+").split("."):
        at = at[part]
    assert at == value


def test_a_config_is_frozen() -> None:
    made = compose([])
    for owner, name in ((made, "seed"), (made.model, "size"), (made.inversion, "steps")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(owner, name, 1)


ROUND_TRIPS: list[Sequence[str]] = [
    [],
    ["experiment=demo"],
    ["experiment=fig7", "model=sd15", "data=folder", "data.path='/x/é'", "model.revision=main", "batch=4"],
    [
        "data.classes=[star]",
        "data.reference=null",
        "launch.threads=1",
        "outputs=../out",
        "guidance=0.1",
        "seed=123456789",
    ],
]


@pytest.mark.parametrize("overrides", ROUND_TRIPS, ids=lambda overrides: " ".join(overrides[:1]) or "defaults")
def test_plain_values_make_the_same_config_again(overrides: Sequence[str]) -> None:
    made = compose(overrides)
    plain = made.as_dict()
    for again in (plain, yaml.safe_load(yaml.safe_dump(plain)), json.loads(json.dumps(plain))):
        assert validate(again) == made
        assert validate(again).as_dict() == plain


def test_the_keys_of_a_config_are_those_of_its_file() -> None:
    """As the file lists every key and its default."""
    top = yaml.safe_load((config_folder() / "config.yaml").read_text())
    groups = {next(iter(entry)) for entry in top["defaults"] if isinstance(entry, dict)}
    assert (top.keys() | groups) - {"defaults", "experiment"} == {field.name for field in dataclasses.fields(Config)}


# Users' own presets


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A folder of presets: a model that builds on another, and an experiment."""
    folder = tmp_path / "it's mine"
    for group, option, text in (
        ("model", "tuned", "defaults: [sd15, _self_]\npath: /models/x\nhub: null\n"),
        ("model", "named", "defaults: [sd15, _self_]\nname: Named\n"),
        ("experiment", "short", "# @package _global_\ndefaults:\n  - override /model: tuned\ndraws: 3\nsteps: 4\n"),
        ("inversion", "careful", "defaults: [fixed_point, _self_]\nname: careful\niterations: 20\n"),
    ):
        (folder / group).mkdir(parents=True, exist_ok=True)
        (folder / group / f"{option}.yaml").write_text(text)
    return folder


def test_presets_of_other_folders_are_found(own: Path) -> None:
    made = compose(["experiment=short", "inversion=careful"], [own])
    assert (made.draws, made.steps, made.model.path, made.model.hub) == (3, 4, "/models/x", None)
    assert made.model.guidance == compose(["model=sd15"]).model.guidance
    settings = FixedPointSettings("careful", "fixed_point", 4, 1.0, "trailing", float32=("transformer",), iterations=20)
    assert made.inversion == settings


def test_presets_are_found_by_the_environment(own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "more" / "experiment").mkdir(parents=True)
    (tmp_path / "more" / "experiment" / "long.yaml").write_text("# @package _global_\ndraws: 3000\n")
    monkeypatch.setenv("LATENTMIX_CONFIGS", f"{own}{os.pathsep}{tmp_path / 'more'}")
    assert compose(["experiment=short"]).draws == 3
    assert compose(["experiment=long", "model=tuned"]).draws == 3000
    assert "there are augment, demo, fig1" in (text := refusal("experiment=lang"))
    assert "long" in text and "short" in text


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        (["model=tuned"], "tuned"),
        (["model=named"], "Named"),
        (["experiment=short"], "tuned"),
        (["model=tuned", "model.path=/y/z"], "z"),
        (["model=tuned", "model.name=mine"], "mine"),
        (["model=sd15"], "sd15"),
        (["model=sd15", "model.path=/runs/best of 3/"], "best-of-3"),
        (["model=sd15", "model.hub=some-one/Tuned_v1.5"], "Tuned_v1.5"),
        (["model=sd15", "model.path=/a/b", "++model.name=c"], "c"),
        (["model.path=.."], Path("..").resolve().name or "unnamed"),
    ],
)
def test_a_model_is_named_by_what_is_read(overrides: list[str], name: str, own: Path) -> None:
    made = compose(overrides, [own])
    assert made.model.name == name
    assert made.name == f"{name}-shapes"


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        ([], "shapes"),
        (["data=imagenette"], "imagenette"),
        (["data=folder", "data.path='/pictures/cats and dogs'"], "cats-and-dogs"),
        (["data=folder", "data.path=/pictures/cats", "data.name=pets"], "pets"),
        (["data=hub", "data.hub=owner/pets"], "pets"),
    ],
)
def test_data_are_named_by_what_is_read(overrides: list[str], name: str) -> None:
    made = compose(overrides)
    assert (made.data.name, made.name) == (name, f"tiny-{name}")


def test_folders_of_presets_that_cannot_be_used_are_named(own: Path) -> None:
    (own / "model" / "tiny.yaml").write_text("size: 64\n")
    with pytest.raises(UserError, match=r"tiny\.yaml has the name of latentmix's own model=tiny; rename it"):
        compose([], [own])
    with pytest.raises(UserError, match=r"there is no folder .*nowhere, which --config-dir or LATENTMIX_CONFIGS names"):
        compose([], [own / "nowhere"])


@pytest.mark.parametrize(
    ("file", "text", "expected"),
    [
        ("inversion/bad.yaml", "defaults: [ddim\n", "bad.yaml can't be read as a preset: while parsing"),
        ("inversion/bad.yaml", "steps: 3 # caf\xe9\n", "bad.yaml can't be read as a preset: 'utf-8' codec"),
        ("inversion/bad.yaml", "defaults: [bad]\n", "bad.yaml builds on itself, by way of bad; mend its defaults"),
        ("inversion/bad.yaml", "", "inversion.name and inversion.kind and .* are needed; give inversion.name=..., or"),
        ("inversion/bad.yml", "defaults: [ddim]\n", "rename .*/bad.yml to bad.yaml, as only"),
        ("bad.yaml", "defaults: [ddim]\n", "put .*/bad.yaml into a folder inversion, and give the folder above"),
    ],
)
def test_what_is_wrong_with_a_preset_is_said(file: str, text: str, expected: str, tmp_path: Path) -> None:
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match=expected):
        compose(["inversion=bad"], [tmp_path])


def test_a_faulty_preset_does_not_hide_what_is_wrong_with_another_key(own: Path) -> None:
    (own / "inversion" / "bad.yaml").write_text("defaults: [bad]\n")
    with pytest.raises(
        UserError, match=r"no key 'inversion\.iterations'; it belongs to inversion=careful, fixed_point"
    ):
        compose(["inversion.iterations=3"], [own])


def test_a_renamed_setting_in_a_file_is_called_by_its_new_name(own: Path) -> None:
    (own / "model" / "old.yaml").write_text("defaults: [tiny, _self_]\nworld: shapes\n")
    (own / "experiment" / "old.yaml").write_text("# @package _global_\ndata:\n  classes: ${_classes.${model.world}}\n")
    with pytest.raises(UserError, match=r"model\.world is now model\.domain"):
        compose(["model=old"], [own])
    with pytest.raises(UserError, match=r"uses model\.world, which is now model\.domain"):
        compose(["experiment=old"], [own])


def test_an_experiment_without_its_first_line_is_told_to_have_it(own: Path) -> None:
    (own / "experiment" / "plain.yaml").write_text("draws: 3\n")
    with pytest.raises(UserError, match="must begin with the line `# @package _global_`"):
        compose(["experiment=plain"], [own])


def test_a_preset_that_builds_on_none_is_named(own: Path) -> None:
    (own / "model" / "lost.yaml").write_text("defaults: [sd99, _self_]\n")
    with pytest.raises(
        UserError, match=r"there is no model=sd99, which model/lost builds on; there are flux-dev, .*lost, named, "
    ):
        compose(["model=lost"], [own])


# What differs


def test_settings_that_differ_are_named() -> None:
    old, new = compose(["model=sd15", "draws=5"]), compose(["model=sd15", "model.path=/x/tuned", "n=[2,4]"])
    assert differences(old.as_dict(), new.as_dict()) == [
        "model.name=sd15 there, tuned here",
        "model.path=null there, /x/tuned here",
        "n=[2,4,8,16,32,48,64] there, [2,4] here",
        "draws=5 there, 1000 here",
    ]


def test_settings_that_change_no_result_do_not_differ() -> None:
    how = ["device=cuda", "batch=7", "outputs=/x", "keep=0", "name=other", "overwrite=true", "launch=slurm"]
    how += ["speed.compile=true", "model.offload=true"]
    assert differences(compose([]).as_dict(), compose(how).as_dict()) == []
    offloaded = compose(["model.offload=true"]).as_dict()
    assert result_settings(offloaded) == result_settings(compose([]).as_dict())


def test_a_run_may_be_given_more_to_measure() -> None:
    old = compose(["n=[2]", "metrics=[fid]"]).as_dict()
    assert (
        differences(old, compose(["n=[2,4]", "metrics=[clip_distance,fid]", "controls=[real,noise]"]).as_dict()) == []
    )
    assert differences(old, compose(["n=[4]", "metrics=[fid]"]).as_dict()) == ["n=[2] there, [4] here"]


def test_settings_that_came_later_do_not_differ() -> None:
    older = compose([]).as_dict()
    del older["seed"], older["model"]["perceptual"]
    assert differences(older, compose(["seed=3", "model.perceptual=alex"]).as_dict()) == []


# What is refused

ERRORS: list[tuple[str, list[str]]] = [
    ("data.path=/photos", ["data.path is a setting of data=folder or data=imagenet", "give data=folder with it"]),
    ("data.hub=me/photos", ["data.hub is a setting of data=hub", "data.kind is shapes; give data=hub with it"]),
    ("data.split=val", ["data.split is a setting of data=hub"]),
    ("data.noise=0.1", ["data.noise is a setting of data=synthetic"]),
    ("model.hub=me/finetune", ["model.hub=me/finetune is not read", "such as model=sd15"]),
    ("outputs=", ["outputs", "is empty", "a variable that is not set"]),
    ("model.path=", ["model.path", "is empty"]),
    ("stps=10", ["no key 'stps'", "did you mean 'steps'?"]),
    ("+stps=10", ["no key 'stps'", "did you mean 'steps'?"]),
    ("++stps=10", ["no key 'stps'", "did you mean 'steps'?"]),
    ("~stps", ["no key 'stps'", "did you mean 'steps'?"]),
    ("modle=tiny", ["no key 'modle'", "did you mean 'model'?"]),
    ("model.guidence=3", ["no key 'model.guidence'", "did you mean 'model.guidance'?"]),
    ("+model.guidence=3", ["no key 'model.guidence'", "did you mean 'model.guidance'?"]),
    ("inversion.setps=3", ["no key 'inversion.setps'", "did you mean 'inversion.steps'?"]),
    ("xyzzy=1", ["no key 'xyzzy'", "name, model, data", "outputs, keep"]),
    ("model=tinny", ["no model=tinny", "sd15", "tiny"]),
    ("experiment=dmeo", ["no experiment=dmeo", "demo, fig1"]),
    ("inversion=ddmi", ["no inversion=ddmi", "ddim"]),
    ("data=shape", ["no data=shape", "folder, hub, imagenet, imagenet-hub, imagenette, shapes"]),
    ("launch=lokal", ["no launch=lokal", "local"]),
    ("methods=[fix/0,niin/chm]", ["'niin/chm'", "did you mean 'nin/chm'?"]),
    ("methods=[fix]", ["'fix'", "norms lin, fix, nin", "means 0, m, chm"]),
    ("methods=[]", ["methods"]),
    ("n=[]", ["n, methods and metrics"]),
    ("metrics=[fid,kidd]", ["metrics.1", "no metric 'kidd'", "did you mean 'kid'?", "density, coverage"]),
    ("metrics=[]", ["metrics"]),
    ("controls=[nois]", ["controls.0='nois'", "'real', 'noise' or 'gauss'"]),
    ("n=[2,129]", ["n=129", "pool=128"]),
    ("pool=63", ["n=64", "pool=63"]),
    ("weights=equal", ["weights", "uniform"]),
    ("weights=0", ["weights", "greater than 0"]),
    ("n=[0]", ["n.0=0", "greater than 0"]),
    ("n=[2.5]", ["n.0=2.5", "integer"]),
    ("n=[2,8", ["[2,8"]),
    ("n=[2,8]]", ["n=[2,8]]"]),
    ("draws=-3", ["draws=-3", "greater than 0"]),
    ("draws=0", ["draws=0", "greater than 0"]),
    ("draws=1", ["draws", "at least 2"]),
    ("draws=many", ["draws='many'", "integer"]),
    ("draws=", ["draws=''", "integer"]),
    ("draws=null", ["draws=None", "integer"]),
    ("--force", ["'--force' is not KEY=VALUE"]),
    ("data=folder", ["data.path is needed", "data.path=..."]),
    ("spacing=karras", ["spacing", "trailing, leading, linspace", "'karras'"]),
    ("inversion.spacing=Trailing", ["spacing", "trailing, leading, linspace", "'Trailing'"]),
    ("name=a/b", ["name='a/b'", "plain folder name"]),
    ("name=..", ["name='..'", "plain folder name"]),
    ("name=cache", ["name='cache'", "plain folder name"]),
    ("name=", ["name=''", "plain folder name"]),
    ("name=/etc", ["name='/etc'", "plain folder name"]),
    ("model.prompt='a photo'", ["prompt", "{}"]),
    ("model.precision=float8", ["model.precision='float8'", "'float32'"]),
    ("model.size=-64", ["model.size=-64", "should be pixels: 512, or 768x512"]),
    ("model.size=768x", ["model.size='768x'", "should be pixels"]),
    ("guidance=-1", ["guidance=-1", "greater than or equal to 0"]),
    ("guidance=nan", ["guidance=nan"]),
    ("steps=0", ["steps=0", "greater than 0"]),
    ("batch=0", ["batch=0", "greater than 0", "'auto'"]),
    ("keep=-1", ["keep=-1"]),
    ("seed=1.5", ["seed=1.5", "integer"]),
    ("outputs=null", ["outputs=None"]),
    ("data.bad_images=ignore", ["data.bad_images='ignore'", "'refuse' or 'skip'"]),
    ("data.classes=random:0", ["data.classes=random:K"]),
    ("data.classes=[random:2,star]", ["data.classes=random:K", "stands alone"]),
    ("data.kind=folders", ["no data.kind 'folders'; did you mean 'folder'", "shapes, things, folder, imagenet"]),
    ("data.titles={star: true}", ["data.titles.star=True", "valid string", "in quotes"]),
    ("seed=0,1", ["seed=0,1", "one value", "sweep -m seed=0,1"]),
    ("experiment=fig1,fig2", ["experiment=fig1,fig2", "one value"]),
    ("stps=0,1", ["no key 'stps'", "did you mean 'steps'?"]),
    ("data.titles={star: ''}", ["data.titles.star=''", "at least 1 character"]),
    ("data.limit=100", ["data.reference=500 is more than data.limit=100"]),
    ("data.limit=0", ["data.limit=0"]),
    ("data.reference=0", ["data.reference=0"]),
    ("data.light=300", ["data.light=300"]),
    ("launch.threads=0", ["launch.threads=0"]),
    ("name=${nothing}", ["nothing", "name"]),
    ("data=./photos", ["no data=./photos", "give data=folder data.path=./photos"]),
    ("model=/tmp", ["no model=/tmp", "model=sd15 model.path=/tmp"]),
    ("model=me/tuned", ["no model=me/tuned", "model=sd15 model.hub=me/tuned"]),
    ("budget=soon", ["budget='soon'", "such as 12h, 1h30m or 90s"]),
    ("~name", ["name is needed; give name=..."]),
]


def test_only_drawn_images_can_be_lit() -> None:
    assert compose(["data=things", "data.light=12"]).data.light == 12
    with pytest.raises(UserError, match="data=shapes or data=things"):
        compose(["data=synthetic", "data.classes=[star]", "data.light=12"])


def test_a_mean_of_the_pool_needs_images_that_are_not_mixed() -> None:
    pooled = ["methods=[fix/0,nin/pool,fix/pchm]", "n=[2,64]"]
    with pytest.raises(UserError, match=r"nin/pool needs images .* at least 128, or leave out nin/pool, fix/pchm"):
        compose([*pooled, "pool=64"])
    assert compose([*pooled, "pool=65"]).pool == 65


@pytest.mark.parametrize(("override", "parts"), ERRORS, ids=[override for override, _ in ERRORS])
def test_what_is_wrong_is_named_in_one_line(override: str, parts: list[str]) -> None:
    text = refusal(override)
    for part in parts:
        assert part in text, text


def test_a_renamed_setting_is_refused_with_its_new_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(setting_errors.RENAMED, "speed.old", "speed.new")
    assert refusal("speed.old=true") == refusal("+speed.old=true") == "speed.old is now speed.new"


def test_the_wrong_one_of_many_overrides_is_named() -> None:
    text = refusal("experiment=demo", "model=tiny", "pool=100", "inversion.stps=3", "data.classes=[star]", "steps=9")
    assert "no key 'inversion.stps'" in text
    assert "data.path is needed" in refusal("data=folder", "model.path=/x", "steps=9")


def test_all_that_is_wrong_is_said_at_once() -> None:
    text = refusal("draws=-3", "seed=abc", "model.size=0")
    for part in ("draws=-3", "seed='abc'", "model.size=0"):
        assert part in text


def test_a_file_of_plain_values_is_checked_likewise() -> None:
    plain = compose([]).as_dict()
    for wrong, part in (
        (plain | {"stps": 3}, "did you mean 'steps'?"),
        (plain | {"model": plain["model"] | {"sizze": 3}}, "did you mean 'model.size'?"),
        ({name: value for name, value in plain.items() if name != "seed"}, "seed"),
        (plain | {"methods": ["fix/zero"]}, "'fix/zero'"),
        ([], ""),
        (None, ""),
    ):
        with pytest.raises(UserError) as caught:
            validate(wrong)
        assert part in str(caught.value)
        assert "\n" not in str(caught.value)


# Objects of Python's cannot be made by a config


@pytest.mark.parametrize(
    "override",
    [
        "+x=!!python/object/apply:os.mkdir ['{}']",
        "+x='!!python/object/apply:os.mkdir [{}]'",
        "+x={{_target_:os.mkdir,path:'{}'}}",
        "+model._target_=os.mkdir",
        "model._target_=os.mkdir",
        "model={{_target_:os.mkdir,path:'{}'}}",
        "model.path={{_target_:os.mkdir,path:'{}'}}",
        "name=${{oc.create:os.mkdir}}",
        "name=${{python:os.mkdir}}",
    ],
)
def test_an_override_that_would_make_an_object_is_refused(tmp_path: Path, override: str) -> None:
    refusal(override.format(tmp_path / "made"))
    assert not (tmp_path / "made").exists()


def test_a_tag_of_yamls_stays_a_text(tmp_path: Path) -> None:
    text = f"!!python/object/apply:os.mkdir [{tmp_path / 'made'}]"
    assert compose([f"model.path='{text}'"]).model.path == compose([f"model.path={text}"]).model.path == text
    assert not (tmp_path / "made").exists()


# What should be refused, or in better words


@pytest.mark.parametrize(
    ("override", "part"),
    [
        ("draws", "'draws' is not KEY=VALUE"),
        ("star", "'star' is not KEY=VALUE"),
        ("n=[2,8", "n=[2,8"),
        ("~steps", "steps is needed"),
        ("model=null", "model"),
        ("=3", "=3"),
        ("seed=-1", "seed=-1"),
        ("guidance=inf", "guidance=inf"),
        ("n=[2,2]", "n"),
        ("data.classes=[]", "data.classes"),
        ("model.prompt='a {} {x}'", "prompt"),
        ("model.prompt='a {} or {}'", "prompt"),
        ("model.prompt='a {{}}'", "prompt"),
    ],
)
def test_what_fails_late_or_obscurely_is_refused(override: str, part: str) -> None:
    assert part in refusal(override)


# Advice, and that it can be followed

ADVICE = [  # what was given, the advice, the same with its placeholders filled in
    ("n=[2,8", "write 'n=[VALUE,VALUE]'", "n=[2,8]"),
    ("data.titles={star: [}", "write 'data.titles={NAME: VALUE, NAME: VALUE}', with quotes", "data.titles={star: '['}"),
    ("draws=(", "write draws=VALUE, a plain number", "draws=8"),
    ("stps=3", "did you mean 'steps'?", "steps=3"),
    ("methods=[niin/chm]", "did you mean 'nin/chm'?", "methods=[nin/chm]"),
    ("metrics=kidd", "did you mean 'kid'?", "metrics=kid"),
    ("methods=adain/chm", "write adain/0", "methods=adain/0"),
    ("spacing=karras", "must be one of trailing, leading, linspace", "spacing=linspace"),
    ("pool=63", "raise pool or lower n", "pool=64"),
    ("data.classes=[]", "null takes all classes", "data.classes=null"),
    ("data.titles={star: true}", "put it in quotes", "data.titles={star: 'true'}"),
    ("data.classes=[null]", "put it in quotes", "data.classes=['null']"),
    ("draws=1,000", "draws=1,000: write 1000, without commas", "draws=1000"),
    ("n=2,048", "n=2,048: write 2048 for one number, or each number without a 0 before it", "n=2,48"),
    ("model=SD15", "did you mean sd15?", "model=sd15"),
    ("inversion=null-text", "did you mean null_text?", "inversion=null_text"),
    ("guidance=7,5", "write 7.5, with a point", "guidance=7.5"),
    ("until=0,05", "write 0.05, with a point", "until=0.05"),
    ("model.size=512,512", "write pixels as 512, or as 768x512", "model.size=512"),
    ("+seed=3", "leave out the +", "seed=3"),
    ("controls=null", "controls=[] is an empty one", "controls=[]"),
    ("n=range(2,8)", "n=range(2,8): write 'n=[VALUE,VALUE]'; `latentmix sweep -m n=range(2,8)` makes", "n=[2,4]"),
    ("seed=range(0,3)", "seed=range(0,3): write one value; `latentmix sweep -m seed=range(0,3)` makes", "seed=1"),
]


@pytest.mark.parametrize(("given", "advice", "followed"), ADVICE, ids=[given for given, *_ in ADVICE])
def test_following_advice_works(given: str, advice: str, followed: str) -> None:
    assert advice in refusal(given)
    compose([followed])


def test_advice_on_several_settings_works() -> None:
    assert "set steps=..., which sets both" in refusal("inversion=exact", "steps=9", "inversion.steps=8")
    compose(["inversion=exact", "steps=9"])
    assert "give it as data.path=..." in refusal("data=folder")
    compose(["data=folder", "data.path=/x"])
    assert "leave out launch.workers" in refusal("launch.gpus=2", "launch.workers=2")
    compose(["launch.gpus=2"])
    assert "launch.gpus=1 and more launch.shards" in refusal("launch=slurm", "launch.gpus=2")
    compose(["launch=slurm", "launch.gpus=1", "launch.shards=8"])


# What of it makes a result another

CELL = Cell("star", 2, Method("fix", "0"))
BASE = ("device=cpu", "model.precision=float32")


def identities(*overrides: str, cell: Cell = CELL) -> tuple[str, str]:
    """The names of what is kept of a class's latents and of a cell."""
    experiment = Experiment(compose([*BASE, *overrides]))
    return key(experiment.layout.latents_identity(cell.class_id)), key(experiment.layout.cell_identity(cell))


@pytest.fixture(scope="module")
def base() -> tuple[str, str]:
    return identities()


@pytest.mark.parametrize(
    "override",
    [
        "device=auto",
        "batch=3",
        "outputs=elsewhere",
        "keep=0",
        "launch.threads=1",
        "name=other",
        # What it is one of many of, and how it is measured
        "draws=7",
        "n=[2,4]",
        "methods=[fix/0]",
        "data.classes=[star]",
        "data.reference=7",
        "model.features=inception",
        "model.clip=ViT-L-14/openai",
        "model.guidance=7 guidance=3",
        "metrics=[kid]",
        "controls=[noise]",
    ],
)
def test_how_and_of_what_run_it_is_makes_no_difference(base: tuple[str, str], override: str) -> None:
    assert identities(*override.split()) == base


@pytest.mark.parametrize(
    "override", ["seed=1", "guidance=2.5", "steps=49 inversion.steps=50", "pool=100", "weights=0.3"]
)
def test_a_cell_is_another_where_only_mixing_or_generation_is(base: tuple[str, str], override: str) -> None:
    latents, cell = identities(*override.split())
    assert latents == base[0]
    assert cell != base[1]


@pytest.mark.parametrize("spacing", ["leading", "linspace"])
def test_the_spacing_of_generation_is_told_from_that_of_inversion(base: tuple[str, str], spacing: str) -> None:
    latents, cell = identities(f"spacing={spacing}", "inversion.spacing=trailing")
    assert latents == base[0]
    assert cell != base[1]


@pytest.mark.parametrize(
    "override",
    [
        "steps=49",
        "inversion.steps=49",
        "inversion.guidance=2",
        "inversion.spacing=leading",
        "model.size=32",
        "model.prompt='a drawing of a {}'",
        "model.precision=bfloat16",
    ],
)
def test_all_is_another_where_inversion_is(base: tuple[str, str], override: str) -> None:
    for new, old in zip(identities(override), base, strict=True):
        assert new != old


@pytest.mark.parametrize(
    "cell", [Cell("star", 4, CELL.method), Cell("star", 2, Method("nin", "0")), Cell("star", 2, Method("fix", "chm"))]
)
def test_cells_of_a_class_share_its_latents(base: tuple[str, str], cell: Cell) -> None:
    latents, other = identities(cell=cell)
    assert latents == base[0]
    assert other != base[1]


def test_classes_share_nothing(base: tuple[str, str]) -> None:
    for new, old in zip(identities(cell=Cell("ring", 2, CELL.method)), base, strict=True):
        assert new != old


def test_identities_are_plain() -> None:
    """So that they can be written beside what they name, and read by anyone."""
    experiment = Experiment(compose(BASE))
    for identity in (experiment.layout.latents_identity("star"), experiment.layout.cell_identity(CELL)):
        assert json.loads(json.dumps(identity)) == identity
        assert not any(isinstance(value, float) and math.isnan(value) for value in identity.values())


# Paths


def test_a_tilde_that_names_no_user_is_part_of_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LATENTMIX_CACHE", "~no such user")
    Path("~home").mkdir()
    Image.new("RGB", (8, 8)).save("~home/a.png")
    assert find_run("~home") == Path("~home") and user_cache() == Path("~no such user")
    assert read_pictures("~home/a.png", 8)[1]
    assert "metrics compare at least 2" in invoke("evaluate", "--images", "~home", "--reference", "~home").err


@pytest.mark.parametrize("quoted", ["{}", "'{}'", '"{}"'])
@pytest.mark.parametrize(
    ("key", "more"),
    [
        ("outputs", []),
        ("data.path", ["data=folder"]),
        ("data.path", ["data=imagenet"]),
        ("data.hub", ["data=hub"]),
        ("model.path", []),
        ("model.features", []),
    ],
)
def test_a_path_in_the_home_folder(key: str, more: list[str], quoted: str) -> None:
    for given in ("~/my photos/a", "~"):
        config: Any = compose([*more, f"{key}={quoted.format(given)}"])
        for part in key.split("."):
            config = getattr(config, part)
        assert str(config) == str(Path(given).expanduser()) and "~" not in str(config)
    assert compose(["outputs='a~b'"]).outputs == Path("a~b")


def test_an_embedded_model_is_found_whatever_its_name() -> None:
    assert find(compose(["model.name=other"]).model) == find(compose([]).model)


def test_a_line_of_shell_may_have_commas() -> None:
    line = "export CUDA_VISIBLE_DEVICES=0,1"
    assert compose(["launch=slurm", f"launch.setup={line}"]).launch.setup == (line,)
    assert compose(["launch=slurm", f"launch.setup=['{line}', module load cuda]"]).launch.setup == (
        line,
        "module load cuda",
    )
    assert compose(["launch=slurm", f'launch.setup="{line}"']).launch.setup == (line,)


@pytest.mark.parametrize(
    "settings", [["data=hub", "data.hub=me/x", "data.path=/x"], ["data=folder", "data.path=/x", "data.hub=a/b"]]
)
def test_two_sources_of_images_are_one_too_many(settings: list[str]) -> None:
    with pytest.raises(UserError, match=r"data\.(path|hub) is a setting of data="):
        compose(settings)


def test_a_run_that_is_the_current_folder_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "run" / "images").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "run")
    assert find_run(".") == tmp_path / "run" and find_run("images") == Path("images")
    monkeypatch.chdir("images")
    assert find_run("..") == tmp_path / "run"


def test_every_kind_of_data_that_comes_with_latentmix_is_known_to_its_settings() -> None:
    assert set(DATASETS) == BUILT_IN
    assert {kind for kinds in READERS.values() for kind in kinds} <= BUILT_IN


@pytest.mark.parametrize(
    ("override", "value"),
    [("launch.timeout_min=4h", 240), ("launch.timeout_min=24:00:00", 1440), ("launch.mem_gb=32G", 32)],
)
def test_settings_of_slurm_are_read_as_sbatch_reads_them(override: str, value: int) -> None:
    assert getattr(compose(["launch=slurm", override]).launch, override.split("=")[0].split(".")[1]) == value


def test_arguments_of_sbatch_that_have_settings_or_dashes_are_told() -> None:
    assert "it is called launch.timeout_min" in refusal("launch=slurm", "launch.time=60")
    assert "without dashes: gres, not --gres" in refusal("launch=slurm", "launch.extra={--gres: gpu}")


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("'n=[2,8]'", "n=[2,8]"),
        ("“seed=3”", "seed=3"),
        (" seed = 3", "seed= 3"),
        ("model.prompt='a {}'", "model.prompt='a {}'"),
        ("fish.png", "fish.png"),
        ("it's=a", "it's=a"),
    ],
)
def test_quotes_around_a_setting_and_spaces_around_its_key_are_left_out(typed: str, meant: str) -> None:
    assert unwrapped(typed) == meant
