"""However a run is cut off, damaged, put in another order or extended, what it ends with is what it would have been."""

import errno
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from driver import Said, assert_same, files, invoke, leave_out_pages, results
from pipelines import SD

from latentmix import images as pictures
from latentmix import storage as store
from latentmix.commands.shared.session import prepare
from latentmix.compose import compose
from latentmix.experiment import stages
from latentmix.experiment.draws import Cell
from latentmix.experiment.experiment import Experiment
from latentmix.experiment.results_table import evaluate, read_table
from latentmix.mixing import Method
from latentmix.models.unet import UNetModel
from latentmix.runner.tasks import Task, WriteBack

pytestmark = pytest.mark.usefixtures("random_pipelines")

BASE = (
    *SD,
    "name=run",
    "data.classes=[star,heart]",
    "n=[2]",
    "methods=[fix/0,fix/chm]",
    "metrics=[fid,clip_distance]",
    "pool=8",
    "draws=6",
    "data.reference=9",
    "steps=2",
    "batch=3",
    "keep=4",
    "launch.threads=1",  # as in the process that is killed: another number of threads rounds otherwise
)
WORKERS = ("_measure_real", "_invert", "_generate")  # what does a batch, by stage
BATCHES = {"_measure_real": 2 * 3, "_invert": 2 * 3, "_generate": 4 * 2}


def quickly(*arguments: str) -> Said:
    """Without figures and reports, which take longer than all the rest, and are tested elsewhere."""
    with pytest.MonkeyPatch.context() as patch:
        leave_out_pages(patch)
        return invoke(*arguments)


def run(outputs: Path, *more: str, command: str = "sweep") -> str:
    """Runs to the end; what it said."""
    said = quickly(command, *BASE, *more, f"outputs={outputs}", "overwrite=true")
    assert said.code == 0, said.err
    return said.err


def experiment(outputs: Path, *more: str) -> Experiment:
    return Experiment(compose([*BASE, *more, f"outputs={outputs}"]))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The outputs of a run that nothing disturbed; tests read them and leave them as they are."""
    outputs = tmp_path_factory.mktemp("whole")
    run(outputs)
    run(outputs, command="mix")
    return outputs


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    return shutil.copytree(whole, tmp_path / "copy")


@pytest.fixture
def worked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which batches are begun, from here on: the worker, and what for."""
    begun: list[str] = []

    def counted(name: str, work: Callable[..., WriteBack | None]) -> Callable[..., WriteBack | None]:
        def count(*arguments: Any) -> WriteBack | None:
            what = arguments[1] if name == "_invert" else arguments[3][0][0].class_id if name == "_generate" else ""
            begun.append(f"{name} {what}")
            return work(*arguments)

        return count

    for name in WORKERS:
        monkeypatch.setattr(stages, name, counted(name, getattr(stages, name)))
    return begun


def test_the_run_that_others_are_compared_with_is_whole(whole: Path, worked: list[str], tmp_path: Path) -> None:
    names = results(whole).keys()
    assert sum("/features-" in name and name.endswith(".safetensors") for name in names) == 4 * 2 * 2
    assert sum(name.endswith(".png") for name in names) == 4 * 4
    run(tmp_path)
    assert {name: sum(w.startswith(name) for w in worked) for name in WORKERS} == BATCHES
    run(tmp_path, command="mix")
    assert_same(tmp_path, whole)


# Killed

