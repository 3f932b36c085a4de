"""`latentmix augment`: which mixtures are drawn, what is written, what is refused, and that a run continues."""

import csv
import gc
import json
import math
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from driver import Said, invoke
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pipelines import SD, SIZE

import latentmix as lm
from latentmix.errors import warn_once
from latentmix.experiment.random_mixtures import Mixture, count_mixtures, mixture_weights, random_mixtures

pytestmark = pytest.mark.usefixtures("random_pipelines")
quick = settings(max_examples=40, deadline=None, derandomize=True)
alphas = st.sampled_from([0.01, 0.3, 1.0, 30.0, math.inf])
FEW = ("--per-class", "6", *SD, "steps=2", "launch.threads=1")


@pytest.fixture(autouse=True)
def own_memory(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("LATENTMIX_CACHE", str(tmp_path_factory.mktemp("cache")))
    warn_once.cache_clear()
    yield


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Return a folder of a class of four images and one of three, whose names need care."""
    rng = np.random.default_rng(0)
    for class_id, count in (("big dog", 4), ("it's a cat", 3)):
        (tmp_path / "photos" / class_id).mkdir(parents=True)
        for index in range(count):
            pixels = rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / class_id / f"photo, {index}.png")
    return tmp_path / "photos"


def augment(photos: Path, *more: str, out: str = "out") -> Said:
    outputs = photos.parent / "outputs"
    return invoke("augment", str(photos), "-o", str(photos.parent / out), *FEW, f"outputs={outputs}", *more)


def table(out: Path) -> list[dict[str, str]]:
    with (out / "train" / "metadata.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def listing(out: Path) -> dict[str, bytes]:
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}


# Mixtures


def every_mixture(sizes: list[int], alpha: float, pool: int) -> set[Mixture]:
    """Count them out, without the formula."""
    found = set()
    for size in sizes:
        for chosen in combinations(range(pool), size):
            if math.isinf(alpha):
                found.add(Mixture(chosen, (1,) * size))
            elif size == 2:
                found |= {Mixture(chosen, (part, 100 - part)) for part in range(1, 100)}
            else:
                found |= {Mixture(chosen, (a, b, 100 - a - b)) for a in range(1, 99) for b in range(1, 100 - a)}
    return found


@quick
@given(st.integers(0, 2**32), alphas, st.integers(1, 9), st.integers(2, 4), st.integers(0, 2), st.integers(1, 60))
def test_mixtures_are_different_and_within_bounds(
    seed: int, alpha: float, pool: int, low: int, more: int, count: int
) -> None:
    sizes = list(range(low, low + more + 1))
    found = random_mixtures(seed, "star", count, sizes, alpha, pool)
    assert len(set(found)) == len(found) == min(count, count_mixtures(sizes, alpha, pool))
    for mixture in found:
        assert len(mixture.indices) in sizes and list(mixture.indices) == sorted(set(mixture.indices))
        assert max(mixture.indices) < pool and min(mixture.parts) >= 1
        assert math.isclose(sum(mixture.weights), 1) and len(mixture.parts) == len(mixture.indices)
        assert sum(mixture.parts) == 100 or (math.isinf(alpha) and set(mixture.parts) == {1})
    assert random_mixtures(seed, "star", count // 2, sizes, alpha, pool) == found[: count // 2]
    rows = mixture_weights(found, pool)
    for row, mixture in zip(rows.tolist(), found, strict=True):
        assert {i: w for i, w in enumerate(row) if w} == pytest.approx(
            dict(zip(mixture.indices, mixture.weights, strict=True))
        )


@pytest.mark.parametrize(
    ("sizes", "alpha", "pool", "count"),
    [
        ([2], 1.0, 2, 99),
        ([2], 0.01, 3, 3 * 99),
        ([2, 3], 30.0, 3, 3 * 99 + 4851),
        ([2, 3], math.inf, 4, 6 + 4),
        ([2], 1.0, 1, 0),
    ],
)
def test_all_mixtures_can_be_had(sizes: list[int], alpha: float, pool: int, count: int) -> None:
    assert count_mixtures(sizes, alpha, pool) == count
    assert set(random_mixtures(0, "star", count + 7, sizes, alpha, pool)) == every_mixture(sizes, alpha, pool)


def test_weights_are_those_of_the_dirichlet_distribution() -> None:
    """Its marginal is a beta distribution: variance (1/k)(1 − 1/k) / (k α + 1)."""
    for alpha in (0.5, 1.0, 4.0):
        drawn = random_mixtures(0, "star", 3000, [3], alpha, 40)
        first = np.array([mixture.weights[0] for mixture in drawn])
        assert abs(first.mean() - 1 / 3) < 0.02
        assert first.var() == pytest.approx((1 / 3) * (2 / 3) / (3 * alpha + 1), rel=0.1)
    sizes = [len(mixture.indices) for mixture in random_mixtures(0, "star", 3000, [2, 3, 4], 1.0, 40)]
    assert np.bincount(sizes)[2:] / 3000 == pytest.approx(1 / 3, abs=0.04)


# What is written


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # datasets leaves a file open
def test_torchvision_and_datasets_find_images_and_labels(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets
    from torchvision.datasets import ImageFolder

    with Image.open(photos / "big dog" / "photo, 3.png") as image:
        image.save(photos / "big dog" / "photo, 3.jfif", "JPEG")  # an ending that ImageFolder does not know
    (photos / "big dog" / "photo, 3.png").unlink()
    said = augment(photos, "--keep-originals", "--copy-threshold", "0", "seed=3")
    assert said.code == 0, said.err
    assert "12 mixtures and 7 originals of 2 classes" in said.out
    out = photos.parent / "out"
    rows = {row["file_name"]: row for row in table(out)}
    assert len(rows) == 19
    folder = ImageFolder(str(out / "train"))
    assert folder.classes == ["big dog", "it's a cat"]
    assert {Path(path).relative_to(out / "train").as_posix() for path, _ in folder.samples} == set(rows)
    loaded = datasets.load_dataset("imagefolder", data_dir=str(out), cache_dir=str(photos.parent / "hf"))["train"]
    assert sorted(loaded["label"]) == sorted(row["label"] for row in rows.values())
    assert loaded.class_encode_column("label").features["label"].names == folder.classes
    del loaded
    gc.collect()  # in this test, which ignores the warning
    for path, target in folder.samples:
        row = rows[Path(path).relative_to(out / "train").as_posix()]
        assert row["label"] == folder.classes[target]
        sources, weights = json.loads(row["sources"]), json.loads(row["weights"])
        assert all((photos / source).is_file() and source.startswith(row["label"]) for source in sources)
        assert len(sources) == len(weights) and math.isclose(sum(weights), 1)
        if row["method"] == "original":
            assert Path(path).read_bytes() == (photos / sources[0]).read_bytes()
        else:
            assert (row["method"], row["inversion"], row["seed"]) == ("nin/chm", "ddim", "3") and len(sources) > 1
    card = (out / "README.md").read_text()
    assert yaml.safe_load(card.split("---")[1])["task_categories"] == ["image-classification"]
    assert "| big dog | 4 | 6 | 4 | 0 | 0 |" in card


def test_an_image_is_that_of_its_row(photos: Path) -> None:
    """Made again from the sources and weights that the table names, by the commands for one mixture."""
    assert augment(photos, "--copy-threshold", "0", "--of", "4", "data.classes=[big dog]").code == 0
    row = table(photos.parent / "out")[2]
    file = photos.parent / "out" / "train" / row["file_name"]
    weights = dict(zip(json.loads(row["sources"]), row["weights"].strip("[]").split(", "), strict=True))
    ordered = ",".join(weights[f"big dog/photo, {index}.png"] for index in range(4))
    said = invoke(
        *("mix", "--class", "big dog", "--weights", ordered, "methods=[nin/chm]", *SD, "steps=2", "data=folder"),
        *(f"data.path={photos}", "data.classes=[big dog]", "pool=4", "n=[2]"),
        *(f"outputs={photos.parent / 'outputs'}", "name=one"),
    )
    assert said.code == 0, said.err
    again = photos.parent / "again.jpg"
    Image.open(said.out.splitlines()[1]).save(again, quality=95, subsampling=0)
    image, own = (np.asarray(Image.open(path)).astype(int) for path in (again, file))
    assert np.abs(image - own).mean() < 0.5


def test_near_copies_and_images_unlike_their_class_are_dropped_and_counted(photos: Path) -> None:
    said = augment(photos, "--copy-threshold", "255", out="copies")
    assert "0 mixtures of 2 classes" in said.out and "12 near copies" in said.out
    assert table(photos.parent / "copies") == []
    said = augment(photos, "--copy-threshold", "0", "--min-similarity", "-1", out="all")
    assert "0 near copies of an input, 0 unlike their class" in said.out, said.err
    middle = said.out.split("median ")[1].split(",")[0]
    said = augment(photos, "--copy-threshold", "0", "--min-similarity", middle, out="half")
    kept, everything = table(photos.parent / "half"), table(photos.parent / "all")
    assert 0 < len(kept) < len(everything) == 12
    assert [row for row in everything if row in kept] == kept
    assert f"{12 - len(kept)} unlike their class" in said.out


def test_one_hot_mixtures_of_an_exact_round_trip_would_be_copies(photos: Path) -> None:
    """Distances are to the nearest image of the class, whatever was mixed."""
    from latentmix.commands.augment import prepare
    from latentmix.experiment.training_set import _distances
    from latentmix.images import write_image

    experiment = prepare(photos, 6, "2", 1.0, "nin/chm", [*SD, "steps=2", f"outputs={photos.parent / 'outputs'}"])
    (cell,) = experiment.cells.of("big dog")
    pixels = [source.pixels(SIZE).astype(int) for source in experiment.data.pool("big dog")]
    for draw in experiment.cells.draws(cell):
        shifted = (pixels[draw % 4] + draw).clip(0, 255).astype(np.uint8)
        write_image(experiment.layout.image_path(cell, draw), torch.from_numpy(shifted).permute(2, 0, 1))
    distances = _distances(experiment, cell)
    assert distances[0] < 1e-3
    assert list(distances.values()) == sorted(distances.values()) and 3 < distances[5] < 5


# Running again


def test_a_stopped_run_goes_on_and_a_larger_one_adds_to_it(photos: Path) -> None:
    assert augment(photos, "--per-class", "3").code == 0
    first = listing(photos.parent / "out")
    gone = photos.parent / "out" / "train" / "big dog" / "000001.jpg"
    gone.unlink()
    assert augment(photos, "--per-class", "3").code == 0
    assert listing(photos.parent / "out") == first
    assert augment(photos).code == 0
    grown = listing(photos.parent / "out")
    images = {name for name in first if name.endswith(".jpg")}
    assert all(grown[name] == first[name] for name in images) and len(images) < len(grown) - 3
    assert augment(photos, out="at once").code == 0
    assert listing(photos.parent / "at once") == grown


@pytest.mark.parametrize("other", [("--of", "2-3"), ("--alpha", "9"), ("seed=1",), ("--method", "fix/0")])
def test_images_of_other_options_are_not_taken_from_the_cache(photos: Path, other: tuple[str, ...]) -> None:
    usual = ("--per-class", "2", "data.classes=[big dog]", "--of", "3", "--copy-threshold", "0")
    assert augment(photos, *usual, out="first").code == 0
    assert augment(photos, *usual, *other, out="second").code == 0
    assert augment(photos, *usual, *other, f"outputs={photos.parent / 'elsewhere'}", out="alone").code == 0
    second, alone = (listing(photos.parent / out) for out in ("second", "alone"))
    images = [name for name in second if name.endswith(".jpg")]
    assert len(images) == 2 and [second[name] for name in images] == [alone[name] for name in images]


def test_more_than_there_are_is_said_in_one_line(photos: Path) -> None:
    said = augment(photos, "--alpha", "inf", "--of", "3-4", "--copy-threshold", "0")
    assert said.code == 0
    line = "6 for each class is more than the different mixtures of some, which get all: "
    assert said.err.count(f"{line}big dog has 5, it's a cat has 1\n") == 1
    assert len(table(photos.parent / "out")) == 5 + 1


def test_a_mean_of_the_pool_leaves_half_of_it_unmixed(photos: Path) -> None:
    assert augment(photos, "--method", "nin/pool", "data.classes=[big dog]").code == 0
    assert {len(json.loads(row["sources"])) for row in table(photos.parent / "out")} == {2}


def test_a_dry_run_writes_nothing(photos: Path) -> None:
    said = augment(photos, "--dry-run")
    assert said.code == 0, said.err
    assert "12" in said.out and not (photos.parent / "out").exists()


# What is refused


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--of", "1-3"), "--of 1-3 must be a number of images from 2 to 100"),
        (("--of", "4-2"), "--of 4-2 must be"),
        (("--of", "many"), "--of many must be"),
        (("--alpha", "0"), "--alpha 0 must be at least 0.01"),
        (("--alpha", "nan"), "--alpha nan must be at least 0.01"),
        (("--method", "nin/cmh"), "did you mean 'nin/chm'?"),
        (("n=[2]",), "leave out n=[2]; latentmix augment takes this from --of"),
        (("data.path=elsewhere",), "takes this from its folder"),
        (
            (
                "--of",
                "4",
            ),
            'the class "it\'s a cat" has 3 different images, and mixing needs 4 by nin/chm',
        ),
        (
            ("--method", "nin/pool"),
            'the class "it\'s a cat" has 3 different images, and mixing needs 4 by nin/pool',
        ),
        (("data.classes=[mouse]",), "no class"),
    ],
)
def test_options_that_cannot_be_used_are_refused(photos: Path, arguments: tuple[str, ...], reason: str) -> None:
    said = augment(photos, *arguments)
    assert said.code == 2 and reason in said.err and len(said.err.splitlines()) == 1, said.err
    assert not (photos.parent / "out").exists()


def test_folders_that_cannot_be_used_are_refused(photos: Path, tmp_path: Path) -> None:
    for index in range(1, 4):
        (photos / "big dog" / f"photo, {index}.png").unlink()
    said = augment(photos)
    assert said.code == 2 and "the class 'big dog' has 1 different image, and mixing needs 2" in said.err
    (tmp_path / "empty").mkdir()
    for name, reason in (("empty", "there are no class folders"), ("nowhere", "cannot list")):
        said = invoke("augment", str(tmp_path / name), "-o", str(tmp_path / "x"), *FEW)
        assert said.code == 2 and reason in said.err and len(said.err.splitlines()) == 1, said.err


def test_a_training_set_is_not_written_among_its_own_images(photos: Path) -> None:
    for out in (photos, photos / "more", photos / "big dog" / "x"):
        said = invoke("augment", str(photos), "-o", str(out), *FEW)
        assert said.code == 2 and "would be taken for one of the classes; give a new folder with -o" in said.err
    assert not (photos / "more").exists()


def test_other_results_are_not_overwritten(photos: Path) -> None:
    out = photos.parent / "out"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    said = augment(photos)
    assert said.code == 2 and "is not empty, and no training set of latentmix augment" in said.err
    (out / "notes.txt").unlink()
    assert augment(photos, "--copy-threshold", "0").code == 0
    before = listing(out)
    for more, reason in (
        (("--copy-threshold", "1"), "augment.copy_threshold=0.0 there, 1.0 here"),
        (("--per-class", "3", "--copy-threshold", "0"), "augment.per_class=6 there, 3 here"),
        (("--copy-threshold", "0", "steps=3"), "steps=2 there, 3 here"),
    ):
        said = augment(photos, *more)
        assert said.code == 2 and reason in said.err, said.err
    (photos / "big dog" / "photo, 0.png").unlink()
    assert "augment.images=" in augment(photos, "--copy-threshold", "0").err
    assert listing(out) == before


def test_the_python_function_writes_what_the_command_writes(photos: Path) -> None:
    assert augment(photos, "--keep-originals").code == 0
    settings = (*SD, "steps=2", "launch.threads=1", f"outputs={photos.parent / 'outputs'}")
    out = lm.augment(photos, photos.parent / "by python", *settings, per_class=6, keep_originals=True)
    assert listing(out) == listing(photos.parent / "out")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"of": "1-3"}, "of=1-3 must be a number of images from 2 to 100"),
        ({"of": 2.5}, "of=2.5 must be a number of images"),
        ({"alpha": 0}, "alpha=0 must be at least 0.01"),
        ({"alpha": "x"}, "alpha='x' must be a number"),
        ({"min_similarity": "x"}, "min_similarity='x' must be a number"),
        ({"copy_threshold": None}, "copy_threshold=None must be a number"),
        ({"per_class": 1}, "per_class=1 must be a whole number of at least 2"),
        ({"method": "nin"}, "method=nin: there is no method 'nin'; did you mean 'nin/m'"),
        ({"methods": "nin/m"}, "leave out methods=nin/m; latentmix augment takes this from method=$"),
        ({"draws": 3}, "leave out draws=3; latentmix augment takes this from per_class=$"),
        ({"out": "here"}, "would be taken for one of the classes; give a new folder with out=$"),
        ({"out": "file"}, "choose another place with out=$|is a file; give a new folder with out=$"),
    ],
)
def test_errors_of_the_python_function_name_its_arguments(photos: Path, wrong: dict[str, Any], message: str) -> None:
    (photos.parent / "a file").touch()
    places = {"here": photos / "more", "file": photos.parent / "a file"}
    settings = [*SD, *(f"{name}={value}" for name, value in wrong.items() if name in ("methods", "draws"))]
    options = {name: value for name, value in wrong.items() if name not in ("methods", "draws", "out")}
    with pytest.raises(lm.UserError, match=message) as caught:
        lm.augment(photos, places.get(wrong.get("out", ""), photos.parent / "new"), settings, **options)
    assert "--" not in str(caught.value) and "\n" not in str(caught.value)
