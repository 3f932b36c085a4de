"""The scripts and the notebook of examples/, run as their first lines say, on the embedded model."""

import ast
import json
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import latentmix as lm
from latentmix.data.shapes import Shapes

EXAMPLES = Path(__file__).parents[1] / "examples"
SCRIPTS = sorted(path.stem for path in EXAMPLES.glob("*.py"))
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Draw two pictures of each of two classes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LATENTMIX_CACHE", str(tmp_path / "own"))
    paths = [Path("photos", class_id, f"{index}.png") for class_id in ("star", "heart") for index in (0, 1)]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = Shapes().images(path.parent.name, 2)[int(path.stem)].pixels(64)
        Image.fromarray(pixels).save(path)
    return [str(path) for path in paths]


def run(name: str, *arguments: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_are_short_and_say_how_to_run_them(name: str) -> None:
    text = (EXAMPLES / f"{name}.py").read_text()
    assert len(text.splitlines()) <= 40
    assert f"python examples/{name}.py " in (ast.get_docstring(ast.parse(text)) or "")


def test_a_mixture_is_generated_in_diffusers(photos: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    run("mix_in_diffusers", photos[0], photos[1], "mixed.png", monkeypatch=monkeypatch)
    assert Image.open("mixed.png").size == (64, 64)


def test_a_morph_is_an_animation(photos: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    run("morph", photos[0], photos[2], "morph.gif", "steps=3", "frames=6", monkeypatch=monkeypatch)
    with Image.open("morph.gif") as animation:
        assert getattr(animation, "n_frames", 1) == 6


def test_a_training_set_is_read_by_torchvision(
    photos: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run("augment", "photos", "out", "per_class=3", "steps=2", monkeypatch=monkeypatch)
    said = capsys.readouterr().out
    assert "'heart': 3, 'star': 3" in said and "'sources'" in said
    Image.open(photos[1]).rotate(9).resize((80, 60)).save("photos/star/another size.png")
    batches, network = list[int](), lm.features("embedded")

    def counted(images: list[Image.Image]) -> Any:
        batches.append(len(images))
        return network(images)

    monkeypatch.setattr(lm, "features", lambda _: counted)
    run("did_it_help", "photos", "out/train", "photos", "embedded", monkeypatch=monkeypatch)
    assert batches == [4, 1, 6, 4, 1]
    names, values = zip(*(line.split()[:2] for line in capsys.readouterr().out.splitlines()), strict=True)
    assert (names, values[:2]) == (("real", "both", "gain"), ("1.000", "1.000"))  # on images that it learned from


def test_an_inversion_and_a_metric_of_ones_own(
    photos: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run("own_inversion", *photos[:2], "steps=5", monkeypatch=monkeypatch)
    errors = [float(line.split()[1]) for line in capsys.readouterr().out.splitlines()]
    assert errors[1] < errors[0] < 60
    run("own_metric", *photos, "steps=4", monkeypatch=monkeypatch)
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["lin/0", "fix/0", "nin/chm"]


def cells(path: Path) -> list[str]:
    notebook = json.loads(path.read_text())
    assert notebook["nbformat"] == 4
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]


def execute(source: str, names: dict[str, Any]) -> Any:
    """Run a cell as a kernel does; return the value of its last expression."""
    body = ast.parse(source)
    last = body.body.pop() if body.body and isinstance(body.body[-1], ast.Expr) else None
    exec(compile(body, "cell", "exec"), names)
    return None if last is None else eval(compile(ast.Expression(last.value), "cell", "eval"), names)  # type: ignore[attr-defined]


def test_the_notebook_runs_from_the_first_cell_to_the_last(photos: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    names: dict[str, Any] = {"__name__": "__main__"}
    sources = [source.replace("steps=20", "steps=3") for source in cells(EXAMPLES / "two_images.ipynb")]
    shown = [execute(source, names) for source in sources]
    assert sum(hasattr(value, "_repr_png_") for value in shown) >= 3


def test_the_notebook_is_small_enough_for_the_repository() -> None:
    assert (EXAMPLES / "two_images.ipynb").stat().st_size < 300_000
