"""What is on disk: keys, writing in one move, files that know when they are damaged, and batches of rows."""

import errno
import json
import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from latentmix.cache import (
    ABANDONED,
    DiskFull,
    TensorCache,
    folder_digest,
    key,
    load_tensors,
    read_checked_json,
    read_json,
    remove_partial_files,
    save_tensors,
    user_cache,
    write_atomic,
    write_checked_json,
    write_json,
)
from latentmix.errors import UserError

Content = tuple[dict[str, Tensor], dict[str, Any]]
MIB = 1 << 20


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def same(a: Content, b: Content) -> bool:
    """To the bit, NaN and all, with dtypes and shapes."""
    (tensors_a, about_a), (tensors_b, about_b) = a, b
    if about_a != about_b or tensors_a.keys() != tensors_b.keys():
        return False
    return all(bits(tensors_a[name]) == bits(tensors_b[name]) for name in tensors_a)


def bits(x: Tensor) -> tuple[torch.dtype, torch.Size, bytes]:
    return x.dtype, x.shape, x.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def names(folder: Path) -> list[str]:
    """All there is, hidden files too."""
    return sorted(path.name for path in folder.iterdir())


# Keys


def test_a_key_does_not_depend_on_the_order_of_names() -> None:
    assert key({"a": 1, "b": {"c": 2, "d": 3}}) == key({"b": {"d": 3, "c": 2}, "a": 1})


def test_a_key_depends_on_all_else() -> None:
    identities: list[Any] = [{}, {"a": 1}, {"a": 2}, {"a": 1.5}, {"a": "1"}, {"a": None}, {"b": 1}, {"a": {"a": 1}}]
    identities += [[1, 2], [2, 1], [[1], 2], ["1", 2], "", "a", 0, False, None]
    assert len({key(identity) for identity in identities}) == len(identities)


def test_a_key_is_16_hex_digits_that_never_change() -> None:
    """Or all that anyone has computed is lost."""
    assert key({"b": [1, 2.5, None], "a": {"y": "é", "x": True}}) == "e4dfc0a85121cff6"


def test_what_json_cannot_hold_has_no_key() -> None:
    with pytest.raises(TypeError):
        key({"path": Path("x")})


def test_the_users_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LATENTMIX_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert user_cache() == Path.home() / ".cache" / "latentmix"
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert user_cache() == Path("/x/latentmix")
    monkeypatch.setenv("LATENTMIX_CACHE", "/y")
    assert user_cache() == Path("/y")


# Writing in one move


def test_a_file_is_written_with_the_folders_above_it(tmp_path: Path) -> None:
    write_atomic(tmp_path / "a" / "b" / "file", b"content")
    assert (tmp_path / "a" / "b" / "file").read_bytes() == b"content"
    assert names(tmp_path / "a" / "b") == ["file"]
    write_atomic(tmp_path / "a" / "b" / "file", b"other")
    assert (tmp_path / "a" / "b" / "file").read_bytes() == b"other"


def test_json_is_the_same_whatever_the_order(tmp_path: Path) -> None:
    write_json(tmp_path / "1", {"b": 1, "a": "é"})
    write_json(tmp_path / "2", {"a": "é", "b": 1})
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()
    assert (tmp_path / "1").read_bytes().endswith(b"}\n")


def test_the_place_is_taken_only_when_the_file_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place, seen, sync = tmp_path / "file", list[list[str]](), os.fsync

    def look(descriptor: int) -> None:
        assert os.fstat(descriptor).st_size == 1000  # all of it has left Python's buffers
        seen.append(names(tmp_path))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", look)
    write_atomic(place, bytes(1000))
    assert len(seen) == 1
    assert place.name not in seen[0]
    assert names(tmp_path) == ["file"]


