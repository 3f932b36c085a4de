"""`lm.Pipeline` and its neighbours: the same numbers as the command line and diffusers, and what users hand to it."""

import copy
import gc
import json
import os
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from driver import invoke
from PIL import Image
from pipelines import FLUX, FOLDER, SD, SD3, SDXL, SIZE
from torch import Tensor

import latentmix as lm
from latentmix.inversion import INVERSIONS
from latentmix.inversion.ddim import DDIM
from latentmix.inversion.null_text import NullTextSettings
from latentmix.models.loading import NETWORKS
from latentmix.models.pipeline import diffusers_options
from latentmix.storage import load_tensors

pytestmark = pytest.mark.usefixtures("random_pipelines")
STEPS = 3
PROMPTS = ["a photo of a cat", "a photo of a fox"]
FAMILIES = {"sd": SD, "sd3": SD3, "sdxl": SDXL, "flux": FLUX}


def pipeline(family: str = "sd", *settings: str) -> lm.Pipeline:
    name, *own = FAMILIES[family]
    pipe = lm.Pipeline.from_pretrained(name.removeprefix("model="), *own, f"steps={STEPS}", *settings, device="cpu")
    pipe.progress = False
    return pipe


@pytest.fixture(scope="module")
def pipe(random_pipelines: None) -> lm.Pipeline:
    return pipeline()


def diffusers_pipeline(family: str) -> Any:
    from diffusers import DiffusionPipeline

    folder = Path(os.environ[FOLDER], family)
    pipe = DiffusionPipeline.from_pretrained(folder, **diffusers_options(folder))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def brought(theirs: Any, *settings: str) -> lm.Pipeline:
    pipe = lm.Pipeline.from_diffusers(theirs, f"steps={STEPS}", *settings)
    pipe.progress = False
    return pipe


def pictures(count: int, width: int = SIZE, height: int = SIZE) -> list[Image.Image]:
    values = np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)
    return [Image.fromarray(array) for array in values]


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    files = [tmp_path / "data" / "cat" / f"{index}.png" for index in range(3)]
    files[0].parent.mkdir(parents=True)
    for file, picture in zip(files, pictures(3, 2 * SIZE, SIZE), strict=True):
        picture.save(file)
    return files


def same(images: Tensor, others: Tensor) -> bool:
    """Whether images differ by no more than rounding does."""
    return bool((images.int() - others.int()).abs().max() <= 1)


# The command line and diffusers


@pytest.mark.parametrize(
    ("family", "inversion", "own"),
    [
        ("sd", "ddim", {}),
        ("sd", "exact", {"coupling": 0.9}),
        ("sd", "null_text", {"iterations": 2}),
        ("sd3", "ddim_cfg", {}),
    ],
)
def test_results_are_those_of_the_command_line(
    family: str, inversion: str, own: dict[str, Any], paths: list[Path], tmp_path: Path
) -> None:
    settings = [f"inversion={inversion}", f"steps={STEPS}", "methods=[nin/chm]", "pool=3", "n=[2]", "device=cpu"]
    data = ["data=folder", f"data.path={tmp_path / 'data'}", "data.reference=3", f"outputs={tmp_path}", "name=run"]
    settings += [f"inversion.{name}={value}" for name, value in own.items()]
    said = invoke("mix", "--weights", "0.5,0.2,0.3", *FAMILIES[family], *settings, *data)
    assert said.code == 0, said.err
    (saved,) = tmp_path.glob("run/mixed/*.safetensors")
    expected, _ = load_tensors(saved)
    pipe = pipeline(family)
    z = lm.mix(pipe.invert(paths, "a photo of a cat", inversion, **own), [0.5, 0.2, 0.3], "nin/chm")
    assert z.state.keys() == expected.keys()
    for name, x in expected.items():
        torch.testing.assert_close(z.state[name][0], x, rtol=1e-3, atol=1e-4)
    image = torch.from_numpy(np.array(Image.open(saved.with_suffix(".png"))))
    assert same(torch.from_numpy(np.array(pipe.generate(z))), image)


