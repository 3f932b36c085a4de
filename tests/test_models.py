"""The U-Net family against diffusers' own pipeline and schedulers, and what is said of pipeline folders that are wrong.

Two pipelines are compared: the embedded one, and one of random weights in other sizes, in the layout of SD 2.
"""

import errno
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
import transformers
from diffusers import (
    AutoencoderKL,
    DDIMInverseScheduler,
    DDIMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from pipelines import built
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from latentmix.compose import compose
from latentmix.data.shapes import draw
from latentmix.errors import UserError
from latentmix.inversion import INVERSIONS
from latentmix.models import load_model
from latentmix.models.pipeline import find
from latentmix.models.protocol import Conditioning, Text
from latentmix.models.settings import ModelConfig
from latentmix.models.unet import UNetModel
from latentmix.sampling import Level, Schedule, generate

for library in (diffusers, transformers):
    library.utils.logging.disable_progress_bar()

CPU = torch.device("cpu")
PROMPTS = ["a photo of a star", "a photo of a heart"]
STEPS = 50
SD: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}


def embedded_config() -> ModelConfig:
    return compose(["model=tiny"]).model


def random_pipeline() -> StableDiffusionPipeline:
    """Random weights: latents [4, 12, 12], images of 24 px, as wide as nothing in the embedded pipeline is."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=12,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        norm_num_groups=4,
        cross_attention_dim=24,
        attention_head_dim=2,
        use_linear_projection=True,
    )
    vae = AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        latent_channels=4,
        sample_size=24,
        scaling_factor=0.4,
    )
    tokenizer = CLIPTokenizer.from_pretrained(find(embedded_config()) / "tokenizer")
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=24,
        intermediate_size=48,
        projection_dim=24,
        num_hidden_layers=2,
        num_attention_heads=3,
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=CLIPTextModel(text).eval(),
        tokenizer=tokenizer,
        unet=unet,
        scheduler=DDIMScheduler(**SD),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


@pytest.fixture(scope="module")
def random_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("random") / "pipeline"
    random_pipeline().save_pretrained(folder)
    return folder


def conditioning_of(model: UNetModel, prompts: list[str], guidance: float = 1.0) -> Conditioning:
    return Conditioning(model.embed(prompts), model.embed([""]), guidance)


class Pair:
    """A pipeline folder as diffusers reads it and as latentmix does."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pipeline = StableDiffusionPipeline.from_pretrained(folder, dtype=torch.float32)
        self.pipeline.set_progress_bar_config(disable=True)
        self.model = built(UNetModel, folder)
        size = self.pipeline.unet.config.sample_size
        self.noise = torch.randn(2, 4, size, size, generator=torch.Generator().manual_seed(1))
        self.side = size * self.pipeline.vae_scale_factor

    @cache  # noqa: B019 - a pair lives as long as this module's tests
    def conditioning(self, guidance: float) -> Conditioning:
        return conditioning_of(self.model, PROMPTS, guidance)

    def images(self) -> Tensor:
        """Two drawn ones, cut to this pipeline's size: uint8 [2, 3, H, W]."""
        drawn = torch.stack([torch.from_numpy(draw(name, 0)).permute(2, 0, 1) for name in ("star", "heart")])
        return drawn[:, :, : self.side, : self.side].contiguous()

    def generate(self, schedule: Schedule, guidance: float) -> Tensor:
        def predict(z: Tensor, here: Level, timestep: float) -> tuple[Tensor, Tensor]:
            return self.model.predict(z, here, timestep, self.conditioning(guidance))

        with torch.no_grad():
            return generate(predict, self.noise, schedule)


@pytest.fixture(scope="module")
def embedded() -> Pair:
    return Pair(find(embedded_config()))


@pytest.fixture(scope="module")
def random(random_folder: Path) -> Pair:
    return Pair(random_folder)


@pytest.fixture(params=["embedded", "random"])
def pair(request: pytest.FixtureRequest) -> Pair:
    return request.getfixturevalue(request.param)


def furthest(a: Tensor, b: Tensor) -> float:
    assert a.shape == b.shape
    return (a - b).abs().max().item()


def away(a: Tensor, b: Tensor) -> float:
    """The same in units of b's spread, where that is more than 1: random networks lead far out."""
    return furthest(a, b) / max(1.0, b.std().item())


def with_scheduler(pipeline: StableDiffusionPipeline, **changes: Any) -> StableDiffusionPipeline:
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, **changes)
    return pipeline


