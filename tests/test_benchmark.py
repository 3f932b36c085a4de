"""The benchmark: both ways make the same images, and what is said of them adds up."""

import json
from pathlib import Path

import pytest
import torch
from driver import invoke

from latentmix.commands import bench as benchmark
from latentmix.compose import compose
from latentmix.experiment.experiment import Experiment

FEW = ("data.classes=[star]", "steps=2", "batch=3", "launch.threads=1")
CPU = torch.device("cpu")


@pytest.mark.parametrize("model", ["tiny", "tiny-sd3"])
def test_both_ways_make_the_same_images_and_ours_takes_no_more(model: str, tmp_path: Path) -> None:
    experiment = Experiment(compose([*FEW, f"model={model}", f"outputs={tmp_path}"]))
    batch = benchmark._batch(experiment, 3)
    ways = (benchmark._ours(experiment, batch), benchmark.plain(batch))
    ours, theirs = (benchmark._run(way, CPU, True) for way in ways)
    assert ours.images.shape == theirs.images.shape == (3, 3, 64, 64)
    assert (ours.images.int() - theirs.images.int()).abs().float().mean() < 0.5
    assert 0 < ours.flop <= theirs.flop
    speed = benchmark._speed(ours, [benchmark._run(ways[0], CPU, False)], 1e12)
    assert speed["tflops"] == pytest.approx(speed["images_per_second"] * speed["tflop_per_image"])
    assert speed["share"] == pytest.approx(speed["tflops"])
    assert speed["memory"] > 2**26


def test_the_command_leaves_a_table_and_json(tmp_path: Path) -> None:
    said = invoke("bench", *FEW, f"outputs={tmp_path}", "--repeat", "1")
    assert said.code == 0, said.err
    result = json.loads((tmp_path / "tiny-shapes" / "bench.json").read_text())
    rates = [result[name]["images_per_second"] for name in ("latentmix", "diffusers")]
    assert result["times as fast"] == pytest.approx(rates[0] / rates[1])
    assert result["mean difference in levels"] < 0.5
    assert f"{result['times as fast']:.2f} times as fast" in said.out
    assert said.out.splitlines()[-1] == str(tmp_path / "tiny-shapes" / "bench.json")


def test_a_rate_of_matrix_products_is_measured() -> None:
    assert 1e8 < benchmark.matmul_rate(CPU, torch.float32) < 1e15


def test_random_weights_are_of_known_sizes_only(tmp_path: Path) -> None:
    said = invoke("bench", "--random", *FEW, f"outputs={tmp_path}")
    assert said.code == 2
    assert "sd15, sd21, sd35-large, sd35-medium, sdxl, not of tiny" in said.err