@pytest.mark.parametrize("family", ["sd", "sd3"])
def test_generation_is_that_of_diffusers_from_the_same_latents(family: str) -> None:
    pipe = pipeline(family, "model.max_sequence_length=256")  # of T5, as diffusers has it
    theirs = diffusers_pipeline(family)
    if family == "sd":
        theirs.scheduler = type(theirs.scheduler).from_config(theirs.scheduler.config, timestep_spacing="trailing")
    z = pipe.noise(2, seed=1)
    expected = theirs(PROMPTS, latents=z.tensor, num_inference_steps=STEPS, guidance_scale=3.0, output_type="np").images
    images = pipe.generate(z, PROMPTS, guidance=3.0, output="tensor")
    assert same(images.permute(0, 2, 3, 1), torch.from_numpy((expected * 255).round().astype(np.uint8)))
    assert not same(images, pipe.generate(z, PROMPTS, guidance=1.0, output="tensor"))


# Images in, images out


def test_images_may_be_paths_pictures_tensors_or_arrays(pipe: lm.Pipeline, paths: list[Path]) -> None:
    opened = [Image.open(path) for path in paths]
    arrays = [np.asarray(image) for image in opened]
    tensors = [torch.from_numpy(array.copy()).permute(2, 0, 1) for array in arrays]
    expected = pipe.invert(paths).tensor
    assert expected.shape == (3, 4, SIZE // 4, SIZE // 4)
    mixed: list[Any] = [str(paths[0]), opened[1], tensors[2]]
    for images in (arrays, np.stack(arrays), torch.stack(tensors), tuple(mixed), map(str, paths)):
        assert torch.equal(pipe.invert(images).tensor, expected)
    for image in (paths[1], str(paths[1]), opened[1], arrays[1], tensors[1]):
        torch.testing.assert_close(pipe.invert(image).tensor, expected[1], rtol=1e-4, atol=1e-5)


def test_transparent_and_rotated_pictures_are_read_as_their_files_are(pipe: lm.Pipeline, tmp_path: Path) -> None:
    clear = Image.new("RGBA", (SIZE, SIZE), (255, 0, 0, 0))
    white = Image.new("RGB", (SIZE, SIZE), "white")
    assert torch.equal(pipe.invert(clear).tensor, pipe.invert(white).tensor)
    (picture,) = pictures(1, 2 * SIZE, 4 * SIZE)
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(tmp_path / "turned.png", exif=exif)
    turned = Image.open(tmp_path / "turned.png")
    assert torch.equal(pipe.invert(turned).tensor, pipe.invert(tmp_path / "turned.png").tensor)
    assert torch.equal(pipe.invert(turned).tensor, pipe.invert(picture.rotate(-90, expand=True)).tensor)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([], "there are no images"),
        (torch.rand(3, SIZE, SIZE), "float32 [3, 16, 16] is no image"),
        (np.zeros((3, SIZE, SIZE), np.uint8), "uint8 [3, 16, 16] is no image"),
        ([np.zeros((SIZE, SIZE), np.uint8)], "uint8 [16, 16] is no image"),
        ([None], "NoneType is no image"),
        (7, "int is no image"),
        ("nowhere.png", "nowhere.png can't be read as an image: No such file"),
        ([Path(__file__)], "not an image in JPEG, PNG, WebP, TIFF or BMP format"),
    ],
)
def test_whatever_is_no_image_is_refused(pipe: lm.Pipeline, images: Any, message: str) -> None:
    with pytest.raises(lm.UserError) as caught:
        pipe.invert(images)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_one_latent_gives_one_image_and_several_a_list(pipe: lm.Pipeline) -> None:
    z = pipe.invert(pictures(3), PROMPTS[0])
    assert len(z) == 3 and not z.single and z[1].single and z[1].tensor.shape == z.tensor.shape[1:]
    images = pipe.generate(z)
    assert [image.size for image in images] == [(SIZE, SIZE)] * 3
    assert isinstance(pipe.generate(z[0]), Image.Image)
    assert isinstance(pipe.generate(lm.mix(z)), Image.Image)
    assert len(pipe.generate(lm.mix(z, torch.eye(3)[:2], "nin/chm"))) == 2
    assert isinstance(pipe.generate(z.tensor[0].numpy(), PROMPTS[0]), Image.Image)
    batch = pipe.generate(z, output="tensor")
    assert same(pipe.generate(z.tensor, PROMPTS[0], output="tensor"), batch)
    assert same(pipe.generate(z[2], output="tensor"), batch[2])
    assert same(pipe.generate(z[[2, 0]] + z[1:2], output="tensor"), batch[[2, 0, 1]])


