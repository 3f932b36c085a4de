"""Several runs: grids of them by `-m`, and their comparison in one table."""

import csv
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import driver
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from driver import Said, invoke, leave_out_pages
from PIL import Image
from pipelines import SD

from latentmix.commands import sweep
from latentmix.compose import compose
from latentmix.experiment.comparison import Run, differences, read_runs, settings_that_differ, share_draws
from latentmix.experiment.experiment import Experiment
from latentmix.metrics import mean, paired
from latentmix.overrides import grid
from latentmix.storage import write_checked_json

pytestmark = pytest.mark.usefixtures("random_pipelines")

BASE = (
    *SD,
    *("data.classes=[star,heart]", "n=2", "methods=[fix/0,fix/chm]", "pool=4", "draws=4", "data.reference=6"),
    *("steps=2", "batch=8", "keep=0", "metrics=[fid,clip_distance]", "launch.threads=1"),
)
GRID = ("-m", "inversion=ddim,fixed_point", "seed=0,1", "name=grid")
NAMES = [f"grid-{inversion}-seed{seed}" for inversion in ("ddim", "fixed_point") for seed in (0, 1)]


@pytest.fixture(autouse=True, scope="module")
def no_figures() -> Iterator[None]:
    """They take longer than all the rest, and are tested elsewhere."""
    with pytest.MonkeyPatch.context() as patch:
        leave_out_pages(patch)
        yield


