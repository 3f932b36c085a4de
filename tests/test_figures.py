"""The paper's figures: each is made from nothing, on the models that it is about, and shows what its caption says."""

import math
import os
import re
import shlex
import shutil
import subprocess
import weakref
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from driver import Said, invoke
from PIL import Image
from torch import Tensor

from latentmix.compose import compose
from latentmix.experiment.draws import Cell
from latentmix.experiment.experiment import Experiment
from latentmix.figures import grid, registry, toy
from latentmix.images import read_image
from latentmix.mixing import Method
from latentmix.models import denoiser
from latentmix.models.loading import load_network

SMALL = ("model=tiny", "steps=2", "launch.threads=1")
FEW = {  # of each figure, enough to see whether it is right
    "fig1": ("pool=4", "n=[2,4]"),
    "fig2": (),
    "fig3": ("pool=4", "n=[2,4]", "data.reference=2"),
    "fig4": ("pool=4", "n=[2]", "data.classes=[star,heart]"),
    "fig5": ("pool=4", "n=[2,4]", "data.reference=2"),
    "fig6": (),
    "fig7": (
        *("pool=4", "n=[2,4]", "data.classes=[star,heart]", "methods=[fix/0,nin/chm]", "draws=4"),
        *("data.reference=9", "metrics=[fid,clip_distance]"),
    ),
    "fig8": ("pool=4", "n=[2,4]"),
    "fig9": ("pool=4", "n=[3]"),
    "fig10": ("pool=4", "n=[2,4]", "inversion.steps=2"),
    "fig11": ("pool=4", "n=[2,4]", "inversion.iterations=1"),
    "fig12": ("pool=4", "n=[2,4]"),
}
PAPER = {  # what the paper has: N, methods, inversion steps, models
    "fig1": ((2, 8, 32, 48, 64, 96), ("lin/0", "fix/0", "fix/chm"), 50, ("sd15",)),
    "fig3": ((2, 8, 32, 48, 64, 96), ("fix/0",), 50, ("sd15",)),
    "fig5": ((2, 8, 32, 48, 64, 96), ("fix/0",), 50, ("sd35-medium",)),
    "fig8": ((2, 8, 32, 48, 64, 96), ("fix/0", "fix/chm", "nin/chm"), 50, ("sd15",)),
    "fig9": ((12,), ("fix/0", "nin/chm"), 50, ("sd35-medium",)),
    "fig10": ((2, 4, 8, 16, 32, 64), ("fix/0",), 500, ("sd15", "sd35-medium")),
    "fig11": ((2, 4, 8, 16, 32, 64), ("fix/0",), 50, ("sd15",)),
    "fig12": ((2, 8, 32, 48, 64, 96), ("fix/0", "fix/chm", "nin/chm"), 50, ("sd35-medium",)),
}


def make(outputs: Path, name: str, *more: str) -> Said:
    said = invoke("figure", name, *SMALL, *FEW[name], *more, f"outputs={outputs}")
    assert said.code == 0, said.err
    return said


def experiments(outputs: Path, name: str) -> list[Experiment]:
    return [Experiment(config) for config in registry.configs(name, [*SMALL, *FEW[name], f"outputs={outputs}"])]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("figures")


@pytest.mark.parametrize("name", FEW)
def test_each_figure_is_made_from_nothing(outputs: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toy, "path", partial(toy.path, points=5))  # `nao` takes 0.2 s a point
    paths = [outputs / "figures-tiny" / f"{name}.{ending}" for ending in ("png", "pdf", "txt")]
    assert make(outputs, name).out.split("\n")[-4:-1] == [str(path) for path in paths]
    with Image.open(paths[0]) as image:
        assert len(np.unique(np.asarray(image.convert("RGB")).reshape(-1, 3), axis=0)) > 50
    assert paths[1].read_bytes().startswith(b"%PDF-")
    caption = paths[2].read_text()
    assert caption.startswith(f"Fig. {name.removeprefix('fig')}. ") and "{" not in caption
    for model in (
        experiment.config.model.name for experiment in experiments(outputs, name) if registry.FIGURES[name].families
    ):
        assert re.search(rf"\b{model}\b[,:]", caption)


