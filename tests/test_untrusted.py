"""Images, names, archives, pipeline folders and YAML from strangers: used, or refused in a line; never obeyed."""

import ast
import io
import json
import os
import pickle
import shutil
import struct
import tarfile
import time
import warnings
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from driver import invoke
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from latentmix import compose as configs
from latentmix.cache import file_name
from latentmix.commands.session import rates
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

ROOT = Path(__file__).parent.parent
CPU = torch.device("cpu")


def refusal(function: Callable[[], Any]) -> str:
    with pytest.raises(UserError) as caught:
        function()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Images


def encoded(format_: str, mode: str = "RGB", size: tuple[int, int] = (24, 16), **how: Any) -> bytes:
    buffer, noise = io.BytesIO(), np.random.default_rng(0).integers(0, 256, (size[1], size[0], 4), dtype=np.uint8)
    Image.fromarray(noise).convert(mode).save(buffer, format_, **how)
    return buffer.getvalue()


def animated(format_: str) -> bytes:
    frames = [Image.new("RGB", (16, 16), (level, 0, 0)) for level in (10, 20, 30)]
    buffer = io.BytesIO()
    frames[0].save(
        buffer, format_, save_all=True, append_images=frames[1:], **({"lossless": True} if format_ == "WEBP" else {})
    )
    return buffer.getvalue()


