"""The public names of `import latentmix as lm` that stand for commands and tables, inside other people's programs."""

import csv
import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from PIL import Image
from pipelines import SD

import latentmix as lm
from latentmix.compose import compose
from latentmix.errors import UserError, naming_arguments
from latentmix.feature_networks import load

pytestmark = pytest.mark.usefixtures("random_pipelines")
SETTINGS = (*SD, "data.classes=[star]", "n=[2]", "methods=[fix/0]", "pool=4", "draws=4", "data.reference=4", "steps=2")


def test_errors_name_the_arguments_of_the_function_and_nothing_else() -> None:
    @naming_arguments
    def grow(per_class: int, out: str) -> None:
        raise UserError("--per-class 5 and -o, not --fast x; pip install --upgrade x, then --per-class=4 --out")

    with pytest.raises(UserError) as caught:
        grow(5, "")
    assert str(caught.value) == "per_class=5 and out=, not --fast x; pip install --upgrade x, then per_class=4 out="


def test_a_sweep_returns_the_rows_of_its_table(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = (*SETTINGS, f"outputs={tmp_path}", "device=cpu", "name=mine", "controls=[]")
    rows = lm.sweep(*arguments)
    with (tmp_path / "mine" / "metrics.csv").open(newline="") as file:
        written = list(csv.DictReader(file))
    assert [{key: str(value).replace("nan", "") for key, value in row.items()} for row in rows] == written
    assert {row["class"] for row in rows} == {"star", "all"} and {row["n"] for row in rows} == {2}
    assert isinstance(rows[0]["value"], float) and rows[0]["count"] == 4
    capfd.readouterr()
    assert str(lm.sweep(list(arguments))) == str(rows)
    assert "images are there already" in capfd.readouterr().err


def test_progress_is_hidden_or_told_to_a_function(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = (*SETTINGS, f"outputs={tmp_path}", "device=cpu", "controls=[]", "batch=2")
    told: list[tuple[str, int, int]] = []

    def stop(stage: str, done: int, total: int) -> None:
        told.append((stage, done, total))
        if done == 2 and stage == "invert":
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        lm.sweep(*arguments, progress=stop)
    assert told[-1] == ("invert", 2, 4)
    told.clear()
    rows = lm.sweep(*arguments, progress=lambda *call: told.append(call))
    assert [call for call in told if call[0] == "invert"] == [("invert", 2, 4), ("invert", 4, 4)]
    assert lm.sweep(*arguments, "name=other", progress=False) == rows
    assert capfd.readouterr() == ("", "")
    pipe = lm.Pipeline.from_pretrained("tiny", "batch=1")
    pipe.progress = lambda *call: told.append(call)
    pipe.noise(2)
    pipe.generate(pipe.noise(2), steps=2)
    assert told[-4:] == [("generating 2", step, 4) for step in (1, 2, 3, 4)]
    arrays = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    lm.evaluate(arrays, arrays, "fid", features="embedded", progress=lambda *call: told.append(call))
    assert told[-2:] == [("images", 3, 3)] * 2
    assert capfd.readouterr() == ("", "")


def test_settings_that_cannot_be_used_raise_one_line(tmp_path: Path) -> None:
    with pytest.raises(lm.UserError, match="no key 'drawz'; did you mean 'draws'"):
        lm.sweep("drawz=8")
    with pytest.raises(lm.UserError, match="a setting is a text such as 'steps=30', not 8"):
        lm.sweep(["draws=8", 8])  # type: ignore[list-item]


def test_a_hydra_application_keeps_its_own_configs(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("x: 1\n")
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        before = GlobalHydra.instance(), GlobalHydra.instance().hydra
        assert compose(["draws=8"]).draws == 8
        with pytest.raises(lm.UserError):
            compose(["nothing=8"])
        assert (GlobalHydra.instance(), GlobalHydra.instance().hydra) == before
        assert hydra_compose("mine").x == 1
    assert not GlobalHydra.instance().is_initialized()


def test_features_are_those_of_the_network_for_any_kind_of_image() -> None:
    arrays = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    pixels = torch.from_numpy(arrays).permute(0, 3, 1, 2)
    network, expected = lm.features("embedded", "cpu"), load("embedded")(pixels)
    for images in (pixels, arrays, [Image.fromarray(array) for array in arrays], list(pixels)):
        assert torch.equal(network(images), expected)
    with pytest.raises(lm.UserError, match="several sizes, 32x64, 64x64"):
        network([pixels[0], pixels[1, :, :, :32]])
    assert lm.metrics.frechet_distance(expected, expected) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("of", "told"), [(3, "3"), ((2, 4), "2-4"), ([2, 4], "2-4"), ("2-4", "2-4"), (np.int64(3), "3")]
)
def test_numbers_and_paths_of_an_augmentation_are_read(
    of: Any, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    seen: list[Any] = []
    monkeypatch.setattr("latentmix.commands.augment.prepare", lambda *args: seen.extend(args))
    monkeypatch.setattr("latentmix.commands.augment.run", lambda experiment, options, out: seen.append(out))
    out = lm.augment("~/photos", "~/aug", ["steps=3"], "seed=1", of=of)
    expected = [tmp_path / "photos", 500, told, 1.0, "nin/chm", ["steps=3", "seed=1"], tmp_path / "aug"]
    assert seen == expected and out == tmp_path / "aug"


def test_a_network_may_be_a_path_below_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "network").mkdir()
    for name in ("~/network", Path("~/network"), tmp_path / "network"):
        with pytest.raises(lm.UserError, match=f"{tmp_path}/network holds no DINOv2"):
            lm.features(name)
    with pytest.raises(lm.UserError, match="there is no feature network"):
        lm.evaluate([], [], "fid", features="~nobody-here")


def test_public_names_explain_themselves() -> None:
    assert set(dir(lm)) == set(lm.__all__)
    for name in lm.__all__:
        assert name == "__version__" or len(inspect.getdoc(getattr(lm, name)) or "") > 40, name
    for name, method in inspect.getmembers(lm.Pipeline, callable):
        assert name.startswith("_") or len(inspect.getdoc(method) or "") > 40, name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = lm.nothing  # type: ignore[attr-defined]


def test_python_m_latentmix_is_the_command_line() -> None:
    said = subprocess.run([sys.executable, "-m", "latentmix", "--version"], capture_output=True, text=True, check=True)
    assert said.stdout == f"latentmix {lm.__version__}\n"