def changed(folder: Path, place: Path, file: str, **changes: Any) -> Path:
    """A copy of a pipeline folder with some values of one of its JSON files changed."""
    shutil.copytree(folder, place)
    values = json.loads((place / file).read_text())
    (place / file).write_text(json.dumps(values | changes))
    return place


def text_of(guidance: float) -> dict[str, Any]:
    return {"prompt": PROMPTS, "guidance_scale": guidance}


def test_a_prompt_of_more_tokens_than_are_read_is_said(embedded: Pair) -> None:
    long = "a red star, " * 100
    with pytest.warns(
        UserWarning, match=r"reads \d+ tokens, and the prompt 'a red star, .*\.\.\.' has \d+: the rest has"
    ):
        texts = [embedded.model.embed([prompt]) for prompt in (long, f"{long} on a blue ground")]
    assert furthest(texts[0].states, texts[1].states) == 0


# Generation


@pytest.mark.parametrize("spacing", ["leading", "trailing"])
def test_generation_is_that_of_diffusers_pipeline(pair: Pair, spacing: str) -> None:
    pipeline = with_scheduler(pair.pipeline, timestep_spacing=spacing)
    how = text_of(7.5) | {"latents": pair.noise, "num_inference_steps": STEPS, "output_type": "latent"}
    schedule = pair.model.schedule(STEPS, spacing)
    theirs, ours = pipeline(**how).images, pair.generate(schedule, 7.5)
    assert ours.dtype == torch.float32
    assert away(ours, theirs) < 1e-4
    assert away(ours, pair.generate(schedule[:10], 7.5)) > 1e-2  # so that the test could fail


def test_guidance_of_1_is_none_as_in_diffusers(pair: Pair) -> None:
    pipeline = with_scheduler(pair.pipeline, timestep_spacing="trailing")
    how = text_of(1.0) | {"latents": pair.noise, "num_inference_steps": 10, "output_type": "latent"}
    theirs, schedule = pipeline(**how).images, pair.model.schedule(10, "trailing")
    assert away(pair.generate(schedule, 1), theirs) < 1e-4
    assert away(pair.generate(schedule, 7.5), theirs) > 1e-2


def test_the_embedded_pipeline_says_leading_itself(embedded: Pair) -> None:
    """What model.spacing would be if one asked its scheduler; trailing is the default here all the same."""
    scheduler = DDIMScheduler.from_pretrained(embedded.folder / "scheduler")
    scheduler.set_timesteps(STEPS)
    timesteps = [interval.timestep for interval in embedded.model.schedule(STEPS, "leading")]
    assert timesteps == scheduler.timesteps.tolist()[::-1]
    assert compose([]).spacing == "trailing"


@pytest.mark.parametrize("kind", ["np", "pt"])
def test_images_are_those_of_diffusers_pipeline(pair: Pair, kind: str) -> None:
    pipeline = with_scheduler(pair.pipeline, timestep_spacing="trailing")
    how = text_of(7.5) | {"latents": pair.noise, "num_inference_steps": 10, "output_type": kind}
    images = pipeline(**how).images
    theirs = torch.from_numpy(images).permute(0, 3, 1, 2) if kind == "np" else images
    ours = pair.model.decode(pair.generate(pair.model.schedule(10, "trailing"), 7.5))
    assert_same_pixels(ours, (theirs * 255).round())
    assert furthest(ours / 255, theirs) < 0.5 / 255 + 1e-4  # rounded to the nearest level, not down


@pytest.mark.parametrize(
    "scheduler",
    [
        {"prediction_type": "v_prediction"},
        {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True},
        {"set_alpha_to_one": True},
        {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02, "num_train_timesteps": 500},
    ],
    ids=["v", "v, zero snr", "clean end", "other levels"],
)
def test_other_schedulers_too_are_followed(random: Pair, tmp_path: Path, scheduler: dict[str, Any]) -> None:
    folder = changed(random.folder, tmp_path / "other", "scheduler/scheduler_config.json", **scheduler)
    other = Pair(folder)
    pipeline = with_scheduler(other.pipeline, timestep_spacing="trailing")
    how = text_of(7.5) | {"latents": other.noise, "num_inference_steps": 20, "output_type": "latent"}
    ours = other.generate(other.model.schedule(20, "trailing"), 7.5)
    assert away(ours, pipeline(**how).images) < 1e-4
    assert away(ours, random.generate(random.model.schedule(20, "trailing"), 7.5)) > 1e-3


# Inversion


