"""Draws in a run, read from the files that it leaves: nested in N, and the same images for every method."""

import json
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import pyarrow.parquet as parquet
import pytest
import yaml
from driver import invoke, rows
from PIL import Image
from pipelines import SD

from latentmix.compose import validate
from latentmix.experiment.csv_files import read_rows

POOL, DRAWS, NS = 8, 3, (1, 2, 4, 8)
METHODS = ("lin/0", "fix/0", "nin/m", "nin/chm")
BASE = (
    *(*SD, "name=run", "data.classes=[star,heart]", f"pool={POOL}", f"draws={DRAWS}", f"n={list(NS)}", "steps=2"),
    *(f"methods=[{','.join(METHODS)}]", "launch.threads=1"),
)

pytestmark = pytest.mark.usefixtures("random_pipelines")


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    outputs = tmp_path_factory.mktemp("outputs")
    for command in ("mix", "generate"):
        said = invoke(command, *BASE, f"outputs={outputs}")
        assert said.code == 0, said.err
    return outputs


def folder(outputs: Path, pattern: str, *words: str) -> Path:
    """Return the one folder of the cache whose identity has all these words."""
    found = list(outputs.glob(f"cache/{pattern}/identity.json"))
    (path,) = (path for path in found if all(word in path.read_text() for word in words))
    return path.parent


def centred(folder: Path) -> np.ndarray:
    """Return the latents without their channel means, which no method scales alike: [rows, L], in order."""
    latents = rows(folder, "latents")
    z = np.stack([latents[id_] for id_ in sorted(latents)])
    return (z - z.mean((2, 3), keepdims=True)).reshape(len(z), -1)


def shares(outputs: Path, class_id: str, n: int, method: str) -> np.ndarray:
    """Return the share of each image of the pool in each draw's mixture, by solving for it: [draws, pool]."""
    pool = centred(folder(outputs, "latents/*", f"a photo of a {class_id}"))
    words = (f'"class": "{class_id}"', f'"n": {n},', f'"{method}"')
    mixtures = centred(folder(outputs, "cells/*/centroids", *words))
    weights, *_ = np.linalg.lstsq(pool.T, mixtures.T, rcond=None)
    np.testing.assert_allclose(weights.T @ pool, mixtures, atol=1e-4 * np.abs(mixtures).max())
    return (weights / weights.sum(0)).T


@pytest.mark.parametrize("class_id", ["star", "heart"])
def test_every_mixture_is_of_n_images_and_those_of_fewer_are_among_them(outputs: Path, class_id: str) -> None:
    for method in METHODS:
        drawn = [shares(outputs, class_id, n, method) for n in NS]
        for n, weights in zip(NS, drawn, strict=True):
            assert ((weights > 0.5 / n).sum(1) == n).all()
            np.testing.assert_allclose(weights[weights > 0.5 / n], 1 / n, atol=1e-3)
        for fewer, more in pairwise(drawn):
            assert ((more > 0.01) >= (fewer > 0.01)).all()


def test_every_method_mixes_the_same_images(outputs: Path) -> None:
    for class_id, n in product(["star", "heart"], NS):
        first, *others = (shares(outputs, class_id, n, method) for method in METHODS)
        for other in others:
            np.testing.assert_allclose(other, first, atol=1e-3)


def test_generate_says_which_images_it_mixed_and_with_which_settings(outputs: Path) -> None:
    images = outputs / "run" / "images"
    table = read_rows(images / "metadata.csv")
    assert {row["file_name"] for row in table} == {p.relative_to(images).as_posix() for p in images.rglob("*.png")}
    for row in table:
        mixed = shares(outputs, row["label"], int(row["n"]), row["method"])[int(row["draw"])] > 0.01
        assert json.loads(row["weights"]) == [round(1 / int(row["n"]), 4)] * int(row["n"])
        assert set(json.loads(row["sources"])) == {f"{row['label']}/{index}" for index in np.flatnonzero(mixed)}
    config = validate(yaml.safe_load((images / "config.yaml").read_text()))
    assert (config.n, config.pool, str(config.methods[3])) == (NS, POOL, METHODS[3])


def image(outputs: Path, class_id: str, n: int, method: str, draw: int) -> np.ndarray:
    path = outputs / "run" / "images" / class_id / method.replace("/", "-") / f"N={n:03}" / f"{draw:06d}.png"
    return np.asarray(Image.open(path)).astype(int)


def test_images_are_generated_from_these_draws(outputs: Path) -> None:
    """Of one image, all these methods make the image itself. Of the whole pool there is a single draw."""
    for class_id in ("star", "heart"):
        whole = outputs / "run" / "images" / class_id / "fix-0" / f"N={POOL:03}"
        assert [path.name for path in whole.iterdir()] == ["000000.png"]
    for class_id, draw in product(["star", "heart"], range(DRAWS)):
        single = image(outputs, class_id, 1, "lin/0", draw)
        for method in ("nin/m", "nin/chm"):
            assert np.abs(image(outputs, class_id, 1, method, draw) - single).max() <= 1
    singles = [image(outputs, "star", 1, "lin/0", draw) for draw in range(DRAWS)]
    first = [shares(outputs, "star", 1, "lin/0")[draw].argmax() for draw in range(DRAWS)]
    for (one, a), (other, b) in pairwise(zip(singles, first, strict=True)):
        assert (np.abs(one - other).max() > 4) == (a != b)


def test_a_run_counts_distinct_draws_and_says_where_they_are_few(tmp_path: Path) -> None:
    """Of 3 images there are 3 pairs, and a single subset of all three."""
    few = ("data.classes=[star]", "data.reference=6", "pool=3", "n=[2,3]", "draws=10", "controls=[]", "keep=0")
    metrics = "metrics=[fid,kid,cmmd,clip_distance,clip_distance_raw,precision,recall,density,coverage,diversity]"
    run = (*SD, "name=few", "steps=2", "methods=[fix/0,fix/chm]", metrics, f"outputs={tmp_path}", *few)
    said = invoke("sweep", *run)
    assert said.code == 0, said.err
    assert said.err.count("3 of n=2, 1 of n=3; each of these is drawn once") == 1
    table = [row for row in read_rows(tmp_path / "few" / "metrics.csv") if row["class"] == "star"]
    assert {(row["n"], row["count"]) for row in table if "diversity" not in row["metric"]} == {("2", "3"), ("3", "1")}
    assert {(row["n"], row["count"]) for row in table if "diversity" in row["metric"]} == {("2", "1"), ("3", "0")}
    values = {row["metric"]: row["value"] for row in table if row["n"] == "3" and row["method"] == "fix/0"}
    assert values["fd_embedded"] == values["kd_embedded"] == values["cmmd_embedded"] == ""
    assert float(values["clip_distance_embedded"]) > 0
    images = parquet.read_table(tmp_path / "few" / "images.parquet").to_pylist()
    assert len({(row["n"], row["method"], row["draw"]) for row in images}) == len(images) == 2 * (3 + 1)
    assert invoke("report", str(tmp_path / "few")).code == 0