def test_a_figure_is_not_made_twice(outputs: Path) -> None:
    make(outputs, "fig8")
    said = make(outputs, "fig8").err
    assert "invert: all 4 images are there already" in said and "generate: all 6 images" in said


@pytest.mark.parametrize(("name", "wanted"), PAPER.items())
def test_settings_are_the_papers(name: str, wanted: tuple[Sequence[int], Sequence[str], int, Sequence[str]]) -> None:
    data = [] if name in ("fig3", "fig5") else ["data=imagenet", "data.path=/x"]
    found = registry.configs(name, ["model=sd15", *data])
    for config in found:
        assert (config.n, tuple(map(str, config.methods)), config.inversion.steps) == wanted[:3]
        assert config.steps == wanted[2]
    assert tuple(config.model.name for config in found) == wanted[3]


def test_a_flow_model_stands_for_itself() -> None:
    for name in ("fig4", "fig5", "fig8"):
        assert [config.model.name for config in registry.configs(name, ["model=tiny-sd3"])] == ["tiny-sd3"]


def test_classes_of_other_images_do_not_reach_a_counterpart_that_does_not_know_them() -> None:
    own, flow = registry.configs("fig10", ["model=tiny-128", "data=things", "data.classes=[cup]"])
    assert (own.data.name, own.data.classes) == ("things", ("cup",))
    assert (flow.model.name, flow.data.name, flow.data.classes) == ("tiny-sd3", "shapes", ("triangle",))
    own, flow = registry.configs("fig10", ["model=tiny", "data.classes=[star]"])
    assert own.data.classes == flow.data.classes == ("star",)


def test_overrides_of_a_model_do_not_reach_its_counterpart() -> None:
    own, flow = registry.configs("fig4", ["model=sd15", "model.path=/x", "data=folder", "data.path=/y", "seed=3"])
    assert (own.model.path, flow.model.path) == ("/x", None)
    assert (own.seed, flow.seed) == (3, 3)


@pytest.mark.parametrize("name", ["fig2", "fig4", "fig7"])
@pytest.mark.parametrize("more", [["seed=1"], []])
def test_naming_a_figures_own_experiment_changes_nothing(name: str, more: list[str]) -> None:
    for named in ([f"experiment={name}", *more], [*more, f"experiment={name}"]):
        assert registry.configs(name, named) == registry.configs(name, more)
        assert registry.stem(name, named) == registry.stem(name, more) == Path("outputs/figures-tiny-128") / name


def test_another_experiment_is_drawn_on_its_own_model_into_its_folder() -> None:
    given = ["experiment=demo", "model=tiny", "name=mine"]
    assert registry.configs("fig4", given) == [compose(given)]
    assert registry.stem("fig4", given) == Path("outputs/mine/fig4")


def test_every_figure_has_a_sentence_and_a_config() -> None:
    assert list(registry.FIGURES) == [f"fig{k}" for k in range(1, 13)]
    for name in registry.FIGURES:
        assert compose([f"experiment={name}"]).name == f"{name}-tiny-128"


def test_figures_are_of_the_larger_embedded_model_unless_another_is_named() -> None:
    for name, figure in registry.FIGURES.items():
        models = {"diffusion": ("tiny-128", "things"), "flow": ("tiny-sd3", "shapes")}
        for config, family in zip(registry.configs(name, []), figure.families, strict=True):
            data = "synthetic" if name in ("fig3", "fig5") else models[family][1]
            assert (config.model.name, config.data.name) == (models[family][0], data)
    assert [config.model.name for config in registry.configs("fig4", ["model=tiny"])] == ["tiny", "tiny-sd3"]


