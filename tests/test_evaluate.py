"""Any two sets of images measured against each other, and compared with torch-fidelity."""

import csv
import inspect
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from driver import Said, invoke
from PIL import Image
from torch import Tensor

import latentmix as lm
from latentmix.cli import evaluate as options
from latentmix.data.shapes import draw
from latentmix.errors import UserError
from latentmix.evaluation import against
from latentmix.feature_networks import FRECHET, PERCEPTUAL, frechet_network
from latentmix.metrics import METRICS

COUNT, WIDTH = 80, 64  # more images than features, for a covariance of full rank
EMBEDDED = ("--features", "embedded", "--clip", "embedded", "--perceptual", "embedded")
NETWORKS = {"features": "embedded", "clip": "embedded", "perceptual": "embedded"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return two folders of drawn images: in class folders, and flat."""
    root = tmp_path_factory.mktemp("images")
    for index in range(COUNT):
        for side, class_id, first in (("made", ("star", "heart")[index % 2], 0), ("real", "", 1000)):
            path = root / side / class_id / f"{index:03}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(draw(("star", "heart")[index % 2], first + index)).save(path)
    return root / "made", root / "real"


def evaluate(images: Path, reference: Path, *more: str) -> Said:
    return invoke("evaluate", "--images", str(images), "--reference", str(reference), *EMBEDDED, *more)


def test_images_that_are_references_too_are_told(folders: tuple[Path, Path], tmp_path: Path) -> None:
    """As the originals are that `latentmix augment --keep-originals` copies."""
    made, real = folders
    mixed = shutil.copytree(made, tmp_path / "mixed")
    shutil.copy(real / "003.png", mixed / "original-003.png")
    said = evaluate(mixed, real, "--metrics", "fid")
    assert said.code == 0
    assert f"1 of the {COUNT + 1} images are among the reference images" in said.err and "original-003.png" in said.err
    for one, other in ((made, real), (real, real)):
        assert "among the reference images" not in evaluate(one, other, "--metrics", "fid").err


def by_torch_fidelity(folders: tuple[Path, Path]) -> Mapping[str, float]:
    """Return its metrics of the same folders, of the same network's features."""
    from torch_fidelity import calculate_metrics, register_feature_extractor
    from torch_fidelity.feature_extractor_base import FeatureExtractorBase

    network = frechet_network("embedded", torch.device("cpu"))

    class Embedded(FeatureExtractorBase):
        def __init__(self, name: str, layers: list[str], **_: object) -> None:
            super().__init__(name, layers)

        @staticmethod
        def get_provided_features_list() -> tuple[str, ...]:
            return ("pooled",)

        @staticmethod
        def get_default_feature_layer_for_metric(metric: str) -> str:
            return "pooled"

        @staticmethod
        def can_be_compiled() -> bool:
            return False

        @staticmethod
        def get_dummy_input_for_compile() -> Tensor:
            return torch.zeros(1, 3, 64, 64, dtype=torch.uint8)

        def forward(self, images: Tensor) -> tuple[Tensor]:
            return (network.extract(images).double(),)

    register_feature_extractor("embedded-classifier", Embedded)
    made, real = folders
    return calculate_metrics(
        input1=str(made),
        input2=str(real),
        fid=True,
        kid=True,
        prc=True,
        kid_subsets=1,
        kid_subset_size=COUNT,
        feature_extractor="embedded-classifier",
        samples_find_deep=True,
        batch_size=17,
        cuda=False,
        cache=False,
        verbose=False,
    )


@pytest.mark.filterwarnings("ignore")  # its own
def test_fid_kid_and_precision_and_recall_are_those_of_torch_fidelity(folders: tuple[Path, Path]) -> None:
    theirs = by_torch_fidelity(folders)
    ours = lm.evaluate(*folders, ["fid", "kid", "precision", "recall"], features="embedded", device="cpu")
    assert ours["fd_embedded"].value == pytest.approx(theirs["frechet_inception_distance"], rel=1e-6)
    assert ours["kd_embedded"].value == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-6)
    assert ours["precision_embedded"].value == pytest.approx(theirs["precision"], rel=1e-6)
    assert ours["recall_embedded"].value == pytest.approx(theirs["recall"], rel=1e-6)
    assert 0 < ours["precision_embedded"].value < 1 or 0 < ours["recall_embedded"].value < 1
    for estimate in ours.values():
        assert estimate.low < estimate.value < estimate.high and estimate.count == COUNT