def command(outputs: Path, *more: str) -> Said:
    return invoke("sweep", *BASE, f"outputs={outputs}", *more)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The outputs of a grid; tests read them and leave them as they are."""
    outputs = tmp_path_factory.mktemp("grid")
    said = command(outputs, *GRID)
    assert said.code == 0, said.err
    return outputs


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_all_combinations_of_several_values() -> None:
    assert grid(["seed=0,1", "inversion=ddim,null_text", "name=x", "n=[2,8]"]) == [
        {"seed": seed, "inversion": inversion} for seed in "01" for inversion in ("ddim", "null_text")
    ]
    assert [values["seed"] for values in grid(["seed=range(0,3)"])] == ["0", "1", "2"]
    assert [values["n"] for values in grid(["n=[2,8],4"])] == ["[2,8]", "4"]
    assert [values["data.path"] for values in grid(["data.path=/a b,'/c,d'"])] == ["/a b", "'/c,d'"]


@pytest.mark.parametrize("more", [("-m", "seed=0,1"), ("budget=1h",)])
def test_a_finished_run_is_made_again_where_its_images_have_changed(
    more: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LATENTMIX_CACHE", str(tmp_path / "cache"))
    pets = tmp_path / "pets" / "cat"
    pets.mkdir(parents=True)
    for index in range(6):
        Image.radial_gradient("L").rotate(20 * index).save(pets / f"{index}.png")
    data = ("data=folder", f"data.path={pets.parent}", "data.classes=null", "name=pets", *more)
    tables = []
    for _ in range(3):
        said = command(tmp_path / "out", *data)
        assert said.code == 0, said.err
        tables.append([path.read_text() for path in sorted((tmp_path / "out").glob("pets*/metrics.csv"))])
        changed = "have changed since its results were written" in said.out
        assert changed == (len(tables) == 3)
        if len(tables) == 2:
            Image.linear_gradient("L").save(pets / "0.png")
    assert tables[0] == tables[1] and tables[1] != tables[2]


def test_results_of_a_run_of_the_same_name_that_ended_meanwhile_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = compose([*BASE, f"outputs={tmp_path}", "name=twice", "seed=7"])

    def ended(*arguments: Any) -> None:
        write_checked_json(other.folder / "done.json", {"config": other.as_dict()})

    monkeypatch.setattr(sweep, "write_record", ended)  # once the work is done, before the results are written
    said = command(tmp_path, "name=twice")
    assert said.code == 2 and "holds results of other settings (seed=7 there, 0 here)" in said.err
    assert not (other.folder / "metrics.csv").exists()


def test_a_grid_ends_in_one_table(runs: Path) -> None:
    assert sorted(path.parent.name for path in runs.glob("*/done.json")) == sorted(NAMES)
    table = rows(runs / "grid" / "comparison.csv")
    for name in NAMES:
        own = rows(runs / name / "metrics.csv")
        joined = [row for row in table if row["run"] == name]
        columns = ("class", "n", "method", "metric", "value", "low", "high", "count")
        assert [[row[column] for column in columns] for row in joined] == [[row[c] for c in columns] for row in own]
    config = Experiment(compose([*BASE, "inversion=fixed_point", "seed=1", f"outputs={runs}"])).config
    assert (config.inversion.name, config.seed) == ("fixed_point", 1)


def test_the_same_command_goes_on_where_it_was(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(runs, tmp_path, dirs_exist_ok=True)
    (tmp_path / NAMES[1] / "done.json").unlink()
    finish, finished = sweep.finish, list[str]()

    def count(experiment: Experiment, arguments: list[str]) -> None:
        finished.append(experiment.config.name)
        finish(experiment, arguments)

    monkeypatch.setattr(sweep, "finish", count)
    said = command(tmp_path, *GRID)
    assert said.code == 0 and finished == [NAMES[1]], said.err
    assert (tmp_path / "grid" / "comparison.csv").read_bytes() == (runs / "grid" / "comparison.csv").read_bytes()


def test_a_dry_run_writes_nothing(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "grid")
    (tmp_path / NAMES[1] / "done.json").unlink()
    before = driver.files(tmp_path)
    said = command(tmp_path, *GRID, "--dry-run")
    assert said.code == 0 and said.out.count("nothing was done") == 1 and f"{NAMES[0]} is finished" in said.out
    assert driver.files(tmp_path) == before


def test_a_run_that_fails_is_noted_and_the_grid_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finish = sweep.finish

    def fail(experiment: Experiment, arguments: list[str]) -> None:
        if experiment.config.seed == 0:
            raise RuntimeError("a driver\nis gone")
        finish(experiment, arguments)

    monkeypatch.setattr(sweep, "finish", fail)
    said = command(tmp_path, "-m", "seed=0,1", "data.classes=[star]")
    error = said.err.splitlines()[-1]
    assert said.code == 2 and "1 of 2 runs failed; the same command tries them again" in error
    assert "sd-shapes-seed0: RuntimeError: a driver is gone" in error
    assert "Traceback" in (tmp_path / "sd-shapes-seed0" / "error.txt").read_text()
    assert {row["run"] for row in rows(tmp_path / "grid-seed" / "comparison.csv")} == {"sd-shapes-seed1"}


def test_what_can_not_be_composed_is_refused_before_any_run(tmp_path: Path) -> None:
    for more, part in ((["seed=0,x"], "seed='x'"), (["seed=0"], "seed=0,1,2"), (["seed=1,1"], "values that are alike")):
        said = command(tmp_path, "-m", *more)
        assert said.code == 2 and part in said.err and len(said.err.splitlines()) == 1
    assert not [*tmp_path.iterdir()]


def test_runs_are_paired_where_their_draws_are_the_same(runs: Path) -> None:
    ddim, other_seed, fixed_point, _ = read_runs([str(runs / name) for name in NAMES])
    assert settings_that_differ([ddim, other_seed]) == ["seed"]
    assert share_draws(ddim, fixed_point) and not share_draws(ddim, other_seed)
    assert differences(ddim, other_seed) == []
    found = differences(fixed_point, ddim)
    values = {(r.class_id, r.n, r.method, r.metric): r.estimate.value for r in fixed_point.results}
    expected = {(r.class_id, r.n, r.method, r.metric): r.estimate.value for r in ddim.results}
    assert {d.key for d in found} == {key for key in values if key[2] != "real"}
    for d in found:
        assert d.comparison.difference.value == pytest.approx(values[d.key] - expected[d.key], abs=1e-12)


def test_draws_of_other_numbers_are_not_paired(runs: Path, tmp_path: Path) -> None:
    """As those of random weights, which may have the same images twice, beside those of uniform weights."""
    copy, reference = shutil.copytree(runs / NAMES[2], tmp_path / "copy"), runs / NAMES[0]
    table = pq.read_table(copy / "images.parquet").to_pylist()
    moved = [row | {"draw": row["draw"] + ((row["class"], row["method"]) == ("star", "fix/0"))} for row in table]
    pq.write_table(pa.Table.from_pylist(moved), copy / "images.parquet")
    usual, changed = (
        {d.key for d in differences(*read_runs([str(run), str(reference)]))} for run in (runs / NAMES[2], copy)
    )
    assert {key[:3] for key in usual - changed} == {("star", 2, "fix/0")} and changed < usual


def parts(run: Run, name: str) -> torch.Tensor:
    table = pq.read_table(run.folder / "images.parquet").to_pylist()
    return torch.tensor([row[name] for row in table if (row["class"], row["method"]) == ("star", "fix/0")]).double()


def test_a_paired_difference_has_the_interval_of_the_draws_differences(runs: Path) -> None:
    ddim, _, fixed_point, _ = read_runs([str(runs / name) for name in NAMES])
    a, b = parts(fixed_point, "clip_distance"), parts(ddim, "clip_distance")
    expected = paired(mean(a, (None, 1.0)), mean(b, (None, 1.0)))
    (found,) = (d for d in differences(fixed_point, ddim) if d.key == ("star", 2, "fix/0", "clip_distance_embedded"))
    assert found.comparison.difference.low == pytest.approx(expected.difference.low)
    assert found.comparison.won == expected.won


def test_compare_prints_one_table_and_writes_it_where_it_is_told(runs: Path, tmp_path: Path) -> None:
    said = invoke("compare", str(runs / NAMES[0]), str(runs / NAMES[2]), "--out", str(tmp_path / "out"))
    assert said.code == 0, said.err
    assert "The runs differ in " in said.out and "inversion.name.\n" in said.out and "inversion.kind" not in said.out
    assert "fd_embedded at N = 2" in said.out and f"difference from {NAMES[0]}" in said.out
    pairs = rows(tmp_path / "out" / "comparison-pairs.csv")
    assert {(row["run"], row["reference"]) for row in pairs} == {(NAMES[2], NAMES[0])}
    (tmp_path / "file").write_text("")
    said = invoke("compare", str(runs / NAMES[0]), str(runs / NAMES[2]), "--out", str(tmp_path / "file"))
    assert said.code == 2 and "is a file; choose another place with --out" in said.err and not said.out
    said = invoke("compare", str(runs / NAMES[0]), str(tmp_path))
    assert said.code == 2 and "is not finished" in said.err
