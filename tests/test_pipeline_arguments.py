"""What callers hand to `lm.Pipeline`: settings, names, latents, prompts and numbers, in any form that they have."""

import io
import os
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pipelines import FOLDER, SD, SIZE
from test_pipeline import PROMPTS, diffusers_pipeline, pictures, pipeline, same

import latentmix as lm
from latentmix.inversion import INVERSIONS
from latentmix.model_names import overrides_for

pytestmark = pytest.mark.usefixtures("random_pipelines")
NAME, *OWN = (SD[0].removeprefix("model="), *SD[1:])


@pytest.fixture(scope="module")
def pipe(random_pipelines: None) -> lm.Pipeline:
    return pipeline()


# Settings and names


@pytest.mark.parametrize(
    ("settings", "device", "expected"),
    [
        (["device=cpu"], None, "cpu"),
        (["device=meta"], "cpu", "cpu"),
        ([], torch.device("cpu"), "cpu"),
        ([], None, "auto"),
    ],
)
def test_a_device_is_the_argument_or_else_the_setting(settings: list[str], device: Any, expected: str) -> None:
    assert lm.Pipeline.from_pretrained(NAME, *OWN, *settings, device=device).config.device == expected


def test_settings_of_the_pipeline_count_in_its_methods() -> None:
    settings = ["batch=4", "inversion=null_text", "inversion.iterations=2", "guidance=3.0"]
    pipe = pipeline("sd", *settings)
    assert pipe.batch == 4 and pipeline().batch == "auto"
    for given in (None, "null_text"):
        kind, own, guidance = pipe._recipe(given, None, None, {})
        assert kind is INVERSIONS["null_text"] and own.guidance == guidance == 3.0
        assert vars(own)["iterations"] == 2
    assert vars(pipe._recipe(None, None, None, {"iterations": 5})[1])["iterations"] == 5
    assert pipe._recipe("exact", None, None, {})[0] is INVERSIONS["exact"]
    assert pipe._plain(torch.zeros(4, 4, 4)).settings.kind == "ddim"
    guided = pipeline("sd", "inversion.guidance=2")
    assert guided._recipe(None, None, None, {})[1].guidance == guided._recipe("exact", None, None, {})[1].guidance == 2
    listed = lm.Pipeline.from_pretrained(NAME, [*OWN, "steps=7"], device="cpu")  # type: ignore[arg-type]
    assert listed.config.steps == 7
    with pytest.raises(lm.UserError, match="a setting is a text such as 'steps=30', not 7"):
        lm.Pipeline.from_pretrained(NAME, 7)  # type: ignore[arg-type]


def test_modules_that_are_loaded_stay_where_they_are() -> None:
    theirs = diffusers_pipeline("sd")
    assert lm.Pipeline.from_diffusers(theirs, "batch=4").batch == 4
    with pytest.raises(lm.UserError, match="leave out device=meta; the modules of a pipeline stay where they are"):
        lm.Pipeline.from_diffusers(theirs, "device=meta")