@pytest.mark.parametrize("function", [lm.evaluate, options.evaluate])
def test_the_networks_that_are_taken_unasked_exist(function: Callable[..., object]) -> None:
    defaults = inspect.signature(function).parameters
    assert defaults["features"].default in FRECHET and defaults["perceptual"].default in PERCEPTUAL


def test_the_command_writes_what_python_returns(folders: tuple[Path, Path], tmp_path: Path) -> None:
    names = [name for name in METRICS if name != "clip_score"]
    said = evaluate(*folders, "--metrics", ",".join(names), "-o", str(tmp_path / "table.csv"))
    assert said.code == 0, said.err
    with (tmp_path / "table.csv").open(newline="") as file:
        rows = {row["metric"]: row for row in csv.DictReader(file)}
    found = lm.evaluate(*folders, names, features="embedded", clip="embedded", perceptual="embedded")
    assert list(rows) == list(found) and len(rows) == len(names)
    for name, estimate in found.items():
        assert float(rows[name]["value"]) == pytest.approx(estimate.value)
        assert int(rows[name]["count"]) == estimate.count == (COUNT // 2 if "diversity" in name else COUNT)
        assert name in said.out
        if "infinity" not in name:
            assert float(rows[name]["low"]) < estimate.value < float(rows[name]["high"])
    real = sorted(folders[1].rglob("*.png"))
    halves = lm.evaluate(real[::2], real[1::2], names, features="embedded", clip="embedded", perceptual="embedded")
    for name, estimate in halves.items():
        if "diversity" in name:
            assert not rows[name]["real"]
        else:
            assert float(rows[name]["real"]) == pytest.approx(estimate.value)


def test_reference_images_are_compared_with_their_own_kind_at_the_number_of_images(folders: tuple[Path, Path]) -> None:
    made, real = (sorted(folder.rglob("*.png")) for folder in folders)
    _, found = against(made[:4], real, "kid", "embedded", "embedded", "embedded")
    one = lm.evaluate([real[2 * place] for place in (0, 13, 26, 39)], real[1::2], "kid", **NETWORKS)  # type: ignore[arg-type]
    assert found == {"kd_embedded": pytest.approx(one["kd_embedded"].value)}
    assert against(made[:4], real, "kid", "embedded", "embedded", "embedded", halves=False)[1] == {}


def test_a_network_that_two_metrics_name_extracts_once(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(vars(METRICS)["_builtin"], "again", replace(METRICS["kid"], network="embedded"))
    images, seen = sorted(folders[0].rglob("*.png"))[:6], 0
    plain = FRECHET["embedded"](torch.device("cpu"))

    def counted(pixels: torch.Tensor) -> torch.Tensor:
        nonlocal seen
        seen += len(pixels)
        return plain.extract(pixels)

    monkeypatch.setitem(vars(FRECHET)["_builtin"], "embedded", lambda device: replace(plain, extract=counted))
    found = lm.evaluate(images[:3], images[3:], ["kid", "again"], **NETWORKS)  # type: ignore[arg-type]
    assert seen == 6 and len(set(found.values())) == 1


def test_folders_arrays_tensors_and_pictures_are_the_same(folders: tuple[Path, Path]) -> None:
    made, real = folders
    arrays = np.stack([np.asarray(Image.open(path)) for path in sorted(made.rglob("*.png"))])[:20]
    tensors, pictures = torch.from_numpy(arrays).permute(0, 3, 1, 2), [Image.fromarray(array) for array in arrays]
    found = [lm.evaluate(x, real, ["kid", "clip_distance"], **NETWORKS) for x in (arrays, tensors, pictures)]  # type: ignore[arg-type]
    assert found[0] == found[1] == found[2]
    assert found[0]["kd_embedded"].count == 20


def test_images_keep_their_own_size_and_clip_sees_the_square_in_the_centre() -> None:
    rng = np.random.default_rng(0)
    wide = list(rng.integers(0, 256, (4, 40, 72, 3), dtype=np.uint8)) + list(
        rng.integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    )
    squares = [array[:, (array.shape[1] - array.shape[0]) // 2 :][:, : array.shape[0]] for array in wide]
    network = frechet_network("embedded", torch.device("cpu"))
    mean = torch.cat([network.extract(torch.from_numpy(a).permute(2, 0, 1)[None]) for a in wide]).double().mean(0)
    other = wide[::-1]
    by_hand = lm.evaluate(squares, squares[::-1], ["clip_distance"], **NETWORKS)  # type: ignore[arg-type]
    assert lm.evaluate(wide, other, ["clip_distance"], **NETWORKS) == pytest.approx(by_hand)  # type: ignore[arg-type]
    single = lm.evaluate(wide, [wide[0]] * 4, ["fid"], features="embedded")["fd_embedded"].value
    first = network.extract(torch.from_numpy(wide[0]).permute(2, 0, 1)[None])[0].double()
    assert single > (mean - first).square().sum().item() > 0  # and the spread of the others


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        (("--metrics", "fdi"), "there is no metric 'fdi'; did you mean 'fid'?"),
        (("--metrics", "KDI,"), "there is no metric 'KDI'; did you mean 'kid'?"),
        (("--metrics", ","), "name at least one metric"),
        (("--metrics", "clip_score"), "clip_score compares images with a prompt"),
        (("--features", "incpetion"), "there is no feature network 'incpetion'"),
        (("--dry-run",), "no KEY=VALUE and no --dry-run"),
        (("-o", f"{__file__}/table.csv"), "is a file; choose another place with -o"),
        (("steps=3",), "no KEY=VALUE and no --dry-run"),
    ],
)
def test_what_cannot_be_measured_is_said_in_one_line(
    folders: tuple[Path, Path], more: tuple[str, ...], reason: str
) -> None:
    said = evaluate(*folders, *more)
    assert said.code == 2 and reason in said.err and len(said.err.splitlines()) == 1, said.err


def test_folders_without_images_are_refused_in_one_line(folders: tuple[Path, Path], tmp_path: Path) -> None:
    made, _ = folders
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    for index in range(2):
        (tmp_path / "broken" / f"{index}.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    for name, reason in (
        ("empty", "has 0 images; metrics compare at least 2 with at least 2"),
        ("nowhere", "cannot list"),
        ("broken", "can't be read as an image"),
    ):
        said = evaluate(made, tmp_path / name)
        assert said.code == 2 and reason in said.err and len(said.err.splitlines()) == 1, said.err
    said = invoke("evaluate", "--images", str(made))
    assert said.code == 2 and "give both --images and --reference" in said.err
    for one in (np.zeros((1, 8, 8, 3), dtype=np.uint8), Image.new("RGB", (8, 8)), None):
        with pytest.raises(UserError, match="one side has 1 image;"):
            lm.evaluate(one, made, ["fid"], features="embedded")
    with pytest.raises(UserError, match="is no image"):
        lm.evaluate(np.zeros((3, 8, 8, 3)), made, ["fid"], features="embedded")


def test_paths_that_options_take_have_their_tilde_expanded(
    folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shell leaves `~` where it is quoted, or follows `=`."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    said = evaluate(*folders, "--metrics", "kid,", "--out=~/table.csv")
    assert said.code == 0, said.err
    assert (tmp_path / "table.csv").exists() and not (tmp_path / "~").exists()


@pytest.mark.parametrize(
    ("metrics", "message"),
    [(None, "a metric is given by its name, such as 'fid', not None"), ([3], "not 3"), (3, "not 3")],
)
def test_metrics_are_given_by_name(metrics: Any, message: str) -> None:
    with pytest.raises(lm.UserError, match=message):
        lm.evaluate([], [], metrics, device="cpu")


def test_a_device_that_is_not_there_is_refused_in_one_line() -> None:
    for call in (lambda: lm.evaluate([], [], "fid", device="nowhere"), lambda: lm.features("embedded", "nowhere")):
        with pytest.raises(lm.UserError, match="device=nowhere can't be used here"):
            call()


def test_a_single_image_is_one_and_a_table_none() -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    with pytest.raises(lm.UserError, match="one side has 1 image; metrics compare at least 2"):
        lm.evaluate(image, [image, image], "fid", features="embedded", device="cpu")
    with pytest.raises(lm.UserError, match="a dict is no list of images"):
        lm.evaluate({"a": image}, [image, image], "fid", features="embedded", device="cpu")
