"""Images, names, archives and pipeline folders from strangers: used, or refused in a line; never obeyed."""

import ast
import io
import json
import os
import pickle
import shutil
import struct
import tarfile
import time
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from driver import invoke
from PIL import Image
from safetensors.torch import load_file

from latentmix.commands.shared.session import rates
from latentmix.compose import compose
from latentmix.data import choose
from latentmix.data.folder import Folder
from latentmix.data.hub import Hub
from latentmix.data.image_files import Rules
from latentmix.data.imagenet import ImageNet
from latentmix.data.synthetic import Synthetic
from latentmix.embedded import embedded_folder
from latentmix.errors import UserError
from latentmix.experiment import batch_size
from latentmix.experiment.experiment import Experiment
from latentmix.models import load_model
from latentmix.models.pipeline import find
from latentmix.models.settings import ModelConfig
from latentmix.storage import file_name

ROOT = Path(__file__).parent.parent
CPU = torch.device("cpu")


def refusal(function: Callable[[], Any]) -> str:
    with pytest.raises(UserError) as caught:
        function()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Images


def encoded(format_: str, size: tuple[int, int] = (24, 16), **how: Any) -> bytes:
    buffer, noise = io.BytesIO(), np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, format_, **how)
    return buffer.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few kilobytes that says it is so large, and black."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1 << 20))) + chunk(b"IEND", b"")


def with_chunk(kind: bytes, content: bytes, png: bytes = encoded("PNG")) -> bytes:
    """A PNG with another chunk before its pixels."""
    at = png.index(b"IDAT") - 4
    return png[:at] + chunk(kind, content) + png[at:]


def lone(folder: Path, content: bytes, name: str = "a.png") -> Path:
    """A class with one image."""
    (folder / "class").mkdir(parents=True, exist_ok=True)
    (folder / "class" / name).write_bytes(content)
    return folder


def test_an_odd_image_becomes_a_square_of_rgb_whatever_its_suffix(tmp_path: Path) -> None:
    odd = encoded("JPEG")[:2] + b"\xff\xe2\x00\x10MPF\x00II*\x00junk" + encoded("JPEG")[4:]  # an MPO that is none
    (source,) = Folder(lone(tmp_path, odd, "a.bmp")).images("class")
    assert (source.pixels(32).shape, source.pixels(32).dtype) == ((32, 32, 3), np.uint8)


@pytest.mark.parametrize(
    ("content", "unreadable"),
    [
        (encoded("WEBP", lossless=True, exif=b"nothing that Tiff knows"), "Exif"),
        (with_chunk(b"zTXt", b"remark\0\0" + zlib.compress(bytes(20 << 20))), "text or a colour profile"),
        (with_chunk(b"tEXt", b"a\0b").replace(b"tEXta\0b", b"tEXta\0c"), "text or a colour profile"),
    ],
    ids=["Exif", "text that becomes 20 MiB", "a checksum"],
)
def test_unreadable_metadata_are_left_out_with_a_note(content: bytes, unreadable: str, tmp_path: Path) -> None:
    with pytest.warns(
        UserWarning, match=f"images with {unreadable} that can't be read, which are used without: .*a.png"
    ):
        (source,) = Folder(lone(tmp_path, content)).images("class")
    (expected,) = Folder(lone(tmp_path / "plain", encoded("PNG"))).images("class")
    assert (source.pixels(16) == expected.pixels(16)).all() and source.id != expected.id


def test_not_pillow_but_a_setting_says_what_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # it warns beyond this, and raises beyond its double
    folder = lone(tmp_path, encoded("JPEG", size=(40, 50)))
    message = refusal(lambda: Folder(folder, Rules(max_megapixels=0.0019)).images("class"))
    assert "cannot be used: it has 0.002 megapixels, more than data.max_megapixels=0.0019; mend" in message
    (source,) = Folder(folder, Rules(max_megapixels=0.002)).images("class")
    assert source.pixels(8).shape == (8, 8, 3)


REFUSED = {
    "a bomb": bomb(20_000, 20_000),
    "no pixels": bomb(0, 5),
    "too few lines after bad text": with_chunk(b"tEXt", b"a", bomb(9000, 9000)).replace(b"tEXta", b"tEXtb"),
    "gif": encoded("GIF"),
    "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(%pipe%touch owned) (w) file\n",
}


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "it is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "it is a Git LFS pointer; run git lfs pull"),
        (b"\n<!DOCTYPE html><html>", "it is an HTML page"),
        (b"GIF89a", "it is not an image in JPEG, PNG, WebP, TIFF or BMP format"),
    ],
)
def test_what_is_in_the_place_of_an_image_is_named(content: bytes, what: str, tmp_path: Path) -> None:
    assert f"cannot be used: {what}" in refusal(lambda: Folder(lone(tmp_path, content)).images("class"))