@pytest.mark.parametrize(
    ("name", "more", "expected"),
    [
        ("fig1", [], "inverted from images of star. tiny, shapes: 4 images of each class inverted by ddim in 2 steps"),
        ("fig4", ["seed=5"], "4 images of each class inverted by ddim in 2 steps at guidance 1, seed 5."),
        (
            "fig6",
            ["seed=5"],
            "class star. Top row: before diffusion (t = T). Bottom row: after it (t = 0). tiny: gener",
        ),
        ("fig7", ["controls=[noise]"], "Grey lines: images generated from random latents."),
        ("fig7", [], "seed 0; 4 draws of each class, N and method."),
        (
            "fig8",
            ["guidance=3"],
            "generation in 2 steps at guidance 3, seed 0; the first draw of each class, N and method",
        ),
        ("fig9", [], "Images generated from centroids of N = 3 latents of circle, triangle, star, heart, crescent."),
        ("fig10", [], "by ddim500 inversion in 2 steps."),
        ("fig11", [], "by null_text inversion."),
    ],
)
def test_captions_say_what_was_run(outputs: Path, name: str, more: list[str], expected: str) -> None:
    runs = [Experiment(config) for config in registry.configs(name, [*SMALL, *FEW[name], *more, f"outputs={outputs}"])]
    assert expected in registry.caption(name, runs)


def test_captions_name_the_classes_of_each_model_where_they_differ() -> None:
    runs = [Experiment(config) for config in registry.configs("fig10", [])]
    assert "of N latents of fish (tiny-128) and triangle (tiny-sd3), by ddim500" in registry.caption("fig10", runs)
    runs = [Experiment(config) for config in registry.configs("fig10", ["model=tiny"])]
    assert "of N latents of triangle, by ddim500" in registry.caption("fig10", runs)


