"""Which files a network is read from, and the digest that names their bytes."""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from pipelines import built
from safetensors.torch import save_file

from latentmix import weight_files as module
from latentmix.compose import compose
from latentmix.embedded import embedded_folder
from latentmix.errors import UserError
from latentmix.models import load_model
from latentmix.models.loading import opened_files
from latentmix.models.registry import family_of
from latentmix.models.unet import UNetModel
from latentmix.weight_files import digest, file_digest, weight_files

CPU = torch.device("cpu")
LONG_AGO = 1_700_000_000


@pytest.fixture(autouse=True)
def user_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LATENTMIX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the embedded pipeline."""
    return shutil.copytree(embedded_folder("tiny"), tmp_path / "pipeline")


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of large files that are read for their digest."""
    names, real = list[str](), hashlib.file_digest

    def noted(file: object, name: str) -> object:
        names.append(Path(file.name).name)  # type: ignore[attr-defined]
        return real(file, name)  # type: ignore[arg-type]

    monkeypatch.setattr(hashlib, "file_digest", noted)
    return names


def identity(folder: Path) -> str:
    return built(UNetModel, folder).identity["weights"]


def flip(file: Path, position: int) -> None:
    with file.open("r+b") as opened:
        opened.seek(position)
        (byte,) = opened.read(1)
        opened.seek(position)
        opened.write(bytes([byte ^ 1]))


# Which bytes count


def test_one_byte_in_the_middle_of_a_large_file_counts(tmp_path: Path) -> None:
    files = [tmp_path / name / "model.safetensors" for name in ("a", "b")]
    files[0].parent.mkdir()
    save_file({"x": torch.zeros(17 << 20)}, files[0])  # 68 MiB
    shutil.copytree(files[0].parent, files[1].parent)
    assert digest(files[0].parent, files[:1]) == digest(files[1].parent, files[1:])
    flip(files[1], 41_234_567)
    assert digest(files[0].parent, files[:1]) != digest(files[1].parent, files[1:])


def test_files_that_are_not_opened_do_not_count(folder: Path) -> None:
    before = identity(folder)
    (folder / "README.md").write_text("A model card.")
    (folder / ".gitattributes").write_text("*.safetensors filter=lfs")
    (folder / "safety_checker").mkdir()
    (folder / "safety_checker" / "model.safetensors").write_bytes(b"unused")
    for file in [*folder.glob("*/*.safetensors")]:
        shutil.copy(file, file.with_name(f"{file.stem}.fp16.safetensors"))
    (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"a pickle")
    (folder / "tokenizer" / "chat_template.jinja").write_text("{{ messages }}")
    assert identity(folder) == before


def test_every_file_that_is_opened_counts(folder: Path) -> None:
    seen = {identity(folder)}
    files = list(opened_files(folder, family_of(folder)).values())
    assert {file.relative_to(folder).parts[0] for file in files} == {
        "model_index.json",
        *("scheduler", "text_encoder", "tokenizer", "unet", "vae"),
    }
    for file in files:
        content = file.read_bytes()
        file.write_bytes(content + b"\n")
        seen.add(digest(folder, files))
        file.write_bytes(content)
    assert len(seen) == len(files) + 1