# The command line in processes of their own, forked when all imports are done, each of which kills itself at a moment
# of its own: at the k-th write whose path has a word in it, before it, with half of the bytes written, or just after.
DRIVER = """
import json, os, signal, sys
from latentmix import storage as store

where, count, how, log = None, 0, "", None
write, fsync = store.write_atomic, os.fsync

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def fatal_write(path, content):
    global count
    count -= where in path.as_posix()
    last = where in path.as_posix() and count == 0
    if last and how == "before":
        die()
    os.fsync = half_of_it if last and how == "midway" else fsync
    write(path, content)
    if last:
        die()

def half_of_it(file):
    os.ftruncate(file, os.fstat(file).st_size // 2)
    die()

store.write_atomic = fatal_write  # before it is imported by name
from latentmix import cli, figures, report
from latentmix.commands import sweep
from latentmix.experiment import stages
import diffusers, hydra, open_clip, pandas, pyarrow.parquet, scipy.stats, transformers
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer
figures.draw_run, report.write_report = lambda _: [], lambda runs: runs[0]

def counted(name):
    work = getattr(stages, name)
    def count(*arguments):
        os.write(log, (name + "\\n").encode())
        return work(*arguments)
    setattr(stages, name, count)

for name in ("_measure_real", "_invert", "_generate"):
    counted(name)
for outputs, where, count, how in json.loads(sys.argv[1]):
    child = os.fork()
    if child == 0:
        os.makedirs(outputs)
        log = os.open(outputs + ".log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        sys.argv = ["latentmix", "sweep", *json.loads(sys.argv[2]), "outputs=" + outputs]
        try:
            cli.main()
        finally:
            os._exit(1)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""

DEATHS = {
    "the first note of real images": ("cache/references/", 1, "midway"),
    "the rate of the first stage": ("rates.json", 1, "before"),
    "latents": ("cache/latents/", 3, "midway"),
    "between batches of latents": ("cache/latents/", 4, "after"),
    "a picture": (".png", 9, "midway"),
    "between the two networks' features": ("/features-", 10, "before"),
    "the table": ("metrics.csv", 1, "midway"),
    "the note that all is done": ("done.json", 1, "before"),
}


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Outputs of runs that were killed, each at its moment."""
    folder = tmp_path_factory.mktemp("killed")
    places = {name: folder / str(number) for number, name in enumerate(DEATHS)}
    orders = [(str(places[name]), *death) for name, death in DEATHS.items()]
    command = [sys.executable, "-c", DRIVER, json.dumps(orders), json.dumps(BASE)]
    # One thread, so that there are none to be lost in a fork.
    alone = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    result = subprocess.run(command, env=alone, capture_output=True, text=True, timeout=1800)
    assert result.stdout.split() == ["-9"] * len(DEATHS), result.stderr
    return places


@pytest.mark.parametrize("death", DEATHS)
def test_a_killed_run_goes_on_to_the_same_bytes(
    death: str, killed: dict[str, Path], whole: Path, worked: list[str]
) -> None:
    outputs = killed[death]
    assert not (outputs / "run" / "done.json").exists()
    assert len(list(outputs.rglob(".*.part"))) == (DEATHS[death][2] == "midway")
    before = outputs.with_name(outputs.name + ".log").read_text().split()
    run(outputs)
    assert_same(outputs, whole, but="/centroids/")
    # Nothing is done twice but the batch that was being written, and the one that was at work meanwhile.
    assert sum(BATCHES.values()) <= len(before) + len(worked) <= sum(BATCHES.values()) + 2


# In another order, in other batches


def tasks(experiment: Experiment, *kinds: stages.StageType) -> list[Task]:
    return [task for kind in kinds for task in kind.plan(experiment, 3).tasks]


@pytest.mark.parametrize("order", ["reversed", "shuffled"])
def test_the_order_of_work_changes_no_byte(order: str, whole: Path, tmp_path: Path) -> None:
    made = prepare(experiment(tmp_path).config)
    early = tasks(made, stages.INVERT, stages.MEASURE_REFERENCES)
    late = tasks(made, stages.MIX, stages.GENERATE)
    for batches in (early, late):
        for task in reversed(batches) if order == "reversed" else random.Random(0).sample(batches, len(batches)):
            write_back = task.compute(task.read())
            if write_back is not None:
                write_back()
    evaluate(made)
    assert_same(tmp_path, whole)


def test_stages_plan_nothing_once_all_is_there(whole: Path) -> None:
    made = experiment(whole)
    assert not tasks(made, stages.MEASURE_REFERENCES, stages.INVERT, stages.MIX, stages.GENERATE)
    more = experiment(whole, "keep=5")
    assert len(tasks(more, stages.GENERATE)) == 4  # one more image, in the second batch of each cell