@pytest.fixture
def drawn(outputs: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """Return what `draw_grid` is given, instead of drawing it."""
    given: dict[str, object] = {}

    def remember(rows: list[list[Tensor]], names: list[str], titles: list[str], stem: Path) -> list[Path]:
        given.update(rows=rows, names=names, titles=titles)
        return []

    monkeypatch.setattr(grid, "draw_grid", remember)
    return given


def test_rows_are_methods_and_columns_n(outputs: Path, drawn: dict[str, object]) -> None:
    make(outputs, "fig1")
    assert (drawn["names"], drawn["titles"]) == (["lin/0", "fix/0", "fix/chm"], ["N = 2", "N = 4"])
    (experiment,) = experiments(outputs, "fig1")
    cell = Cell("star", 4, Method("fix", "chm"))
    assert torch.equal(drawn["rows"][2][1], read_image(experiment.layout.image_path(cell, 0)))  # type: ignore[index]


def test_columns_are_classes_where_there_is_one_n(outputs: Path, drawn: dict[str, object]) -> None:
    make(outputs, "fig9")
    assert drawn["titles"] == ["circle", "triangle", "star", "heart", "crescent"]
    (experiment,) = experiments(outputs, "fig9")
    assert experiment.config.model.name == "tiny-sd3"
    image = read_image(experiment.layout.image_path(Cell("heart", 3, Method("nin", "chm")), 0))
    assert torch.equal(drawn["rows"][1][3], image)  # type: ignore[index]


def test_rows_are_models_where_there_are_several(outputs: Path, drawn: dict[str, object]) -> None:
    make(outputs, "fig10")
    assert drawn["names"] == ["tiny", "tiny-sd3"]
    cell = Cell("triangle", 2, Method("fix", "0"))
    for row, experiment in zip(drawn["rows"], experiments(outputs, "fig10"), strict=True):  # type: ignore[call-overload]
        assert torch.equal(row[0], read_image(experiment.layout.image_path(cell, 0)))


def test_classes_and_n_are_both_named_where_there_are_several(outputs: Path, drawn: dict[str, object]) -> None:
    make(outputs, "fig1", "data.classes=[star,heart]")
    assert drawn["titles"] == ["star\nN = 2", "\nN = 4", "heart\nN = 2", "\nN = 4"]


def test_a_figure_of_another_experiment_goes_into_its_folder(outputs: Path) -> None:
    given = ("experiment=demo", *SMALL, *FEW["fig7"], "name=mine", f"outputs={outputs}")
    assert invoke("sweep", *given).code == 0
    before = (outputs / "mine" / "fig7.png").read_bytes()
    (outputs / "mine" / "fig7.png").unlink()
    said = invoke("figure", "fig7", *given)
    assert said.code == 0 and "are there already" in said.err
    assert (outputs / "mine" / "fig7.png").read_bytes() == before
    assert (outputs / "mine" / "done.json").exists()


def test_one_model_is_gone_before_the_next_is_read(outputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network is freed when nothing can use it any more."""
    networks: list[weakref.ref[Any]] = []

    def read(load: Any, folder: Path, **how: Any) -> Any:
        if folder.name in ("unet", "transformer"):
            assert all(network() is None for network in networks)
        network = load_network(load, folder, **how)
        if folder.name in ("unet", "transformer"):
            networks.append(weakref.ref(network))
        return network

    monkeypatch.setattr(denoiser, "load_network", read)
    make(outputs, "fig10", "seed=7")
    assert len(networks) == 2


def test_a_dry_run_only_plans(tmp_path: Path) -> None:
    said = invoke("figure", "fig10", *SMALL, *FEW["fig10"], f"outputs={tmp_path / 'outputs'}", "--dry-run")
    assert said.code == 0 and said.out.count("nothing was done") == 2  # once for each model
    assert not (tmp_path / "outputs").exists()


# Fig. 2


def test_paths_lead_from_one_end_to_the_other() -> None:
    for name in ("lin", "nin", "slerp", "lol", "slerp (eq. 3)"):
        path = toy.path(name)
        torch.testing.assert_close(path[[0, -1]], toy.ENDS, rtol=0, atol=1e-5)
    torch.testing.assert_close(toy.path("fix").norm(dim=1), torch.full((101,), math.sqrt(2)))


def test_eq_3_leaves_the_range_of_norms_and_nin_does_not() -> None:
    low, high = sorted(toy.ENDS.norm(dim=1).tolist())
    assert toy.path("slerp (eq. 3)").norm(dim=1).max() > 1.001 * high
    norms = toy.path("nin").norm(dim=1)
    assert norms.min() > low - 1e-5 and norms.max() < high + 1e-5


def test_eq_3_is_slerp_on_a_circle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toy, "ENDS", 1.3 * toy.ENDS / toy.ENDS.norm(dim=1, keepdim=True))
    torch.testing.assert_close(toy.path("slerp (eq. 3)"), toy.path("slerp"), rtol=0, atol=1e-5)


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
@pytest.mark.parametrize(("figure", "passed"), [("fig3", False), ("fig5", False), ("fig8", True)])
def test_make_gives_a_folder_of_images_to_the_figures_that_read_one(figure: str, passed: bool) -> None:
    """`make figures DATA=imagenet ARGS=data.path=DIR`; some figures are of images that the model generates."""
    settings = ["MODEL=sd15", "DATA=imagenet", "ARGS=data.path=/photos seed=1"]
    command = ["make", "-n", "--no-print-directory", figure, *settings]
    outside = {key: value for key, value in os.environ.items() if key not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")}
    root = Path(__file__).parents[1]
    said = subprocess.run(command, cwd=root, env=outside, capture_output=True, text=True, check=True).stdout
    typed = shlex.split(said[said.index("latentmix figure") :].replace("\\\n", " "))[3:]
    assert ("data.path=/photos" in typed) == passed
    assert {config.seed for config in registry.configs(figure, typed)} == {1}