def test_batches_change_nothing_and_halve_where_memory_runs_out(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = pipeline()
    z = pipe.invert(pictures(5), "a star")
    images = pipe.generate(z, output="tensor")
    sizes: list[int] = []
    decode = pipe.model.decode

    def limited(latents: Tensor) -> Tensor:
        sizes.append(len(latents))
        if len(latents) > 2:
            raise torch.OutOfMemoryError
        return decode(latents)

    monkeypatch.setattr(pipe.model, "decode", limited)
    assert same(pipe.generate(z, output="tensor"), images)
    assert sizes == [5, 2, 2, 1] and pipe.batch == 2
    torch.testing.assert_close(pipe.invert(pictures(5), "a star").tensor, z.tensor, rtol=1e-3, atol=1e-4)


# Prompts, extras and settings


def test_prompts_are_mixed_by_the_weights_of_the_latents(pipe: lm.Pipeline) -> None:
    z = pipe.invert(pictures(2), PROMPTS)
    mixed = lm.mix(z, [0.25, 0.75], "nin/chm")
    assert mixed.prompts == ({PROMPTS[0]: 0.25, PROMPTS[1]: 0.75},)
    assert lm.mix(z, [1.0, 0.0]).prompts == (PROMPTS[0],)
    cond = pipe._conditioning(mixed.prompts, 3.0)
    first, second = pipe.model.embed(PROMPTS).states
    torch.testing.assert_close(cond.text.states[0], 0.25 * first + 0.75 * second)
    explicit = pipe.generate(mixed, {PROMPTS[0]: 0.25, PROMPTS[1]: 0.75}, output="tensor")
    assert torch.equal(pipe.generate(mixed, output="tensor"), explicit)
    assert not torch.equal(pipe.generate(mixed, PROMPTS[0], output="tensor"), explicit)


def test_each_image_is_inverted_under_its_own_prompt(pipe: lm.Pipeline) -> None:
    images = pictures(2)
    both = pipe.invert(images, PROMPTS)
    for row in (0, 1):
        torch.testing.assert_close(
            both[row].tensor, pipe.invert(images[row], PROMPTS[row]).tensor, rtol=1e-3, atol=1e-4
        )
    assert (both.tensor - pipe.invert(images, PROMPTS[::-1]).tensor).abs().max() > 1e-3


def test_settings_of_an_inversion_are_given_by_name(pipe: lm.Pipeline) -> None:
    z = pipe.invert(pictures(1), inversion="null_text", steps=2, guidance=4.0, iterations=1)
    assert isinstance(z.settings, NullTextSettings)
    assert (z.settings.steps, z.settings.guidance, z.settings.iterations) == (2, 4.0, 1)
    assert z.guidance == 4.0 and z.state["nulls"].shape[:2] == (1, 2)
    assert pipe.invert(pictures(1), guidance=2.0).settings.guidance == 2.0
    with pytest.raises(lm.UserError, match=r"needs the same guidance in both directions.* 4.0, and 2"):
        pipe.generate(z, guidance=2)
    with pytest.raises(lm.UserError, match="needs the same steps"):
        pipe.generate(z, steps=7)
    with pytest.raises(lm.UserError, match=r"no key 'inversion.wrong'"):
        pipe.invert(pictures(1), wrong=1)
    with pytest.raises(lm.UserError, match="no inversion=dim"):
        pipe.invert(pictures(1), inversion="dim")
    with pytest.raises(lm.UserError, match="there are 3 prompts for 1 images; give one prompt for all"):
        pipe.invert(pictures(1), ["a", "b", "c"])
    with pytest.raises(lm.UserError, match="can't be joined"):
        _ = z + pipe.invert(pictures(1))


def test_forward_gives_an_image_the_same_noise_in_any_batch(pipe: lm.Pipeline) -> None:
    first, second = pictures(2)
    both = pipe.invert([first, second, first], inversion="forward").tensor
    assert not torch.allclose(both[0], both[1], atol=0.1)
    assert torch.allclose(both[0], both[2], atol=1e-3)
    assert torch.allclose(pipe.invert(second, inversion="forward").tensor, both[1], atol=1e-3)


def test_an_inversion_of_ones_own_is_given_itself(pipe: lm.Pipeline) -> None:
    own = replace(DDIM, invert=lambda *args: {"latents": -DDIM.invert(*args)["latents"]})
    assert torch.equal(pipe.invert(pictures(2), inversion=own).tensor, -pipe.invert(pictures(2)).tensor)
    null_text = pipe.invert(pictures(1), inversion=INVERSIONS["null_text"], guidance=2.0, iterations=1)
    assert null_text.settings.guidance == null_text.guidance == 2.0 and "nulls" in null_text.state
    pipe.generate(null_text)
    with pytest.raises(lm.UserError, match="the inversion's iteration: Unexpected keyword argument"):
        pipe.invert(pictures(1), inversion=INVERSIONS["null_text"], iteration=1)


@pytest.mark.parametrize(
    ("latents", "message"),
    [
        (torch.zeros(4, 4), r"not \[4, 4\]"),
        (torch.zeros(1, 3, 4, 4), r"\[4, h, w\]"),
        (torch.full((4, 4, 4), torch.nan), "NaN"),
    ],
)
def test_latents_that_cannot_be_generated_from_are_refused(pipe: lm.Pipeline, latents: Tensor, message: str) -> None:
    with pytest.raises(lm.UserError, match=message):
        pipe.generate(latents)


# Which model


def test_a_folder_is_read_as_the_preset_that_is_most_like_it() -> None:
    pipe = lm.Pipeline.from_pretrained(f"{os.environ[FOLDER]}/sd", "steps=2", device="cpu")
    assert pipe.config.model.size == SIZE and pipe.config.model.domain == "imagenet"
    pipe.progress = False
    assert pipe.generate(pipe.noise(seed=3), "a cat").size == (SIZE, SIZE)
    wide = lm.Pipeline.from_pretrained(f"{os.environ[FOLDER]}/sd", "steps=1", device="cpu", size="24x16")
    wide.progress = False
    assert wide.generate(wide.invert(pictures(1, 48, 32)))[0].size == (24, 16)


@pytest.mark.parametrize("name", ["nothing", "./nowhere", "~/nowhere", "a/b/c"])
def test_a_name_of_no_model_is_refused_with_those_there_are(name: str) -> None:
    with pytest.raises(lm.UserError, match=r"no preset .*sd15.*, and no folder or file"):
        lm.Pipeline.from_pretrained(name)


def test_a_folder_of_no_pipeline_is_refused(tmp_path: Path) -> None:
    with pytest.raises(lm.UserError, match=r"no readable model_index.json"):
        lm.Pipeline.from_pretrained(str(tmp_path))
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "OtherPipeline"}))
    with pytest.raises(lm.UserError, match="holds a OtherPipeline"):
        lm.Pipeline.from_pretrained(str(tmp_path))


