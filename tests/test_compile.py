"""What torch compiles gives the same images, is compiled once for all prompts, and is refused where it can't be."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from driver import invoke
from pipelines import SIZE, stable_diffusion, stable_diffusion_3
from torch import Tensor
from torch._inductor import config as inductor

from latentmix import sampling
from latentmix.compose import compose
from latentmix.experiment.experiment import Experiment
from latentmix.models.protocol import predictor

FEW = ("data.classes=[star,heart]", "steps=2", "batch=2", "launch.threads=1")


def generated(experiment: Experiment, class_id: str) -> Tensor:
    """Clean latents, guided."""
    z, cond = experiment.noise(class_id, range(2)), experiment.texts.conditioning(class_id, 3.0, experiment.model)
    with torch.no_grad():
        return sampling.generate(predictor(experiment.model, cond), z, experiment.generation_schedule)


def unet() -> Any:
    """Return a pipeline whose U-Net has one level, since each of its kernels takes a second to compile."""
    types = {"down_block_types": ("CrossAttnDownBlock2D",), "up_block_types": ("CrossAttnUpBlock2D",)}
    return stable_diffusion(block_out_channels=(16,), **types)


def transformer() -> Any:
    return stable_diffusion_3(layers=1)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "pipeline"), [("tiny", unet), ("tiny-sd3", transformer)])
def test_a_compiled_network_is_the_same_and_compiled_once_for_all_prompts(
    name: str, pipeline: Callable[[], Any], tmp_path: Path
) -> None:
    """Under guidance; of the U-Net, also what is computed only once for both prompts."""
    torch.manual_seed(0)
    pipeline().save_pretrained(tmp_path / "model")
    model = (f"model={name}", f"model.path={tmp_path / 'model'}", f"model.size={SIZE}")
    plain, compiled = (
        Experiment(compose([*FEW, *model, f"speed.compile={setting}", f"outputs={tmp_path}"]))
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


def test_without_a_compiler_there_is_one_line_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inductor.cpp, "cxx", (None, "/nowhere/g++"))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "compiled"))
    torch._dynamo.reset()  # nor is anything compiled yet
    said = invoke("invert", *FEW, "speed.compile=true", "device=cpu", f"outputs={tmp_path / 'outputs'}")
    assert said.code == 2
    assert said.err.splitlines()[-1].startswith("latentmix: error: speed.compile=true needs a C++ compiler")
    assert not (tmp_path / "outputs" / "cache").exists()