@torch.no_grad()
def inverted_by_diffusers(pair: Pair, z: Tensor, guidance: float, spacing: str) -> Tensor:
    """The inverse scheduler's loop as its documentation has it."""
    scheduler = DDIMInverseScheduler.from_config(pair.pipeline.scheduler.config, timestep_spacing=spacing)
    scheduler.set_timesteps(STEPS)
    text, null = pair.pipeline.encode_prompt(PROMPTS, CPU, 1, True)
    for t in scheduler.timesteps:
        out = pair.pipeline.unet(z, t, text).sample
        if guidance != 1:
            out_null = pair.pipeline.unet(z, t, null).sample
            out = out_null + guidance * (out - out_null)
        z = scheduler.step(out, t, z, return_dict=False)[0]
    return z


@pytest.mark.parametrize(("guidance", "spacing"), [(1, "trailing"), (7.5, "trailing"), (1, "leading")])
def test_inversion_is_that_of_diffusers_inverse_scheduler(pair: Pair, guidance: float, spacing: str) -> None:
    clean = pair.model.encode(pair.images())
    schedule, cond = pair.model.schedule(STEPS, spacing), pair.conditioning(guidance)
    ours = INVERSIONS["ddim"].invert(pair.model, clean, schedule, cond, compose([]).inversion)["latents"]
    assert ours.dtype == torch.float32
    theirs = inverted_by_diffusers(pair, clean, guidance, spacing)
    assert away(ours, theirs) < 1e-4 * guidance  # which multiplies rounding; in float64 the two are the same to 1e-6
    assert away(ours, clean) > 1e-2


# Text, and images to latents and back


@pytest.mark.filterwarnings("ignore:the text encoder reads")
def test_embeddings_are_those_of_diffusers_pipeline(pair: Pair) -> None:
    """Also of the empty prompt, and of one too long, which is cut."""
    prompts = [*PROMPTS, "", "A Photo of  a star, " * 20]
    text, null = pair.pipeline.encode_prompt(prompts, CPU, 1, True)
    ours = pair.model.embed(prompts)
    assert furthest(ours.states, text) < 1e-4
    assert furthest(ours.states[2:3], null[:1]) < 1e-4
    assert torch.equal(ours.states[2:3], pair.model.embed([""]).states)  # whatever else is asked for
    assert furthest(ours.states[0], ours.states[1]) > 1e-2
    assert ours.pooled.shape == (4, 0)


def test_encoding_is_the_posteriors_mean_in_the_networks_scale(pair: Pair) -> None:
    images, vae = pair.images(), pair.pipeline.vae
    pictures = pair.pipeline.image_processor.numpy_to_pil(images.permute(0, 2, 3, 1).numpy() / 255)
    with torch.no_grad():
        mean = vae.encode(pair.pipeline.image_processor.preprocess(pictures)).latent_dist.mean
    ours = pair.model.encode(images)
    assert vae.config.scaling_factor != 1
    assert ours.shape == pair.noise.shape
    assert furthest(ours, mean * vae.config.scaling_factor) < 1e-4


def test_decoding_is_that_of_diffusers_pipeline(pair: Pair) -> None:
    """On latents of images and on ones far out, where pixels must be cut off at black and white."""
    vae, images = pair.pipeline.vae, pair.images()
    latents = torch.cat([pair.model.encode(images), 4 * pair.noise])
    with torch.no_grad():
        pixels = vae.decode(latents / vae.config.scaling_factor).sample
    pictures = pair.pipeline.image_processor.postprocess(pixels, output_type="np")
    ours = pair.model.decode(latents)
    assert ours.dtype == torch.uint8
    assert_same_pixels(ours, torch.from_numpy(pictures).permute(0, 3, 1, 2).mul(255).round())