# Pipelines that a caller brought


@pytest.mark.parametrize("family", ["sd", "sd3", "sdxl", "flux"])
def test_modules_that_are_loaded_give_what_their_folder_gives(family: str) -> None:
    theirs, prompts = diffusers_pipeline(family), ["a cat", ""]
    usual = pipeline(family)
    settings = [f"model.{name}={getattr(usual.config.model, name)}" for name in ("spacing", "max_sequence_length")]
    settings += ["model.size=16"] if family == "flux" else []  # of which a config does not say its size
    pipe = brought(theirs, *settings, f"guidance={usual.config.guidance}")
    assert pipe.config.model.size == SIZE
    z, expected = pipe.invert(pictures(2), prompts), usual.invert(pictures(2), prompts)
    torch.testing.assert_close(z.tensor, expected.tensor, rtol=1e-3, atol=1e-4)
    assert same(pipe.generate(lm.mix(z), output="tensor"), usual.generate(lm.mix(expected), output="tensor"))


def test_adapters_of_a_pipeline_are_used_and_its_modules_left_as_they_are() -> None:
    theirs = diffusers_pipeline("sd")
    theirs.scheduler = type(theirs.scheduler).from_config(theirs.scheduler.config, timestep_spacing="trailing")
    pipe = brought(theirs)
    z = pipe.noise(1, seed=2)
    before = pipe.generate(z, PROMPTS[0], guidance=2.0, output="tensor")
    layer = theirs.unet.mid_block.attentions[0].proj_out
    layer.register_forward_hook(lambda module, args, out: 3 * out)  # as an adapter would
    last = next(module for name, module in theirs.text_encoder.named_modules() if name.endswith("final_layer_norm"))
    last.register_forward_hook(lambda module, args, out: out + 1)
    after = pipe.generate(z, PROMPTS[1], guidance=2.0, output="tensor")
    theirs_after = theirs(PROMPTS[1], latents=z.tensor, num_inference_steps=STEPS, guidance_scale=2.0, output_type="np")
    assert same(after.permute(0, 2, 3, 1), torch.from_numpy((theirs_after.images * 255).round().astype(np.uint8)))
    assert not same(before, after)
    assert all(parameter.requires_grad for parameter in theirs.unet.parameters())
    assert theirs.unet.conv_in.weight.is_contiguous()