def test_a_big_tiff_is_read(tmp_path: Path) -> None:
    (source,) = Folder(lone(tmp_path, encoded("TIFF", big_tiff=True))).images("class")
    (plain,) = Folder(lone(tmp_path / "plain", encoded("TIFF"))).images("class")
    assert (source.pixels(8) == plain.pixels(8)).all()


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_image_is_named_within_a_second(kind: str, tmp_path: Path) -> None:
    folder, started = Folder(lone(tmp_path, REFUSED[kind])), time.process_time()
    assert refusal(lambda: folder.images("class")).startswith(f"{tmp_path / 'class' / 'a.png'} cannot be used: ")
    assert time.process_time() - started < 5  # of a machine's own time, however busy it is
    with pytest.warns(UserWarning, match="the next image is taken instead"):
        assert "no usable images" in refusal(lambda: Folder(folder.path, Rules("skip")).images("class"))


def hole(path: Path) -> None:
    path.touch()
    os.truncate(path, 1 << 40)  # it takes no disk


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (os.mkfifo, "it is no regular file"),
        (lambda path: path.symlink_to("/dev/zero"), "it is no regular file"),
        (hole, "bytes are more than an image may have"),
    ],
)
def test_a_file_without_end_is_not_read(make: Callable[[Path], object], text: str, tmp_path: Path) -> None:
    (tmp_path / "class").mkdir()
    make(tmp_path / "class" / "a.png")
    assert text in refusal(lambda: Folder(tmp_path).images("class"))


# Names

NO_TEXT = ["nul\0l", "line\nbreak", "\x1b[2J", "\udcff"]
HOSTILE = [*NO_TEXT, "..", ".", "../../outside", "/etc/passwd", "a/../../b", "~root", "a" * 300, "\N{SNOWMAN}" * 90]
HOSTILE += [".hidden", "$x_{1}$", "[/red]", "{0.__class__}", "<script>alert(1)</script>", "=cmd|' /C calc'!A0", ""]


def test_classes_called_anything_are_different_files_in_their_folder(tmp_path: Path) -> None:
    for name in HOSTILE:
        (tmp_path / file_name(name)).touch()
    assert len(list(tmp_path.iterdir())) == len(HOSTILE)
    assert file_name("tree frog") == "tree frog" and file_name("größe_2") == "größe_2"


@pytest.mark.parametrize("name", NO_TEXT, ids=repr)
def test_a_class_whose_name_is_no_text_is_refused(name: str, tmp_path: Path) -> None:
    for chosen in ([name], None, ["random:1"]):
        assert "rename it" in refusal(lambda chosen=chosen: choose(Synthetic((name,), tmp_path, 0), chosen, 0))  # type: ignore[misc]


def test_the_terminal_is_not_written_to_by_the_name_of_a_file(tmp_path: Path) -> None:
    lone(tmp_path / "data", b"", "\x1b]0;owned\x07.png")
    said = invoke("invert", "data=folder", f"data.path={tmp_path / 'data'}", f"outputs={tmp_path / 'outputs'}")
    assert said.code == 2 and "\\x1b]0;owned\\x07.png cannot be used" in said.err
    assert "\x1b" not in said.err and "\x07" not in said.err


def test_strange_classes_go_through_all_that_a_run_writes(tmp_path: Path) -> None:
    names = ["$x_{1}$", "[b]{0}<i>", "-rf", "..a", "=1+1"]
    for name in names:
        (tmp_path / "data" / name).mkdir(parents=True)
        for seed in range(2):
            (tmp_path / "data" / name / f"{seed}.png").write_bytes(encoded("PNG", size=(64 + seed, 64)))
    small = ["data=folder", "n=[2]", "methods=[fix/0]", "metrics=[fid,clip_distance]", "controls=[]", "pool=2"]
    small += ["draws=2", "steps=1", "data.reference=2", f"data.path={tmp_path / 'data'}", "name=run"]
    small.append(f"outputs={tmp_path / 'outputs'}")
    run = tmp_path / "outputs" / "run"
    for arguments in (*([command, *small] for command in ("generate", "sweep", "diagnose")), ["report", str(run)]):
        said = invoke(*arguments)
        assert said.code == 0, said.err
    page = (run / "report.html").read_text()
    assert "[b]{0}&lt;i&gt;" in page and "{0}<i>" not in page
    assert {path.name for path in tmp_path.iterdir()} == {"data", "outputs"}
    made = {path.name for path in (run / "images").iterdir() if path.is_dir()}
    assert made == {file_name(name) for name in names if not name.startswith(".")}