@pytest.mark.parametrize(("spelling", "allowed"), [("true", 1), ("True", 1), ("TRUE", 1), ("false", 0)])
def test_a_pickle_is_allowed_in_any_spelling(spelling: str, allowed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []
    monkeypatch.setattr("latentmix.models.single_file.headers", lambda path, pickled: seen.append(pickled))
    monkeypatch.setattr("latentmix.models.single_file.architecture", lambda path, headers: "sd15")
    overrides_for(__file__, [f"model.pickled={spelling}"])
    assert seen == [bool(allowed)]


def test_a_model_may_be_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(os.environ[FOLDER], "sd")
    assert overrides_for(folder) == overrides_for(str(folder))
    monkeypatch.chdir(folder.parent)
    assert overrides_for(Path("sd")) == overrides_for(folder)
    assert overrides_for(Path("tiny")) == ["model=tiny"]
    for missing in (Path("nowhere"), Path("owner/name"), Path("~nobody-here/x")):
        with pytest.raises(lm.UserError, match="there is no model") as caught:
            lm.Pipeline.from_pretrained(missing)
        assert "\n" not in str(caught.value)


# Latents


def test_latents_may_be_lists_and_arrays_of_any_layout(pipe: lm.Pipeline) -> None:
    z = pipe.noise(3)
    plain = z.tensor
    expected = pipe.generate(z, output="tensor")
    several: list[Any] = [
        [z[0], z[1], z[2]],
        (z[:2], z[2]),
        list(plain),
        list(plain.numpy()),
        plain.numpy().astype(">f4"),
        np.ascontiguousarray(plain.numpy()[::-1])[::-1],
    ]
    for given in several:
        assert same(pipe.generate(given, output="tensor"), expected)
    assert len(pipe.generate([z[0]])) == 1
    mixed = [lm.mix(z, w, "nin/chm") for w in ([0.5, 0.5, 0.0], [0.2, 0.3, 0.5])]
    both = lm.mix(z, [[0.5, 0.5, 0.0], [0.2, 0.3, 0.5]], "nin/chm")
    assert same(pipe.generate(mixed, output="tensor"), pipe.generate(both, output="tensor"))


@pytest.mark.parametrize(
    ("latents", "what"),
    [(None, "NoneType"), ("cat.jpg", "str"), ([], "list"), ([None], "list"), (Path("cat.jpg"), "PosixPath")],
)
def test_what_is_no_latents_is_refused_in_one_line(pipe: lm.Pipeline, latents: Any, what: str) -> None:
    with pytest.raises(lm.UserError, match=rf"latents must be \[4, h, w\] .*, not {what}$"):
        pipe.generate(latents)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda pipe, z: pipe.generate(z, steps=-1), "steps=-1 must be a whole number of at least 1"),
        (lambda pipe, z: pipe.generate(z, steps=2.5), "steps=2.5 must be a whole number"),
        (lambda pipe, z: pipe.generate(z, steps=0), "steps=0 must be a whole number"),
        (lambda pipe, z: pipe.generate(z, guidance=-1), "guidance=-1 must be a number of at least 0"),
        (lambda pipe, z: pipe.generate(z, guidance="7"), "guidance='7' must be a number"),
        (lambda pipe, z: pipe.generate(z, [None]), "a prompt is a text, or texts with their weights, not NoneType"),
        (lambda pipe, z: pipe.generate(z, 7), "a prompt is a text, or texts with their weights, not int"),
        (lambda pipe, z: pipe.generate(z[[]]), "there are no latents to generate from"),
        (lambda pipe, z: pipe.noise(0), "count=0 must be a whole number"),
        (lambda pipe, z: pipe.noise(1.5), "count=1.5 must be a whole number"),
        (lambda pipe, z: pipe.invert(pictures(1), steps=0), "steps=0 must be a whole number"),
        (lambda pipe, z: pipe.invert(pictures(1), inversion=INVERSIONS["ddim"], steps=0), "steps=0 must be"),
        (lambda pipe, z: pipe.morph(z, 2.5), "frames=2.5 must be a whole number of at least 1$"),
        (lambda pipe, z: pipe.morph(z[0], z[1], 5), "frames=Latents must be .*; several images go in a list"),
        (lambda pipe, z: pipe.morph(z.rows[0], z.rows[1]), "frames=Tensor must be .*; several images go in a list"),
        (lambda pipe, z: pipe.morph("a.png", "b.png"), "frames='b.png' must be .*; several images go in a list"),
        (lambda pipe, z: pipe.invert(*pictures(2)), "not .*; several images or latents go in a list"),
        (lambda pipe, z: pipe.generate(z[0], z[1]), "not Latents; several images or latents go in a list"),
        (lambda pipe, z: pipe.noise(z.rows), "count=Tensor must be a whole number of at least 1"),
        (lambda pipe, z: pipe.noise(1, np.array([1, 2])), "seed=ndarray must be a whole number of at least 0"),
        (lambda pipe, z: pipe.morph(z, method="nin/pool"), "method=nin/pool needs a pool .*; take nin/chm"),
        (lambda pipe, z: pipe.morph(z, method="nin/pol"), "did you mean 'nin/pool'"),
        (lambda pipe, z: pipe.morph(z, inversion="exact"), "is inverted already; leave out the inversion"),
        (lambda pipe, z: pipe.morph(z, prompts=["a"]), "there are 1 prompts for 2 images"),
    ],
)
def test_what_cannot_be_used_is_said_in_one_line(pipe: lm.Pipeline, call: Any, message: str) -> None:
    with pytest.raises(lm.UserError, match=message) as caught:
        call(pipe, pipe.noise(2))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("batch", [0, -1, 2.5, "many"])
def test_a_batch_that_cannot_be_used_is_refused(batch: Any) -> None:
    pipe = pipeline()
    pipe.batch = batch
    with pytest.raises(lm.UserError, match="must be a whole number of at least 1"):
        pipe.generate(pipe.noise(2))
    pipe.batch = "auto"
    assert len(pipe.generate(pipe.noise(2), steps=np.int64(1))) == 2  # type: ignore[arg-type]


def test_no_prompt_is_the_empty_one(pipe: lm.Pipeline) -> None:
    assert pipe.invert(pictures(2), None).prompts == pipe.invert(pictures(2)).prompts == ("", "")