def test_offloaded_modules_and_half_precision_work() -> None:
    from accelerate import cpu_offload

    theirs = diffusers_pipeline("sd")
    expected = brought(theirs).invert(pictures(2), "a cat")
    for part in (theirs.unet, theirs.vae, theirs.text_encoder):
        cpu_offload(part, torch.device("cpu"))
    assert theirs.unet.conv_in.weight.device.type == "meta"
    z = brought(theirs).invert(pictures(2), "a cat")
    torch.testing.assert_close(z.tensor, expected.tensor, rtol=1e-3, atol=1e-4)
    assert theirs.unet.conv_in.weight.device.type == "meta"
    half = diffusers_pipeline("sd").to(torch.bfloat16)
    rounded = brought(half).invert(pictures(2), "a cat")
    assert half.unet.dtype == half.vae.dtype == torch.bfloat16 and rounded.tensor.dtype == torch.float32
    assert 0 < (rounded.tensor - expected.tensor).norm() / expected.tensor.norm() < 0.1
    assert len(brought(half).generate(rounded)) == 2


def test_a_vae_that_overflows_is_called_in_float32() -> None:
    theirs = diffusers_pipeline("sdxl").to(torch.bfloat16)
    theirs.vae.to(torch.float16).register_to_config(force_upcast=True)
    seen = []
    theirs.vae.decoder.register_forward_pre_hook(lambda module, args: seen.append(args[0].dtype))
    pipe = brought(theirs)
    pipe.generate(pipe.noise(1), "a cat")
    assert seen == [torch.float32] and theirs.vae.dtype == torch.float16


def test_a_size_that_is_asked_for_is_taken_in_place_of_the_model_s_own() -> None:
    theirs = diffusers_pipeline("sd")
    found = [brought(theirs), brought(theirs, "model.size=24"), lm.Pipeline.from_diffusers(theirs, size="32x16")]
    assert [pipe.config.model.size for pipe in found] == [SIZE, 24, "32x16"]


def test_what_was_registered_of_a_pipeline_is_forgotten_with_it() -> None:
    count = len(NETWORKS)
    pipe = brought(diffusers_pipeline("sd"))
    folder = vars(pipe.model)["folder"]
    assert len(NETWORKS) == count + 3 and folder.is_dir()
    del pipe
    gc.collect()
    assert len(NETWORKS) == count and not folder.exists()


@pytest.mark.parametrize("change", ["cast", "scheduler", "vae", "unet"])
def test_a_change_of_the_pipeline_counts_from_then_on(change: str) -> None:
    theirs = diffusers_pipeline("sd")
    pipe = brought(theirs)
    before = pipe.invert(pictures(2), "a cat").tensor
    if change == "cast":
        theirs.to(torch.bfloat16)
    elif change == "scheduler":
        theirs.scheduler = type(theirs.scheduler).from_config(theirs.scheduler.config, prediction_type="v_prediction")
    else:
        other = diffusers_pipeline("sd").components[change]
        other.load_state_dict({name: 0.5 * x for name, x in other.state_dict().items()})
        setattr(theirs, change, other)
    after = pipe.invert(pictures(2), "a cat").tensor
    assert torch.equal(after, brought(theirs).invert(pictures(2), "a cat").tensor)
    assert not torch.allclose(after, before, atol=1e-4)


