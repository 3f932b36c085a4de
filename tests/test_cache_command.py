"""`latentmix cache` lists what is kept, and removes what it is told to, but nothing that is needed."""

import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from driver import invoke
from rich.prompt import Confirm

from latentmix import figures
from latentmix.cache import TensorCache, key, write_json
from latentmix.commands import cache
from latentmix.commands.cache import record_references, references
from latentmix.errors import UserError
from latentmix.runner.claims import Claims

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


def age(outputs: Path, name: str, days: float) -> None:
    then = time.time() - days * DAY
    for path in (outputs / "cache" / FOLDERS[name][0]).iterdir():
        os.utime(path, (then, then))


@pytest.fixture
def run(outputs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Run the command; return what it printed."""
    monkeypatch.setenv("COLUMNS", "200")

    def run(
        older_than: str | None = None,
        of_run: str | None = None,
        unused: bool = False,
        yes: bool = True,
        dry_run: bool = False,
    ) -> str:
        cache.run(outputs, older_than, of_run, unused, yes, dry_run)
        return capsys.readouterr().out

    return run


def test_what_is_kept_is_listed_with_its_runs(run: Callable[..., str], outputs: Path) -> None:
    printed = run()
    rows = {tuple(part.strip() for part in line.split("│")[1:-1]) for line in printed.splitlines() if "│" in line}
    listed = {(kind, what, runs) for kind, what, _, _, _, runs in rows}
    assert ("latents", "sd15, ddim, a photo of a star", "one, two") in listed
    assert ("cells", "sd15, ddim, star, fix/chm", "one") in listed
    assert ("references", "inception, star", "one") in listed
    assert ("references", "inception, moon", "-") in listed
    assert "in all: 5 folders of" in printed and "cells: " in printed
    assert there(outputs) == set(FOLDERS)


def test_what_no_run_uses_is_removed(run: Callable[..., str], outputs: Path) -> None:
    assert "nothing was removed" in run(unused=True, dry_run=True)
    assert there(outputs) == set(FOLDERS)
    assert "removed 1 folder of" in run(unused=True)
    assert there(outputs) == set(FOLDERS) - {"moon's references"}
    assert "nothing was removed" in run(unused=True)
    assert (outputs / "cache" / "rates.json").exists()


def test_what_one_run_alone_uses_is_removed(run: Callable[..., str], outputs: Path) -> None:
    assert "kept: 1 folder of 4.3 KiB, which other runs use too" in run(of_run="one")
    assert there(outputs) == {"latents", "moon", "moon's references"}
    with pytest.raises(UserError, match="there is no run 'three' in these outputs; there are one, two"):
        run(of_run="three")


def test_what_was_not_used_for_long_is_removed(run: Callable[..., str], outputs: Path) -> None:
    for name in ("star", "moon", "moon's references"):
        age(outputs, name, days=40)
    for path in (outputs / "one").rglob("*.json"):
        os.utime(path, (time.time() - 35 * DAY,) * 2)
    run(older_than="30d")  # the run `two` began just now, and uses the moon's cell
    assert there(outputs) == {"latents", "moon", "star's references"}
    run(older_than="0h", of_run="two")  # both must hold
    assert there(outputs) == {"latents", "star's references"}
    with pytest.raises(UserError, match="--older-than=soon is not an age, such as 12h, 30d or 8w"):
        run(older_than="soon")


def test_what_a_run_at_work_uses_is_kept(run: Callable[..., str], outputs: Path) -> None:
    with Claims(outputs / "two" / "work") as claims:
        assert claims.claim("batch")
        age(outputs, "moon", days=1)
        assert "which runs use that are at work" in run(older_than="0h")
        assert there(outputs) == {"latents", "moon"}
    run(older_than="0h")
    assert there(outputs) == set()


def test_a_run_that_has_not_noted_what_it_uses(run: Callable[..., str], outputs: Path) -> None:
    """It may be of an older version, or have only just begun."""
    write_json(outputs / "three" / "done.json", {})
    for arguments in ({"unused": True}, {"of_run": "one"}):
        with pytest.raises(UserError, match="three has not noted what it uses, as an older version did not"):
            run(**arguments)
    with Claims(outputs / "three" / "work") as claims:
        assert claims.claim("batch")
        with pytest.raises(UserError, match="three is at work and has not noted what it uses; wait until"):
            run(older_than="1h")
    assert there(outputs) == set(FOLDERS)
    run(older_than="1h")  # age alone does not ask for it
    (outputs / "three" / "done.json").unlink()
    (outputs / "three" / "work").rename(outputs / "elsewhere")
    (outputs / "two" / "cache.json").write_text("damaged")
    with pytest.raises(UserError, match="two has not noted"):
        run(of_run="one")


def test_it_asks_first(run: Callable[..., str], outputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="there is no terminal to ask whether to remove this; add --yes"):
        run(unused=True, yes=False)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    asked: list[str] = []

    def answer(question: str, default: bool) -> bool:
        asked.append(question)
        return len(asked) > 1

    monkeypatch.setattr(Confirm, "ask", answer)
    run(unused=True, yes=False)
    assert there(outputs) == set(FOLDERS) and asked[0].startswith("Remove 1 folder of ")
    run(unused=True, yes=False)
    assert there(outputs) == set(FOLDERS) - {"moon's references"}


def test_a_run_that_begins_while_it_asks_is_respected(
    run: Callable[..., str], outputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def begin_meanwhile(*_: object) -> bool:
        note(outputs, "three", ["moon's references"])
        return True

    monkeypatch.setattr(cache, "_confirmed", begin_meanwhile)
    run(unused=True, yes=False)
    assert there(outputs) == set(FOLDERS)


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


def test_folders_inside_and_around_count(run: Callable[..., str], outputs: Path) -> None:
    """A run may note a part of a cell, or the folder of all classes."""
    features = outputs / "cache" / "cells" / "b" / f"features-{key('network')}"
    record_references(outputs / "one", "sweep", [features, outputs / "cache" / "references" / "d"])
    run(unused=True)
    assert there(outputs) == set(FOLDERS)


def test_links_are_left_alone_and_nothing_outside_is_removed(run: Callable[..., str], outputs: Path) -> None:
    elsewhere = outputs.parent / "elsewhere"
    (elsewhere / "file").mkdir(parents=True)
    (outputs / "cache" / "latents" / "link").symlink_to(elsewhere)
    run(older_than="0h")
    assert (elsewhere / "file").exists()


def test_no_cache(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no cache in .*; give the folder of your runs as --outputs DIR"):
        cache.run(tmp_path, None, None, False, False, False)


def test_every_command_notes_all_that_it_uses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "draw_run", lambda *_: [])
    few: tuple[str, ...] = (
        "data=synthetic",
        "data.classes=[star]",
        "data.reference=2",
        "n=[2]",
        "methods=[fix/0]",
        "controls=[noise]",
    )
    few += ("metrics=[fid,clip_score,diversity]", "pool=2", "draws=2", "keep=1", "steps=1", "batch=2")
    for command in ("generate", "sweep", "mix", "reconstruct", "probe"):
        assert invoke(command, *few, f"outputs={tmp_path}", f"name={command}").code == 0
        listed = cache.list_entries(tmp_path)
        assert {entry.kind for entry in listed if command not in entry.runs and len(entry.runs) == 0} == set()
    assert len({entry.kind for entry in listed}) == 7
    printed = invoke("cache", "--outputs", str(tmp_path), "--run", "probe", "--dry-run").out
    assert "probes" in printed and "latents" not in printed and "nothing was removed" in printed
