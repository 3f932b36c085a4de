"""`latentmix cache` lists what is kept, and removes what it is told to, but nothing that is needed."""

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from driver import invoke, refusal
from rich.prompt import Confirm

from latentmix.commands import cache
from latentmix.commands.cache import record_references, references
from latentmix.runner.claims import Claims
from latentmix.storage import TensorCache, key, write_json

MODEL = {"weights": "0123456789abcdef", "precision": "float32"}
LATENTS = {"model": MODEL, "prompt": "a photo of a star", "inversion": {"kind": "ddim"}}
FOLDERS = {  # in the cache
    "latents": ("latents/a", LATENTS),
    "star": ("cells/b", {"latents": LATENTS, "class": "star", "n": 2, "method": {"method": "fix/chm"}}),
    "moon": ("cells/c", {"latents": LATENTS, "class": "moon", "n": 2, "method": {"method": "fix/chm"}}),
    "star's references": ("references/d/star", {"network": {"features": "inception"}}),
    "moon's references": ("references/d/moon", {"network": {"features": "inception"}}),
}
DAY = 86400.0


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    """Return results of two runs: `one` uses the folders of the star, `two` the latents and the moon's cell."""
    folder = tmp_path / "outputs"
    for path, identity in FOLDERS.values():
        TensorCache(folder / "cache" / path, identity).write(["a"], {"x": torch.zeros(1, 1000)})
    write_json(folder / "cache" / "rates.json", {})
    note(folder, "one", ["latents", "star", "star's references"])
    note(folder, "two", ["latents", "moon"])
    write_json(folder / "one" / "done.json", {"model": MODEL, "config": {"model": {"name": "sd15"}}})
    return folder


def note(outputs: Path, run: str, names: Sequence[str], command: str = "sweep") -> None:
    record_references(outputs / run, command, [outputs / "cache" / FOLDERS[name][0] for name in names])


def there(outputs: Path) -> set[str]:
    """Return the names of the folders that are still in the cache."""
    return {name for name, (path, _) in FOLDERS.items() if (outputs / "cache" / path).is_dir()}


def clean(outputs: Path, *options: str) -> str:
    """Run the command; return what it printed."""
    said = invoke("cache", "--outputs", str(outputs), *options)
    assert said.code == 0, said.err
    return said.out


def refused(outputs: Path, *options: str) -> str:
    return refusal("cache", "--outputs", str(outputs), *options)


def test_what_is_kept_is_listed_with_its_runs(outputs: Path) -> None:
    printed = clean(outputs)
    rows = {tuple(part.strip() for part in line.split("│")[1:-1]) for line in printed.splitlines() if "│" in line}
    assert {(kind, what, runs) for kind, what, _, _, _, runs in rows} >= {
        ("latents", "sd15, ddim, a photo of a star", "one, two"),
        ("cells", "sd15, ddim, star, fix/chm", "one"),
        ("references", "inception, star", "one"),
        ("references", "inception, moon", "-"),
    }
    assert "in all: 5 folders of" in printed and "cells: " in printed
    assert there(outputs) == set(FOLDERS)
    assert "give the folder of your runs as --outputs DIR" in refused(outputs / "one")  # which has no cache