def test_a_pipeline_that_loses_a_part_is_refused_from_then_on() -> None:
    theirs = diffusers_pipeline("sd")
    pipe = brought(theirs)
    theirs.text_encoder = None
    with pytest.raises(lm.UserError, match="the pipeline has no text_encoder; load it with one"):
        pipe.invert(pictures(1))
    for part in ("unet", "vae", "scheduler", "tokenizer"):
        incomplete = diffusers_pipeline("sd")
        setattr(incomplete, part, None)
        with pytest.raises(lm.UserError, match=f"the pipeline has no {part}; load it with one"):
            brought(incomplete)


def test_nan_of_a_vae_in_16_bits_is_no_black_image() -> None:
    theirs = diffusers_pipeline("sd")
    theirs.vae.to(torch.float16).decoder.conv_in.weight.data.fill_(torch.nan)
    theirs.vae.register_to_config(force_upcast=False)
    pipe = brought(theirs)
    with pytest.raises(lm.UserError, match=r"NaN came up in the pipeline's VAE in float16; cast it: pipe.vae.to"):
        pipe.generate(pipe.noise(1))


@pytest.mark.parametrize(
    "setting", ["model.path=/x", "model.precision=float16", "model.quantize=int8", "model.lora=x", "speed.compile=true"]
)
def test_settings_of_loading_are_refused_beside_what_is_loaded(setting: str) -> None:
    with pytest.raises(lm.UserError, match=f"leave out {setting}; the modules of a pipeline stay as they are"):
        brought(diffusers_pipeline("sd"), setting)


def test_errors_name_the_pipeline_and_no_temporary_folder() -> None:
    from diffusers import LCMScheduler

    theirs = diffusers_pipeline("sd")
    theirs.scheduler = LCMScheduler.from_config(theirs.scheduler.config)
    with pytest.raises(lm.UserError, match=r"^the pipeline's scheduler is of LCMScheduler"):
        brought(theirs)
    with pytest.raises(lm.UserError, match=r"unet is in float64; cast it: pipe.to\(torch.float32\)"):
        brought(diffusers_pipeline("sd").to(torch.float64))
    with pytest.raises(lm.UserError, match=r"a str can't be used.*from_pretrained loads models by their name"):
        lm.Pipeline.from_diffusers("sd15")


def test_a_pipeline_of_loaded_modules_can_not_be_copied() -> None:
    for copied in (copy.deepcopy, pickle.dumps):
        with pytest.raises(lm.UserError, match="can't be copied or pickled; call from_diffusers again"):
            pipe = brought(diffusers_pipeline("sd"))
            pipe.generate(pipe.noise(1))
            copied(pipe)


def test_a_pipeline_says_what_it_is(pipe: lm.Pipeline) -> None:
    assert repr(pipe) == f"<Pipeline sd, {SIZE} px, {STEPS} steps, on cpu>"


def test_other_pipelines_and_modules_are_refused() -> None:
    from diffusers import AutoencoderTiny, DDPMPipeline, StableDiffusionImg2ImgPipeline

    theirs = diffusers_pipeline("sd")
    img2img = StableDiffusionImg2ImgPipeline(**theirs.components, requires_safety_checker=False)
    for other in (img2img, DDPMPipeline(theirs.unet, theirs.scheduler)):
        with pytest.raises(lm.UserError, match=r"can't be used, only StableDiffusionPipeline.*from_pipe\(pipe\)"):
            lm.Pipeline.from_diffusers(other)
    theirs.vae = AutoencoderTiny()
    with pytest.raises(lm.UserError, match="vae is a AutoencoderTiny; only a AutoencoderKL"):
        lm.Pipeline.from_diffusers(theirs, size=SIZE)