def stacked(parts: store.TensorCache, name: str) -> torch.Tensor:
    rows = parts.read()
    return torch.stack([rows[id_][name] for id_ in sorted(rows)])


def deviation(x: torch.Tensor, y: torch.Tensor) -> float:
    return ((x - y).norm() / y.norm()).item()


def assert_close(one: Experiment, other: Experiment) -> None:
    """As far as rounding goes. Images are rounded to 256 levels, where the least difference can become a whole level,
    so features of generated images scatter more than those of real ones."""
    for class_id in one.classes:
        for name in ("latents", "clean"):
            assert deviation(*(stacked(b.layout.latents(class_id), name) for b in (one, other))) < 1e-5
    for network in one.networks.values():
        for class_id in one.classes:
            of_real = (stacked(b.layout.references(class_id, network), "features") for b in (one, other))
            assert deviation(*of_real) < 1e-5
        for cell in one.cells.mixed:
            assert deviation(*(stacked(b.layout.features(cell, network), "features") for b in (one, other))) < 1e-3
    tables = [read_table(b.config.folder / "metrics.csv") for b in (one, other)]
    for result, wanted in zip(*tables, strict=True):
        assert (result.class_id, result.n, result.method) == (wanted.class_id, wanted.n, wanted.method)
        assert result.estimate.value == pytest.approx(wanted.estimate.value, rel=1e-4, abs=2e-5)


@pytest.mark.parametrize("batch", ["6", "auto"])
def test_another_batch_size_changes_nothing_beyond_rounding(batch: str, whole: Path, tmp_path: Path) -> None:
    run(tmp_path, f"batch={batch}")
    assert_close(experiment(tmp_path, f"batch={batch}"), experiment(whole))


def test_a_class_on_its_own_comes_out_the_same(whole: Path, tmp_path: Path) -> None:
    run(tmp_path, "data.classes=[heart]")
    alone, both = results(tmp_path), results(whole)
    assert {name for name in alone if name.startswith("cache/")} <= both.keys()
    assert all(both[name] == content for name, content in alone.items() if name.startswith("cache/"))
    rows = (tmp_path / "run" / "metrics.csv").read_text().splitlines()
    assert set(rows[1:]) - set(both["run/metrics.csv"].decode().splitlines()) == {r for r in rows if ",all," in r}


# Damaged

KINDS = {
    "latents": "cache/latents/*/*.safetensors",
    "features of real images": "cache/references/*/*/*.safetensors",
    "features": "cache/cells/*/features-*/*.safetensors",
    "centroids": "cache/cells/*/centroids/*.safetensors",
    "pictures": "cache/cells/*/images/*.png",
}


def truncate(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) * 2 // 3] ^= 4
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [truncate, empty, flip_a_bit])
def test_damaged_files_are_made_again(damage: Callable[[Path], None], copy: Path, whole: Path) -> None:
    damaged = {kind: sorted(copy.glob(pattern))[-1] for kind, pattern in KINDS.items()}
    for path in damaged.values():
        damage(path)
    said = run(copy, command="mix") + run(copy)
    for kind, path in damaged.items():
        warned = [line for line in said.splitlines() if str(path) in line]
        if kind == "pictures":  # which are made again without a word
            continue
        if kind in ("latents", "centroids") and damage is flip_a_bit:  # neither command reads them, or it would notice
            with pytest.raises(ValueError, match="does not match its checksum"):
                store.load_tensors(path)
            path.write_bytes((whole / path.relative_to(copy)).read_bytes())
            continue
        (line,) = warned
        assert line.startswith("latentmix: warning: ") and "counts as missing and is made again" in line
    assert_same(copy, whole)
    assert "damaged" not in run(copy) and "warning" not in run(copy)


