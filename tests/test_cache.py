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
from torch import Tensor

from latentmix import cache
from latentmix.cache import (
    ABANDONED,
    DiskFull,
    TensorCache,
    key,
    load_tensors,
    read_about,
    read_checked_json,
    read_json,
    remove_partial_files,
    save_tensors,
    user_cache,
    write_atomic,
    write_checked_json,
    write_json,
)
from latentmix.errors import RETRIES, RowsLost, UserError, retry_lost_rows

Content = tuple[dict[str, Tensor], dict[str, Any]]


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def same(a: Content, b: Content) -> bool:
    """Compare to the bit, NaN and all, with dtypes and shapes."""
    (tensors_a, about_a), (tensors_b, about_b) = a, b
    if about_a != about_b or tensors_a.keys() != tensors_b.keys():
        return False
    return all(bits(tensors_a[name]) == bits(tensors_b[name]) for name in tensors_a)


def bits(x: Tensor) -> tuple[torch.dtype, torch.Size, bytes]:
    return x.dtype, x.shape, x.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def names(folder: Path) -> list[str]:
    """List all files, hidden ones too."""
    return sorted(path.name for path in folder.iterdir())


# Keys


def test_a_key_depends_on_everything_but_the_order_of_names() -> None:
    assert key({"a": 1, "b": {"c": 2, "d": 3}}) == key({"b": {"d": 3, "c": 2}, "a": 1})
    identities: list[Any] = [{}, {"a": 1}, {"a": 2}, {"a": 1.5}, {"a": "1"}, {"a": None}, {"b": 1}, {"a": {"a": 1}}]
    identities += [[1, 2], [2, 1], [[1], 2], ["1", 2], "", "a", 0, False, None]
    assert len({key(identity) for identity in identities}) == len(identities)


def test_keys_never_change() -> None:
    """Or everything that anyone has computed is lost."""
    assert key({"b": [1, 2.5, None], "a": {"y": "é", "x": True}}) == "e4dfc0a85121cff6"


def test_the_users_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LATENTMIX_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert user_cache() == Path.home() / ".cache" / "latentmix"
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert user_cache() == Path("/x/latentmix")
    monkeypatch.setenv("LATENTMIX_CACHE", "/y")
    assert user_cache() == Path("/y")


# Atomic writes


def failing(code: int) -> Callable[..., None]:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError(code, os.strerror(code))

    return fail


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


@pytest.mark.parametrize("before", [None, b"old"])
@pytest.mark.parametrize(("owner", "name"), [(os, "fsync"), (Path, "replace")])
@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), KeyboardInterrupt()])
def test_a_failed_write_leaves_what_was_there(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    owner: Any,
    name: str,
    before: bytes | None,
    error: BaseException,
) -> None:
    def fail(*_: Any) -> None:
        raise error

    file = tmp_path / "file"
    if before is not None:
        file.write_bytes(before)
    monkeypatch.setattr(owner, name, fail)
    with pytest.raises((UserError, KeyboardInterrupt)) as caught:
        write_atomic(file, b"new" * 1000)
    if isinstance(error, OSError):
        assert "file could not be written: Input/output error" in str(caught.value)
        assert not isinstance(caught.value, DiskFull)
    assert names(tmp_path) == ([] if before is None else ["file"])
    assert before is None or file.read_bytes() == before


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_said_to_be_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    monkeypatch.setattr(os, "fsync", failing(code))
    for write in (
        lambda: write_json(tmp_path / "a", {}),
        lambda: save_tensors(tmp_path / "b", {"x": torch.ones(2)}, {}),
        lambda: TensorCache(tmp_path / "rows", {}).write(["a"], {"x": torch.ones(1, 2)}),
    ):
        with pytest.raises(DiskFull) as caught:
            write()
        assert caught.value.exit_code == 1 and "\n" not in str(caught.value)
        for part in ("disk is full", str(tmp_path), "outputs=", "what is finished is kept"):
            assert part in str(caught.value)
    assert names(tmp_path) == ["rows"] and names(tmp_path / "rows") == []


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    for path in (tmp_path / "folder", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match=f"{path} could not be written: .*; choose another place with outputs="):
            write_atomic(path, b"content")
    monkeypatch.setattr(Path, "mkdir", failing(errno.EROFS))
    with pytest.raises(UserError, match="could not be written: Read-only file system") as caught:
        write_atomic(tmp_path / "new" / "file", b"content")
    assert caught.value.exit_code == 2
    assert names(tmp_path) == ["file", "folder"]


