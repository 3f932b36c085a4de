"""Pictures whose pixels are safe before their files are there."""

from pathlib import Path
from typing import Any

import pytest
import torch
from driver import assert_same, invoke

from latentmix import images as pictures
from latentmix.cache import save_tensors
from latentmix.errors import UserError
from latentmix.experiment import stages as sweep
from latentmix.images import PENDING, read_image, save_images, write_pending

IMAGES = torch.randint(0, 256, (3, 3, 8, 8), dtype=torch.uint8)


def paths(folder: Path) -> list[Path]:
    return [folder / "images" / "star" / f"{place}.png" for place in range(3)]


def negatives(folder: Path) -> list[Path]:
    return list((folder / PENDING).iterdir())


def test_pixels_are_kept_at_once_and_pictures_made_of_them_later(tmp_path: Path) -> None:
    later = save_images(tmp_path, paths(tmp_path), IMAGES)
    assert len(negatives(tmp_path)) == 1 and not any(path.exists() for path in paths(tmp_path))
    later()
    assert torch.equal(torch.stack([read_image(path) for path in paths(tmp_path)]), IMAGES)
    assert negatives(tmp_path) == []


def test_what_a_run_left_behind_is_made_the_same(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    save_images(one, paths(one), IMAGES)()
    save_images(other, paths(other), IMAGES)
    write_pending(other)
    assert [path.read_bytes() for path in paths(one)] == [path.read_bytes() for path in paths(other)]
    assert negatives(other) == []
    write_pending(other)  # nothing is left to do
    write_pending(tmp_path / "where no run ever was")


def test_a_damaged_negative_goes(tmp_path: Path) -> None:
    save_images(tmp_path, paths(tmp_path), IMAGES)
    (negative,) = negatives(tmp_path)
    content = bytearray(negative.read_bytes())
    content[-5] ^= 1
    negative.write_bytes(content)
    write_pending(tmp_path)
    assert negatives(tmp_path) == [] and not any(path.exists() for path in paths(tmp_path))


def test_a_file_that_is_no_negative_goes(tmp_path: Path) -> None:
    abouts: list[dict[str, Any]] = [{}, {"pictures": ["a.png", "b.png"]}, {"pictures": [1]}, {"pictures": None}]
    for place, about in enumerate(abouts):
        save_tensors(tmp_path / PENDING / f"{place}.safetensors", {"pixels": IMAGES[:1]}, about)
    save_tensors(tmp_path / PENDING / "x.safetensors", {"others": IMAGES}, {"pictures": ["a.png"]})
    write_pending(tmp_path)
    assert negatives(tmp_path) == [] and not list(tmp_path.glob("*.png"))


@pytest.mark.parametrize("name", ["../elsewhere.png", "images/../../elsewhere.png", "{absolute}"])
def test_no_negative_leads_out_of_its_folder(name: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    name = name.format(absolute=tmp_path / "elsewhere.png")
    save_tensors(run / PENDING / "x.safetensors", {"pixels": IMAGES[:1]}, {"pictures": [name]})
    write_pending(run)
    assert not (tmp_path / "elsewhere.png").exists()


BASE = (
    "data.classes=[star]",
    "n=[2]",
    "methods=[fix/chm]",
    "pool=4",
    "draws=4",
    "steps=2",
    "batch=2",
)


def test_no_network_makes_again_what_was_not_written_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Writing ends in the middle of the last batch, as by a disk that is full for a moment, or a kill."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert invoke("generate", *BASE, f"outputs={whole}").code == 0
    write, written, begun = pictures.write_image, list[Path](), list[object]()

    def fail(path: Path, image: torch.Tensor) -> None:
        if len(written) == 3:
            raise UserError("the disk is full")
        written.append(path)
        write(path, image)

    with monkeypatch.context() as patch:
        patch.setattr(pictures, "write_image", fail)
        said = invoke("generate", *BASE, f"outputs={broken}")
    assert said.code != 0 and "the disk is full" in said.err
    monkeypatch.setattr(sweep, "_generate", lambda *told: begun.append(told))
    assert invoke("generate", *BASE, f"outputs={broken}").code == 0
    assert begun == []
    assert_same(broken, whole)