@torch.no_grad()
def test_a_model_needs_no_more_than_the_files_that_count(folder: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone"
    for file in opened_files(folder, family_of(folder)).values():
        (alone / file.relative_to(folder)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, alone / file.relative_to(folder))
    models = [load_model(compose([f"model.path={path}"]).model, CPU) for path in (folder, alone)]
    images = torch.arange(3 * 64 * 64, dtype=torch.uint8).view(1, 3, 64, 64)
    outs = [(m.embed(["a photo of a star"]).states, m.encode(images), m.schedule(5, "trailing")) for m in models]
    assert torch.equal(outs[0][0], outs[1][0]) and torch.equal(outs[0][1], outs[1][1]) and outs[0][2] == outs[1][2]
    assert models[0].identity == models[1].identity


def test_names_and_boundaries_of_files_count(tmp_path: Path) -> None:
    def named(**contents: bytes) -> str:
        shutil.rmtree(tmp_path / "x", ignore_errors=True)
        (tmp_path / "x").mkdir()
        for name, content in contents.items():
            (tmp_path / "x" / name).write_bytes(content)
        return digest(tmp_path / "x", (tmp_path / "x").iterdir())

    assert named(a=b"1", b=b"2") == named(b=b"2", a=b"1")
    different = [named(a=b"1", b=b"2"), named(a=b"2", b=b"1"), named(a=b"12", b=b""), named(a=b"1", c=b"2")]
    assert len(set(different)) == len(different)


# What is remembered


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(module, "REMEMBERED", 1 << 20)
    file = tmp_path / "model.safetensors"
    file.write_bytes(bytes(2 << 20))
    os.utime(file, (LONG_AGO, LONG_AGO))
    return file


def test_a_file_is_read_once(large: Path, reads: list[str]) -> None:
    assert file_digest(large) == file_digest(large)
    assert reads == ["model.safetensors"]


def test_a_changed_file_is_read_again(large: Path, reads: list[str]) -> None:
    seen = {file_digest(large)}
    for step in range(1, 4):
        flip(large, 1_000_000 + step)
        os.utime(large, (LONG_AGO + step, LONG_AGO + step))
        seen.add(file_digest(large))
    assert len(seen) == len(reads) == 4


def test_another_file_in_its_place_is_read(large: Path, reads: list[str]) -> None:
    before, other = file_digest(large), large.with_name("other")
    other.write_bytes(b"1" * (2 << 20))
    os.utime(other, (LONG_AGO, LONG_AGO))
    other.replace(large)
    assert file_digest(large) != before
    assert len(reads) == 2


def test_a_file_that_was_just_written_is_not_remembered(large: Path, reads: list[str]) -> None:
    """It could change again within the same tick of the clock."""
    now = time.time()
    os.utime(large, (now, now))
    file_digest(large)
    file_digest(large)
    assert len(reads) == 2


def test_a_cache_that_can_not_be_written_does_no_harm(large: Path, reads: list[str], user_cache: Path) -> None:
    user_cache.write_text("a file in the folder's place")
    assert file_digest(large) == file_digest(large)
    assert len(reads) == 2


def test_a_damaged_note_does_no_harm(large: Path, user_cache: Path) -> None:
    before = file_digest(large)
    (note,) = user_cache.glob("digests/*.json")
    note.write_text(note.read_text().replace(before, "0" * 64))
    assert file_digest(large) == before


def test_blobs_of_the_hub_are_named_by_their_digest(large: Path, tmp_path: Path, reads: list[str]) -> None:
    expected = file_digest(large)
    blob = tmp_path / "models--a--b" / "blobs" / expected
    blob.parent.mkdir(parents=True)
    shutil.copy(large, blob)
    link = tmp_path / "models--a--b" / "snapshots" / "1" / "model.safetensors"
    link.parent.mkdir(parents=True)
    link.symlink_to(blob)
    reads.clear()
    assert file_digest(link) == expected
    assert reads == []


# Which files are opened


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "network").mkdir()
    yield tmp_path / "network"


def shard(folder: Path, stem: str) -> list[str]:
    names = [f"{stem}-0000{i}-of-00002.safetensors" for i in (1, 2)]
    for name in names:
        (folder / name).write_bytes(b"")
    index = {"weight_map": {"a": names[0], "b": names[1], "c": names[0]}}
    (folder / f"{stem}.safetensors.index.json").write_text(json.dumps(index))
    return [f"{stem}.safetensors.index.json", *names]


@pytest.mark.parametrize(("library", "stem"), [("diffusers", "diffusion_pytorch_model"), ("transformers", "model")])
def test_shards_are_found_by_their_index(network: Path, library: str, stem: str) -> None:
    names = shard(network, stem)
    assert [file.name for file in weight_files(network, library)] == names
    (network / f"{stem}.safetensors").write_bytes(b"")
    taken = [file.name for file in weight_files(network, library)]
    assert taken == (names if library == "diffusers" else [f"{stem}.safetensors"])


def test_full_precision_comes_before_variants_and_unknown_ones_are_not_taken(network: Path) -> None:
    def taken() -> list[str]:
        return [file.name for file in weight_files(network, "transformers")]

    for name in ("model.lora.safetensors", "model.fp16-00001-of-00002.safetensors"):  # half of the shards
        (network / name).write_bytes(b"")
    with pytest.raises(UserError, match=r"holds no model\.safetensors, nor all shards .*only model\.fp16-0"):
        taken()
    for name in ("model.non_ema.safetensors", "model.bf16.safetensors", "model.fp16.safetensors", "model.safetensors"):
        (network / name).write_bytes(b"")
        assert taken() == [name]
