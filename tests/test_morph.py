"""`latentmix morph`, `Pipeline.morph`, and what they are made of: weights, spacing, files, grids."""

import json
import re
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from browser import CHROMIUM, browser
from driver import Said, invoke
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageSequence
from pipelines import SD, SIZE
from torch import Tensor

import latentmix as lm
from latentmix.morphing.files import write_frames
from latentmix.morphing.grid import places, write_grid
from latentmix.morphing.path import frame_weights, weights_at

pytestmark = pytest.mark.usefixtures("random_pipelines")
STEPS = 2


@pytest.fixture
def pictures(tmp_path: Path) -> list[str]:
    values = np.random.default_rng(0).integers(0, 256, (4, SIZE, SIZE, 3), dtype=np.uint8)
    for name, array in zip("abcd", values, strict=True):
        Image.fromarray(array).save(tmp_path / f"{name}.png")
    return [str(tmp_path / f"{name}.png") for name in "abcd"]


def morph(*arguments: str | Path, tmp_path: Path) -> Said:
    return invoke("morph", *map(str, arguments), *SD, f"steps={STEPS}", f"outputs={tmp_path / 'outputs'}", "device=cpu")


def opened(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture, int)


def frames_of(video: Path) -> list[Image.Image]:
    with av.open(str(video)) as opened:
        return [frame.to_image() for frame in opened.decode(video=0)]


# Weights


@given(st.integers(2, 6), st.integers(0, 30), st.booleans())
@settings(max_examples=15, deadline=None, derandomize=True)
def test_every_picture_is_a_frame_and_weights_sum_to_one(count: int, more: int, loop: bool) -> None:
    frames = count + more
    weights = frame_weights(count, frames, loop)
    assert weights.shape == (frames, count)
    torch.testing.assert_close(weights.sum(1), torch.ones(frames))
    assert bool(((weights > 0).sum(1) <= 2).all())  # from one picture to the next
    alone = [row for row in weights.tolist() if max(row) == 1]
    assert [row.index(1) for row in alone] == list(range(count))
    assert weights[0, 0] == 1 and (weights[-1, -1] == 1) == (not loop or more == 0)


def test_a_loop_ends_one_step_before_its_start() -> None:
    assert weights_at([2.75], 3).tolist() == [[0.75, 0, 0.25]]
    assert frame_weights(2, 4, loop=True).tolist() == [[1, 0], [0.5, 0.5], [0, 1], [0.5, 0.5]]


@pytest.mark.parametrize("jump", [0.5, 0.3, 0.9])
def test_frames_are_evenly_spaced_though_the_path_jumps(jump: float) -> None:
    """A path that moves almost only near one place; distances are squares, as those of LPIPS are."""

    def render(weights: Tensor) -> Tensor:
        t = weights[:, 1].double()
        place = t + 10 * torch.sigmoid((t - jump) * 60)
        return (place / 12 * 65535).round().view(-1, 1, 1, 1).expand(-1, 3, 1, 1)

    def distance(a: Tensor, b: Tensor) -> Tensor:
        return ((a - b) / 65535).square().mean((1, 2, 3))

    def unevenness(weights: Tensor) -> float:
        images = render(weights)
        lengths = distance(images[:-1], images[1:]).sqrt()
        return (lengths.max() / lengths.mean()).item()

    assert unevenness(frame_weights(2, 24)) > 5
    assert unevenness(frame_weights(2, 24, False, render, distance)) < 1.5


def test_pictures_that_look_the_same_are_spaced_in_time() -> None:
    def still(weights: Tensor) -> Tensor:
        return torch.zeros(len(weights), 3, 1, 1)

    even = frame_weights(3, 9, False, still, lambda a, b: torch.zeros(len(a)))
    assert torch.equal(even, frame_weights(3, 9))


# The command


def test_the_command_writes_the_frames_of_the_pipeline(pictures: list[str], tmp_path: Path) -> None:
    said = morph(*pictures[:3], "-o", tmp_path / "f.png", "--frames", "6", "--prompt", "a cat", tmp_path=tmp_path)
    assert said.code == 0, said.err
    files = sorted(tmp_path.glob("f-*.png"))
    assert said.out.split() == [str(tmp_path / f"f-{index:04}.png") for index in range(6)] == list(map(str, files))
    name, *own = SD
    pipe = lm.Pipeline.from_pretrained(name.removeprefix("model="), *own, f"steps={STEPS}", device="cpu")
    pipe.progress = False
    frames = [np.asarray(frame, int) for frame in pipe.morph(pictures[:3], 6, "a cat")]
    for file, frame in zip(files, frames, strict=True):
        assert np.abs(opened(file) - frame).max() <= 1
    linear = [np.asarray(frame, int) for frame in pipe.morph(pictures[:3], 6, "a cat", even=False)]
    differ = [np.abs(a - b).max() > 1 for a, b in zip(linear, frames, strict=True)]
    assert not differ[0] and not differ[-1] and any(differ)