def with_orientation(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded("JPEG", exif=exif)


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few kilobytes that says it is so large, and black."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1 << 20))) + chunk(b"IEND", b"")


def with_chunk(kind: bytes, content: bytes, last: bool = False, png: bytes = encoded("PNG")) -> bytes:
    """A PNG with another chunk, before or after its pixels."""
    at = len(png) - 12 if last else png.index(b"IDAT") - 4
    return png[:at] + chunk(kind, content) + png[at:]


def webp_with(kind: bytes, content: bytes) -> bytes:
    """A WebP with metadata of any kind: EXIF, XMP or ICCP."""
    options: dict[str, Any] = {{b"EXIF": "exif", b"XMP ": "xmp", b"ICCP": "icc_profile"}[kind]: content}
    return encoded("WEBP", lossless=True, **options)


JUNK = b"nothing that Tiff knows"
LONG = zlib.compress(bytes(20 << 20))  # 20 MiB, once it is read
USABLE = {
    "jpeg": encoded("JPEG"),
    "cmyk jpeg": encoded("JPEG", "CMYK"),
    "palette with transparency": encoded("PNG", "P", transparency=3),
    "16 bits": encoded("PNG", "I;16"),
    "webp with alpha": encoded("WEBP", "RGBA", lossless=True),
    "animated webp": animated("WEBP"),
    "orientation 9": with_orientation(9),
    "an mpo that is none": encoded("JPEG")[:2] + b"\xff\xe2\x00\x10MPF\x00II*\x00junk" + encoded("JPEG")[4:],
}
WITHOUT_METADATA = {  # name -> content, and what is said to be unreadable
    "png profile of 2 MiB": (encoded("PNG", icc_profile=bytes(2 << 20)), "text or colour profile"),
    "png exif": (encoded("PNG", exif=b"Exif\0\0" + JUNK), "Exif"),
    "webp exif": (webp_with(b"EXIF", JUNK), "Exif"),
    "png text": (with_chunk(b"zTXt", b"remark\0\0" + LONG), "text or colour profile"),
    "png text after the pixels": (with_chunk(b"zTXt", b"remark\0\0" + LONG, last=True), "text or colour profile"),
    "png checksum": (with_chunk(b"tEXt", b"a\0b").replace(b"tEXta\0b", b"tEXta\0c"), "text or colour profile"),
}
REFUSED = {
    "nothing": b"",
    "a bomb": bomb(20_000, 20_000),
    "no pixels": bomb(0, 5),
    "too few lines": bomb(9000, 9000),
    "too few lines after bad text": with_chunk(b"tEXt", b"a", png=bomb(9000, 9000)).replace(b"tEXta", b"tEXtb"),
    "gif": animated("GIF"),
    "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(%pipe%touch owned) (w) file\n",
    "html": b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>",
    "a cut jpeg": encoded("JPEG")[:-200],
}


def lone(folder: Path, content: bytes, name: str = "a.png") -> Path:
    """A class with one image."""
    (folder / "class").mkdir(parents=True, exist_ok=True)
    (folder / "class" / name).write_bytes(content)
    return folder


@pytest.mark.parametrize("kind", USABLE)
def test_any_image_becomes_a_square_of_rgb(kind: str, tmp_path: Path) -> None:
    (source,) = Folder(lone(tmp_path, USABLE[kind], "a.webp")).images("class")  # whose suffix says nothing
    shown = source.pixels(32)
    assert (shown.shape, shown.dtype) == ((32, 32, 3), np.uint8)
    if kind == "animated webp":  # of an animation the first frame counts
        assert (shown == (10, 0, 0)).all()


@pytest.mark.parametrize("kind", WITHOUT_METADATA)
def test_unreadable_metadata_are_left_out_with_a_note(kind: str, tmp_path: Path) -> None:
    content, unreadable = WITHOUT_METADATA[kind]
    with pytest.warns(UserWarning, match=f"used without: {unreadable} of .*a.png"):
        (source,) = Folder(lone(tmp_path, content)).images("class")
    plain = encoded("WEBP", lossless=True) if "webp" in kind else encoded("PNG")
    (expected,) = Folder(lone(tmp_path / "plain", plain)).images("class")
    assert (source.pixels(16) == expected.pixels(16)).all() and source.id != expected.id


def test_not_pillow_but_a_setting_says_what_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # it warns beyond this, and raises beyond its double
    folder = lone(tmp_path, encoded("JPEG", size=(40, 50)))
    message = refusal(lambda: Folder(folder, Rules(max_megapixels=0.0019)).images("class"))
    assert "cannot be used: it has 0.002 megapixels, more than data.max_megapixels=0.0019; mend" in message
    (source,) = Folder(folder, Rules(max_megapixels=0.002)).images("class")
    assert source.pixels(8).shape == (8, 8, 3)


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_image_is_named_within_a_second(kind: str, tmp_path: Path) -> None:
    folder, started = Folder(lone(tmp_path, REFUSED[kind])), time.process_time()
    assert refusal(lambda: folder.images("class")).startswith(f"{tmp_path / 'class' / 'a.png'} cannot be used: ")
    assert time.process_time() - started < 5  # of a machine's own time, however busy it is
    with pytest.warns(UserWarning, match="the next image is taken instead"):
        assert "no usable images" in refusal(lambda: Folder(folder.path, Rules("skip")).images("class"))


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(sorted(USABLE)),
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(min_size=1, max_size=4)), max_size=4),
    keep=st.floats(0, 1) | st.just(1.0),
    tail=st.binary(max_size=8),
)
def test_however_an_image_is_corrupted_it_is_shown_or_named(
    kind: str, changes: list[tuple[float, bytes]], keep: float, tail: bytes, tmp_path: Path
) -> None:
    content = bytearray(USABLE[kind])
    for place, new in changes:
        at = int(place * len(content))
        content[at : at + len(new)] = new
    folder = Folder(lone(tmp_path, bytes(content[: int(keep * len(content))]) + tail))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of metadata that were hit
            (source,) = folder.images("class")
    except UserError as error:
        assert str(error).startswith(f"{tmp_path / 'class' / 'a.png'} cannot be used: ")
        return
    shown = source.pixels(16)
    assert (shown.shape, shown.dtype) == ((16, 16, 3), np.uint8)


