"""The transformer family against diffusers' own pipeline and scheduler, on random weights of the real classes.

One pipeline has T5 and the parts that only 3.5-medium has (normalised queries, dual attention); one has neither. The
embedded `tiny-sd3` is a third.
"""

from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
import transformers
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from pipelines import built, t5
from torch import Tensor
from transformers import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

from latentmix.compose import compose
from latentmix.data.shapes import draw
from latentmix.embedded import embedded_folder
from latentmix.errors import UserError
from latentmix.inversion import INVERSIONS
from latentmix.models import load_model
from latentmix.models.loading import has
from latentmix.models.mmdit import MMDiTModel
from latentmix.models.protocol import Conditioning, predictor
from latentmix.models.settings import ModelConfig
from latentmix.sampling import Schedule, flow_sigmas, generate

for library in (diffusers, transformers):
    library.utils.logging.disable_progress_bar()

CPU = torch.device("cpu")
PROMPTS = ["a photo of a star", "a photo of a heart"]
LENGTH = 12  # tokens that T5 reads


def clip(width: int) -> tuple[CLIPTextModelWithProjection, CLIPTokenizer]:
    tokenizer = CLIPTokenizer.from_pretrained(embedded_folder("tiny") / "tokenizer")
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=48,
        projection_dim=width,
        num_hidden_layers=3,
        num_attention_heads=2,
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModelWithProjection(config).eval(), tokenizer


def random_pipeline(with_t5: bool) -> StableDiffusion3Pipeline:
    """Random weights: latents [4, 8, 8], images of 32 px."""
    torch.manual_seed(0)
    width = 56  # of T5; the two CLIPs have 24 + 16 and are padded
    transformer = SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=3,
        attention_head_dim=8,
        num_attention_heads=4,
        joint_attention_dim=width,
        caption_projection_dim=32,
        pooled_projection_dim=40,
        pos_embed_max_size=6,
        dual_attention_layers=(0, 1) if with_t5 else (),
        qk_norm="rms_norm" if with_t5 else None,
    )
    vae = AutoencoderKL(
        block_out_channels=(8, 8, 16),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        norm_num_groups=4,
        latent_channels=4,
        sample_size=32,
        scaling_factor=1.5305,
        shift_factor=0.0609,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    (first, tokenizer), (second, tokenizer_2) = clip(24), clip(16)
    third, tokenizer_3 = t5(width, heads=4, hidden=48) if with_t5 else (None, None)
    return StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae,
        text_encoder=first,
        tokenizer=tokenizer,
        text_encoder_2=second,
        tokenizer_2=tokenizer_2,
        text_encoder_3=third,
        tokenizer_3=tokenizer_3,
    )


class Pair:
    """A pipeline folder as diffusers reads it and as latentmix does."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        without = {} if has(folder, "text_encoder_3") else {"text_encoder_3": None, "tokenizer_3": None}
        self.pipeline = StableDiffusion3Pipeline.from_pretrained(folder, dtype=torch.float32, **without)
        self.pipeline.set_progress_bar_config(disable=True)
        self.model = built(MMDiTModel, folder, max_sequence_length=LENGTH)
        config = self.pipeline.transformer.config
        shape = (2, config.in_channels, config.sample_size, config.sample_size)
        self.noise = torch.randn(shape, generator=torch.Generator().manual_seed(1))
        self.side = config.sample_size * self.pipeline.vae_scale_factor

    @cache  # noqa: B019 - a pair lives as long as this module's tests
    def conditioning(self, guidance: float) -> Conditioning:
        return Conditioning(self.model.embed(PROMPTS), self.model.embed([""]), guidance)

    def theirs(self, steps: int, guidance: float, kind: str = "latent") -> Tensor:
        """The pipeline's own output; given latents, it moves them through the sizes of its transformer."""
        return self.pipeline(
            prompt=PROMPTS,
            guidance_scale=guidance,
            latents=self.noise,
            num_inference_steps=steps,
            output_type=kind,
            height=self.side,
            width=self.side,
            max_sequence_length=LENGTH,
        ).images

    @torch.no_grad()
    def ours(self, schedule: Schedule, guidance: float) -> Tensor:
        conditioning = self.conditioning(guidance)
        return generate(
            lambda z, here, timestep: self.model.predict(z, here, timestep, conditioning), self.noise, schedule
        )

    def inverted(self, z: Tensor, schedule: Schedule) -> Tensor:
        return INVERSIONS["ddim"].invert(self.model, z, schedule, self.conditioning(1), compose([]).inversion)[
            "latents"
        ]

    def clean(self) -> Tensor:
        drawn = torch.stack([torch.from_numpy(draw(name, 0)).permute(2, 0, 1) for name in ("star", "heart")])
        return self.model.encode(drawn[:, :, : self.side, : self.side].contiguous())


