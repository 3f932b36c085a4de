"""The size of batches: found, remembered, and halved when memory runs out, with results as they would have been."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from driver import invoke
from pipelines import SD

from latentmix.compose import compose
from latentmix.experiment import batch_size
from latentmix.experiment.experiment import Experiment
from latentmix.models.unet import UNetModel
from latentmix.runner.claims import Claims

pytestmark = pytest.mark.usefixtures("random_pipelines")
BASE = (*SD, "data.classes=[star]", "n=[2]", "pool=10", "draws=4", "data.reference=4", "steps=2", "launch.threads=1")


def room_for(most: int, patch: pytest.MonkeyPatch, error: Exception) -> list[int]:
    """Lets the U-Net run out of memory beyond `most` latents; the sizes that it was given."""
    sizes: list[int] = []
    predict = UNetModel.predict

    def limited(self: UNetModel, z: torch.Tensor, *rest: Any) -> Any:
        sizes.append(len(z))
        if len(z) > most:
            raise error
        return predict(self, z, *rest)

    patch.setattr(UNetModel, "predict", limited)
    return sizes


def latents(outputs: Path, *more: str) -> torch.Tensor:
    return Experiment(compose([*BASE, *more, f"outputs={outputs}"])).latents.pool("star")


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory: you tried"),
    ],
    ids=["gpu", "cpu"],
)
def test_a_run_out_of_memory_goes_on_in_halves(tmp_path: Path, error: Exception) -> None:
    with pytest.MonkeyPatch.context() as patch:
        sizes = room_for(4, patch, error)
        said = invoke("invert", *BASE, f"outputs={tmp_path / 'short'}")
    assert said.code == 0
    assert [line for line in said.err.splitlines() if "memory" in line] == [
        "memory ran out; going on with 16 images at once",
        "memory ran out; going on with 8 images at once",
        "memory ran out; going on with 4 images at once",
    ]
    assert sizes == [10, 10, 5, *[4] * 6]  # 10 images in equal parts, each inverted in two steps
    assert invoke("invert", *BASE, f"outputs={tmp_path / 'ample'}").code == 0
    torch.testing.assert_close(latents(tmp_path / "short"), latents(tmp_path / "ample"), rtol=1e-4, atol=1e-4)


def test_the_size_found_is_remembered_for_the_model_and_the_device(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        room_for(4, patch, torch.OutOfMemoryError())
        invoke("invert", *BASE, f"outputs={tmp_path}")
        sizes = room_for(4, patch, torch.OutOfMemoryError())
        said = invoke("invert", *BASE, "inversion.steps=1", f"outputs={tmp_path}")
    assert (said.code, "memory" in said.err, max(sizes)) == (0, False, 4)
    assert [*json.loads((tmp_path / "cache" / "batches.json").read_text()).values()] == [4]


def test_one_image_that_does_not_fit_is_the_end(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        room_for(0, patch, torch.OutOfMemoryError())
        said = invoke("invert", *BASE, f"outputs={tmp_path}")
    assert said.code == 2
    assert said.err.splitlines()[-1].startswith("latentmix: error: not even one image fits")


def test_other_errors_are_not_taken_for_it(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        room_for(0, patch, RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
        with pytest.raises(RuntimeError, match="mat1"):
            invoke("invert", *BASE, f"outputs={tmp_path}")


@pytest.mark.parametrize(("room", "size"), [(0, 1), (1, 1), (2, 2), (5, 4), (64, 64), (10**6, batch_size.MAX_BATCH)])
def test_the_largest_power_of_two_is_found_without_trying_more(room: int, size: int) -> None:
    tried: list[int] = []

    def fits(batch: int) -> bool:
        tried.append(batch)
        return batch <= room

    assert batch_size.largest(fits) == size
    assert max(tried) <= max(2, 2 * size)


@pytest.mark.parametrize(("side", "batch"), [(64, 32), (256, 32), (512, 8), (1024, 2), (4096, 1)])
def test_a_cpu_takes_fewer_large_images(side: int, batch: int, tmp_path: Path) -> None:
    experiment = Experiment(compose([*BASE, f"model.size={side}", f"outputs={tmp_path}"]))
    assert batch_size.determine(experiment) == batch_size.determine(experiment, measure=False) == batch


def test_a_given_size_is_kept_until_memory_runs_out(tmp_path: Path) -> None:
    experiment = Experiment(compose([*BASE, "batch=3", f"outputs={tmp_path}"]))
    with Claims(experiment.config.work) as claims:
        size = batch_size.shared_batch_size(experiment, claims)
        assert size.value == 3 and not size.refresh()
        size.halve()
        assert size.value == 1
