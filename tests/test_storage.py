"""Keys, atomic writes, files that know when they are damaged, and the cache of tensors."""

import errno
import json
import os
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from driver import refusal
from safetensors.torch import save
from torch import Tensor

from latentmix import cli, storage
from latentmix.errors import RETRIES, RowsLost, UserError, retry_lost_rows
from latentmix.storage import DiskFull, TensorCache, key, load_tensors, read_about, save_tensors, write_atomic


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def names(folder: Path) -> list[str]:
    """List all files, hidden ones too."""
    return sorted(path.name for path in folder.iterdir())


def failing(error: BaseException) -> Callable[..., None]:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    return fail


# Keys


def test_a_key_depends_on_everything_but_the_order_of_names_and_never_changes() -> None:
    """Or everything that anyone has computed is lost."""
    assert key({"b": [1, 2.5, None], "a": {"y": "é", "x": True}}) == "e4dfc0a85121cff6"
    assert key({"a": 1, "b": {"c": 2, "d": 3}}) == key({"b": {"d": 3, "c": 2}, "a": 1})
    identities: list[Any] = [{}, {"a": 1}, {"a": 2}, {"a": 1.5}, {"a": "1"}, {"a": None}, {"b": 1}, {"a": {"a": 1}}]
    identities += [[1, 2], [2, 1], [[1], 2], ["1", 2], "", "a", 0, False, None]
    assert len({key(identity) for identity in identities}) == len(identities)


def test_the_users_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LATENTMIX_CACHE", raising=False)
    for name, value, folder in (("HOME", "/h", "/h/.cache/latentmix"), ("XDG_CACHE_HOME", "/x", "/x/latentmix")):
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
        monkeypatch.setenv(name, value)
        assert storage.user_cache() == Path(folder)
    monkeypatch.setenv("LATENTMIX_CACHE", "/y")
    assert storage.user_cache() == Path("/y")


# Atomic writes


def test_a_file_appears_under_its_name_only_when_it_is_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, seen, sync = tmp_path / "a" / ("n" * 255), list[list[str]](), os.fsync

    def look(descriptor: int) -> None:
        assert os.fstat(descriptor).st_size == 1000  # all of it has left Python's buffers
        seen.append(names(file.parent))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", look)
    for _ in range(2):
        write_atomic(file, bytes(1000))
    (first,), second = seen[0], set(seen[1]) - {file.name}
    assert {first} != second and file.name not in seen[0]  # two machines may write the same file
    assert names(file.parent) == [file.name]


@pytest.mark.parametrize(("owner", "name"), [(os, "fsync"), (Path, "replace")])
@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), KeyboardInterrupt()])
def test_a_failed_write_leaves_what_was_there_and_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, error: BaseException
) -> None:
    (tmp_path / "old").write_bytes(b"old")
    monkeypatch.setattr(owner, name, failing(error))
    for file in (tmp_path / "old", tmp_path / "new", tmp_path / "old" / "below"):
        with pytest.raises((UserError, KeyboardInterrupt)) as caught:
            write_atomic(file, b"new" * 1000)
        if isinstance(caught.value, UserError):
            assert f"{file} could not be written: " in str(caught.value) and "outputs=" in str(caught.value)
            assert type(caught.value) is UserError and caught.value.exit_code == 2
    assert names(tmp_path) == ["old"] and (tmp_path / "old").read_bytes() == b"old"


@pytest.mark.parametrize(
    ("code", "what"), [(errno.ENOSPC, "the disk is full"), (errno.EDQUOT, "the quota of disk space is used up")]
)
def test_a_full_disk_is_said_to_be_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, what: str) -> None:
    monkeypatch.setattr(os, "fsync", failing(OSError(code, "full")))
    said = f"^{what}: {tmp_path}/a .*outputs= or -o.*; what is finished is kept$"
    with pytest.raises(DiskFull, match=said) as caught:
        save_tensors(tmp_path / "a", {"x": torch.ones(2)}, {})
    assert caught.value.exit_code == 1 and names(tmp_path) == []
    monkeypatch.setenv("LATENTMIX_CACHE", str(tmp_path))
    with pytest.raises(DiskFull, match="choose another place with LATENTMIX_CACHE="):
        write_atomic(tmp_path / "a", b"x")


