"""What torch compiles gives the same images, is compiled once for all prompts, and is refused where it can't be."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from latentmix import sampling
from latentmix.compose import compose
from latentmix.experiment.experiment import Experiment
from latentmix.models.protocol import predictor

FEW = ("data.classes=[star,heart]", "steps=2", "batch=2", "launch.threads=1")


def generated(experiment: Experiment, class_id: str) -> Tensor:
    """Clean latents, guided."""
    z, cond = experiment.noise(class_id, range(2)), experiment.conditioning(class_id, 3.0)
    with torch.no_grad():
        return sampling.generate(predictor(experiment.model, cond), z, experiment.generation_schedule)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["tiny", "tiny-sd3"])  # of the first, also what is computed once only
def test_a_compiled_network_is_the_same_and_compiled_once_for_all_prompts(model: str, tmp_path: Path) -> None:
    plain, compiled = (
        Experiment(compose([*FEW, f"model={model}", f"speed.compile={setting}", f"outputs={tmp_path}"]))
        for setting in ("false", "true")
    )
    assert plain.model.identity == compiled.model.identity
    assert_same(plain, compiled, "star")
    with torch.compiler.set_stance("fail_on_recompile"):
        assert_same(plain, compiled, "heart")


def assert_same(plain: Experiment, compiled: Experiment, class_id: str) -> None:
    made, expected = generated(compiled, class_id), generated(plain, class_id)
    assert not torch.equal(made, expected)  # so it was compiled
    assert (made - expected).abs().max() < 1e-4 * expected.abs().max()


def test_without_a_compiler_there_is_one_line_before_any_work(tmp_path: Path) -> None:
    elsewhere = {"CXX": "/nowhere/g++", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "compiled")}
    command = [
        sys.executable,
        "-m",
        "latentmix",
        "invert",
        *FEW,
        "speed.compile=true",
        f"outputs={tmp_path / 'outputs'}",
    ]
    done = subprocess.run([*command, "device=cpu"], env=os.environ | elsewhere, capture_output=True, text=True)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("latentmix: error: speed.compile=true needs a C++ compiler")
    assert not (tmp_path / "outputs" / "cache").exists()