def test_the_hubs_classes_lead_nowhere_and_are_not_mixed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(*names: str) -> Hub:
        labels = type("Labels", (), {"names": [*names]})
        monkeypatch.setattr(Hub, "_open", lambda _: type("Rows", (), {"features": {"label": labels}}))
        return Hub(compose(["data=hub", "data.hub=a/b"]).data)

    monkeypatch.setenv("LATENTMIX_CACHE", str(tmp_path / "cache"))
    data = asked("..", "../x", "b")
    folders = {data._class_folder(data._labels[class_id]) for class_id in data.classes()}
    assert all(folder.resolve().is_relative_to(tmp_path.resolve()) for folder in folders) and len(folders) == 3
    monkeypatch.setenv("LATENTMIX_CACHE", str(tmp_path / "other"))
    assert "can't be told apart" in refusal(asked("a/b", "a-b").classes)


@pytest.mark.parametrize("path", ["/etc/hostname", "zip://a.png::/home/a.zip", "../a.png"])
def test_the_hubs_images_are_no_files_of_this_machine(path: str) -> None:
    data = Hub(compose(["data=hub", "data.hub=a/b"]).data)
    assert "not on the hub" in refusal(lambda: data._content({"bytes": None, "path": path}))
    assert data._content({"bytes": b"as they came", "path": path}) == b"as they came"


@pytest.mark.parametrize("rate", ["0", "-1.5", "1e999", "NaN", "true", '"x"'])
def test_rates_that_are_none_are_not_known(rate: str, tmp_path: Path) -> None:
    """In notes of this machine's own, however damaged."""
    experiment = Experiment(compose([f"outputs={tmp_path}"]))
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "rates.json").write_text(f'{{"a": {rate}, "b": 2.5}}')
    (tmp_path / "cache" / "batches.json").write_text(f'{{"a": {rate}, "b": 2}}')
    assert rates(experiment)._read() == {"b": 2.5} and batch_size._remembered(experiment) == {"b": 2}


# Archives

FROG = "n01644373"


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "", content: bytes = b"") -> Any:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, target, len(content)
    return info, io.BytesIO(content)


def tar_of(*members: tuple[tarfile.TarInfo, io.BytesIO]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for info, content in members:
            archive.addfile(info, content)
    return buffer.getvalue()


def test_members_of_an_archive_stay_in_it_and_links_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret.JPEG").write_bytes(encoded("JPEG"))
    names = ["../../escaped.JPEG", "/tmp/escaped.JPEG", f"{FROG}_1.JPEG"]
    members = [member(name, content=encoded("JPEG", size=(8 + k, 8))) for k, name in enumerate(names)]
    members.append(member("a.JPEG", tarfile.SYMTYPE, str(tmp_path / "secret.JPEG")))
    members += [member("b.JPEG", tarfile.LNKTYPE, names[2]), member("c.JPEG", tarfile.FIFOTYPE)]
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / f"{FROG}.tar").write_bytes(tar_of(*members))
    before = sorted(tmp_path.rglob("*"))
    sources = ImageNet(tmp_path / "data").images(FROG)
    assert [source.pixels(8).shape for source in sources] == [(8, 8, 3)] * 3
    assert sorted(tmp_path.rglob("*")) == before and not Path("/tmp/escaped.JPEG").exists()


def test_a_member_of_negative_size_is_refused(tmp_path: Path) -> None:
    """It would lead back to an earlier one for ever."""
    content = bytearray(tar_of(member(f"{FROG}_1.JPEG", content=encoded("JPEG"))))
    content[124:136], content[148:156] = b"\xff" * 12, b" " * 8
    content[148:156] = b"%06o\0 " % sum(content[:512])
    (tmp_path / f"{FROG}.tar").write_bytes(content)
    assert FROG in refusal(lambda: ImageNet(tmp_path).images(FROG))


# Pipeline folders


