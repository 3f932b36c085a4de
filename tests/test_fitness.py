"""Pipelines that can't be right, or can't be inverted, are refused at the start, in one line that says what to do."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from driver import invoke
from pipelines import built

from latentmix.embedded import embedded_folder
from latentmix.errors import UserError
from latentmix.models.mmdit import MMDiTModel
from latentmix.models.unet import UNetModel


def changed(name: str, place: Path, part: str, **changes: Any) -> Path:
    """An embedded pipeline's JSON files, with changes to those of one part."""
    shutil.copytree(embedded_folder(name), place, ignore=shutil.ignore_patterns("*.safetensors"))
    (file,) = (place / part).glob("*config.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    return place


@pytest.mark.parametrize(
    ("part", "changes", "text"),
    [
        (
            "scheduler",
            {"_class_name": "FlowMatchEulerDiscreteScheduler"},
            "of FlowMatch.* not those of a U-Net",
        ),
        ("scheduler", {"_class_name": "EDMEulerScheduler"}, "is of EDMEulerScheduler"),
        ("scheduler", {"_class_name": "ConsistencyModelScheduler"}, "is of ConsistencyModel"),
        ("scheduler", {"_class_name": "UniPCMultistepScheduler", "flow_shift": 3.0}, "flow_shift"),
        ("scheduler", {"use_flow_sigmas": True}, "rectified flow"),
        ("scheduler", {"prediction_type": "flow_prediction"}, "rectified flow"),
        ("scheduler", {"prediction_type": "sample"}, "predicts 'sample'; latentmix knows epsilon, v_prediction"),
        ("scheduler", {"_class_name": "EulerDiscreteScheduler", "timestep_type": "continuous"}, "EDM"),
        ("scheduler", {"thresholding": True}, "sets thresholding"),
        ("unet", {"in_channels": 9}, "takes 9 channels, and the VAE's latents have 4: it was made for inpainting"),
        ("unet", {"in_channels": 8}, "made for editing by instructions"),
        ("unet", {"in_channels": 16}, "takes 16 channels, and the VAE's latents have 4: one is another model's"),
        ("unet", {"out_channels": 8}, "returns 8 channels"),
        ("unet", {"class_embed_type": "timestep"}, "class_embed_type"),
        ("unet", {"num_class_embeds": 1000}, "needs a class beside a prompt"),
        ("unet", {"time_cond_proj_dim": 256}, "few steps"),
        ("unet", {"addition_embed_type": "text_time"}, "addition_embed_type=text_time, not None"),
        ("text_encoder", {"hidden_size": 1024}, "width 64, and its text encoder's have 1024"),
        ("vae", {"latent_channels": 16}, "takes 4 channels, and the VAE's latents have 16"),
    ],
)
def test_a_unet_that_is_unfit_is_refused(part: str, changes: dict[str, Any], text: str, tmp_path: Path) -> None:
    folder = changed("tiny", tmp_path / "p", part, **changes)
    with pytest.raises(UserError, match=text) as refused:
        built(UNetModel, folder)
    assert "\n" not in str(refused.value) and str(folder) in str(refused.value)


@pytest.mark.parametrize(
    ("part", "changes", "text"),
    [
        (
            "scheduler",
            {"_class_name": "DPMSolverMultistepScheduler", "flow_shift": 3.0},
            "not those of a rectified",
        ),
        ("scheduler", {"_class_name": "DDIMScheduler"}, "write a FlowMatchEulerDiscreteScheduler"),
        ("scheduler", {"use_dynamic_shifting": True}, "use_dynamic_shifting"),
        ("transformer", {"in_channels": 8}, "takes 8 channels"),
    ],
)
def test_a_transformer_that_is_unfit_is_refused(part: str, changes: dict[str, Any], text: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=text):
        built(MMDiTModel, changed("tiny-sd3", tmp_path / "p", part, **changes))


@pytest.mark.parametrize(
    ("changes", "steps", "spacing", "text"),
    [
        ({"rescale_betas_zero_snr": True}, 50, "trailing", "zero terminal SNR.*spacing=leading"),
        ({"rescale_betas_zero_snr": True}, 50, "leading", None),
        ({"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}, 50, "trailing", None),
        ({"beta_schedule": "squaredcos_cap_v2"}, 50, "trailing", "without signal"),
        ({}, 1000, "leading", "from 1 to 1000, and .* ends at 999"),
        ({"steps_offset": 40}, 20, "leading", None),
        ({"steps_offset": 50}, 20, "leading", "from 50 to 1000"),
        ({"trained_betas": [0.001] * 500}, 50, "trailing", "to 999, and .* ends at 499"),
    ],
)
def test_levels_that_can_not_be_used_are_refused(
    changes: dict[str, Any], steps: int, spacing: str, text: str | None, tmp_path: Path
) -> None:
    model = built(UNetModel, changed("tiny", tmp_path / "p", "scheduler", **changes))
    if text is None:
        assert len(model.schedule(steps, spacing)) == steps
    else:
        with pytest.raises(UserError, match=text):
            model.schedule(steps, spacing)


def test_steps_that_end_before_the_noise_are_warned_of(tmp_path: Path) -> None:
    """As in diffusers, 150 steps of leading spacing are 6 of 1000 apart, and the last one is 895."""
    model = built(UNetModel, changed("tiny", tmp_path / "p", "scheduler"))
    with pytest.warns(UserWarning, match="150 steps of leading spacing end at t = 895 of 999"):
        assert model.schedule(150, "leading")[-1].timestep == 895
    assert model.schedule(125, "leading")[-1].timestep == 993  # a number that divides 1000, as the advice says
    assert model.schedule(150, "trailing")[-1].timestep == 999


def test_doctor_says_it_before_a_run_does(tmp_path: Path) -> None:
    folder = tmp_path / "p"
    shutil.copytree(embedded_folder("tiny"), folder)
    file = folder / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"rescale_betas_zero_snr": True}))
    arguments = (f"model.path={folder}", "experiment=demo", f"outputs={tmp_path}")
    said = invoke("doctor", *arguments)
    assert said.code and "zero terminal SNR" in said.out
    assert "missing" in next(line for line in said.out.splitlines() if "zero terminal SNR" in line)
    for command in (["sweep", "--dry-run"], ["sweep"], ["mix"]):
        assert "zero terminal SNR" in invoke(*command, *arguments).err