def hole(path: Path) -> None:
    """A file that is said to be huge, and takes no disk."""
    with path.open("wb") as file:
        file.truncate(1 << 40)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (os.mkfifo, "it is no regular file"),
        (lambda path: path.symlink_to("/dev/zero"), "it is no regular file"),
        (hole, "bytes are more than an image may have"),
    ],
)
def test_a_file_without_end_is_not_read(make: Callable[[Path], object], text: str, tmp_path: Path) -> None:
    lone(tmp_path, USABLE["jpeg"], "b.png")
    make(tmp_path / "class" / "a.png")
    assert text in refusal(lambda: Folder(tmp_path).images("class"))


# Names

HOSTILE = [
    "..",
    ".",
    "../../outside",
    "/etc/passwd",
    "a/../../b",
    "-rf",
    "~root",
    "a" * 300,
    "\N{SNOWMAN}" * 90,
    "nul\0l",
    "line\nbreak",
    "\x1b[2J",
    "\udcff",
    ".hidden",
    "$x_{1}$",
    "$\\undefined{",
    "[/red]",
    "{0.__class__}",
    "<script>alert(1)</script>",
    "=cmd|' /C calc'!A0",
    "CON",
    "",
]


def test_classes_called_anything_are_different_files_in_their_folder(tmp_path: Path) -> None:
    for name in HOSTILE:
        (tmp_path / file_name(name)).touch()
    assert len(list(tmp_path.iterdir())) == len(HOSTILE)
    assert file_name("tree frog") == "tree frog" and file_name("größe_2") == "größe_2"


@pytest.mark.parametrize("name", ["nul\0l", "line\nbreak", "\x1b[2J", "\udcff"], ids=repr)
def test_a_class_whose_name_is_no_text_is_refused(name: str, tmp_path: Path) -> None:
    data = Synthetic((name,), tmp_path, 0)
    assert "rename it" in refusal(lambda: choose(data, [name], 0))
    assert "rename it" in refusal(lambda: choose(data, None, 0))
    assert "rename it" in refusal(lambda: choose(data, ["random:1"], 0))


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
            noise = np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8)
            Image.fromarray(noise).save(tmp_path / "data" / name / f"{seed}.png")
    small = (
        "n=[2]",
        "methods=[fix/0]",
        "metrics=[fid,clip_distance]",
        "pool=2",
        "draws=2",
        "data.reference=2",
        "steps=1",
    )
    place = (f"data.path={tmp_path / 'data'}", f"outputs={tmp_path / 'outputs'}", "name=run", "controls=[]")
    for command in ("generate", "sweep", "diagnose"):
        said = invoke(command, *small, *place, "data=folder")
        assert said.code == 0, said.err
    said = invoke("report", str(tmp_path / "outputs" / "run"))
    assert said.code == 0, said.err
    page = (tmp_path / "outputs" / "run" / "report.html").read_text()
    assert "[b]{0}&lt;i&gt;" in page and "{0}<i>" not in page
    assert {path.name for path in tmp_path.iterdir()} == {"data", "outputs"}
    made = {path.name for path in (tmp_path / "outputs" / "run" / "images").iterdir() if path.is_dir()}
    assert made == {file_name(name) for name in names if not name.startswith(".")}


def test_the_hubs_classes_lead_nowhere_and_are_not_mixed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = Hub(compose(["data=hub", "data.hub=a/b"]).data)
    for number, names in enumerate((["..", "b"], ["../x", "b"], ["a/b", "a-b"])):
        monkeypatch.setenv("LATENTMIX_CACHE", str(tmp_path / str(number)))
        monkeypatch.setattr(Hub, "_open", lambda _, names=names: _Rows(names))
        data = replace(data)  # which has read nothing yet
        if number == 2:
            assert "can't be told apart" in refusal(data.classes)
            continue
        folders = {data._class_folder(data._labels[class_id]) for class_id in data.classes()}
        assert all(folder.resolve().is_relative_to(tmp_path.resolve()) for folder in folders) and len(folders) == 2


@pytest.mark.parametrize("path", ["/etc/hostname", "file:///etc/hostname", "zip://a.png::/home/a.zip", "../a.png"])
def test_the_hubs_images_are_no_files_of_this_machine(path: str) -> None:
    data = Hub(compose(["data=hub", "data.hub=a/b"]).data)
    assert "not on the hub" in refusal(lambda: data._content({"bytes": None, "path": path}))
    assert data._content({"bytes": b"as they came", "path": path}) == b"as they came"


