"""Each technique can be switched off by its setting, which changes how images are made and not what they are."""

from pathlib import Path

import pytest
import torch
from driver import invoke
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from latentmix import sampling
from latentmix.compose import compose
from latentmix.experiment.experiment import Experiment
from latentmix.models.linear import AVAILABLE, FLOPS, Linear
from latentmix.models.protocol import predictor

FEW = ("data.classes=[star]", "steps=2", "batch=2", "launch.threads=1", "device=cpu")
SETTINGS = {
    "channels_last": "false",
    "onednn": "true",
    "shared_prefix": "false",
    "attention": "math",
}


def experiment(*overrides: str) -> Experiment:
    return Experiment(compose([*FEW, *overrides]))


@torch.no_grad()
def made(experiment: Experiment) -> tuple[Tensor, int, set[str]]:
    """Guided images, the FLOPs of their network and the names of its operations."""
    z, cond = experiment.noise("star", range(2)), experiment.texts.conditioning("star", 3.0, experiment.model)
    with (
        torch.profiler.profile(acc_events=True) as profile,
        FlopCounterMode(display=False, custom_mapping=FLOPS) as counter,
    ):
        clean = sampling.generate(predictor(experiment.model, cond), z, experiment.generation_schedule)
    return experiment.model.decode(clean), counter.get_total_flops(), {event.key for event in profile.key_averages()}


@pytest.fixture(scope="module", params=["tiny", "tiny-sd3"])
def plain(request: pytest.FixtureRequest) -> tuple[str, Experiment, tuple[Tensor, int, set[str]]]:
    """Return a model's name, its experiment as it is, and what that makes."""
    usual = experiment(f"model={request.param}")
    return request.param, usual, made(usual)


@pytest.mark.parametrize("setting", SETTINGS)
def test_without_any_one_the_images_are_the_same(
    plain: tuple[str, Experiment, tuple[Tensor, int, set[str]]], setting: str
) -> None:
    model, usual, (expected, flops, operations) = plain
    without = experiment(f"model={model}", f"speed.{setting}={SETTINGS[setting]}")
    images, more_flops, others = made(without)
    assert usual.model.identity == without.model.identity  # so caches are shared
    assert (images.int() - expected.int()).abs().max() <= 1
    unet, vae = model == "tiny", [m.model.vae._network for m in (usual, without)]  # type: ignore[attr-defined]
    if setting == "channels_last":
        strides = [network.decoder.conv_in.weight.is_contiguous() for network in vae]
        assert strides == [False, True]
    elif setting == "onednn" and AVAILABLE:
        assert [any(isinstance(m, Linear) for m in network.modules()) for network in vae] == [False, True]
        assert "mkldnn::_linear_pointwise" in others and "mkldnn::_linear_pointwise" not in operations
    elif setting == "shared_prefix":
        assert more_flops > flops if unet else more_flops == flops  # an MMDiT has nothing to share
    elif setting == "attention":
        flash = "aten::_scaled_dot_product_flash_attention_for_cpu"
        assert flash in operations and flash not in others


def test_a_kernel_that_the_device_lacks_is_refused_before_any_work(tmp_path: Path) -> None:
    said = invoke("invert", *FEW, f"outputs={tmp_path / 'outputs'}", "speed.attention=cudnn")
    assert said.code == 2
    assert said.err.splitlines()[-1].startswith("latentmix: error: speed.attention=cudnn is not available for float32")
    assert not (tmp_path / "outputs" / "cache").exists()


def test_a_model_that_is_not_here_can_be_planned_with_any(tmp_path: Path) -> None:
    settings = ("data.classes=[star]", "device=cpu", "speed.attention=math", "--dry-run")
    said = invoke("sweep", "model=sd15", "data=shapes", f"outputs={tmp_path}", *settings)
    assert said.code == 0, said.err