def test_the_same_command_makes_nothing_again(pictures: list[str], tmp_path: Path) -> None:
    arguments = (*pictures[:2], "-o", str(tmp_path / "m.gif"), "--frames", "5", "--no-even", "--loop")
    assert morph(*arguments, tmp_path=tmp_path).code == 0
    first = (tmp_path / "m.gif").read_bytes()
    cached = {path: path.stat().st_mtime_ns for path in (tmp_path / "outputs" / "cache").rglob("*.png")}
    assert len(cached) == 5
    said = morph(*arguments, tmp_path=tmp_path)
    assert "all 2 images are there already" in said.err and "all 5 images are there already" in said.err
    assert {path: path.stat().st_mtime_ns for path in cached} == cached and (tmp_path / "m.gif").read_bytes() == first
    next(iter(cached)).unlink()
    morph(*arguments, tmp_path=tmp_path)
    assert (tmp_path / "m.gif").read_bytes() == first


def test_prompts_and_methods_matter(pictures: list[str], tmp_path: Path) -> None:
    def middle(*options: str) -> np.ndarray:
        out = tmp_path / "m.png"
        said = morph(*pictures[:2], "-o", out, "--frames", "3", "--no-even", *options, "guidance=3", tmp_path=tmp_path)
        assert said.code == 0, said.err
        return opened(tmp_path / "m-0001.png")

    cat = ("--prompt", "a cat")
    found = [
        middle(*cat),
        middle(*cat, "--prompt", "a fox"),
        middle(*cat, "--method", "fix/0", "--inversion", "midpoint"),
    ]
    assert len({array.tobytes() for array in found}) == len(found)


