"""Offsets in a part of the latent: what is offset, that the pictures are diffusers' of the same latents, and what is
written of them."""

import csv
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from driver import Said, invoke
from PIL import Image

from latentmix.embedded import embedded_folder
from latentmix.errors import UserError
from latentmix.experiment.probe import SIDES, offset, parse, region
from latentmix.rng import noise

STEPS = 4  # which divides 1000, as diffusers' scheduler wants it
BASE = ("data.classes=[star,heart]", "n=[2]", "pool=2", "draws=2", "launch.threads=1")
QUICK = (*BASE, f"steps={STEPS}")
OFFSETS = ("0", "0.5", "2")


# What is offset.


@pytest.mark.parametrize(
    ("side", "expected"),
    [
        ("top", ["1111", "0000", "0000", "0000"]),
        ("bottom", ["0000", "0000", "0000", "1111"]),
        ("left", ["1000"] * 4),
        ("right", ["0001"] * 4),
    ],
)
def test_a_quarter_along_a_side(side: str, expected: list[str]) -> None:
    assert ["".join(str(int(x)) for x in row) for row in region(side, 0.25, 4, 4)] == expected


def test_a_share_is_one_of_rows_or_columns() -> None:
    assert region("top", 0.5, 8, 2).sum() == 8
    assert region("right", 0.5, 8, 2).sum() == 8
    for side in SIDES:
        assert region(side, 0.25, 64, 64).float().mean() == 0.25


@pytest.mark.parametrize("share", [0.01, 0.99])
@pytest.mark.parametrize("side", SIDES)
def test_a_region_of_nothing_or_everything(side: str, share: float) -> None:
    with pytest.raises(UserError, match="none or all"):
        region(side, share, 8, 8)


def test_an_offset_keeps_the_whole_mean_and_changes_two_channels_inside() -> None:
    z, inside = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)), region("top", 0.25, 8, 8)
    before = z.clone()
    change = offset(z, 0.4, (2, 0), inside) - z
    expected = torch.zeros(2, 4, 8, 8)
    expected[:, 2, :2], expected[:, 0, :2] = -0.4, 0.4
    torch.testing.assert_close(change, expected)
    assert abs(change.mean().item()) < 1e-8
    assert torch.equal(z, before)
    assert torch.equal(offset(z, 0.0, (2, 0), inside), z)
    torch.testing.assert_close(offset(z[0], 0.4, (2, 0), inside), (z + expected)[0])


def test_zero_is_always_among_the_offsets_and_none_is_twice() -> None:
    def offsets(text: str) -> tuple[float, ...]:
        return parse(None, text, "0,1", "top", 0.25, 1).offsets

    assert offsets("0.1,0.2") == (0, 0.1, 0.2)
    assert offsets("-0.1,0,0.1") == (-0.1, 0, 0.1)
    assert offsets("0,0.1,0.1") == (0, 0.1)


# The command.


def done(*arguments: str) -> Said:
    said = invoke("probe", *arguments)
    assert said.code == 0, said.err
    return said


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("probe")
    said = done(*QUICK, f"outputs={place}", "--offsets", ",".join(OFFSETS), "--class", "heart", "--draws", "2")
    folder = place / "tiny-shapes"
    wanted = [str(folder / name) for name in ("probe/heart", "probe.csv", "probe.png", "probe.pdf")]
    assert said.out.splitlines()[-4:] == wanted
    return place


def image_path(outputs: Path, draw: int, t: str, b: str) -> np.ndarray:
    with Image.open(outputs / "tiny-shapes" / "probe" / "heart" / f"{draw:06d}-t={t}-b={b}.png") as image:
        return np.asarray(image).astype(np.float64)


