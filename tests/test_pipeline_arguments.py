"""What callers hand to `lm.Pipeline`: settings, names, latents, prompts and numbers, in any form that they have."""

import io
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pipelines import FOLDER, SD
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
        (lambda pipe, z: pipe.morph(z, 2.5), "frames=2.5 must be a whole number"),
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