def test_prompts_of_a_morph_replace_those_of_latents(pipe: lm.Pipeline) -> None:
    z = pipe.invert(pictures(2), PROMPTS)
    frames = [np.asarray(frame) for frame in pipe.morph(z, 3, even=False, guidance=5.0)]
    others = [np.asarray(frame) for frame in pipe.morph(z, 3, PROMPTS[::-1], even=False, guidance=5.0)]
    ends = pipe.generate(z, PROMPTS[::-1], guidance=5.0, output="tensor").permute(0, 2, 3, 1).numpy()
    assert np.abs(others[0].astype(int) - ends[0]).max() <= 1 and not np.array_equal(frames[0], others[0])
    listed = [np.asarray(frame) for frame in pipe.morph([z[0], z[1]], 3, even=False, guidance=5.0)]
    assert np.array_equal(listed, frames)


@pytest.mark.parametrize("inversion", ["ddim", "null_text", "exact", INVERSIONS["null_text"]])
@pytest.mark.parametrize("way", ["pickle", "torch"])
def test_inverted_latents_can_be_kept_in_a_file(pipe: lm.Pipeline, inversion: Any, way: str) -> None:
    z = pipe.invert(pictures(2), PROMPTS, inversion, guidance=2.0)
    if way == "pickle":
        loaded = pickle.loads(pickle.dumps(z))
    else:
        file = io.BytesIO()
        torch.save(z, file)
        file.seek(0)
        loaded = torch.load(file, weights_only=False)
    assert loaded.inversion is z.inversion and (loaded.prompts, loaded.settings) == (z.prompts, z.settings)
    assert torch.equal(pipe.generate(loaded, output="tensor"), pipe.generate(z, output="tensor"))


# Images