class Bomb:
    """What a pickle can do when it is loaded."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.file),)


@pytest.fixture
def pipeline(tmp_path: Path) -> Path:
    return shutil.copytree(embedded_folder("tiny"), tmp_path / "pipeline")


def at(folder: Path, pickled: bool = False) -> ModelConfig:
    return replace(compose([]).model, embedded=None, path=str(folder), pickled=pickled)


def used(config: ModelConfig) -> tuple[bytes, ...]:
    """What a model makes of a prompt and of nothing."""
    model = load_model(config, CPU)
    made = model.embed(["a star"]).states, model.decode(torch.zeros(1, 4, 8, 8))
    return tuple(x.numpy().tobytes() for x in made)


@pytest.mark.parametrize(
    ("part", "name"), [("unet", "diffusion_pytorch_model.bin"), ("text_encoder", "pytorch_model.bin")]
)
def test_pickled_weights_are_refused_unless_they_are_asked_for(part: str, name: str, pipeline: Path) -> None:
    wanted = used(at(pipeline))
    (file,) = (pipeline / part).glob("*.safetensors")
    torch.save(load_file(file), file.with_name(name))
    file.unlink()
    assert "set model.pickled=true" in refusal(lambda: load_model(at(pipeline), CPU))
    assert used(at(pipeline, pickled=True)) == wanted


def test_no_pickle_runs_code(pipeline: Path, tmp_path: Path) -> None:
    """Not beside weights, not where these have another name, and not even where pickles are asked for."""
    wanted, (file,) = used(at(pipeline)), (pipeline / "vae").glob("*.safetensors")
    for part in ("vae", "unet", "text_encoder"):
        for name in ("diffusion_pytorch_model.bin", "pytorch_model.bin", "model.ckpt", "model.pkl"):
            (pipeline / part / name).write_bytes(pickle.dumps({"weight": Bomb(tmp_path / "owned")}))
    assert used(at(pipeline)) == wanted
    renamed = file.rename(file.with_name("other.safetensors"))
    assert str(pipeline / "vae") in refusal(lambda: used(at(pipeline)))
    renamed.unlink()
    assert "can't be loaded" in refusal(lambda: used(at(pipeline, pickled=True)))
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("name", ["../../secret.safetensors", "/etc/passwd", "model.bin", 3])
def test_an_index_of_weights_names_only_files_beside_it(name: object, pipeline: Path) -> None:
    index = pipeline / "vae" / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": {"weight": name}}))
    assert "only *.safetensors beside it are read" in refusal(lambda: find(at(pipeline)))


@pytest.mark.parametrize(("part", "asked"), [("unet", ["my_unet", "MyUNet"]), ("vae", ["os", "system"])])
def test_classes_of_a_folders_own_are_refused(part: str, asked: list[str], pipeline: Path) -> None:
    (pipeline / "unet" / "my_unet.py").write_text("raise SystemExit('owned')")
    index = json.loads((pipeline / "model_index.json").read_text())
    (pipeline / "model_index.json").write_text(json.dumps(index | {part: asked}))
    assert "which is not known here, and not run" in refusal(lambda: find(at(pipeline)))


# The source

FORBIDDEN = {"eval", "exec", "__import__", "os.system", "yaml.load", "yaml.unsafe_load", "yaml.full_load"}
FORBIDDEN_MODULES = {"pickle", "dill", "joblib", "shelve", "marshal"}
FORBIDDEN_METHODS = {  # but in these files, which import by names that latentmix writes, and unpack wheels by zipfile
    "instantiate": "",
    "import_module": "latentmix/__init__.py latentmix/runner/slurm.py latentmix/models/family.py "
    "latentmix/models/denoiser.py scripts/training/__main__.py scripts/gpu_check/__main__.py",
    "extractall": "scripts/training/__main__.py scripts/gpu_check/environment.py",
}


def test_nothing_is_unpickled_or_run_unasked() -> None:
    for path in (*ROOT.glob("latentmix/**/*.py"), *ROOT.glob("scripts/**/*.py")):
        place = path.relative_to(ROOT).as_posix()
        forbidden = {name for name, files in FORBIDDEN_METHODS.items() if place not in files.split()}
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
                assert FORBIDDEN_MODULES.isdisjoint(name.split(".")[0] for name in names), path
            if isinstance(node, ast.Call):
                called, given = ast.unparse(node.func), {word.arg: ast.unparse(word.value) for word in node.keywords}
                assert called not in FORBIDDEN and called.split(".")[-1] not in forbidden, path
                assert given.get("trust_remote_code", "False") == "False" == given.get("allow_pickle", "False"), path
                assert called not in ("torch.load", "torch.jit.load") or given.get("weights_only") == "True", path