def test_what_a_library_could_not_write_is_said_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the temporary file of a video, on a disk that is full."""
    for number, name in ((errno.ENOSPC, "/tmp/x"), (errno.ENOSPC, None), (errno.EROFS, "/tmp/x")):
        monkeypatch.setattr(cli, "retry_lost_rows", failing(OSError(number, os.strerror(number), name)))
        said = refusal("doctor", code=1)
        assert f"{name or 'a temporary file'} could not be written: {os.strerror(number)}; free some space" in said


def test_what_may_not_be_used_is_said_in_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As outputs in a folder that only another user may look into. Root may use all, so errors are made here."""
    denied = PermissionError(errno.EACCES, "Permission denied", "/private/outputs")
    monkeypatch.setattr(cli, "retry_lost_rows", failing(denied))
    assert "/private/outputs could not be used: Permission denied; give yourself permission" in refusal(
        "doctor", code=1
    )
    monkeypatch.setattr(os, "fsync", failing(denied))
    with pytest.raises(UserError, match="Permission denied; make its folder writable, or choose another place with"):
        write_atomic(tmp_path / "new", b"new")
    assert not names(tmp_path)


def test_old_temporary_files_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the file system's clock, whatever this machine's says; none, where it is unknown."""
    ages = {
        ".old.part": storage.ABANDONED + 60,
        ".young.part": storage.ABANDONED - 60,
        ".future.part": -9e5,
        "users.part": 9e5,
    }
    for name, age in (ages | {"file": 9e5}).items():
        (tmp_path / "cells").mkdir(exist_ok=True)
        (tmp_path / "cells" / name).touch()
        os.utime(tmp_path / "cells" / name, (time.time() - age,) * 2)
    monkeypatch.setattr(time, "time", lambda: 0.0)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "touch", failing(OSError(errno.EROFS, "")))
        storage.remove_partial_files(tmp_path)
    assert len(names(tmp_path / "cells")) == 5
    storage.remove_partial_files(tmp_path)
    assert names(tmp_path / "cells") == [".future.part", ".young.part", "file", "users.part"]  # others may write these
    assert names(tmp_path) == ["cells"]


# JSON


def test_json_with_a_flipped_bit_in_any_byte_or_worse_counts_as_missing(tmp_path: Path) -> None:
    content, file = {"kept": {11: 1, 2: 3}, "row": 2.5, "names": ["a", "ü"]}, tmp_path / "file"
    plain = json.loads(json.dumps(content))
    storage.write_checked_json(file, content)
    intact = file.read_bytes()
    assert storage.read_checked_json(file) == plain
    assert list(storage.read_json(file)) == ["kept", "names", "row", "sha256"]
    for flipped in flips(intact):
        file.write_bytes(flipped)
        assert storage.read_checked_json(file) in ({}, plain)
    for damaged in (b"", b"[1]", b"null", intact[:-5], b"\xff", b"[" * 100_000):
        file.write_bytes(damaged)
        assert storage.read_json(file) == storage.read_checked_json(file) == storage.read_json(tmp_path / "gone") == {}


def flips(content: bytes) -> Iterator[bytes]:
    for place, byte in enumerate(content):
        yield content[:place] + bytes([byte ^ 1]) + content[place + 1 :]  # a digit becomes another one


# Tensor files


TENSORS = {
    "float32": torch.tensor([[1.0, -0.0, torch.nan], [torch.inf, -torch.inf, 1e-45]]),
    "bfloat16": torch.randn(3, 2, generator=rng()).bfloat16(),
    "uint8": torch.arange(16, dtype=torch.uint8).view(1, 4, 4),
    "bool": torch.tensor([[True, False, True]]),
    "empty": torch.empty(3, 0, 2, dtype=torch.float16),
    "scalar": torch.tensor(7, dtype=torch.int64),
    "transposed": torch.randn(4, 5, generator=rng()).T,
    "with a gradient": torch.ones(2, requires_grad=True),
}
ABOUT = {"ids": ["a", "é\n\"'"], "nested": {"number": 0.1, "none": None, "list": [1, [2]]}}


def bits(tensors: dict[str, Tensor]) -> bytes:
    """Return types, shapes and bits of tensors, NaN and all."""
    return save({name: x.detach().contiguous() for name, x in tensors.items()})


@pytest.mark.parametrize("tensors", [TENSORS, {}])
def test_tensors_come_back_to_the_bit(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    save_tensors(tmp_path / "file", tensors, ABOUT)
    loaded, about = load_tensors(tmp_path / "file")
    assert (bits(loaded), about, read_about(tmp_path / "file")) == (bits(tensors), ABOUT, ABOUT)


def test_damage_of_any_byte_is_detected_or_harmless_and_other_files_are_refused(
    tmp_path: Path,
) -> None:
    path, harmless = tmp_path / "file", 0
    tensors, about = {"x": torch.ones(1, 2), "y": torch.ones(2, dtype=torch.uint8), "z": torch.empty(0, 2)}, {"a": 1}
    save_tensors(path, tensors, about)
    intact = path.read_bytes()
    for flipped in flips(intact):
        path.write_bytes(flipped)
        try:
            assert read_about(path) == about
            loaded = load_tensors(path)
        except ValueError as error:
            assert str(path) in str(error)
        else:
            assert (bits(loaded[0]), loaded[1]) == (bits(tensors), about)
            harmless += 1
    assert harmless < 10  # white space in the header
    lengths = [*(intact[:length] for length in range(len(intact))), intact + b"\0", intact + intact]
    for content in (*lengths, save(tensors), save(tensors, {"about": "{}"})):  # and files of other programs
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"{path} is damaged, or not a file of this cache"):
            read_about(path)


# The cache of tensors


def some_rows(count: int, seed: int = 0) -> dict[str, Tensor]:
    return {"x": torch.randn(count, 2, 3, generator=rng(seed)), "y": torch.arange(count, dtype=torch.uint8)}


@pytest.fixture
def kept(tmp_path: Path) -> TensorCache:
    return TensorCache(tmp_path / "cache" / "rows", {"made": "by a test"})


def files(kept: TensorCache) -> list[Path]:
    return sorted(kept.folder.glob("*.safetensors"))


def flip_last_bit(file: Path) -> None:
    """Damage the tensor `y` and nothing else."""
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def test_rows_come_back_by_id_in_the_order_asked_for(kept: TensorCache) -> None:
    assert kept.read() == {} and kept.ids() == set() and not kept.folder.exists()
    first, second = some_rows(3), some_rows(2, seed=1)
    kept.write(["c", "a", "b"], first)
    kept.write(["e", "d"], second)
    rows = kept.read()
    assert rows.keys() == kept.ids() == set("abcde")
    assert torch.equal(rows["a"]["x"], first["x"][1]) and torch.equal(rows["d"]["x"], second["x"][1])
    assert rows["b"]["y"].item() == 2 and rows["b"]["y"].dtype == torch.uint8
    wanted = torch.stack([second["x"][1], first["x"][0], first["x"][1], second["x"][1]])
    assert torch.equal(kept.gather(iter(["d", "c", "a", "d"]), "x"), wanted)
    assert '"made": "by a test"' in (kept.folder / "identity.json").read_text()


def test_a_missing_row_or_tensor_is_named(kept: TensorCache) -> None:
    kept.write(["a", "b"], some_rows(2))
    for ids, name, missing in ((["a", "z"], "x", "z"), (["a"], "latents", "latents")):
        with pytest.raises(UserError, match=f"lacks '{missing}'; give the same command again") as caught:
            kept.gather(ids, name)
        assert not isinstance(caught.value, RowsLost)
    files(kept)[0].unlink()  # by another worker
    with pytest.raises(RowsLost, match="lacks 'a'; give the same command again"):
        kept.gather(["a"], "x")


def test_rows_under_a_damaged_header_are_missing(kept: TensorCache) -> None:
    kept.write(["a", "b"], some_rows(2))
    (file,) = files(kept)
    kept.write(["c", "d"], some_rows(2, seed=1))
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.warns(UserWarning, match=f"{file.name}.*it counts as missing and is made again"):
        assert kept.ids() == {"c", "d"}
    with warnings.catch_warnings():  # warned of once
        warnings.simplefilter("error")
        assert kept.read().keys() == {"c", "d"}
        with pytest.raises(UserError, match="lacks 'a'"):
            kept.gather(["a"], "x")
        kept.write(["a", "b"], some_rows(2))
        assert torch.equal(kept.gather(["a", "b"], "x"), some_rows(2)["x"])


# Damaged rows


@pytest.mark.parametrize("read", [lambda kept: kept.read(), lambda kept: kept.gather(["c", "a"], "y")])
@pytest.mark.parametrize("removable", [True, False])
def test_damaged_rows_are_lost_once_and_then_missing(
    kept: TensorCache, read: Callable[[TensorCache], Any], removable: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept.write(["a", "b"], some_rows(2))
    (file,) = files(kept)
    kept.write(["c", "d"], some_rows(2, seed=1))
    flip_last_bit(file)
    assert kept.ids() == {"a", "b", "c", "d"}
    with monkeypatch.context() as patch:
        if not removable:
            patch.setattr(Path, "unlink", failing(OSError(errno.EROFS, "")))
        with (
            pytest.warns(UserWarning, match=f"{file.name} does not match its checksum; it counts as missing"),
            pytest.raises(RowsLost, match=f"{file.name} .*give the same command again to make it"),
        ):
            read(kept)
    assert file.exists() is not removable
    assert kept.ids() == kept.read().keys() == {"c", "d"}
    kept.write(["a", "b"], some_rows(2))
    assert torch.equal(kept.gather(["a", "b"], "x"), some_rows(2)["x"])


def test_damage_counts_where_it_is_read_and_all_damaged_files_are_removed_at_once(kept: TensorCache) -> None:
    for id_ in "abcd":
        kept.write([id_], some_rows(1))
    for file in files(kept)[1:]:
        flip_last_bit(file)
    assert torch.equal(kept.gather(["a", "b"], "x"), some_rows(1)["x"].expand(2, -1, -1))
    with pytest.warns(UserWarning), pytest.raises(RowsLost):
        kept.read()
    assert len(files(kept)) == 1


def test_a_file_replaced_since_its_damage_was_found_is_kept(kept: TensorCache, monkeypatch: pytest.MonkeyPatch) -> None:
    kept.write(["a"], some_rows(1))
    flip_last_bit(files(kept)[0])

    def load_and_be_overtaken(path: Path, *rest: Any) -> Any:
        try:
            return load_tensors(path, *rest)
        finally:
            kept.write(["a"], some_rows(1))

    with monkeypatch.context() as patch, pytest.warns(UserWarning), pytest.raises(RowsLost):
        patch.setattr(storage, "load_tensors", load_and_be_overtaken)
        kept.read()
    assert kept.ids() == kept.read().keys() == {"a"}


def test_a_command_that_loses_rows_is_called_again_but_not_for_ever(kept: TensorCache) -> None:
    made: list[str] = []

    def command() -> float:
        for id_ in {"a", "b"} - kept.ids():
            made.append(id_)
            kept.write([id_], {"x": torch.ones(1)})
            if made.count(id_) == 1:
                flip_last_bit(kept.folder / f"{key([id_])}.safetensors")
        return kept.gather(["a", "b"], "x").sum().item()

    def hopeless() -> None:
        made.append("nothing")
        raise RowsLost("give the same command again")

    with pytest.warns(UserWarning):
        assert retry_lost_rows(command) == 2
    with pytest.raises(RowsLost):
        retry_lost_rows(hopeless)
    assert sorted(made) == ["a", "a", "b", "b"] + ["nothing"] * (RETRIES + 1)