def encoded(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


class Named:
    """A path of another library."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __fspath__(self) -> str:
        return str(self.path)


def test_images_may_be_bytes_open_files_and_columns(pipe: lm.Pipeline, tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")

    (picture,) = pictures(1)
    content, expected = encoded(picture), pipe.invert(picture).tensor
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with path.open("rb") as file:
        for image in (content, bytearray(content), io.BytesIO(content), file, Named(path)):
            z = pipe.invert(image)
            assert z.single and torch.equal(z.tensor, expected)
    pixels = np.asarray(picture)
    for column in (pandas.Series([picture], index=[7]), pandas.Series([pixels], index=[7]), iter([content])):
        z = pipe.invert(column)
        assert not z.single and torch.equal(z.tensor[0], expected)


WHOLE = np.zeros((16, 16, 3), np.uint8)
TENSOR = torch.zeros(3, 16, 16, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (WHOLE[:0], r"uint8 \[0, 16, 3\] is no image"),
        (WHOLE[:, :0], r"uint8 \[16, 0, 3\] is no image"),
        (TENSOR[..., :0], r"uint8 \[3, 16, 0\] is no image"),
        (WHOLE / 255, r"float64 .* give \(255 \* x\).round\(\).astype\('uint8'\)$"),
        (TENSOR / 255, r"float32 .* give \(255 \* x\).round\(\).to\(torch.uint8\)$"),
        ((TENSOR / 255).bfloat16(), "bfloat16 .* is no image"),
        ((TENSOR / 255).requires_grad_(), "float32 .* is no image"),
        (TENSOR.to("meta"), "the image is on the device meta"),
        (Path(__file__).parent, "is a folder; give its files"),
        (WHOLE.transpose(2, 0, 1), r"give numpy.moveaxis\(x, -3, -1\)"),
        (TENSOR.permute(1, 2, 0), r"give x.movedim\(-1, -3\)"),
        (WHOLE[..., 0], r"the image: uint8 \[16, 16\] is no image; give PIL.Image.fromarray\(x\)"),
        (b"no image", "the image can't be read as an image: it is not an image"),
        (io.BytesIO(b""), "the image can't be read as an image: it is empty"),
        ("https://example.org/a.png", "the image: https://example.org/a.png is a URL; fetch it first"),
        ({"a": WHOLE}, r"a dict is no list of images; give list\(x.values\(\)\)"),
        ({"a.png", "b.png"}, "a set is no list of images; give a list, which has an order"),
        (7, "the image: int is no image"),
    ],
)
def test_images_that_cannot_be_used_are_refused_in_one_line(pipe: lm.Pipeline, images: Any, message: str) -> None:
    for call in (pipe.invert, lm.features("embedded", "cpu")):
        with pytest.raises(lm.UserError, match=message) as caught:
            call(images)
        assert "\n" not in str(caught.value)


def test_tables_are_refused_with_what_to_give(pipe: lm.Pipeline) -> None:
    pandas = pytest.importorskip("pandas")

    table = pandas.DataFrame({"image": ["a.png"]})
    with pytest.raises(lm.UserError, match=r"a DataFrame is no list of images; give its column, such as x\['image'\]"):
        pipe.invert(table)


def test_advice_for_arrays_works(pipe: lm.Pipeline) -> None:
    floats, expected = WHOLE / 255, pipe.invert(WHOLE).tensor
    given: list[Any] = [(255 * floats).round().astype("uint8"), np.moveaxis(WHOLE.transpose(2, 0, 1), -3, -1)]
    given += [(255 * (TENSOR / 255)).round().to(torch.uint8), TENSOR.permute(1, 2, 0).movedim(-1, -3)]
    given += [Image.fromarray(WHOLE[..., 0])]
    for image in given:
        assert torch.equal(pipe.invert(image).tensor, expected)
    batches: list[Any] = [np.moveaxis(WHOLE.transpose(2, 0, 1)[None], -3, -1)]
    batches += [TENSOR.permute(1, 2, 0)[None].movedim(-1, -3)]
    for batch in batches:
        assert torch.equal(pipe.invert(batch).tensor[0], expected)


# Prompts, seeds, sizes


@pytest.mark.parametrize(
    "prompt", [{}, {"a": 1, "b": 1}, {"a": 1.5, "b": -0.5}, {"a": float("nan")}, {"a": None}, {1: 1.0}, {"a", "b"}]
)
def test_prompts_whose_weights_make_no_sense_are_refused(pipe: lm.Pipeline, prompt: Any) -> None:
    for call in (lambda: pipe.invert(pictures(2), prompt), lambda: pipe.generate(pipe.noise(2), prompt)):
        with pytest.raises(lm.UserError, match="prompt"):
            call()


@pytest.mark.parametrize("seed", [-1, 1.5, "a", None])
def test_a_seed_that_is_none_is_refused(pipe: lm.Pipeline, seed: Any) -> None:
    with pytest.raises(lm.UserError, match="must be a whole number of at least 0"):
        pipe.noise(2, seed)


@pytest.mark.parametrize("name", ["", " ", None, 7, Path, [NAME]])
def test_what_names_no_model_is_refused_in_one_line(name: Any) -> None:
    with pytest.raises(lm.UserError, match=r"a model is named by a preset.*call from_diffusers") as caught:
        lm.Pipeline.from_pretrained(name)
    assert "\n" not in str(caught.value)


def test_keywords_that_are_easily_mistaken(pipe: lm.Pipeline) -> None:
    with pytest.raises(lm.UserError, match="write prompts="):
        pipe.invert(pictures(1), prompt="a")
    with pytest.raises(lm.UserError, match="inversion=3 must be a name"):
        pipe.invert(pictures(1), inversion=3)  # type: ignore[arg-type]
    with pytest.raises(lm.UserError, match=r"size=\(16, 16\) must be pixels"):
        lm.Pipeline.from_pretrained(NAME, *OWN, size=(16, 16))  # type: ignore[arg-type]


# Latents from elsewhere


def test_latents_may_be_a_column_a_generator_or_single_ones_of_diffusers(pipe: lm.Pipeline) -> None:
    pandas = pytest.importorskip("pandas")

    z = pipe.noise(2)
    expected = pipe.generate(z, output="tensor")
    plain: list[Any] = [z.tensor[:1], z.tensor[1:]]
    for given in (plain, iter(z), pandas.Series(list(z.tensor.numpy()), index=[3, 1])):
        assert same(pipe.generate(given, output="tensor"), expected)
    assert len(pipe.morph(iter(pictures(2)), 2, even=False)) == 2


@pytest.mark.parametrize(
    ("latents", "message"),
    [
        (torch.zeros(1, 4, 0, 4), r"not \[1, 4, 0, 4\]"),
        (torch.zeros(1, 4, 4, 4, dtype=torch.complex64), "latents of complex64"),
        (torch.zeros(1, 4, 4, 4, device="meta"), "latents on the device meta hold no numbers"),
    ],
)
def test_latents_without_numbers_are_refused(pipe: lm.Pipeline, latents: Any, message: str) -> None:
    with pytest.raises(lm.UserError, match=message):
        pipe.generate(latents)


def test_latents_of_another_size_have_the_schedule_of_that_size() -> None:
    small, large = pipeline("flux"), pipeline("flux", "model.size=32")
    z = large.noise(1, seed=3)
    assert small.model.schedule(3, "trailing") != large.model.schedule(3, "trailing")
    assert same(small.generate(z, "a", output="tensor"), large.generate(z, "a", output="tensor"))
    assert small.generate(small.noise(), "a").size == (SIZE, SIZE)
    with pytest.raises(lm.UserError, match="these latents have 16 channels, and those of this model 4"):
        pipeline("sd").generate(replace(z, state={"latents": z.rows.repeat(1, 4, 1, 1)}))