@pytest.mark.parametrize("damage", [truncate, empty, flip_a_bit])
def test_damaged_rates_cost_an_estimate_and_no_more(damage: Callable[[Path], None], copy: Path) -> None:
    damage(copy / "cache" / "rates.json")
    run(copy, "--dry-run")
    run(copy, "--dry-run", "seed=1")
    run(copy, "steps=3", command="invert")


def test_a_picture_and_its_features_lost_together_come_back(copy: Path, whole: Path, worked: list[str]) -> None:
    cell = Cell("heart", 2, Method("fix", "chm"))
    shutil.rmtree(experiment(copy).layout.cell_folder(cell))
    run(copy)
    assert worked == ["_generate heart"] * 2
    assert_same(copy, whole, but="/centroids/")


def test_the_same_tensors_are_saved_as_the_same_bytes(tmp_path: Path) -> None:
    written = set()
    for _ in range(20):
        store.save_tensors(tmp_path / "rows.safetensors", {"x": torch.ones(2, 3), "y": torch.ones(2)}, {"ids": ["a"]})
        written.add((tmp_path / "rows.safetensors").read_bytes())
    assert len(written) == 1


def test_any_flipped_byte_of_a_picture_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    pictures.write_image(path, torch.randint(0, 256, (3, 8, 8), dtype=torch.uint8))
    assert pictures.is_image(path)
    content = path.read_bytes()
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1 << place % 8]) + content[place + 1 :])
        assert not pictures.is_image(path)


def test_a_dry_run_leaves_damaged_files_where_they_are(copy: Path) -> None:
    path = sorted(copy.glob(KINDS["latents"]))[0]
    truncate(path)
    before = sorted(copy.rglob("*"))
    run(copy, "--dry-run")
    assert sorted(copy.rglob("*")) == before


# No space left


@pytest.mark.parametrize("writes", [0, 40])
def test_a_full_disk(writes: int, whole: Path, tmp_path: Path, worked: list[str]) -> None:
    outputs, left, fsync = tmp_path / "outputs", [writes], os.fsync

    def full(file: int) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(file)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", full)
        said = quickly("sweep", *BASE, f"outputs={outputs}")
    assert said.code == 1
    (line,) = (line for line in said.err.splitlines() if line.startswith("latentmix: "))
    assert "the disk is full" in line and str(outputs) in line and "outputs=" in line
    assert said.err.splitlines()[-1] == line
    assert not [path for path in outputs.rglob("*") if path.name.endswith(".part")]
    assert len(files(outputs)) <= writes
    run(outputs)
    assert_same(outputs, whole, but="/centroids/")
    assert len(worked) <= sum(BATCHES.values()) + 2


# Extended


def test_another_method_leaves_those_that_are_there(copy: Path, whole: Path, worked: list[str]) -> None:
    run(copy, "methods=[fix/0,nin/m,fix/chm]")
    assert worked == ["_generate star"] * 2 + ["_generate heart"] * 2
    old = results(whole)
    for name in ("metrics.csv", "pairs.csv", "images.parquet", "parts.parquet"):
        del old[f"run/{name}"]
    assert old.items() <= results(copy).items()
    rows = set((copy / "run" / "metrics.csv").read_text().splitlines())
    assert set((whole / "run" / "metrics.csv").read_text().splitlines()) <= rows


def test_another_n_leaves_those_that_are_there(copy: Path, whole: Path, worked: list[str]) -> None:
    run(copy, "n=[2,3]")
    assert worked == ["_generate star"] * 4 + ["_generate heart"] * 4
    rows = set((copy / "run" / "metrics.csv").read_text().splitlines())
    assert set((whole / "run" / "metrics.csv").read_text().splitlines()) <= rows