class _Rows:
    def __init__(self, names: list[str]) -> None:
        self.features = {"label": type("Labels", (), {"names": names})}


# Notes of this machine's own, however damaged


@pytest.mark.parametrize("rate", ["0", "-1.5", "1e-320", "1e999", "NaN", "true", '"x"', "null", "[1]"])
def test_rates_that_are_none_are_not_known(rate: str, tmp_path: Path) -> None:
    experiment = Experiment(compose([f"outputs={tmp_path}"]))
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "rates.json").write_text(f'{{"a": {rate}, "b": 2.5}}')
    (tmp_path / "cache" / "batches.json").write_text(f'{{"a": {rate}, "b": 2}}')
    assert rates(experiment)._read() == {"b": 2.5} and batch_size._remembered(experiment) == {"b": 2}


# Archives


def tar_of(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for member, content in members:
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def link(name: str, kind: bytes, target: str) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info, b""


FROG = "n01644373"


def test_members_of_an_archive_stay_in_it(tmp_path: Path) -> None:
    (tmp_path / "secret.JPEG").write_bytes(encoded("JPEG"))
    names = ["../../escaped.JPEG", "/tmp/escaped.JPEG", f"{FROG}_1.JPEG"]
    members = [(tarfile.TarInfo(name), encoded("JPEG", size=(8 + k, 8))) for k, name in enumerate(names)]
    links = [link("a.JPEG", tarfile.SYMTYPE, str(tmp_path / "secret.JPEG")), link("b.JPEG", tarfile.LNKTYPE, names[2])]
    strange = [link("c.JPEG", tarfile.FIFOTYPE, ""), link("d.JPEG", tarfile.CHRTYPE, "")]
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / f"{FROG}.tar").write_bytes(tar_of(*members, *links, *strange))
    before = sorted(tmp_path.rglob("*"))
    sources = ImageNet(tmp_path / "data").images(FROG)
    assert len(sources) == 3  # and none of the links
    assert all(source.pixels(8).shape == (8, 8, 3) for source in sources)
    assert sorted(tmp_path.rglob("*")) == before and not Path("/tmp/escaped.JPEG").exists()


@pytest.mark.parametrize("size", [b"\x80" + bytes(3) + b"\xff" * 8, b"\xff" * 12], ids=repr)
def test_a_member_that_says_it_is_huge_is_refused(size: bytes, tmp_path: Path) -> None:
    content = bytearray(tar_of((tarfile.TarInfo(f"{FROG}_1.JPEG"), encoded("JPEG"))))
    content[124:136] = size
    content[148:156] = b" " * 8
    content[148:156] = b"%06o\0 " % sum(content[:512])
    (tmp_path / f"{FROG}.tar").write_bytes(content)
    assert FROG in refusal(lambda: ImageNet(tmp_path).images(FROG))


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(st.tuples(st.integers(0, 3071), st.integers(0, 255)), min_size=1, max_size=6))
def test_however_a_tar_is_corrupted_it_is_read_or_named(changes: list[tuple[int, int]], tmp_path: Path) -> None:
    members = [(tarfile.TarInfo(f"{FROG}_{k}.JPEG"), encoded("JPEG", size=(8, 8))) for k in range(2)]
    content = bytearray(tar_of(*members))
    for place, value in changes:
        content[place % len(content)] = value
    (tmp_path / f"{FROG}.tar").write_bytes(content)
    try:
        assert all(source.pixels(8).shape == (8, 8, 3) for source in ImageNet(tmp_path).images(FROG))
    except UserError as error:
        assert FROG in str(error)


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


def used(config: ModelConfig) -> torch.Tensor:
    """What a model makes of a prompt and nothing."""
    return load_model(config, CPU).decode(torch.zeros(1, 4, 8, 8)).float()


