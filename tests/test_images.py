"""Images whose pixels are safe before their PNGs are written."""

from pathlib import Path
from typing import Any

import pytest
import torch
from driver import assert_same, invoke

from latentmix import images
from latentmix.errors import UserError
from latentmix.experiment import stages
from latentmix.images import PENDING, read_image, save_images, write_pending
from latentmix.storage import save_tensors

IMAGES = torch.randint(0, 256, (3, 3, 8, 8), dtype=torch.uint8)


def paths(folder: Path) -> list[Path]:
    return [folder / "images" / "star" / f"{index}.png" for index in range(3)]


def pending(folder: Path) -> list[Path]:
    return list((folder / PENDING).iterdir())


def test_pixels_are_kept_at_once_and_their_pngs_written_later_the_same_by_whichever_run(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for folder in (one, other):
        write = save_images(folder, paths(folder), IMAGES)
        assert len(pending(folder)) == 1 and not any(path.exists() for path in paths(folder))
    write_pending(one)  # as a run does that finds the file
    write()
    assert torch.equal(torch.stack([read_image(path) for path in paths(one)]), IMAGES)
    assert [path.read_bytes() for path in paths(one)] == [path.read_bytes() for path in paths(other)]
    assert pending(one) == pending(other) == []
    write_pending(one)  # nothing is left to do
    write_pending(tmp_path / "where no run ever was")


def test_a_damaged_pending_file_is_removed(tmp_path: Path) -> None:
    save_images(tmp_path, paths(tmp_path), IMAGES)
    (file,) = pending(tmp_path)
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)
    abouts: list[dict[str, Any]] = [{}, {"images": ["a.png", "b.png"]}, {"images": [1]}, {"images": None}]
    for index, about in enumerate(abouts):
        save_tensors(tmp_path / PENDING / f"{index}.safetensors", {"pixels": IMAGES[:1]}, about)
    save_tensors(tmp_path / PENDING / "x.safetensors", {"others": IMAGES}, {"images": ["a.png"]})
    write_pending(tmp_path)
    assert pending(tmp_path) == [] and not list(tmp_path.rglob("*.png"))


@pytest.mark.parametrize("name", ["../elsewhere.png", "images/../../elsewhere.png", "{absolute}"])
def test_no_pending_file_leads_out_of_its_folder(name: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    name = name.format(absolute=tmp_path / "elsewhere.png")
    save_tensors(run / PENDING / "x.safetensors", {"pixels": IMAGES[:1]}, {"images": [name]})
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
    write, written, begun = images.write_image, list[Path](), list[object]()

    def fail(path: Path, image: torch.Tensor) -> None:
        if len(written) == 3:
            raise UserError("the disk is full")
        written.append(path)
        write(path, image)

    with monkeypatch.context() as patch:
        patch.setattr(images, "write_image", fail)
        said = invoke("generate", *BASE, f"outputs={broken}")
    assert said.code != 0 and "the disk is full" in said.err
    monkeypatch.setattr(stages, "_generate", lambda *arguments: begun.append(arguments))
    assert invoke("generate", *BASE, f"outputs={broken}").code == 0
    assert begun == []
    assert_same(broken, whole)