def table(outputs: Path) -> list[dict[str, str]]:
    with (outputs / "tiny-shapes" / "probe.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_what_is_written(outputs: Path) -> None:
    folder = outputs / "tiny-shapes"
    assert len(list((folder / "probe" / "heart").iterdir())) == 2 * 2 * len(OFFSETS)
    rows = table(outputs)
    assert [(r["draw"], r["t"], float(r["b"])) for r in sorted(rows, key=lambda r: (r["draw"], r["t"], r["b"]))] == [
        (draw, t, float(b)) for draw in "01" for t in "0T" for b in OFFSETS
    ]
    assert {(r["model"], r["class"], r["region"], r["share"], r["channels"]) for r in rows} == {
        ("tiny", "heart", "top", "0.25", "0,1")
    }
    with Image.open(folder / "probe.png") as image:
        assert image.size[1] > image.size[0]  # four rows, three columns
        assert len(np.unique(np.asarray(image.convert("RGB")).reshape(-1, 3), axis=0)) > 50
    assert (folder / "probe.pdf").read_bytes().startswith(b"%PDF-")


def test_changes_are_those_of_the_pictures(outputs: Path) -> None:
    for row in table(outputs):
        usual = image_path(outputs, int(row["draw"]), row["t"], "0")
        squares = (image_path(outputs, int(row["draw"]), row["t"], f"{float(row['b']):g}") - usual) ** 2
        assert float(row["rmse_inside"]) == pytest.approx(np.sqrt(squares[:16].mean()))
        assert float(row["rmse_outside"]) == pytest.approx(np.sqrt(squares[16:].mean()))


def test_without_an_offset_nothing_changes_and_the_times_agree(outputs: Path) -> None:
    for row in (r for r in table(outputs) if float(r["b"]) == 0):
        assert (float(row["rmse_inside"]), float(row["rmse_outside"])) == (0, 0)
    for draw in (0, 1):
        assert np.array_equal(image_path(outputs, draw, "T", "0"), image_path(outputs, draw, "0", "0"))
    assert not np.array_equal(image_path(outputs, 0, "T", "0"), image_path(outputs, 1, "T", "0"))


def test_after_diffusion_an_offset_stays_in_its_place(outputs: Path) -> None:
    for draw in "01":
        (row,) = (r for r in table(outputs) if (r["draw"], r["t"], float(r["b"])) == (draw, "0", 2))
        assert float(row["rmse_inside"]) > 3 * float(row["rmse_outside"])


def test_pictures_are_diffusers_of_the_same_latents(outputs: Path) -> None:
    pipeline: Any = StableDiffusionPipeline.from_pretrained(embedded_folder("tiny"), dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = type(pipeline.scheduler).from_config(pipeline.scheduler.config, timestep_spacing="trailing")
    how = {"guidance_scale": 3.0, "num_inference_steps": STEPS}
    change = torch.zeros(1, 4, 8, 8)
    change[0, 0, :2], change[0, 1, :2] = -2, 2
    z = torch.from_numpy(noise(0, "probe", 1, (4, 8, 8)))[None]
    early = pipeline("a photo of a heart", latents=z + change, output_type="np", **how).images[0]
    assert np.abs(image_path(outputs, 1, "T", "2") - 255 * early).max() <= 1.5

    clean = pipeline("a photo of a heart", latents=z, output_type="latent", **how).images
    with torch.no_grad():
        late = pipeline.vae.decode((clean + change) / pipeline.vae.config.scaling_factor).sample[0]
    late = (255 * (late / 2 + 0.5).clamp(0, 1)).permute(1, 2, 0).numpy()
    assert np.abs(image_path(outputs, 1, "0", "2") - late).max() <= 1.5


def test_once_more_generates_nothing_and_more_offsets_only_those(outputs: Path, tmp_path: Path) -> None:
    again = shutil.copytree(outputs, tmp_path / "outputs")
    usual = (*QUICK, f"outputs={again}", "--class", "heart", "--draws", "2", "--offsets")
    assert "all 6 images are there already" in done(*usual, "0,0.5,2").err
    for name in ("probe.csv", "probe.png", "probe.pdf"):
        assert (again / "tiny-shapes" / name).read_bytes() == (outputs / "tiny-shapes" / name).read_bytes()
    said = done(*usual, "0,0.5,2,3", "batch=1", "--dry-run")
    (line,) = (line for line in said.out.splitlines() if line.startswith("│ probe"))
    assert [cell.strip() for cell in line.strip("│").split("│")][:4] == ["probe", "2", "6", str(2 * 2 * STEPS)]


@pytest.mark.parametrize("change", ["seed=1", "guidance=1", "steps=5", "--region=left", "--channels=1,0"])
def test_what_changes_the_pictures_makes_new_ones(outputs: Path, change: str) -> None:
    said = done(*QUICK, f"outputs={outputs}", "--class", "heart", "--offsets", "0,2", change, "--dry-run")
    (line,) = (line for line in said.out.splitlines() if line.startswith("│ probe"))
    assert [cell.strip() for cell in line.strip("│").split("│")][1:3] == ["2", "0"]


def test_an_inversion_has_no_part_in_it(outputs: Path) -> None:
    said = done(*QUICK, f"outputs={outputs}", "--class", "heart", "--offsets", "0,2", "inversion=midpoint", "--dry-run")
    (line,) = (line for line in said.out.splitlines() if line.startswith("│ probe"))
    assert [cell.strip() for cell in line.strip("│").split("│")][1:3] == ["0", "2"]


def test_a_dry_run_writes_nothing_and_no_image_is_inverted(tmp_path: Path) -> None:
    said = done(*BASE, "data=synthetic", f"outputs={tmp_path / 'outputs'}", "--dry-run", "data.reference=4")
    assert "invert" not in said.out and "synthesize" not in said.out and "nothing was done" in said.out
    assert not (tmp_path / "outputs").exists()


def test_a_class_needs_a_name_and_no_images(tmp_path: Path) -> None:
    (tmp_path / "data" / "star").mkdir(parents=True)
    (tmp_path / "data" / "star" / "one.jpg").touch()  # a single one, and no image
    place = ("data=folder", f"data.path={tmp_path / 'data'}", "data.classes=null", f"outputs={tmp_path / 'outputs'}")
    done("steps=2", "launch.threads=1", *place, "--offsets", "1")
    assert (tmp_path / "outputs" / "tiny-data" / "probe.png").exists()
    assert "one.jpg cannot be used" in invoke("invert", *place).err


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--offsets", "0,x"], "--offsets 0,x: these are no numbers; write them with commas"),
        (["--offsets", "0,nan"], "finite"),
        (["--offsets", ""], "these are no numbers"),
        (["--channels", "0,0"], "two different ones"),
        (["--channels", "0"], "two different ones"),
        (["--channels", "0,1,2"], "two different ones"),
        (["--channels", "a,b"], "two different ones"),
        (["--channels", "0,4"], "--channels 0,4: latents of tiny have channels 0 to 3"),
        (["--region", "middle"], "--region middle must be one of top, bottom, left, right"),
        (["--share", "0"], "between 0 and 1"),
        (["--share", "1.5"], "between 0 and 1"),
        (["--share", "nan"], "between 0 and 1"),
        (["--share", "0.01"], "none or all"),
        (["--draws", "0"], "at least 1"),
        (["--class", "drop"], "'drop' is not among the classes of this run: star, heart"),
    ],
    ids=" ".join,
)
def test_mistakes_are_refused_before_any_work(options: list[str], reason: str, tmp_path: Path) -> None:
    said = invoke("probe", *QUICK, f"outputs={tmp_path / 'outputs'}", *options)
    assert said.code == 2
    (line,) = said.err.splitlines()
    assert line.startswith("latentmix: error: ") and reason in line
    assert not (tmp_path / "outputs").exists()