def test_pixels_beyond_black_and_white_are_cut_off(random: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    model = built(UNetModel, random.folder)
    values = torch.tensor([-7.0, -1.0, 0.0, 0.5, 1.0, 7.0]).view(1, 1, 1, 6)
    monkeypatch.setattr(model.vae._network, "decode", lambda z: type("Output", (), {"sample": values}))
    assert model.decode(random.noise).flatten().tolist() == [0, 0, 128, 191, 255, 255]


def test_the_vae_takes_a_large_batch_in_parts(random: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of at most two images of 512 px."""
    for size, parts in ((64, [20]), (256, [8, 8, 4]), (512, [2] * 10), (4096, [1] * 20)):
        assert [len(part) for part in random.model.vae._parts(torch.zeros(20, 1), (size, size))] == parts
    latents = random.model.encode(random.images())
    images = random.model.decode(latents)
    monkeypatch.setattr(random.model.vae, "_parts", lambda batch, size: batch.split(1))
    assert furthest(random.model.encode(random.images()), latents) < 1e-5
    assert_same_pixels(random.model.decode(latents), images.float())


def assert_same_pixels(ours: Tensor, theirs: Tensor) -> None:
    """At most a level apart, where a value falls between two, and that hardly ever."""
    ours = ours.float()
    assert theirs.std() > 1  # levels: there is something to see
    assert furthest(ours, theirs) <= 1
    assert (ours == theirs).float().mean() > 0.999


# Precision and batches


def rounded(folder: Path, place: Path, dtype: torch.dtype, stored: torch.dtype) -> Path:
    """A copy whose weights are rounded to `dtype` and stored as `stored`."""
    shutil.copytree(folder, place)
    for file in place.rglob("*.safetensors"):
        weights = {name: w.to(dtype).to(stored) if w.is_floating_point() else w for name, w in load_file(file).items()}
        save_file(weights, file, {"format": "pt"})
    return place


def all_of(model: UNetModel, pair: Pair) -> list[Tensor]:
    """Something from each part of a model."""
    interval, conditioning = model.schedule(STEPS, "trailing")[25], conditioning_of(model, PROMPTS)
    predicted = model.predict(pair.noise, interval.noisy, interval.timestep, conditioning)
    return [conditioning.text.states, conditioning.null.states, *predicted, model.encode(pair.images())]


def test_16_bit_weights_are_read_as_float32(random: Pair, tmp_path: Path) -> None:
    half = built(UNetModel, rounded(random.folder, tmp_path / "16", torch.float16, torch.float16))
    full = built(UNetModel, rounded(random.folder, tmp_path / "32", torch.float16, torch.float32))
    results = all_of(half, random)
    assert all(got.dtype == torch.float32 for got in results)
    assert all(map(torch.equal, results, all_of(full, random)))
    assert not any(map(torch.equal, results, all_of(random.model, random)))
    for network in (half.denoiser, half.vae._network):
        assert {weight.dtype for weight in network.parameters()} == {torch.float32}


def test_in_16_bits_only_the_network_is_rounded(random: Pair) -> None:
    model = built(UNetModel, random.folder, "bfloat16")
    interval = model.schedule(STEPS, "trailing")[25]
    ours, exact = (
        m.predict(random.noise, interval.noisy, interval.timestep, conditioning_of(m, PROMPTS, 7.5))
        for m in (model, random.model)
    )
    assert {weight.dtype for weight in model.denoiser.parameters()} == {torch.bfloat16}
    assert {weight.dtype for weight in model.vae._network.parameters()} == {torch.float32}
    for got, true in zip(ours, exact, strict=True):
        assert got.dtype == torch.float32
        assert 1e-5 < ((got - true).norm() / true.norm()).item() < 0.1
    x0, eps = ours  # put together again in float32, they give z
    assert furthest(interval.noisy.alpha * x0 + interval.noisy.sigma * eps, random.noise) < 1e-5


def row_of(text: Text, row: int) -> Text:
    return Text(text.states[row : row + 1], text.pooled[row : row + 1])


@pytest.mark.parametrize("guidance", [1, 7.5])
def test_a_rows_prediction_does_not_depend_on_the_others(pair: Pair, guidance: float) -> None:
    prompts = [*PROMPTS, "a photo of a ring"]
    conditioning = conditioning_of(pair.model, prompts, guidance)
    z, interval = torch.cat([pair.noise, -pair.noise[:1]]), pair.model.schedule(STEPS, "trailing")[25]
    together = pair.model.predict(z, interval.noisy, interval.timestep, conditioning)
    for row in range(3):
        own = replace(conditioning, text=row_of(conditioning.text, row))
        alone = pair.model.predict(z[row : row + 1], interval.noisy, interval.timestep, own)
        for among, single in zip(together, alone, strict=True):
            assert away(among[row : row + 1], single) < 1e-5 * guidance  # which multiplies rounding too
    assert away(together[1][:1], together[1][1:2]) > 1e-2


def test_one_prompt_serves_a_whole_batch(pair: Pair) -> None:
    interval, conditioning = pair.model.schedule(STEPS, "trailing")[25], pair.conditioning(7.5)
    one = replace(conditioning, text=row_of(conditioning.text, 0))
    both = replace(conditioning, text=one.text + one.text)
    for got, true in zip(
        *(pair.model.predict(pair.noise, interval.noisy, interval.timestep, c) for c in (one, both)), strict=True
    ):
        assert torch.equal(got, true)


# Identity


def test_the_same_files_elsewhere_are_the_same_model(random: Pair, tmp_path: Path) -> None:
    copy = shutil.copytree(random.folder, tmp_path / "copy")
    assert built(UNetModel, copy).identity == random.model.identity


@pytest.mark.parametrize("part", ["text_encoder", "unet", "vae"])
def test_a_byte_of_the_weights_makes_another_model(random: Pair, tmp_path: Path, part: str) -> None:
    copy = shutil.copytree(random.folder, tmp_path / "copy")
    (file,) = (copy / part).glob("*.safetensors")
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert built(UNetModel, copy).identity != random.model.identity


def test_the_precision_is_part_of_the_identity(random_folder: Path) -> None:
    names = ("float32", "float16", "bfloat16")
    identities = {name: built(UNetModel, random_folder, name).identity for name in names}
    assert len({json.dumps(identity) for identity in identities.values()}) == 3
    assert len({identity["weights"] for identity in identities.values()}) == 1


# What is said of folders that are wrong


def refusal(act: Callable[[], Any]) -> str:
    with pytest.raises(UserError) as caught:
        act()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def at(path: Path) -> ModelConfig:
    return replace(embedded_config(), embedded=None, path=str(path))


def copied(folder: Path, place: Path) -> Path:
    return shutil.copytree(folder, place / "copy")


def use(part: str) -> Callable[[UNetModel], Any]:
    """What reads a part of the pipeline."""
    z, nothing = torch.zeros(1, 4, 12, 12), Text(torch.zeros(1, 24, 24), torch.zeros(1, 0))

    def predict(model: UNetModel) -> Any:
        interval = model.schedule(2, "trailing")[0]
        return model.predict(z, interval.noisy, interval.timestep, Conditioning(nothing, nothing))

    uses = {"unet": predict, "vae": lambda model: model.decode(z), "text_encoder": lambda model: model.embed([""])}
    return uses[part]


def test_a_folder_given_by_path_is_used(random: Pair) -> None:
    model = load_model(at(random.folder), CPU)
    assert model.identity == random.model.identity
    use("unet")(built(UNetModel, find(at(random.folder))))


def test_a_path_may_begin_at_home(random_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(random_folder.parent))
    assert find(at(Path("~") / random_folder.name)) == random_folder


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    text = refusal(lambda: find(at(tmp_path / "nothing")))
    assert str(tmp_path / "nothing") in text
    assert "model.path" in text


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert str(tmp_path / "model.safetensors") in refusal(lambda: find(at(tmp_path / "model.safetensors")))


@pytest.mark.parametrize("index", [None, "", "{", "{}", b"\xff\xfe"])
def test_a_folder_without_a_readable_index_is_no_pipeline(
    random_folder: Path, tmp_path: Path, index: str | bytes | None
) -> None:
    copy = copied(random_folder, tmp_path)
    (copy / "model_index.json").unlink()
    if index is not None:
        (copy / "model_index.json").write_bytes(index if isinstance(index, bytes) else index.encode())
    text = refusal(lambda: find(at(copy)))
    assert str(copy) in text
    assert "model_index.json" in text


def test_an_index_that_is_no_mapping_is_refused(random_folder: Path, tmp_path: Path) -> None:
    copy = copied(random_folder, tmp_path)
    (copy / "model_index.json").write_text("[]")
    assert "model_index.json" in refusal(lambda: find(at(copy)))


def test_another_kind_of_pipeline_is_named(random_folder: Path, tmp_path: Path) -> None:
    copy = changed(random_folder, tmp_path / "other", "model_index.json", _class_name="KandinskyPipeline")
    text = refusal(lambda: find(at(copy)))
    assert str(copy) in text
    assert "holds a KandinskyPipeline" in text


@pytest.mark.parametrize("part", ["scheduler", "text_encoder", "tokenizer", "unet", "vae"])
def test_a_missing_part_is_named(random_folder: Path, tmp_path: Path, part: str) -> None:
    copy = copied(random_folder, tmp_path)
    shutil.rmtree(copy / part)
    text = refusal(lambda: find(at(copy)))
    assert str(copy) in text
    assert repr(part) in text


@pytest.mark.parametrize("part", ["text_encoder", "unet", "vae"])
def test_missing_weights_are_named(random_folder: Path, tmp_path: Path, part: str) -> None:
    copy = copied(random_folder, tmp_path)
    (file,) = (copy / part).glob("*.safetensors")
    file.rename(file.with_suffix(".bin"))  # as old folders have them; these are not opened
    text = refusal(lambda: find(at(copy)))
    assert str(copy / part) in text
    assert "safetensors" in text


@pytest.mark.parametrize("length", [0, 10, 1000, -1])
@pytest.mark.parametrize("part", ["text_encoder", "unet", "vae"])
def test_weights_cut_short_are_named(random_folder: Path, tmp_path: Path, part: str, length: int) -> None:
    copy = copied(random_folder, tmp_path)
    (file,) = (copy / part).glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:length])
    text = refusal(lambda: use(part)(built(UNetModel, find(at(copy)))))
    assert str(copy / part) in text


@pytest.mark.parametrize(
    "part",
    [
        "unet",
        "vae",
        "text_encoder",
    ],
)
def test_weights_that_lack_a_tensor_are_named(random_folder: Path, tmp_path: Path, part: str) -> None:
    copy = copied(random_folder, tmp_path)
    (file,) = (copy / part).glob("*.safetensors")
    weights = load_file(file)
    del weights[sorted(weights)[-1]]
    save_file(weights, file, {"format": "pt"})
    text = refusal(lambda: use(part)(built(UNetModel, find(at(copy)))))
    assert str(copy / part) in text


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_a_config_that_is_no_json_is_named(random_folder: Path, tmp_path: Path, part: str) -> None:
    copy = copied(random_folder, tmp_path)
    (copy / part / "config.json").write_text('{"in_channels": 4')
    text = refusal(lambda: use(part)(built(UNetModel, find(at(copy)))))
    assert str(copy / part) in text


def test_an_unknown_prediction_is_named_and_the_known_listed(random_folder: Path, tmp_path: Path) -> None:
    copy = changed(random_folder, tmp_path / "sample", "scheduler/scheduler_config.json", prediction_type="sample")
    text = refusal(lambda: load_model(at(copy), CPU))
    assert str(copy) in text
    assert "'sample'" in text
    assert "epsilon, v_prediction" in text


def test_more_steps_than_the_model_was_trained_on_are_refused(random_folder: Path) -> None:
    model = built(UNetModel, random_folder)
    assert "1001" in refusal(lambda: model.schedule(1001, "trailing"))


def test_a_model_that_is_nowhere_is_asked_for() -> None:
    text = refusal(lambda: find(replace(embedded_config(), embedded=None, name="mine")))
    assert "'mine'" in text
    assert "model.path=FOLDER" in text


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (
            "LocalEntryNotFoundError",
            "could not be fetched (LocalEntryNotFoundError); fetch it on a machine that is online",
        ),
        (
            "RepositoryNotFoundError",
            "the hub has no stable-diffusion-v1-5/stable-diffusion-v1-5, or it is private: check",
        ),
        ("RevisionNotFoundError", "the hub has no revision 451f4fe16113bff5a5d2269ed5ad43b0592e9a14 of it"),
        ("GatedRepoError", "is gated: accept its terms at https://huggingface.co/stable-diffusion-v1-5/"),
        ("OSError", "could not be fetched: of a kind at all; try again"),
    ],
)
def test_a_model_that_cannot_be_fetched_is_named(kind: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import errors

    made: type[Exception] = getattr(errors, kind, OSError)

    def fail(*_: Any, **__: Any) -> str:
        error = made.__new__(made)
        error.args = ("of a kind\nat all",)
        raise error

    for name in ("snapshot_download", "HfApi.model_info"):
        monkeypatch.setattr(f"huggingface_hub.{name}", fail)
    if kind != "OSError":
        monkeypatch.setattr("latentmix.models.pipeline.snapshot", lambda _: None)
    text = refusal(lambda: find(compose(["model=sd15"]).model))
    assert "stable-diffusion-v1-5/stable-diffusion-v1-5 is not in the local cache" in text and reason in text
    assert "model.path=FOLDER" in text


def test_a_model_that_finds_no_space_on_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> str:
        raise RuntimeError("writing failed") from OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("latentmix.models.pipeline.snapshot", lambda _: None)
    monkeypatch.setattr("latentmix.models.pipeline.files_on_hub", lambda _: {})
    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    assert "the disk is full: stable-diffusion-v1-5/" in refusal(lambda: find(compose(["model=sd15"]).model))
