"""Images may have prompts of their own, under which they are inverted and returned to."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from driver import invoke, rows
from PIL import Image
from pipelines import SD

from latentmix.commands import augment
from latentmix.compose import compose
from latentmix.data.prompts import read_prompts
from latentmix.errors import UserError, warn_once
from latentmix.experiment.experiment import Experiment

pytestmark = pytest.mark.usefixtures("random_pipelines", "no_figures")
FEW = (
    "pool=3",
    "n=[2]",
    "methods=[fix/0]",
    "draws=2",
    "steps=2",
    "inversion.steps=2",
    "data.reference=2",
    "model.name=m",
)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """The settings of an experiment on two classes of three pictures."""
    monkeypatch.setenv("LATENTMIX_CACHE", str(tmp_path / "cache"))
    warn_once.cache_clear()
    for name in ("cat", "dog"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for index in range(3):
            Image.radial_gradient("L").rotate(40 * index).save(tmp_path / "pets" / name / f"{index}.png")
    return (*SD, *FEW, "data=folder", f"data.path={tmp_path / 'pets'}", f"outputs={tmp_path / 'out'}")


def write(tmp_path: Path, text: str) -> str:
    (tmp_path / "p.csv").write_text(text)
    return f"data.prompts={tmp_path / 'p.csv'}"


ALL = "file_name,prompt\n" + "".join(f'{c}/{i}.png,"a {c}, number {i}"\n' for c in ("cat", "dog") for i in range(3))


@pytest.mark.parametrize("kind", ["ddim_cfg", "null_text"])
def test_each_image_is_inverted_under_its_own_prompt(kind: str, run: tuple[str, ...], tmp_path: Path) -> None:
    """As a run with that prompt for the whole class inverts it."""
    settings = (*run, f"inversion={kind}", "data.classes=[cat]")

    def inverted(*own: str) -> list[np.ndarray]:
        assert invoke("invert", *settings, *own).code == 0
        found = Experiment(compose([*settings, *own]))
        latents = rows(found.layout.latents("cat").folder, "latents")
        return [latents[source.id] for source in found.data.pool("cat")]

    found = inverted(write(tmp_path, ALL))
    expected = inverted("model.prompt='a {}, number 1'", "name=alone")
    away = [abs(a - b).max() for a, b in zip(found, expected, strict=True)]
    assert away[1] < 1e-4 < 1e-3 < min(away[0], away[2])


def test_a_run_with_prompts_goes_through_and_its_keys_follow_them(run: tuple[str, ...], tmp_path: Path) -> None:
    own = write(tmp_path, ALL)
    for command in (["sweep"], ["reconstruct", "guidance=1"]):
        result = invoke(*command, *run, own)
        assert result.code == 0, result.err
    before = [source.id for source in Experiment(compose([*run, own])).data.pool("cat")]
    changed = write(tmp_path, ALL.replace("cat, number 1", "tiger"))
    after = [source.id for source in Experiment(compose([*run, changed])).data.pool("cat")]
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, False, True]
    plain = [source.id for source in Experiment(compose(run)).data.pool("cat")]
    assert [id_.partition("-")[0] for id_ in before] == plain


def test_images_without_a_prompt_have_that_of_their_class(run: tuple[str, ...], tmp_path: Path) -> None:
    found = Experiment(compose([*run, write(tmp_path, "image,caption\ncat/0.png,striped\ncat/2.png,black\n")]))
    with pytest.warns(UserWarning, match=r"no prompt for 1 images of class 'cat': .*cat/1.png; theirs is the class's"):
        assert [source.prompt for source in found.data.pool("cat")] == ["striped", None, "black"]
    with pytest.raises(UserError, match=r"names no image of class 'dog'; write them as CLASS/NAME, such as dog/0.png"):
        found.data.pool("dog")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name,prompt\na,b\n", "needs the columns file_name and prompt"),
        ("", "needs the columns file_name and prompt"),
        ("file_name,prompt\na.png,\n", "row 2: a.png has no name, no prompt, or two"),
        ("file_name,prompt\na.png,x\n./a.png,y\n", "row 3: a.png has no name, no prompt, or two"),
        ("file_name,prompt\n,x\n", "row 2: an image has no name"),
        (None, "can't be read: No such file"),
        ('file_name,prompt\na.png,"x\n', "can't be read: unexpected end of data"),
        ('file_name,prompt\na.png,x\nb.png,"y" z\n', "after line 2; write a quote inside a quoted prompt twice"),
        ('{"file_name": "a.png", "text": "x"}\n{"file_name"', "can't be read: Expecting ':' delimiter"),
    ],
)
def test_what_is_wrong_with_a_file_of_prompts_is_said(text: Any, expected: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "p.csv").write_text(text)
    with pytest.raises(UserError, match=expected):
        read_prompts(tmp_path / "p.csv")


def test_file_names_may_be_windows_own_and_the_longest_counts(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("\ufefffile_name,text\r\ncat\\0.png,one\r\n0.png,two\r\n", encoding="utf-8")
    assert read_prompts(tmp_path / "p.csv") == {"cat/0.png": "one", "0.png": "two"}


@pytest.mark.parametrize(
    "text",
    [
        'File_Name, Prompt\ncat/0.png, a cat\ncat/1.png,"a big, cat"\n',
        "file_name;prompt\ncat/0.png;a cat\ncat/1.png;a big, cat\n",
        'file_name\tprompt\r\n"cat/0.png"\ta cat \r\ncat/1.png\ta big, cat\r\n',
    ],
)
def test_spaces_capitals_and_other_separators_are_understood(tmp_path: Path, text: str) -> None:
    write(tmp_path, text)
    assert read_prompts(tmp_path / "p.csv") == {"cat/0.png": "a cat", "cat/1.png": "a big, cat"}


@pytest.mark.parametrize(
    "content",
    [
        '{"file_name": "é.png", "text": "a, b"}\n\n{"file_name": "cat/1.png", "text": "c"}\n'.encode(),
        '[{"file_name": "é.png", "text": "a, b"}, {"file_name": "cat/1.png", "text": "c"}]'.encode(),
        "file_name\tprompt\né.png\ta, b\ncat/1.png\tc\n".encode("utf-16"),
    ],
)
def test_json_lines_and_what_excel_writes_are_read(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_bytes(content)
    assert read_prompts(tmp_path / "p.csv") == {"é.png": "a, b", "cat/1.png": "c"}


def test_another_encoding_is_refused_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_bytes("file_name,prompt\né.png,x\n".encode("latin-1"))
    with pytest.raises(UserError, match="it is not in UTF-8; save it as CSV in UTF-8"):
        read_prompts(tmp_path / "p.csv")


@pytest.mark.filterwarnings("ignore:.*has no prompt for 2 images")
def test_a_name_of_several_images_is_refused(run: tuple[str, ...], tmp_path: Path) -> None:
    """Each would get the prompt of another one."""
    pets = tmp_path / "pets"
    found = Experiment(compose([*run, write(tmp_path, "file_name,prompt\n0.png,a cat\n")]))
    found.data.pool("cat")
    expected = (
        f"0.png is the name of {pets}/cat/0.png and of {pets}/dog/0.png; write them as CLASS/NAME, such as dog/0.png"
    )
    (pets / "dog" / "0.png").write_bytes((pets / "cat" / "1.png").read_bytes())
    with pytest.raises(UserError, match=expected):
        found.data.pool("dog")


def test_files_are_named_by_any_path_that_ends_in_their_name(
    run: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also by a whole one, by folders above the data, and where accents are written in two characters."""
    cats = tmp_path / "pets" / "cat"
    (cats / "1.png").rename(cats / "e\u0301.png")
    (cats / "2.png").rename(cats / "z.png")
    file = write(tmp_path, f"file_name,prompt\n{cats}/0.png,one\ncat/é.png,two\n{tmp_path.name}/pets/cat/z.png,three\n")
    monkeypatch.chdir(tmp_path / "pets")
    found = Experiment(compose([*run, file, "data.path=.", "data.classes=[cat]"]))
    assert [source.prompt for source in found.data.pool("cat")] == ["one", "two", "three"]


def test_a_prompt_that_a_comma_would_cut_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "file_name,prompt\n0.png,a dog\n1.png,a cat, sitting\n")
    with pytest.raises(UserError, match=r"row 3: there are more fields than columns.*in double quotes"):
        read_prompts(tmp_path / "p.csv")


def test_augmentation_inverts_under_them_too(run: tuple[str, ...], tmp_path: Path) -> None:
    file = write(tmp_path, "file_name,prompt\ncat/0.png,one\ndog/0.png,two\n")
    pets, settings = tmp_path / "pets", [setting for setting in run if setting.startswith("model.")]
    experiment = augment.prepare(pets, 2, "2", 1.0, "fix/chm", [*settings, file, f"outputs={tmp_path / 'out'}"])
    with pytest.warns(UserWarning, match="has no prompt for 2 images"):
        assert [source.prompt for source in experiment.data.pool("cat")] == ["one", None, None]