def test_a_dry_run_computes_nothing(pictures: list[str], tmp_path: Path) -> None:
    said = morph(*pictures[:2], "-o", tmp_path / "m.gif", "--dry-run", tmp_path=tmp_path)
    assert said.code == 0 and "nothing was done" in said.out
    assert not (tmp_path / "m.gif").exists() and not list((tmp_path / "outputs").rglob("*.safetensors"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["a.png"], "at least two pictures, not 1"),
        (["."], ". is a folder; give the pictures in it, as in *.jpg"),
        (["a.png", "none.png"], "none.png can't be read as an image: No such file or directory"),
        (["a.png", "b.png", "-o", "m.avi"], "must end in .mp4, .gif, .webp, .png"),
        (
            ["a.png", "b.png", "-o", "/proc/m.gif"],
            "m.gif can't be written: No such file or directory; choose another place",
        ),
        (["a.png", "b.png", "-o", "a.png/m.gif"], "a.png is a file; choose another place with -o"),
        (["a.png", "b.png", "-o", "b.png"], "-o b.png is one of the pictures"),
        (["a.png", "b.png", "c.png", "--frames", "2"], "2 frames are too few for 3 pictures; give at least 3"),
        (["a.png", "b.png", "c.png", "--prompt", "x", "--prompt", "y"], "--prompt was given 2 times; give it once, or"),
        (["a.png", "b.png", "--method", "fx/chm"], "--method fx/chm: there is no method 'fx/chm'; did you mean"),
        (["a.png", "b.png", "--method", "nin/pool"], "needs a pool of pictures that are not mixed; take nin/chm"),
        (["a.png", "b.png", "--fps", "0"], "--fps 0 must be from 0.01 to 1000, which a .mp4 file can have"),
        (["a.png", "b.png", "--fps", "inf"], "--fps inf must be from"),
        (["a.png", "b.png", "--fps", "nan"], "--fps nan must be from"),
        (["a.png", "b.png", "--fps", "100", "-o", "x.gif"], "--fps 100 must be from 0.01 to 50, which a .gif file"),
        (["a.png", "b.png", "--fps", "1001", "-o", "x.webp"], "--fps 1001 must be from 0.01 to 1000, which a .webp"),
        (["a.png", "b.png", "--grid", "-o", "g.png"], "three or four pictures, not 2"),
        (["a.png", "b.png", "c.png", "--grid"], "give -o NAME.png, not morph.mp4"),
        (["a.png", "b.png", "stepz=3"], "there is no key 'stepz'"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(
    options: list[str], message: str, pictures: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said = morph(*options, tmp_path=tmp_path)
    assert said.code == 2 and message in said.err and len(said.err.splitlines()) == 1, said.err


# Files


def moving(count: int, height: int = 48, width: int = 64) -> Tensor:
    """Frames of smooth colours that change."""
    x, y = torch.linspace(0, 1, width), torch.linspace(0, 1, height)[:, None]
    plane = torch.stack([x.expand(height, width), y.expand(height, width), (x + y) / 2])
    steps = torch.linspace(0, 1, count).view(-1, 1, 1, 1) * torch.tensor([0, 0, 1.0]).view(3, 1, 1)
    return (plane * (1 - steps) * 255).round().to(torch.uint8)


@pytest.mark.parametrize("ending", [".mp4", ".gif", ".webp"])
def test_files_hold_the_frames_at_their_rate(ending: str, tmp_path: Path) -> None:
    images, path = moving(12), tmp_path / f"m{ending}"
    assert write_frames(path, images, 12, loop=True) == [path]
    if ending == ".mp4":
        found = frames_of(path)
        with av.open(str(path)) as video:
            assert video.streams.video[0].average_rate == 12
            assert video.streams.video[0].codec_context.name == "h264"
    else:
        with Image.open(path) as animation:
            pages = [(page.convert("RGB"), page.info["duration"]) for page in ImageSequence.Iterator(animation)]
            assert abs(sum(duration for _, duration in pages) - 1000) < 15 and animation.info["loop"] == 0
        found = [page for page, _ in pages]
    assert len(found) == 12
    for picture, image in zip(found, images, strict=True):
        assert np.abs(np.asarray(picture, int) - image.permute(1, 2, 0).numpy()).mean() < 6


def test_odd_sides_lose_a_pixel_in_mp4_and_rates_may_be_fractions(tmp_path: Path) -> None:
    write_frames(tmp_path / "m.mp4", moving(3, 33, 47), 29.97)
    assert {frame.size for frame in frames_of(tmp_path / "m.mp4")} == {(46, 32)}
    with av.open(str(tmp_path / "m.mp4")) as video:
        assert video.streams.video[0].average_rate == Fraction(2997, 100)


# Grids


def test_a_triangle_and_a_square_hold_all_mixtures() -> None:
    for count, side, cells in ((3, 4, 10), (4, 3, 9)):
        grid = places(count, side)
        assert len(grid) == cells and len({cell.weights for cell in grid}) == cells
        assert all(abs(sum(cell.weights) - 1) < 1e-9 and min(cell.weights) >= 0 for cell in grid)
        corners = [next(cell for cell in grid if cell.weights[index] == 1) for index in range(count)]
        expected = [(1.5, 0), (0, 3), (3, 3)] if count == 3 else [(0, 0), (2, 0), (0, 2), (2, 2)]
        assert [(cell.x, cell.y) for cell in corners] == expected


@pytest.mark.parametrize("count", [3, 4])
def test_a_grid_is_an_image_and_a_page(count: int, pictures: list[str], tmp_path: Path) -> None:
    out = tmp_path / "g.png"
    said = morph(*pictures[:count], "--grid", "--side", "3", "-o", out, tmp_path=tmp_path)
    assert said.code == 0, said.err
    assert said.out.split() == [str(out), str(out.with_suffix(".html"))]
    assert opened(out).shape == (3 * SIZE + 2, 3 * SIZE + 2, 3)
    text = out.with_suffix(".html").read_text()
    (found,) = re.findall(r"const data = (.*);\n", text)
    data = json.loads(found)
    assert len(data["pictures"]) == len(data["cells"]) == (6 if count == 3 else 9)
    assert data["names"] == [Path(name).name for name in pictures[:count]]
    assert not re.search(r"https?://", text)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_the_page_shows_the_mixture_under_the_point(tmp_path: Path) -> None:
    cells = places(3, 5)
    images = torch.stack([torch.full((3, 32, 32), 10 * index) for index in range(len(cells))]).to(torch.uint8)
    _, page = write_grid(tmp_path / "g.png", images, cells, ["a<b.png", "b & c.png", "</script>.png"])
    with browser(tmp_path) as chromium:
        chromium.open(page)

        def shown() -> dict[str, Any]:
            script = "({ index: current, values: [...document.querySelectorAll('li b')].map(x => x.textContent) })"
            return dict(chromium.run(script))

        names = chromium.run("[...document.querySelectorAll('li span')].map(x => x.textContent)")
        assert names == ["a<b.png (top)", "b & c.png (bottom left)", "</script>.png (bottom right)"]
        box = chromium.run("(b => [b.left, b.top, b.width, b.height])(map.getBoundingClientRect())")
        for corner, (x, y) in enumerate([(0.5, 0.1), (0.1, 0.9), (0.9, 0.9)]):
            at = {"x": box[0] + x * box[2], "y": box[1] + y * box[3], "button": "left", "clickCount": 1}
            for kind in ("mousePressed", "mouseReleased"):
                chromium.ask("Input.dispatchMouseEvent", type=kind, **at)
            assert shown()["values"] == ["100 %" if index == corner else "0 %" for index in range(3)]
        chromium.run("map.focus()")
        chromium.press("ArrowLeft")
        assert shown()["values"] == ["0 %", "25 %", "75 %"]
        assert not chromium.complaints