@pytest.fixture(scope="module", params=["T5", "no T5", "embedded"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    if request.param == "embedded":
        return Pair(embedded_folder("tiny-sd3"))
    folder = tmp_path_factory.mktemp("sd3") / "pipeline"
    random_pipeline(request.param == "T5").save_pretrained(folder)
    return Pair(folder)


def away(a: Tensor, b: Tensor) -> float:
    """The largest difference, relative to how large `b` is."""
    return ((a - b).abs().max() / b.abs().max()).item()


@pytest.mark.parametrize("steps", [28, 50])
def test_generation_is_that_of_diffusers_pipeline(pair: Pair, steps: int) -> None:
    schedule = pair.model.schedule(steps, "linspace")
    theirs, ours = pair.theirs(steps, 4.5), pair.ours(schedule, 4.5)
    assert ours.dtype == torch.float32
    assert away(ours, theirs) < 1e-4
    assert away(ours, pair.ours(schedule[:20], 4.5)) > 1e-2  # so that the test could fail


def test_guidance_of_1_is_none_as_in_diffusers(pair: Pair) -> None:
    schedule = pair.model.schedule(10, "linspace")
    assert away(pair.ours(schedule, 1), pair.theirs(10, 1.0)) < 1e-4
    assert away(pair.ours(schedule, 4.5), pair.theirs(10, 1.0)) > 1e-3


def test_images_are_those_of_diffusers_pipeline(pair: Pair) -> None:
    theirs = pair.theirs(10, 4.5, "pt")
    ours = pair.model.decode(pair.ours(pair.model.schedule(10, "linspace"), 4.5))
    assert (ours.float() - theirs * 255).abs().max() < 0.5 + 0.01  # rounded to the nearest level


@pytest.mark.parametrize("steps", [1, 2, 28, 50, 999])
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_the_ladder_is_that_of_diffusers_scheduler(steps: int, shift: float) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(steps)
    ours = torch.tensor(flow_sigmas(steps, "linspace", shift)[::-1])
    assert torch.allclose(ours, scheduler.sigmas[:-1], rtol=0, atol=1e-6)
    assert torch.allclose(ours * 1000, scheduler.timesteps, rtol=0, atol=1e-3)


@torch.no_grad()
def test_inversion_is_euler_up_the_schedulers_levels(pair: Pair) -> None:
    """Against a loop of its own over the scheduler's levels: z + (σ' − σ)·v, told the time of the noisy end."""
    scheduler = FlowMatchEulerDiscreteScheduler.from_config(pair.pipeline.scheduler.config)
    scheduler.set_timesteps(20)
    sigmas = [*reversed(scheduler.sigmas.tolist())]
    text, _, pooled, _ = pair.pipeline.encode_prompt(PROMPTS, None, None, max_sequence_length=LENGTH)
    z = clean = pair.clean()
    for here, there in pairwise(sigmas):
        time = torch.full([len(z)], there * 1000)
        z = z + (there - here) * pair.pipeline.transformer(z, text, pooled, time).sample
    ours = pair.inverted(clean, pair.model.schedule(20, "linspace"))
    assert away(ours, z) < 1e-4
    assert away(ours, clean) > 1e-2


@torch.no_grad()
def test_the_round_trips_error_falls_with_the_step(pair: Pair) -> None:
    """First order: ten times the steps, a tenth of the error."""
    clean, conditioning, errors = pair.clean(), pair.conditioning(1), []
    for steps in (20, 200):
        schedule = pair.model.schedule(steps, "trailing")
        z = pair.inverted(clean, schedule)
        back = generate(predictor(pair.model, conditioning), z, schedule)
        errors.append(away(back, clean))
    assert errors[0] / errors[1] == pytest.approx(10, rel=0.35)


@pytest.mark.filterwarnings("ignore:the text encoder reads")
def test_embeddings_are_those_of_diffusers_pipeline(pair: Pair) -> None:
    """Also of the empty prompt, and of one too long, which is cut."""
    prompts = [*PROMPTS, "", "A Photo of  a star, " * 20]
    text, null, pooled, null_pooled = pair.pipeline.encode_prompt(prompts, None, None, max_sequence_length=LENGTH)
    ours = pair.model.embed(prompts)
    assert torch.allclose(ours.states, text, atol=1e-4)
    assert torch.allclose(ours.pooled, pooled, atol=1e-4)
    assert torch.allclose(ours.states[2], null[0], atol=1e-4)
    assert torch.allclose(ours.pooled[2], null_pooled[0], atol=1e-4)
    assert not torch.allclose(ours.states[0], ours.states[1], atol=1e-2)


def test_how_much_t5_reads_is_part_of_the_identity(pair: Pair) -> None:
    assert pair.model.identity != built(MMDiTModel, pair.folder, max_sequence_length=LENGTH + 1).identity
    assert built(MMDiTModel, pair.folder, max_sequence_length=5).embed([""]).states.shape[1] == 24 + 5


def test_encoding_and_decoding_are_the_pipelines_scale_and_shift(pair: Pair) -> None:
    vae, images = pair.pipeline.vae, torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    scale, shift = vae.config.scaling_factor, vae.config.shift_factor
    with torch.no_grad():
        mean = vae.encode(images / 127.5 - 1).latent_dist.mean
        pixels = vae.decode(pair.noise / scale + shift).sample
    assert torch.allclose(pair.model.encode(images), (mean - shift) * scale, atol=1e-4)
    theirs = pair.pipeline.image_processor.postprocess(pixels, output_type="pt") * 255
    assert (pair.model.decode(pair.noise).float() - theirs).abs().max() < 0.51


@torch.no_grad()
def test_in_16_bits_only_the_networks_are_rounded(pair: Pair) -> None:
    model = built(MMDiTModel, pair.folder, "bfloat16", max_sequence_length=LENGTH)
    conditioning = Conditioning(model.embed(PROMPTS), model.embed([""]), 4.5)
    z = generate(
        lambda z, here, timestep: model.predict(z, here, timestep, conditioning),
        pair.noise,
        model.schedule(10, "linspace"),
    )
    assert z.dtype == torch.float32
    assert {weight.dtype for weight in model.denoiser.parameters()} == {torch.bfloat16}
    exact = pair.ours(pair.model.schedule(10, "linspace"), 4.5)
    assert 1e-6 < away(z, exact) < 0.1


# What load_model says


def config(folder: Path, **changes: Any) -> ModelConfig:
    given = {"path": folder, "max_sequence_length": LENGTH, "size": 32} | changes
    return compose(["model=tiny-sd3", *(f"model.{key}={value}" for key, value in given.items())]).model


def test_the_family_is_told_from_the_folder(pair: Pair) -> None:
    model = load_model(config(pair.folder), CPU)
    assert isinstance(model, MMDiTModel)
    assert model.identity == pair.model.identity
    side = 32 // pair.pipeline.vae_scale_factor
    assert model.latent_shape(32) == (pair.pipeline.vae.config.latent_channels, side, side)


@pytest.mark.parametrize("pair", ["T5", "no T5"], indirect=True)
@pytest.mark.parametrize(("size", "reason"), [(36, "multiple of 8"), (56, "at most 48")])
def test_a_size_that_does_not_fit_is_refused(pair: Pair, size: int, reason: str) -> None:
    with pytest.raises(UserError, match=f"model.size={size}: must be a? ?{reason}"):
        load_model(config(pair.folder, size=size), CPU)


def test_a_scheduler_that_makes_other_ladders_is_refused(tmp_path: Path) -> None:
    pipeline = random_pipeline(False)
    pipeline.scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0, use_karras_sigmas=True)
    pipeline.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="use_karras_sigmas"):
        load_model(config(tmp_path), CPU)


@pytest.mark.parametrize("spacing", ["leading", "nonsense"])
def test_a_spacing_without_meaning_is_refused(pair: Pair, spacing: str) -> None:
    with pytest.raises(UserError, match=f"linspace or trailing for a rectified flow, not '{spacing}'"):
        pair.model.schedule(10, spacing)


@pytest.mark.parametrize("part", ["text_encoder_3", "tokenizer_3", "transformer", "text_encoder_2"])
def test_a_missing_part_is_named(tmp_path: Path, part: str) -> None:
    random_pipeline(True).save_pretrained(tmp_path)
    for file in (tmp_path / part).iterdir():
        file.unlink()
    with pytest.raises(UserError, match=f"lacks its part '{part}'"):
        load_model(config(tmp_path), CPU)
