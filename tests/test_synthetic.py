"""Images that the model makes for itself: what they are made of, and that they are kept and used."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from driver import invoke
from PIL import Image

from latentmix.compose import compose
from latentmix.data.synthetic import Synthetic
from latentmix.embedded import embedded_folder
from latentmix.errors import UserError
from latentmix.experiment.experiment import Experiment

BASE = (
    "data=synthetic",
    "data.classes=[star,heart]",
    "data.reference=6",
    "n=[2]",
    "pool=4",
    "draws=4",
    "steps=4",  # which divides 1000, as diffusers' scheduler wants it
    "methods=[fix/0]",
    "launch.threads=1",
)


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("synthetic")
    said = invoke("sweep", *BASE, f"outputs={place}")
    assert said.code == 0, said.err
    return place


def data_of(outputs: Path, *more: str) -> Synthetic:
    data = Experiment(compose([*BASE, *more, f"outputs={outputs}"])).data.dataset
    assert isinstance(data, Synthetic)
    return data


def image_path(data: Synthetic, class_id: str, index: int) -> np.ndarray:
    return np.asarray(Image.open(data.path(class_id, index)))


def test_a_sweep_makes_them_and_measures(outputs: Path) -> None:
    with (outputs / "tiny-synthetic" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["class"] for row in rows} == {"star", "heart", "all"}
    assert len(list((outputs / "cache" / "synthetic").rglob("*.png"))) == 2 * 6  # as many as the larger use takes


def test_they_are_diffusers_images_of_the_same_noise_and_a_little_noise_more(outputs: Path) -> None:
    data = data_of(outputs)
    pipeline = StableDiffusionPipeline.from_pretrained(embedded_folder("tiny"), dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = type(pipeline.scheduler).from_config(pipeline.scheduler.config, timestep_spacing="trailing")
    noise = torch.from_numpy(data.noise("star", 1, "latent", (4, 8, 8)))[None]
    how = {"guidance_scale": 3.0, "num_inference_steps": 4, "output_type": "np"}
    clean = pipeline("a photo of a star", latents=noise, **how).images[0] * 255
    added = 255 * 0.02 * data.noise("star", 1, "pixels", (3, 64, 64)).transpose(1, 2, 0)
    made = image_path(data, "star", 1)
    assert np.abs(made - (clean.round() + added).round().clip(0, 255)).max() <= 1
    inside = (clean > 20) & (clean < 235)
    assert (made - clean)[inside].std() == pytest.approx(0.02 * 255, rel=0.05)


def test_noise_is_an_images_own_and_gaussian() -> None:
    data = Synthetic(("a", "b"), Path("x"), 0)
    draws = [data.noise(c, i, p, (50, 50)) for c in "ab" for i in range(3) for p in ("latent", "pixels")]
    correlations = np.corrcoef(np.stack(draws).reshape(len(draws), -1))
    assert np.abs(correlations - np.eye(len(draws))).max() < 0.1
    assert np.std(draws) == pytest.approx(1, abs=0.02)
    assert np.array_equal(draws[0], data.noise("a", 0, "latent", (50, 50)))
    assert not np.array_equal(draws[0], Synthetic(("a",), Path("x"), 1).noise("a", 0, "latent", (50, 50)))


def test_they_are_kept_and_a_lost_one_is_made_again_alike(outputs: Path) -> None:
    data = data_of(outputs)
    before, path = image_path(data, "heart", 2), data.path("heart", 2)
    path.unlink()
    assert "synthesize: all" not in invoke("invert", *BASE, f"outputs={outputs}").err
    assert np.array_equal(before, image_path(data, "heart", 2))
    assert "synthesize: all 12 images are there" in invoke("invert", *BASE, f"outputs={outputs}").err


@pytest.mark.parametrize("change", ["seed=1", "steps=5", "guidance=2", "data.noise=0.1", "model.prompt='one {}'"])
def test_whatever_changes_them_changes_their_names(change: str, tmp_path: Path) -> None:
    usual, other = (data_of(tmp_path, *more).images("star", 3) for more in ((), (change,)))
    assert {source.id for source in usual}.isdisjoint(source.id for source in other)


@pytest.mark.parametrize("inversion", ["ddim_cfg", "midpoint", "exact", "fixed_point", "null_text"])
def test_all_inversions_share_them(outputs: Path, inversion: str, tmp_path: Path) -> None:
    def synthesis(place: Path) -> list[str]:
        said = invoke("invert", *BASE, f"inversion={inversion}", f"outputs={place}", "--dry-run")
        (line,) = (line for line in said.out.splitlines() if line.startswith("│ synthesize"))
        return [cell.strip() for cell in line.strip("│").split("│")][1:4]

    assert synthesis(outputs) == ["0", "12", "0"]
    assert synthesis(tmp_path) == ["12", "0", str(12 * 4 * 2)]


@pytest.mark.parametrize("change", ["data.reference=null", "data.classes=null", "data.classes=random:2"])
def test_what_they_need_is_asked_for(change: str) -> None:
    said = invoke("sweep", *BASE, change)
    assert said.code == 2
    assert "data=synthetic needs names in data.classes" in said.err


def test_any_class_with_a_name_will_do(tmp_path: Path) -> None:
    said = invoke("invert", *BASE, "data.classes=[tree frog,ring]", "--dry-run", f"outputs={tmp_path}")
    assert said.code == 0
    assert "synthesize" in said.out


def test_pictures_that_were_not_made_are_asked_for(tmp_path: Path) -> None:
    said = invoke("evaluate", *BASE, f"outputs={tmp_path}")
    assert said.code == 2
    assert "have not been generated; run latentmix generate first" in said.err.splitlines()[-1]
    experiment = Experiment(compose([*BASE, f"outputs={tmp_path}"]))
    with pytest.raises(UserError, match="is missing or damaged; run latentmix invert, which makes such images"):
        experiment.data.pool(experiment.classes[0])[0].pixels(64)