def as_pickles(part: Path) -> None:
    """The weights as old folders have them."""
    from safetensors.torch import load_file

    (file,) = part.glob("*.safetensors")
    torch.save(load_file(file), part / {"model": "pytorch_model.bin"}.get(file.stem, f"{file.stem}.bin"))
    file.unlink()


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_pickled_weights_are_refused_unless_they_are_asked_for(part: str, pipeline: Path) -> None:
    model = load_model(at(pipeline), CPU)
    wanted = model.embed(["a star"]).states, model.decode(torch.zeros(1, 4, 8, 8))
    as_pickles(pipeline / part)
    assert "set model.pickled=true" in refusal(lambda: load_model(at(pipeline), CPU))
    asked = load_model(at(pipeline, pickled=True), CPU)
    assert torch.equal(asked.embed(["a star"]).states, wanted[0])
    assert torch.equal(asked.decode(torch.zeros(1, 4, 8, 8)), wanted[1])


def test_not_even_asked_for_does_a_pickle_run_code(pipeline: Path, tmp_path: Path) -> None:
    (file,) = (pipeline / "vae").glob("*.safetensors")
    file.unlink()
    (pipeline / "vae" / "diffusion_pytorch_model.bin").write_bytes(pickle.dumps({"weight": Bomb(tmp_path / "owned")}))
    assert "can't be loaded" in refusal(lambda: used(at(pipeline, pickled=True)))
    assert not (tmp_path / "owned").exists()


def test_pickles_beside_the_weights_are_left_alone(pipeline: Path, tmp_path: Path) -> None:
    wanted = used(at(pipeline))
    for part in ("vae", "unet", "text_encoder"):
        for name in ("diffusion_pytorch_model.bin", "pytorch_model.bin", "model.ckpt", "model.pkl"):
            (pipeline / part / name).write_bytes(pickle.dumps(Bomb(tmp_path / "owned")))
    assert torch.equal(used(at(pipeline)), wanted)
    assert not (tmp_path / "owned").exists()


def test_weights_under_another_name_do_not_bring_a_pickle_in(pipeline: Path, tmp_path: Path) -> None:
    (file,) = (pipeline / "vae").glob("*.safetensors")
    file.rename(file.with_name("other.safetensors"))
    (pipeline / "vae" / "diffusion_pytorch_model.bin").write_bytes(pickle.dumps({"weight": Bomb(tmp_path / "owned")}))
    assert str(pipeline / "vae") in refusal(lambda: used(at(pipeline)))
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("name", ["../../secret.safetensors", "/etc/passwd", "model.bin", "..", 3])
def test_an_index_of_weights_names_only_files_beside_it(name: object, pipeline: Path) -> None:
    index = pipeline / "vae" / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": {"weight": name}}))
    assert "only *.safetensors beside it are read" in refusal(lambda: find(at(pipeline)))


@pytest.mark.parametrize(
    ("part", "asked"),
    [
        ("unet", ["my_unet", "MyUNet"]),
        ("unet", ["diffusers", "AutoencoderTiny"]),
        ("vae", ["os", "system"]),
        ("text_encoder", "transformers"),
        ("vae", [None, None]),
    ],
)
def test_classes_of_a_folders_own_are_refused(part: str, asked: object, pipeline: Path) -> None:
    (pipeline / "unet" / "my_unet.py").write_text("raise SystemExit('owned')")
    index = json.loads((pipeline / "model_index.json").read_text())
    (pipeline / "model_index.json").write_text(json.dumps(index | {part: asked}))
    assert "which is not known here, and not run" in refusal(lambda: find(at(pipeline)))


@pytest.mark.parametrize("name", [["pipeline", "Mine"], "../pipeline", "DiffusionPipeline"])
def test_pipelines_of_a_folders_own_are_refused(name: object, pipeline: Path) -> None:
    (pipeline / "pipeline.py").write_text("raise SystemExit('owned')")
    index = json.loads((pipeline / "model_index.json").read_text())
    (pipeline / "model_index.json").write_text(json.dumps(index | {"_class_name": name}))
    assert "can be read" in refusal(lambda: find(at(pipeline)))