def test_few_draws_of_many_cells_fill_batches(
    tmp_path: Path, worked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four cells of 3 draws and batches of 6: two full ones, and the same images as in batches of one cell each."""
    sizes, predict = set[int](), UNetModel.predict

    def noted(self: UNetModel, z: torch.Tensor, *rest: Any) -> Any:
        sizes.add(len(z))
        return predict(self, z, *rest)

    few = ("draws=3", "n=[2,4]", "data.classes=[star]", "pool=6", "data.reference=6", "metrics=[clip_distance]")
    run(tmp_path / "alone", *few)
    begun = len(worked)
    monkeypatch.setattr(UNetModel, "predict", noted)
    run(tmp_path / "packed", *few, "batch=6")
    assert sizes == {6}
    assert worked[begun:].count("_generate star") == 2
    together, alone = experiment(tmp_path / "packed", *few, "batch=6"), experiment(tmp_path / "alone", *few)
    for cell in alone.cells.mixed:
        rows = [stacked(b.layout.features(cell, b.networks["clip"]), "features") for b in (together, alone)]
        assert len(rows[0]) == 3 and deviation(*rows) < 1e-3


def test_what_one_cell_lost_is_made_in_its_old_batch(copy: Path, whole: Path) -> None:
    """`batch=4` and 6 draws put two cells into one batch; one of them loses what it had there."""
    shutil.rmtree(copy / "cache" / "cells")
    run(copy, "batch=4")
    before = results(copy)
    made = experiment(copy, "batch=4")
    lost = made.layout.features(made.cells.mixed[1], made.networks["clip"]).folder
    shutil.rmtree(lost)
    made.layout.image_path(made.cells.mixed[1], 0).unlink()
    run(copy, "batch=4")
    assert results(copy) == before and lost.exists()


def test_another_class_leaves_those_that_are_there(copy: Path, worked: list[str]) -> None:
    run(copy, "data.classes=[drop,heart,star]", "n=[2]", "methods=[fix/0]")
    assert len(worked) == 3 + 3 + 2
    assert all("drop" in work for work in worked if not work.startswith("_measure_real"))


@pytest.mark.parametrize(("draws", "begun"), [(9, 4), (8, 6), (4, 0)])
def test_more_draws_add_to_those_that_are_there(
    draws: int, begun: int, copy: Path, whole: Path, worked: list[str]
) -> None:
    """The third of a cell's batches, of 9 draws; of 8, the new two are in one batch or in two; of 4, all are there."""
    run(copy, f"draws={draws}")
    assert len(worked) == begun
    longer, usual = experiment(copy, f"draws={draws}"), experiment(whole)
    for network in usual.networks.values():
        for cell in usual.cells.mixed:
            made = stacked(longer.layout.features(cell, network), "features")
            assert len(made) == max(draws, 6)
            assert deviation(made[:6], stacked(usual.layout.features(cell, network), "features")) < 1e-5


def test_more_draws_in_longer_batches_give_the_same_images(copy: Path, whole: Path) -> None:
    run(copy, "draws=10", "batch=10")
    longer, usual = experiment(copy, "draws=10"), experiment(whole)
    for cell in usual.cells.mixed:
        rows = stacked(longer.layout.features(cell, longer.networks["clip"]), "features")
        wanted = stacked(usual.layout.features(cell, usual.networks["clip"]), "features")
        assert len(rows) == 10
        assert deviation(rows[:6], wanted) < 1e-3


def test_a_larger_pool_inverts_only_what_is_new(copy: Path, whole: Path, worked: list[str]) -> None:
    run(copy, "pool=9", command="invert")
    assert worked == ["_invert star", "_invert heart"]  # the last batch of each had 2 images
    for class_id in ("star", "heart"):
        rows = experiment(copy, "pool=9").layout.latents(class_id).read()
        assert len(rows) == 9
        for id_, row in experiment(whole).layout.latents(class_id).read().items():
            assert deviation(rows[id_]["latents"], row["latents"]) < 1e-5


def test_a_sweep_measures_the_pictures_that_generate_left(tmp_path: Path, worked: list[str]) -> None:
    few = ("data.classes=[star]", "n=[2]", "methods=[fix/0]")
    run(tmp_path, *few, command="generate")
    before = sum(work.startswith("_generate") for work in worked)
    run(tmp_path, *few)
    assert sum(work.startswith("_generate") for work in worked) == before