def left(folder: Path, age: float) -> Path:
    """Leave a temporary file, as a killed run does."""
    part = folder / "cells" / f".{age}.part"
    part.parent.mkdir(exist_ok=True)
    part.touch()
    os.utime(part, (time.time() - age,) * 2)
    return part


def test_old_temporary_files_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the file system's clock, whatever this machine's says."""
    old, young, future = left(tmp_path, ABANDONED + 60), left(tmp_path, ABANDONED - 60), left(tmp_path, -9e5)
    write_atomic(tmp_path / "cells" / "file", b"kept")
    os.utime(old.rename(tmp_path / "cells" / "users.part"), (0, 0))
    old = left(tmp_path, ABANDONED + 60)
    monkeypatch.setattr(time, "time", lambda: 0.0)
    remove_partial_files(tmp_path)
    assert not old.exists() and young.exists() and future.exists()  # others may be writing these
    assert names(tmp_path) == ["cells"] and {"file", "users.part"} <= {*names(tmp_path / "cells")}


def test_no_temporary_file_is_removed_where_the_clock_is_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remove_partial_files(tmp_path / "missing")
    old = left(tmp_path, ABANDONED + 60)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "touch", failing(errno.EROFS))
        remove_partial_files(tmp_path)
    assert old.exists()


# JSON


@pytest.mark.parametrize("content", [b"", b"[1]", b"3", b'{"a": 1', b"\xff", b"null", b"[" * 100_000])
def test_damaged_json_counts_as_missing(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(content)
    assert read_json(tmp_path / "file") == read_checked_json(tmp_path / "file") == read_json(tmp_path / "gone") == {}


def test_any_flipped_bit_of_checked_json_is_noticed(tmp_path: Path) -> None:
    content = {"kept": {11: 1, 2: 3}, "row": 2.5, "names": ["a", "ü"]}
    plain = json.loads(json.dumps(content))
    write_checked_json(tmp_path / "file", content)
    assert read_checked_json(tmp_path / "file") == plain
    for flipped in flips((tmp_path / "file").read_bytes()):
        (tmp_path / "file").write_bytes(flipped)
        assert read_checked_json(tmp_path / "file") in ({}, plain)


def flips(content: bytes) -> Iterator[bytes]:
    for bit in range(8 * len(content)):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        yield bytes(flipped)


# Tensor files


TENSORS = {
    "float64": torch.randn(2, 3, generator=rng(), dtype=torch.float64),
    "float32": torch.tensor([[1.0, -0.0, torch.nan], [torch.inf, -torch.inf, 1e-45]]),
    "float16": torch.randn(2, 3, 4, generator=rng()).half(),
    "bfloat16": torch.randn(3, 2, generator=rng()).bfloat16(),
    "uint8": torch.arange(256, dtype=torch.uint8).view(1, 16, 16),
    "int64": torch.tensor([[2**62, -1]]),
    "bool": torch.tensor([[True, False, True]]),
    "empty": torch.empty(0, 3),
    "empty inside": torch.empty(3, 0, 2, dtype=torch.float16),
    "scalar": torch.tensor(7, dtype=torch.uint8),
    "transposed": torch.randn(4, 5, generator=rng()).T,
    "with a gradient": torch.ones(2, requires_grad=True),
}
ABOUT = {"ids": ["a", "é\n\"'"], "nested": {"number": 0.1, "none": None, "list": [1, [2]]}}


@pytest.mark.parametrize("tensors", [*({name: TENSORS[name]} for name in TENSORS), TENSORS, {}])
def test_tensors_come_back_to_the_bit(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    save_tensors(tmp_path / "file", tensors, ABOUT)
    plain = {name: x.detach() for name, x in tensors.items()}
    assert same(load_tensors(tmp_path / "file"), (plain, ABOUT))
    assert read_about(tmp_path / "file") == ABOUT


def test_the_order_of_names_changes_no_byte(tmp_path: Path) -> None:
    x, y = torch.ones(2), torch.zeros(3)
    save_tensors(tmp_path / "1", {"x": x, "y": y}, {"a": 1, "b": 2})
    save_tensors(tmp_path / "2", {"y": y, "x": x}, {"b": 2, "a": 1})
    write_json(tmp_path / "3", {"b": 1, "a": "é"})
    write_json(tmp_path / "4", {"a": "é", "b": 1})
    for one, other in ("12", "34"):
        assert (tmp_path / one).read_bytes() == (tmp_path / other).read_bytes()


# Damage

SAVED: Content = (
    {
        "x": torch.tensor([[1.0, 2.0], [3.0, 4.0]]),
        "y": torch.tensor([[5, 6]], dtype=torch.uint8),
        "z": torch.empty(0, 2),
    },
    {"ids": ["a", "b"]},
)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    """Return a path for damaged files, and the content of the intact one."""
    path = tmp_path_factory.mktemp("saved") / "file"
    save_tensors(path, *SAVED)
    return path, path.read_bytes()


def detected_or_harmless(path: Path, content: bytes) -> bool:
    """Return whether the damage is detected. Fails if it leads to a wrong result or to another error."""
    path.write_bytes(content)
    try:
        assert read_about(path) == SAVED[1]
        loaded = load_tensors(path)
    except ValueError as error:
        assert str(path) in str(error)
        return True
    assert same(loaded, SAVED)
    return False


def test_any_flipped_bit_is_detected_or_harmless(saved: tuple[Path, bytes]) -> None:
    path, intact = saved
    harmless = sum(not detected_or_harmless(path, flipped) for flipped in flips(intact))
    assert harmless < 10  # white space in the header


def test_a_wrong_length_is_detected_by_the_header(saved: tuple[Path, bytes]) -> None:
    path, intact = saved
    lengths = (intact[:length] for length in range(len(intact)))
    for content in (*lengths, *(intact + more for more in (b"\0", b" ", intact))):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=str(path)):
            read_about(path)


def test_a_file_of_other_programs_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    (tmp_path / "text").write_text("no tensors")
    save_file({"x": torch.ones(2)}, tmp_path / "plain")
    save_file({"x": torch.ones(2)}, tmp_path / "other", {"about": "{}"})
    for name in ("text", "plain", "other"):
        with pytest.raises(ValueError, match=f"{name} is damaged, or not a file of this cache"):
            load_tensors(tmp_path / name)


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


def test_rows_come_back_by_id(kept: TensorCache) -> None:
    assert kept.read() == {} and kept.ids() == set() and not kept.folder.exists()
    first, second = some_rows(3), some_rows(2, seed=1)
    kept.write(["c", "a", "b"], first)
    kept.write(["e", "d"], second)
    rows = kept.read()
    assert rows.keys() == kept.ids() == {"a", "b", "c", "d", "e"}
    assert rows["a"].keys() == {"x", "y"}
    assert torch.equal(rows["a"]["x"], first["x"][1])
    assert torch.equal(rows["d"]["x"], second["x"][1])
    assert rows["b"]["y"].item() == 2 and rows["b"]["y"].dtype == torch.uint8
    assert '"made": "by a test"' in (kept.folder / "identity.json").read_text()


def test_rows_are_gathered_in_the_order_asked_for(kept: TensorCache) -> None:
    first, second = some_rows(3), some_rows(2, seed=1)
    kept.write(["c", "a", "b"], first)
    kept.write(["e", "d"], second)
    wanted = torch.stack([second["x"][1], first["x"][0], first["x"][1], second["x"][1]])
    assert torch.equal(kept.gather(["d", "c", "a", "d"], "x"), wanted)
    assert torch.equal(kept.gather(iter(["c"]), "x"), first["x"][:1])


def test_a_missing_row_or_tensor_is_named(kept: TensorCache) -> None:
    kept.write(["a", "b"], some_rows(2))
    for ids, name, missing in ((["a", "z"], "x", "z"), (["a"], "latents", "latents")):
        with pytest.raises(UserError, match=f"lacks '{missing}'; give the same command again") as caught:
            kept.gather(ids, name)
        assert not isinstance(caught.value, RowsLost)


def test_overlapping_batches_give_each_row_once(kept: TensorCache) -> None:
    """As after a change of batch size; the same batch replaces its file."""
    x = some_rows(4)["x"]
    for ids in (["a", "b", "c", "d"], ["a", "b"], ["b", "a"], ["a", "b"]):
        kept.write(ids, {"x": x[["abcd".index(id_) for id_ in ids]]})
    assert len(files(kept)) == 3
    assert torch.equal(kept.gather(["a", "b", "c", "d"], "x"), x)


@pytest.mark.parametrize("damage", [lambda whole: whole[:-1], lambda whole: b"", lambda whole: b"\0" + whole[1:]])
def test_rows_under_a_damaged_header_are_missing(kept: TensorCache, damage: Callable[[bytes], bytes]) -> None:
    kept.write(["a", "b"], some_rows(2))
    (file,) = files(kept)
    kept.write(["c", "d"], some_rows(2, seed=1))
    file.write_bytes(damage(file.read_bytes()))
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
            patch.setattr(Path, "unlink", failing(errno.EROFS))
        with (
            pytest.warns(UserWarning, match=f"{file.name} does not match its checksum; it counts as missing"),
            pytest.raises(RowsLost, match=f"{file.name} .*give the same command again to make it"),
        ):
            read(kept)
    assert file.exists() is not removable
    assert kept.ids() == kept.read().keys() == {"c", "d"}
    kept.write(["a", "b"], some_rows(2))
    assert torch.equal(kept.gather(["a", "b"], "x"), some_rows(2)["x"])


def test_damage_of_a_tensor_that_is_not_read_does_no_harm(kept: TensorCache) -> None:
    kept.write(["a", "b"], some_rows(2))
    flip_last_bit(files(kept)[0])
    assert torch.equal(kept.gather(["a", "b"], "x"), some_rows(2)["x"])


def test_all_damaged_files_that_are_read_are_removed_at_once(kept: TensorCache) -> None:
    for id_ in "abcd":
        kept.write([id_], some_rows(1))
    for file in files(kept)[1:]:
        flip_last_bit(file)
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
        patch.setattr(cache, "load_tensors", load_and_be_overtaken)
        kept.read()
    assert kept.ids() == kept.read().keys() == {"a"}


def test_rows_that_another_worker_removed_are_lost(kept: TensorCache) -> None:
    kept.write(["a"], some_rows(1))
    files(kept)[0].unlink()
    with pytest.raises(RowsLost, match="lacks 'a'; give the same command again"):
        kept.gather(["a"], "x")


def test_a_command_that_loses_rows_is_called_again(kept: TensorCache) -> None:
    made: list[str] = []

    def command() -> float:
        for id_ in {"a", "b"} - kept.ids():
            made.append(id_)
            kept.write([id_], {"x": torch.ones(1)})
            if made.count(id_) == 1:
                flip_last_bit(kept.folder / f"{key([id_])}.safetensors")
        return kept.gather(["a", "b"], "x").sum().item()

    with pytest.warns(UserWarning):
        assert retry_lost_rows(command) == 2
    assert sorted(made) == ["a", "a", "b", "b"]


def test_a_command_is_not_called_again_for_ever() -> None:
    calls: list[int] = []

    def command() -> None:
        calls.append(1)
        raise RowsLost("give the same command again")

    with pytest.raises(RowsLost):
        retry_lost_rows(command)
    assert len(calls) == RETRIES + 1


# How much is read


def bytes_read() -> int:
    """Return how many bytes this process has read by system calls."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.removeprefix("rchar: ")) for line in lines if line.startswith("rchar: "))


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="only Linux counts what a process reads")
def test_listing_reads_headers_alone_and_once(kept: TensorCache) -> None:
    size = 1 << 20
    for id_ in "abcd":
        kept.write([id_], {"x": torch.zeros(1, size, dtype=torch.uint8), "y": torch.zeros(1)})
    kept.read()
    start = bytes_read()
    assert len(kept.ids()) == 4
    assert bytes_read() - start < 4096  # of /proc/self/io itself
    cache._listed.clear()
    start = bytes_read()
    assert len(kept.ids()) == 4
    headers = bytes_read() - start
    assert headers < 64 * 1024  # safetensors maps the file, and touches its header
