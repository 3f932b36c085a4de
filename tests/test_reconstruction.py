"""The round trip from images to images, over the command line."""

import csv
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from driver import Said, invoke
from PIL import Image
from torchmetrics.functional.image import peak_signal_noise_ratio

from latentmix.compose import compose
from latentmix.experiment.experiment import Experiment
from latentmix.experiment.reconstruction import QUANTITIES, psnr

TINY = ["data.classes=[star,heart]", "pool=5", "n=[2]", "steps=10", "launch.threads=1"]


def rows(folder: Path) -> dict[tuple[str, str], float]:
    with (folder / "reconstruction.csv").open() as file:
        return {(row["class"], row["quantity"]): float(row["value"]) for row in csv.DictReader(file)}


def reconstruct(outputs: Path, *more: str) -> tuple[Said, dict[tuple[str, str], float]]:
    said = invoke("reconstruct", *TINY, f"outputs={outputs}", "name=run", *more)
    assert said.code == 0, said.err
    return said, rows(outputs / "run")


def test_psnr_is_torchmetrics() -> None:
    a, b = (torch.randint(0, 256, (3, 3, 16, 16), generator=torch.Generator().manual_seed(s)).byte() for s in (0, 1))
    theirs = [peak_signal_noise_ratio(x.double(), y.double(), data_range=255.0) for x, y in zip(a, b, strict=True)]
    assert torch.allclose(psnr(a, b), torch.stack(theirs).double(), atol=1e-9)
    assert (psnr(a, a) == 100).all()


def test_what_is_measured_is_the_way_there_and_back(tmp_path: Path) -> None:
    """Against a round trip by hand, for one image."""
    _, found = reconstruct(tmp_path, "guidance=1")
    assert {name for _, name in found} == set(QUANTITIES)
    assert {class_id for class_id, _ in found} == {"star", "heart", "all"}
    for name in QUANTITIES:
        assert found["all", name] == pytest.approx((found["star", name] + found["heart", name]) / 2, rel=1e-6)
    experiment = Experiment(compose([*TINY, f"outputs={tmp_path}", "guidance=1"]))
    model = experiment.model
    told, errors = experiment.texts.conditioning("star", 1, model), []
    for source in experiment.data.pool("star"):
        image = torch.from_numpy(source.pixels(64).copy()).permute(2, 0, 1)[None]
        z = clean = model.encode(image)
        with torch.no_grad():
            for interval in experiment.inversion_schedule:
                x0, eps = model.predict(z, interval.clean, interval.timestep, told)
                z = interval.noisy.alpha * x0 + interval.noisy.sigma * eps
            for interval in reversed(experiment.generation_schedule):
                x0, eps = model.predict(z, interval.noisy, interval.timestep, told)
                z = interval.clean.alpha * x0 + interval.clean.sigma * eps
        errors.append((z - clean).square().mean().sqrt().item())
    assert found["star", "rmse"] == pytest.approx(sum(errors) / 5, rel=1e-3)
    assert found["star", "psnr"] <= found["star", "psnr_vae"] + 0.05


def test_an_exact_inversion_is_as_good_as_the_vae_alone_and_guidance_is_not(tmp_path: Path) -> None:
    _, exact = reconstruct(tmp_path, "inversion=exact", "guidance=1")
    assert exact["all", "rmse"] < 1e-4
    assert exact["all", "psnr"] == pytest.approx(exact["all", "psnr_vae"], abs=0.02)
    _, guided = reconstruct(tmp_path, "guidance=7.5")
    assert guided["all", "psnr"] < exact["all", "psnr"] - 1
    assert guided["all", "rmse"] > 0.1


def test_it_resumes_draws_and_can_be_planned(tmp_path: Path) -> None:
    planned = invoke("reconstruct", *TINY, f"outputs={tmp_path}", "--dry-run")
    assert planned.code == 0 and "reconstruct" in planned.out and "nothing was done" in planned.out
    said, first = reconstruct(tmp_path)
    assert "reconstruction.csv" in said.out
    again, second = reconstruct(tmp_path)
    assert "reconstruct: all 10 images are there already" in again.err and first == second
    with Image.open(tmp_path / "run" / "reconstruction.png") as image_path:
        assert np.asarray(image_path.convert("L")).std() > 10
    assert all(math.isfinite(value) for value in first.values())