def test_images_of_hub_data_sets_are_counted(outputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATENTMIX_CACHE", str(tmp_path / "own"))
    assert "data=hub" not in clean(outputs)
    for name in ("pets-1", "pets-2"):
        (tmp_path / "own" / "hub" / name / "00000").mkdir(parents=True)
        (tmp_path / "own" / "hub" / name / "00000" / "1.png").write_bytes(bytes(1 << 20))
    assert f"besides: 2.0 MiB of images of data=hub, for the runs of all outputs, in 2 folders of {tmp_path}" in clean(
        outputs
    )


def test_what_no_run_uses_is_removed(outputs: Path) -> None:
    assert "nothing was removed" in clean(outputs, "--unused", "--yes", "--dry-run")
    assert there(outputs) == set(FOLDERS)
    assert "removed 1 folder of" in clean(outputs, "--unused", "--yes")
    assert there(outputs) == set(FOLDERS) - {"moon's references"}
    assert "nothing was removed" in clean(outputs, "--unused", "--yes")
    assert (outputs / "cache" / "rates.json").exists()


def test_what_one_run_alone_uses_is_removed(outputs: Path) -> None:
    assert "kept: 1 folder of 4.3 KiB, which other runs use too" in clean(outputs, "--run", "one", "--yes")
    assert there(outputs) == {"latents", "moon", "moon's references"}
    assert "no run 'three' in these outputs; there are one, two" in refused(outputs, "--run", "three")


@pytest.mark.parametrize("run", ["one", "one/", "{}/one", "{}/one/"])
def test_a_run_is_given_by_its_name_or_folder(run: str, outputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATENTMIX_OUTPUTS", str(outputs))
    said = invoke("cache", "--run", run.format(outputs), "--yes")
    assert said.code == 0 and there(outputs) == {"latents", "moon", "moon's references"}, said


def test_the_folder_of_runs_is_given_in_either_way(outputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATENTMIX_OUTPUTS", "elsewhere")
    write_json(outputs / "one" / "work" / "stages" / "invert.json", {"images": 0, "left": {}, "read": {}})
    for given in (["--outputs", str(outputs)], [f"outputs={outputs}"]):
        assert "in all: 5 folders" in invoke("cache", *given).out
        assert f"{outputs}/one: " in invoke("status", "one/", *given).out
        monkeypatch.setenv("LATENTMIX_OUTPUTS", "elsewhere")
    assert "one is not outputs=DIR; a run is given as --run NAME" in refusal("cache", "one")


def test_what_was_not_used_for_long_is_removed_and_links_are_not_followed(outputs: Path) -> None:
    elsewhere = outputs.parent / "elsewhere"
    (elsewhere / "file").mkdir(parents=True)
    (outputs / "cache" / "latents" / "link").symlink_to(elsewhere)
    for name, days in {"star": 40, "moon": 40, "moon's references": 40, "one": 35}.items():
        folder = outputs / "cache" / FOLDERS[name][0] if name in FOLDERS else outputs / name
        for path in folder.iterdir():
            os.utime(path, (time.time() - days * DAY,) * 2)
    clean(outputs, "--older-than", "30d", "--yes")  # the run `two` began just now, and uses the moon's cell
    assert there(outputs) == {"latents", "moon", "star's references"}
    clean(outputs, "--older-than", "0h", "--run", "two", "--yes")  # both must hold
    assert there(outputs) == {"latents", "star's references"}
    assert "soon is not an age, such as 12h, 30d or 8w" in refused(outputs, "--older-than", "soon")
    clean(outputs, "--older-than", "0h", "--yes")
    assert there(outputs) == set() and (elsewhere / "file").exists()


def test_what_a_run_at_work_uses_is_kept(outputs: Path) -> None:
    with Claims(outputs / "two" / "work") as claims:
        assert claims.claim("batch")
        assert "which runs use that are at work" in clean(outputs, "--older-than", "0h", "--yes")
        assert there(outputs) == {"latents", "moon"}
    clean(outputs, "--older-than", "0h", "--yes")
    assert there(outputs) == set()


def test_a_run_that_has_not_noted_what_it_uses_stops_what_depends_on_it(outputs: Path) -> None:
    """It may be of an older version, have only just begun, or have a damaged note."""
    write_json(outputs / "three" / "done.json", {})
    for options in (["--unused"], ["--run", "one"]):
        assert "three has not noted what it uses, as an older version did not" in refused(outputs, *options, "--yes")
    with Claims(outputs / "three" / "work") as claims:
        assert claims.claim("batch")
        assert "three is at work and has not noted what it uses; wait" in refused(outputs, "--older-than", "1h")
    (outputs / "three" / "cache.json").write_text("damaged")
    assert "three has not noted" in refused(outputs, "--run", "one")
    clean(outputs, "--older-than", "1h", "--yes")  # age alone does not ask for it
    assert there(outputs) == set(FOLDERS)


def test_it_asks_first_and_respects_a_run_that_begins_meanwhile(outputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "there is no terminal to ask whether to remove this; add --yes" in refused(outputs, "--unused")
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    asked: list[str] = []

    def answer(question: str, default: bool) -> bool:
        asked.append(question)
        if len(asked) == 2:
            note(outputs, "three", ["moon's references"])
        return len(asked) > 1

    monkeypatch.setattr(Confirm, "ask", answer)
    for count in (1, 2):  # the first answer is no
        clean(outputs, "--unused")
        assert there(outputs) == set(FOLDERS) and len(asked) == count
    note(outputs, "three", [])
    clean(outputs, "--unused")
    assert there(outputs) == set(FOLDERS) - {"moon's references"} and asked[0].startswith("Remove 1 folder of ")


def test_the_commands_of_a_run_add_up(outputs: Path) -> None:
    note(outputs, "one", ["moon"], command="probe")
    note(outputs, "two", ["moon"])  # the same command again, with other settings
    folders = references(outputs)
    assert folders["one"] == {
        outputs / "cache" / path for path in ("latents/a", "cells/b", "cells/c", "references/d/star")
    }
    assert folders["two"] == {outputs / "cache" / "cells/c"}
    record_references(outputs / "two", "sweep", [outputs / "cache" / "cells/b"], replace=False)  # it may yet fail
    assert references(outputs)["two"] == {outputs / "cache" / "cells/b", outputs / "cache" / "cells/c"}


def test_folders_inside_and_around_count(outputs: Path) -> None:
    """A run may note a part of a cell, or the folder of all classes."""
    features = outputs / "cache" / "cells" / "b" / f"features-{key('network')}"
    record_references(outputs / "one", "sweep", [features, outputs / "cache" / "references" / "d"])
    clean(outputs, "--unused", "--yes")
    assert there(outputs) == set(FOLDERS)


@pytest.mark.usefixtures("no_figures")
def test_every_command_notes_all_that_it_uses(tmp_path: Path) -> None:
    few = ["data=synthetic", "data.classes=[star]", "data.reference=2", "n=[2]", "methods=[fix/0]", "controls=[noise]"]
    few += ["metrics=[fid,clip_score,diversity]", "pool=2", "draws=2", "keep=1", "steps=1", "batch=2"]
    for command in ("generate", "sweep", "mix", "reconstruct", "probe"):
        assert invoke(command, *few, f"outputs={tmp_path}", f"name={command}").code == 0
        listed = cache.list_entries(tmp_path)
        assert all(entry.runs for entry in listed)
    assert len({entry.kind for entry in listed}) == 7
    printed = clean(tmp_path, "--run", "probe", "--dry-run")
    assert "probes" in printed and "latents" not in printed and "nothing was removed" in printed