def test_a_file_half_written_has_a_name_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes of the same number, on two machines, may write the same file."""
    seen = list[set[str]]()
    monkeypatch.setattr(os, "fsync", lambda _: seen.append({n for n in names(tmp_path) if n.endswith(".part")}))
    for _ in range(2):
        write_atomic(tmp_path / ("n" * 255), b"")
    assert len(seen[0]) == len(seen[1]) == 1 and seen[0] != seen[1]


def left(folder: Path, age: float) -> Path:
    """What a killed run left half written."""
    part = folder / "cells" / f".{age}.part"
    part.parent.mkdir(exist_ok=True)
    part.touch()
    os.utime(part, (time.time() - age,) * 2)
    return part


def test_what_killed_runs_left_is_swept_up(tmp_path: Path) -> None:
    old, young, ahead = left(tmp_path, ABANDONED + 60), left(tmp_path, ABANDONED - 60), left(tmp_path, -9e5)
    write_atomic(tmp_path / "cells" / "file", b"kept")
    os.utime(old.rename(tmp_path / "cells" / "users.part"), (0, 0))
    old = left(tmp_path, ABANDONED + 60)
    remove_partial_files(tmp_path)
    assert not old.exists() and young.exists() and ahead.exists()  # others may be writing these just now
    assert names(tmp_path) == ["cells"] and {"file", "users.part"} <= {*names(tmp_path / "cells")}


def test_age_is_by_the_file_systems_own_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, young = left(tmp_path, ABANDONED + 60), left(tmp_path, 0)
    monkeypatch.setattr(time, "time", lambda: 0.0)
    remove_partial_files(tmp_path)
    assert not old.exists() and young.exists()


def test_nothing_is_swept_up_where_nothing_is_or_can_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remove_partial_files(tmp_path / "gone")
    old = left(tmp_path, ABANDONED + 60)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "touch", failing(errno.EROFS))
        remove_partial_files(tmp_path)
    assert old.exists()


@pytest.mark.parametrize("content", [b"", b"[1]", b"3", b'{"a": 1', b"\xff", b"null", b"[" * 100_000])
def test_json_that_is_damaged_is_none(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(content)
    assert read_json(tmp_path / "file") == read_checked_json(tmp_path / "file") == read_json(tmp_path / "gone") == {}


def test_any_flipped_bit_of_a_note_is_noticed(tmp_path: Path) -> None:
    note = {"kept": {11: 1, 2: 3}, "row": 2.5, "names": ["a", "ü"]}
    write_checked_json(tmp_path / "note", note)
    assert read_checked_json(tmp_path / "note") == json.loads(json.dumps(note))
    content = (tmp_path / "note").read_bytes()
    for bit in range(8 * len(content)):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        (tmp_path / "note").write_bytes(flipped)
        assert read_checked_json(tmp_path / "note") in ({}, json.loads(json.dumps(note)))


def failing(code: int) -> Callable[..., None]:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError(code, os.strerror(code))

    return fail


@pytest.mark.parametrize("before", [None, b"old"])
@pytest.mark.parametrize(("owner", "name"), [(os, "fsync"), (Path, "replace")])
def test_a_failure_in_the_middle_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, before: bytes | None
) -> None:
    place = tmp_path / "file"
    if before is not None:
        place.write_bytes(before)
    monkeypatch.setattr(owner, name, failing(errno.EIO))
    with pytest.raises(UserError, match="file could not be written: Input/output error") as caught:
        write_atomic(place, b"new" * 1000)
    assert not isinstance(caught.value, DiskFull)
    assert names(tmp_path) == ([] if before is None else ["file"])
    assert before is None or place.read_bytes() == before


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_said_to_be_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    monkeypatch.setattr(os, "fsync", failing(code))
    with pytest.raises(DiskFull) as caught:
        write_atomic(tmp_path / "file", b"content")
    text = str(caught.value)
    assert caught.value.exit_code == 1
    assert "\n" not in text
    for part in ("disk is full", str(tmp_path / "file"), "outputs=", "what is finished is kept"):
        assert part in text
    assert names(tmp_path) == []


def test_a_full_disk_stops_tensors_and_json_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", failing(errno.ENOSPC))
    for act in (
        lambda: write_json(tmp_path / "a", {}),
        lambda: save_tensors(tmp_path / "b", {"x": torch.ones(2)}, {}),
        lambda: TensorCache(tmp_path / "parts", {}).write(["a"], {"x": torch.ones(1, 2)}),
    ):
        with pytest.raises(DiskFull):
            act()
    assert names(tmp_path) == ["parts"]
    assert names(tmp_path / "parts") == []


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "mkdir", failing(errno.EROFS))
    with pytest.raises(UserError) as caught:
        write_atomic(tmp_path / "new" / "file", b"content")
    assert "\n" not in str(caught.value)
    assert f"{tmp_path / 'new' / 'file'} could not be written: Read-only file system" in str(caught.value)
    assert "outputs=" in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(0o500)
    with pytest.raises(UserError, match="locked/file could not be written: Permission denied; choose another place"):
        write_atomic(tmp_path / "locked" / "file", b"content")


def test_a_folder_in_the_files_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").mkdir()
    with pytest.raises(UserError, match="file could not be written: Is a directory"):
        write_atomic(tmp_path / "file", b"content")
    assert names(tmp_path) == ["file"]


def test_a_file_in_a_folders_place_is_named(tmp_path: Path) -> None:
    """outputs=FILE, for instance."""
    (tmp_path / "outputs").write_bytes(b"")
    with pytest.raises(UserError, match="could not be written"):
        write_atomic(tmp_path / "outputs" / "file", b"content")


def test_an_interruption_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomic(tmp_path / "file", b"content")
    assert names(tmp_path) == []


# Tensors


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
    "byte": torch.tensor(7, dtype=torch.uint8),
    "transposed": torch.randn(4, 5, generator=rng()).T,
    "expanded": torch.ones(1, 3).expand(4, 3),
    "channels last": torch.randn(2, 3, 4, 5, generator=rng()).contiguous(memory_format=torch.channels_last),
}
ABOUT = {"ids": ["a", "é\n\"'"], "nested": {"number": 0.1, "none": None, "list": [1, [2]]}}


@pytest.mark.parametrize("name", TENSORS)
def test_a_tensor_comes_back_to_the_bit(tmp_path: Path, name: str) -> None:
    saved = ({name: TENSORS[name]}, ABOUT)
    save_tensors(tmp_path / "file", *saved)
    assert same(load_tensors(tmp_path / "file"), saved)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64])
def test_a_number_comes_back(tmp_path: Path, dtype: torch.dtype) -> None:
    saved = ({"number": torch.tensor(3, dtype=dtype)}, ABOUT)
    save_tensors(tmp_path / "file", *saved)
    assert same(load_tensors(tmp_path / "file"), saved)


def test_all_of_them_come_back_at_once(tmp_path: Path) -> None:
    save_tensors(tmp_path / "file", TENSORS, {})
    assert same(load_tensors(tmp_path / "file"), (TENSORS, {}))
    save_tensors(tmp_path / "none", {}, ABOUT)
    assert same(load_tensors(tmp_path / "none"), ({}, ABOUT))


def test_the_order_of_names_changes_no_byte(tmp_path: Path) -> None:
    x, y = torch.ones(2), torch.zeros(3)
    save_tensors(tmp_path / "1", {"x": x, "y": y}, {"a": 1, "b": 2})
    save_tensors(tmp_path / "2", {"y": y, "x": x}, {"b": 2, "a": 1})
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()


def test_a_tensor_with_a_gradient_is_kept_without_it(tmp_path: Path) -> None:
    save_tensors(tmp_path / "file", {"x": torch.ones(2, requires_grad=True)}, {})
    assert same(load_tensors(tmp_path / "file"), ({"x": torch.ones(2)}, {}))


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
    """A place to put damaged files in, and the whole one."""
    path = tmp_path_factory.mktemp("store") / "file"
    save_tensors(path, *SAVED)
    return path, path.read_bytes()


def detected_or_harmless(path: Path, content: bytes) -> bool:
    """Whether the damage came to light; raises what else than ValueError is raised, and fails on a wrong result."""
    path.write_bytes(content)
    try:
        loaded = load_tensors(path)
    except ValueError as error:
        assert str(path) in str(error)
        return True
    assert same(loaded, SAVED)
    return False


def test_any_single_flipped_bit_is_detected_or_harmless(saved: tuple[Path, bytes]) -> None:
    path, whole = saved
    harmless = 0
    for position in range(len(whole)):
        for bit in range(8):
            flipped = bytearray(whole)
            flipped[position] ^= 1 << bit
            harmless += not detected_or_harmless(path, bytes(flipped))
    assert harmless < 10  # white space in the header


@settings(max_examples=300, deadline=None, derandomize=True)
@given(changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), min_size=1, max_size=4))
def test_any_changed_bytes_are_detected_or_harmless(
    saved: tuple[Path, bytes], changes: list[tuple[float, int]]
) -> None:
    path, whole = saved
    content = bytearray(whole)
    for where, mask in changes:
        content[int(where * len(whole))] ^= mask
    detected_or_harmless(path, bytes(content))


def test_a_lost_dimension_is_detected(tmp_path: Path) -> None:
    save_tensors(tmp_path / "file", {"x": torch.ones(1)}, {})
    content = (tmp_path / "file").read_bytes()
    assert content.count(b'"shape":[1]') == 1
    (tmp_path / "file").write_bytes(content.replace(b'"shape":[1]', b'"shape":[ ]'))
    with pytest.raises(ValueError, match="checksum"):
        load_tensors(tmp_path / "file")


def test_a_file_cut_short_anywhere_is_detected(saved: tuple[Path, bytes]) -> None:
    path, whole = saved
    assert all(detected_or_harmless(path, whole[:length]) for length in range(len(whole)))


def test_a_file_that_goes_on_is_detected(saved: tuple[Path, bytes]) -> None:
    path, whole = saved
    assert all(detected_or_harmless(path, whole + more) for more in (b"\0", b" ", whole))


def test_a_file_of_others_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    (tmp_path / "text").write_text("no tensors")
    save_file({"x": torch.ones(2)}, tmp_path / "plain")
    save_file({"x": torch.ones(2)}, tmp_path / "other", {"about": "{}"})
    for name in ("text", "plain", "other"):
        with pytest.raises(ValueError, match=f"{name} is not a file of this cache"):
            load_tensors(tmp_path / name)


def test_metadata_that_was_changed_is_detected(tmp_path: Path) -> None:
    save_tensors(tmp_path / "file", {"x": torch.ones(2)}, {"ids": ["a", "b"]})
    content = (tmp_path / "file").read_bytes()
    right, wrong = (json.dumps(json.dumps(ids)[1:-1])[1:-1].encode() for ids in ('["a", "b"]', '["b", "a"]'))
    assert right in content
    (tmp_path / "file").write_bytes(content.replace(right, wrong))
    with pytest.raises(ValueError, match="does not match its checksum"):
        load_tensors(tmp_path / "file")


# Parts


def rows(count: int, seed: int = 0) -> dict[str, Tensor]:
    return {"x": torch.randn(count, 2, 3, generator=rng(seed)), "y": torch.arange(count, dtype=torch.uint8)}


@pytest.fixture
def parts(tmp_path: Path) -> TensorCache:
    return TensorCache(tmp_path / "cache" / "parts", {"made": "by a test"})


def files(parts: TensorCache) -> list[Path]:
    return sorted(parts.folder.glob("*.safetensors"))


def test_nothing_is_there_at_first_and_nothing_is_made(parts: TensorCache) -> None:
    assert parts.read() == {}
    assert not parts.folder.exists()


def test_rows_come_back_by_id(parts: TensorCache) -> None:
    first, second = rows(3), rows(2, seed=1)
    parts.write(["c", "a", "b"], first)
    parts.write(["e", "d"], second)
    held = parts.read()
    assert held.keys() == {"a", "b", "c", "d", "e"}
    assert held["a"].keys() == {"x", "y"}
    assert torch.equal(held["a"]["x"], first["x"][1])
    assert torch.equal(held["d"]["x"], second["x"][1])
    assert held["b"]["y"].item() == 2
    assert held["b"]["y"].dtype == torch.uint8


def test_rows_are_gathered_in_the_order_asked_for(parts: TensorCache) -> None:
    first, second = rows(3), rows(2, seed=1)
    parts.write(["c", "a", "b"], first)
    parts.write(["e", "d"], second)
    true = torch.stack([second["x"][1], first["x"][0], first["x"][1], second["x"][1]])
    assert torch.equal(parts.gather(["d", "c", "a", "d"], "x"), true)
    assert torch.equal(parts.gather(iter(["c"]), "x"), first["x"][:1])


def test_a_missing_row_or_name_is_named(parts: TensorCache) -> None:
    parts.write(["a", "b"], rows(2))
    with pytest.raises(UserError, match="lacks 'z'; give the same command again"):
        parts.gather(["a", "z"], "x")
    with pytest.raises(UserError, match="lacks 'latents'"):
        parts.gather(["a"], "latents")


def test_the_identity_lies_beside_the_rows(parts: TensorCache) -> None:
    parts.write(["a"], rows(1))
    assert '"made": "by a test"' in (parts.folder / "identity.json").read_text()


def test_the_same_batch_again_takes_its_own_place(parts: TensorCache) -> None:
    parts.write(["a", "b"], rows(2))
    parts.write(["a", "b"], rows(2, seed=1))
    assert len(files(parts)) == 1
    assert torch.equal(parts.gather(["a", "b"], "x"), rows(2, seed=1)["x"])


def test_batches_that_overlap_give_each_row_once(parts: TensorCache) -> None:
    """As after a change of batch size."""
    held = rows(4)["x"]
    parts.write(["a", "b", "c", "d"], {"x": held})
    parts.write(["a", "b"], {"x": held[:2]})
    parts.write(["b", "a"], {"x": held[[1, 0]]})
    assert len(files(parts)) == 3
    assert torch.equal(parts.gather(["a", "b", "c", "d"], "x"), held)


def test_a_part_half_written_is_not_seen(parts: TensorCache) -> None:
    parts.write(["a"], rows(1))
    (parts.folder / ".0123456789abcdef.safetensors.4711.part").write_bytes(b"half")
    assert parts.read().keys() == {"a"}


@pytest.mark.parametrize("damage", [lambda whole: whole[:-1], lambda whole: b"", lambda whole: whole[:-1] + b"!"])
def test_a_damaged_part_is_named_and_its_rows_are_missing(parts: TensorCache, damage: Callable[[bytes], bytes]) -> None:
    parts.write(["a", "b"], rows(2))
    (file,) = files(parts)
    parts.write(["c", "d"], rows(2, seed=1))
    file.write_bytes(damage(file.read_bytes()))
    with pytest.warns(UserWarning, match=f"{file.name}.*it counts as missing and is made again"):
        held = parts.read()
    assert held.keys() == {"c", "d"}
    with warnings.catch_warnings():  # said once
        warnings.simplefilter("error")
        assert parts.read().keys() == {"c", "d"}
        with pytest.raises(UserError, match="lacks 'a'"):
            parts.gather(["a"], "x")
        parts.write(["a", "b"], rows(2))
        assert torch.equal(parts.gather(["a", "b"], "x"), rows(2)["x"])


# Digests of folders


@pytest.fixture
def model(tmp_path: Path) -> Path:
    for name, content in (("model_index.json", "{}"), ("unet/weights", "abc"), ("vae/weights", "defg")):
        write_atomic(tmp_path / "model" / name, content.encode())
    return tmp_path / "model"


def test_a_digest_does_not_depend_on_where_the_folder_lies(model: Path) -> None:
    digest = folder_digest(model)
    assert len(digest) == 16
    assert folder_digest(model.rename(model.parent / "elsewhere")) == digest


def test_a_digest_depends_on_every_file(model: Path) -> None:
    def rename() -> None:
        (model / "unet").rename(model / "net")

    def swap() -> None:
        write_atomic(model / "net" / "weights", b"defg")
        write_atomic(model / "vae" / "weights", b"abc")

    def move_a_byte() -> None:
        write_atomic(model / "net" / "weights", b"def")
        write_atomic(model / "vae" / "weights", b"gabc")

    changes: list[Callable[[], Any]] = [
        lambda: write_atomic(model / "unet" / "weights", b"abd"),
        lambda: write_atomic(model / "unet" / "weights", b"abcd"),
        lambda: write_atomic(model / "unet" / "weights", b""),
        lambda: write_atomic(model / "unet" / "more", b""),
        lambda: (model / "unet" / "more").unlink(),
        rename,
        swap,
        move_a_byte,
    ]
    digests = [folder_digest(model)]
    for change in changes:
        change()
        digests.append(folder_digest(model))
    assert digests[5] == digests[3]  # what was added is gone again
    del digests[5]
    assert len(set(digests)) == len(digests)


def test_hidden_files_do_not_count(model: Path) -> None:
    digest = folder_digest(model)
    for name in (".DS_Store", "unet/.weights.4711.part"):
        (model / name).write_bytes(b"x")
    (model / "empty").mkdir()
    assert folder_digest(model) == digest


def test_hidden_folders_do_not_count(model: Path) -> None:
    """`hf download --local-dir` leaves its times of day in .cache, and git all its objects in .git."""
    digest = folder_digest(model)
    write_atomic(model / ".cache" / "huggingface" / "download" / "model_index.json.metadata", b"1700000000.0")
    assert folder_digest(model) == digest


def test_links_count_as_what_they_lead_to(model: Path) -> None:
    """The hub's cache is made of links."""
    digest = folder_digest(model)
    blob = (model / "unet" / "weights").rename(model.parent / "blob")
    (model / "unet" / "weights").symlink_to(blob)
    assert folder_digest(model) == digest


def test_of_a_large_file_blocks_from_all_over_count(model: Path) -> None:
    large = model / "unet" / "weights"
    with large.open("wb") as file:
        file.truncate(65 * MIB)  # sparse
    digests = [folder_digest(model)]
    for position in (0, MIB - 1, 30 * MIB, 65 * MIB - 1):
        with large.open("r+b") as file:
            file.seek(position)
            file.write(b"x")
        digests.append(folder_digest(model))
    with large.open("r+b") as file:
        file.truncate(65 * MIB + 1)
    digests.append(folder_digest(model))
    assert len(set(digests)) == len(digests)
    assert folder_digest(model) == digests[-1]