@pytest.mark.parametrize(
    ("file", "class_"),
    [("text_encoder/config.json", "AutoModel"), ("tokenizer/tokenizer_config.json", "AutoTokenizer")],
)
def test_remote_code_is_not_run(file: str, class_: str, pipeline: Path, tmp_path: Path) -> None:
    code = f"import os\nos.mkdir({str(tmp_path / 'owned')!r})\n"
    part = (pipeline / file).parent
    for name in ("modeling_mine.py", "configuration_mine.py", "tokenization_mine.py", "custom_generate/generate.py"):
        (part / name).parent.mkdir(exist_ok=True)
        (part / name).write_text(code)
    config = json.loads((pipeline / file).read_text())
    mapped = {class_: "modeling_mine.Mine", "AutoConfig": "configuration_mine.Mine"}
    (pipeline / file).write_text(json.dumps(config | {"auto_map": mapped}))
    load_model(at(pipeline), CPU).embed(["a star"])
    assert not (tmp_path / "owned").exists()


# YAML


@pytest.fixture
def own_configs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    copy = shutil.copytree(ROOT / "configs", tmp_path / "configs")
    monkeypatch.setattr(configs, "config_folder", lambda: copy)
    return copy


@pytest.mark.parametrize(
    "tag", ["!!python/object/apply:os.mkdir", "!!python/object/new:os.mkdir", "!!python/name:os.mkdir"]
)
def test_yaml_builds_no_objects(tag: str, own_configs: Path, tmp_path: Path) -> None:
    (own_configs / "experiment" / "mine.yaml").write_text(
        f"# @package _global_\nname: {tag} ['{tmp_path / 'owned'}']\n"
    )
    assert str(own_configs) in refusal(lambda: compose(["experiment=mine"]))
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("where", ["", "model.", "data.", "inversion."])
def test_a_target_is_no_key(where: str, tmp_path: Path) -> None:
    override = f"+{where}_target_=os.mkdir"
    assert "_target_" in refusal(lambda: compose([override, f"+{where}path_={tmp_path / 'owned'}"]))
    assert not (tmp_path / "owned").exists()


# The source

FORBIDDEN = {"eval", "exec", "__import__", "os.system", "yaml.load", "yaml.unsafe_load", "yaml.full_load"}
FORBIDDEN_MODULES = {"pickle", "dill", "joblib", "shelve", "marshal"}
FORBIDDEN_METHODS = {"instantiate", "extractall", "import_module"}


# These import modules by names that latentmix itself writes.
LAZY = {
    ROOT / "latentmix" / name for name in ("__init__.py", "runner/slurm.py", "models/family.py", "models/denoiser.py")
}
LAZY |= {ROOT / "scripts" / name / "__main__.py" for name in ("training", "gpu_check")}
# These unpack wheels that their user names. zipfile leaves no member outside the folder.
WHEELS = {ROOT / "scripts" / name for name in ("training/__main__.py", "gpu_check/environment.py")}


def test_nothing_is_unpickled_or_run_unasked() -> None:
    for path in (*ROOT.glob("latentmix/**/*.py"), *ROOT.glob("scripts/**/*.py")):
        methods = FORBIDDEN_METHODS - ({"import_module"} if path in LAZY else set())
        methods -= {"extractall"} if path in WHEELS else set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
                assert FORBIDDEN_MODULES.isdisjoint(name.split(".")[0] for name in names), path
            if isinstance(node, ast.Call):
                called, given = ast.unparse(node.func), {word.arg: ast.unparse(word.value) for word in node.keywords}
                assert called not in FORBIDDEN and called.split(".")[-1] not in methods, path
                assert given.get("trust_remote_code", "False") == "False" == given.get("allow_pickle", "False"), path
                assert called not in ("torch.load", "torch.jit.load") or given.get("weights_only") == "True", path
