"""Stable Diffusion XL and FLUX.1 against diffusers' own pipelines, on random weights of the real classes."""

import sys
from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pipelines
import pytest
import torch
from diffusers import (
    DDIMInverseScheduler,
    DDIMScheduler,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
)
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from driver import invoke
from torch import Tensor

from latentmix import sampling
from latentmix.compose import compose
from latentmix.errors import UserError
from latentmix.images import read_image
from latentmix.models import load_model
from latentmix.models.denoiser import check_quantization
from latentmix.models.flux import FluxModel, pack, positions, unpack
from latentmix.models.protocol import Conditioning, Model, predictor
from latentmix.models.sdxl import SDXLModel
from latentmix.models.settings import USUAL, SpeedConfig

CPU = torch.device("cpu")
PROMPTS = ["a photo of a star", "a photo of a heart"]
HEIGHT, WIDTH = 6, 4  # of latents
LENGTH = 8  # tokens that T5 reads
KINDS = {
    "sdxl": pipelines.stable_diffusion_xl,
    "sdxl encodes the empty prompt": lambda: pipelines.stable_diffusion_xl(force_zeros_for_empty_prompt=False),
    "flux-dev": pipelines.flux,
    "flux-schnell": lambda: pipelines.flux(guidance_embeds=False),
}


def load(folder: Path, speed: SpeedConfig = USUAL, **settings: Any) -> Model:
    given = {"path": folder, "size": pipelines.SIZE, "max_sequence_length": LENGTH} | settings
    config = compose(["model=flux-schnell", *(f"model.{key}={value}" for key, value in given.items())])
    return load_model(config.model, CPU, (), speed)


class Pair:
    """A pipeline folder as diffusers reads it and as latentmix does."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.folder, self.kind, self.flow = folder, kind, kind.startswith("flux")
        self.settings: dict[str, Any] = {"embedded_guidance": 3.5} if kind == "flux-dev" else {}
        self.model = load(folder, **self.settings)
        shape = (2, 4, HEIGHT, WIDTH)
        self.noise = torch.randn(shape, generator=torch.Generator().manual_seed(1))

    @cached_property
    def pipeline(self) -> Any:
        pipeline = DiffusionPipeline.from_pretrained(self.folder, dtype=torch.float32)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def conditioning(self, guidance: float) -> Conditioning:
        return Conditioning(self.model.embed(PROMPTS), self.model.embed([""]), guidance)

    def theirs(self, steps: int, guidance: float, kind: str = "latent") -> Tensor:
        """Return the pipeline's own output. FLUX's is unpacked; its classifier-free guidance has a name of its own."""
        size = {"height": 4 * HEIGHT, "width": 4 * WIDTH, "num_inference_steps": steps, "output_type": kind}
        if not self.flow:
            self.pipeline.scheduler = DDIMScheduler.from_config(
                self.pipeline.scheduler.config, timestep_spacing="trailing"
            )
            return self.pipeline(PROMPTS, latents=self.noise, guidance_scale=guidance, **size).images
        own = {"true_cfg_scale": guidance, "negative_prompt": [""] * 2, "max_sequence_length": LENGTH}
        out = self.pipeline(PROMPTS, latents=pack(self.noise), guidance_scale=3.5, **own, **size).images
        return FluxPipeline._unpack_latents(out, 4 * HEIGHT, 4 * WIDTH, 4) if kind == "latent" else out

    def schedule(self, steps: int) -> sampling.Schedule:
        """Return the schedule of this pair's latents, which may be those of another size than the model is set to."""
        model = load(self.folder, **self.settings, size=f"{4 * WIDTH}x{4 * HEIGHT}")
        return model.schedule(steps, "trailing")

    @torch.no_grad()
    def ours(self, steps: int, guidance: float) -> Tensor:
        return sampling.generate(predictor(self.model, self.conditioning(guidance)), self.noise, self.schedule(steps))


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Pair]:
    return {}


@pytest.fixture(params=["sdxl", "flux-dev", "flux-schnell"])
def pair(request: pytest.FixtureRequest, pairs: dict[str, Pair], tmp_path_factory: pytest.TempPathFactory) -> Pair:
    kind = request.param
    if kind not in pairs:
        torch.manual_seed(0)
        folder = tmp_path_factory.mktemp("families") / "pipeline"
        KINDS[kind]().save_pretrained(folder)
        pairs[kind] = Pair(folder, kind)
    return pairs[kind]


def only(*kinds: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("pair", kinds, indirect=True)


def away(a: Tensor, b: Tensor) -> float:
    """The largest difference, relative to how large `b` is."""
    return ((a - b).abs().max() / b.abs().max()).item()


@pytest.mark.parametrize("guidance", [1.0, 4.0])
@pytest.mark.parametrize("pair", KINDS, indirect=True)
def test_generation_is_that_of_diffusers_pipeline(pair: Pair, guidance: float) -> None:
    theirs, ours = pair.theirs(8, guidance), pair.ours(8, guidance)
    assert ours.dtype == torch.float32
    assert away(ours, theirs) < 1e-4
    assert away(ours, pair.ours(8, guidance + 1)) > 1e-3  # so that the test could fail


def test_images_are_those_of_diffusers_pipeline(pair: Pair) -> None:
    theirs = pair.theirs(5, 4.0, "pt")
    assert (pair.model.decode(pair.ours(5, 4.0)).float() - theirs * 255).abs().max() < 0.51


@only("sdxl", "sdxl encodes the empty prompt")
def test_embeddings_are_those_of_sdxl(pair: Pair) -> None:
    theirs = pair.pipeline.encode_prompt(PROMPTS, device=CPU)
    text, null = pair.model.embed(PROMPTS), pair.model.embed(["", ""])
    for ours, their in zip((text.states, null.states, text.pooled, null.pooled), theirs, strict=True):
        assert torch.allclose(ours, their, atol=1e-5)
    assert (null.states == 0).all() == (pair.kind == "sdxl")
    assert text.states.shape[1:] == pair.model.text_shape


@only("flux-dev")
@pytest.mark.filterwarnings("ignore:the text encoder reads")
def test_embeddings_are_those_of_flux(pair: Pair) -> None:
    """Also of the empty prompt, and of one too long, which is cut."""
    prompts = [*PROMPTS, "", "a photo of a star " * 20]
    states, pooled, _ = pair.pipeline.encode_prompt(prompts, max_sequence_length=LENGTH)
    ours = pair.model.embed(prompts)
    assert torch.allclose(ours.states, states, atol=1e-5)
    assert torch.allclose(ours.pooled, pooled, atol=1e-5)
    assert ours.states.shape[1:] == pair.model.text_shape


@torch.no_grad()
def test_encoding_and_decoding_are_the_pipelines_scale_and_shift(pair: Pair) -> None:
    vae, images = pair.pipeline.vae, torch.randint(0, 256, (2, 3, 24, 16), dtype=torch.uint8)
    scale, shift = vae.config.scaling_factor, vae.config.shift_factor or 0
    mean = vae.encode(images / 127.5 - 1).latent_dist.mean
    assert torch.allclose(pair.model.encode(images), (mean - shift) * scale, atol=1e-4)
    pixels = vae.decode(pair.noise / scale + shift).sample
    theirs = pair.pipeline.image_processor.postprocess(pixels, output_type="pt") * 255
    assert (pair.model.decode(pair.noise).float() - theirs).abs().max() < 0.51


@torch.no_grad()
def test_inversion_is_that_of_diffusers_scheduler(pair: Pair) -> None:
    """SDXL against DDIMInverseScheduler; FLUX against a loop over the levels of its own scheduler."""
    clean, conditioning = 0.5 * pair.noise.flip(0), pair.conditioning(1)
    ours = sampling.invert(predictor(pair.model, conditioning), clean, pair.schedule(20))
    theirs = _flow_inverted(pair, clean) if pair.flow else _ddim_inverted(pair, clean)
    assert away(ours, theirs) < 1e-4
    assert away(ours, clean) > 1e-2


def _ddim_inverted(pair: Pair, z: Tensor) -> Tensor:
    scheduler = DDIMInverseScheduler.from_config(pair.pipeline.scheduler.config, timestep_spacing="trailing")
    scheduler.set_timesteps(20)
    text, _, pooled, _ = pair.pipeline.encode_prompt(PROMPTS, device=CPU)
    ids = torch.tensor([[4 * HEIGHT, 4 * WIDTH, 0, 0, 4 * HEIGHT, 4 * WIDTH]] * 2)
    added = {"text_embeds": pooled, "time_ids": ids}
    for t in scheduler.timesteps:
        out = pair.pipeline.unet(z, t, text, added_cond_kwargs=added).sample
        z = scheduler.step(out, t, z).prev_sample
    return z


def _flow_inverted(pair: Pair, z: Tensor) -> Tensor:
    pair.theirs(20, 1.0)  # sets the scheduler's levels
    states, pooled, ids = pair.pipeline.encode_prompt(PROMPTS, max_sequence_length=LENGTH)
    guidance = torch.full([2], 3.5) if pair.kind == "flux-dev" else None
    for clean, noisy in pairwise(reversed(pair.pipeline.scheduler.sigmas.tolist())):
        out = pair.pipeline.transformer(
            FluxPipeline._pack_latents(z, 2, 4, HEIGHT, WIDTH),
            states,
            pooled,
            torch.full([2], noisy),
            FluxPipeline._prepare_latent_image_ids(2, HEIGHT // 2, WIDTH // 2, CPU, torch.float32),
            ids,
            guidance,
        ).sample
        z = z + (noisy - clean) * FluxPipeline._unpack_latents(out, 4 * HEIGHT, 4 * WIDTH, 4)
    return z


@only("sdxl", "flux-dev")
@torch.no_grad()
def test_the_round_trips_error_falls_with_the_step(pair: Pair) -> None:
    """First order: twice the steps, half of the error."""
    text, null, clean, errors = pair.model.embed(PROMPTS[:1]), pair.model.embed([""]), 0.5 * pair.noise[:1], []
    predict = predictor(pair.model, Conditioning(text, null))
    for steps in (40, 80):
        schedule = pair.schedule(steps)
        errors.append(away(sampling.generate(predict, sampling.invert(predict, clean, schedule), schedule), clean))
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.2)


def test_the_family_is_told_from_the_folder(pair: Pair) -> None:
    assert isinstance(pair.model, FluxModel if pair.flow else SDXLModel)
    assert pair.model.latent_shape(16) == (4, 4, 4)


# FLUX


def test_packing_is_that_of_diffusers() -> None:
    z = torch.randn(2, 3, 6, 4)
    assert torch.equal(pack(z), FluxPipeline._pack_latents(z, 2, 3, 6, 4))
    assert torch.equal(unpack(pack(z), 3, 2), z)
    assert torch.equal(positions(3, 2, CPU), FluxPipeline._prepare_latent_image_ids(2, 3, 2, CPU, torch.float32))


@only("flux-dev")
@pytest.mark.parametrize("steps", [1, 2, 28])
@pytest.mark.parametrize("size", [16, "16x24", 64])
def test_levels_are_those_of_diffusers_scheduler(pair: Pair, size: Any, steps: int) -> None:
    """`trailing` as FLUX's pipeline sets them, `linspace` as the scheduler does by itself."""
    scheduler = FlowMatchEulerDiscreteScheduler.from_pretrained(pair.folder, subfolder="scheduler")
    model, config = load(pair.folder, **pair.settings, size=size), scheduler.config
    _, h, w = model.latent_shape(size)
    names = ("base_image_seq_len", "max_image_seq_len", "base_shift", "max_shift")
    mu = calculate_shift(h * w // 4, *(config[name] for name in names)) if config.use_dynamic_shifting else None
    own: dict[str, dict[str, Any]] = {
        "trailing": {"sigmas": np.linspace(1, 1 / steps, steps)},
        "linspace": {"num_inference_steps": steps},
    }
    for spacing, levels in own.items():
        scheduler.set_timesteps(**levels, mu=mu)
        ours = [interval.noisy.sigma for interval in model.schedule(steps, spacing)]
        assert ours == pytest.approx(scheduler.sigmas[:-1].flip(0).tolist(), abs=1e-6), spacing


@only("flux-dev")
def test_the_shift_depends_on_the_size_of_the_image(pair: Pair) -> None:
    sizes: Sequence[Any] = (16, "16x24", 32)
    shifts = [load(pair.folder, **pair.settings, size=size).schedule(4, "trailing")[1].noisy.sigma for size in sizes]
    assert shifts == sorted(shifts)
    assert len(set(shifts)) == 3


@only("flux-dev")
def test_embedded_guidance_is_needed_and_in_the_identity(pair: Pair) -> None:
    other = load(pair.folder, embedded_guidance=1.0)
    assert other.identity != pair.model.identity
    with pytest.raises(UserError, match=r"set model.embedded_guidance=3.5"):
        load(pair.folder)


@only("flux-schnell")
def test_embedded_guidance_is_refused_where_it_is_not_read(pair: Pair) -> None:
    with pytest.raises(UserError, match=r"set model.embedded_guidance=null"):
        load(pair.folder, embedded_guidance=3.5)


@only("flux-dev")
def test_odd_latents_are_refused(pair: Pair) -> None:
    with pytest.raises(UserError, match=r"model\.size=20: must be a multiple of 8"):
        load(pair.folder, **pair.settings, size=20)


# Less memory


def predicted(pair: Pair, settings: dict[str, Any] = {}, **speed: Any) -> Tensor:  # noqa: B006
    """Return x0 of one prediction by the pair's model, loaded again."""
    model = load(pair.folder, SpeedConfig(**speed), **pair.settings, **settings)
    cond, interval = pair.conditioning(2.0), pair.schedule(4)[-1]
    with torch.no_grad():
        return model.predict(pair.noise, interval.noisy, interval.timestep, cond)[0]


@only("sdxl", "flux-dev")
def test_offloading_changes_no_bit(pair: Pair) -> None:
    assert torch.equal(predicted(pair, {"offload": "true"}), predicted(pair))
    model = load(pair.folder, offload="true", **pair.settings)
    assert model.identity == pair.model.identity


@only("sdxl", "flux-dev")
@pytest.mark.parametrize(("kind", "most"), [("int8", 0.05), ("fp8", 0.15)])
def test_quantized_weights_round_and_are_in_the_identity(pair: Pair, kind: str, most: float) -> None:
    pytest.importorskip("torchao")
    model: Any = load(pair.folder, quantize=kind, **pair.settings)
    assert model.identity == pair.model.identity | {"precision": f"float32+{kind}"}
    assert 1e-4 < away(predicted(pair, {"quantize": kind}), predicted(pair)) < most
    assert type(model.denoiser.hf_quantizer).__name__ == "TorchAoHfQuantizer"  # diffusers' own


@pytest.mark.parametrize(("kind", "package"), [("int8", "torchao"), ("nf4", "bitsandbytes")])
def test_a_package_that_is_missing_is_named(kind: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf"needs {package}, .* pip install 'latentmix\[quantize\]'"):
        check_quantization(kind, torch.device("cuda"))


@only("sdxl")
def test_four_bits_are_refused_on_a_cpu(pair: Pair) -> None:
    with pytest.raises(UserError, match=r"nf4 needs a GPU .* take int8 or fp8"):
        load(pair.folder, quantize="nf4")


@only("sdxl")
def test_quantizing_and_offloading_exclude_each_other(pair: Pair) -> None:
    pytest.importorskip("torchao")
    with pytest.raises(UserError, match="can't be combined"):
        load(pair.folder, offload="true", quantize="int8")


@only("flux-dev")
def test_the_vae_works_in_tiles_as_diffusers_does(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("latentmix.models.vae.TILE", 16)
    model, images = load(pair.folder, SpeedConfig(vae_tiling=True), **pair.settings), torch.rand(2, 3, 24, 32)
    theirs = DiffusionPipeline.from_pretrained(pair.folder, dtype=torch.float32).vae
    theirs.enable_tiling()
    theirs.tile_sample_min_size, theirs.tile_latent_min_size = 16, 4
    with torch.no_grad():
        mean = theirs.encode((images * 255).byte() / 127.5 - 1).latent_dist.mean
    assert torch.allclose(model.encode((images * 255).byte()), (mean - 0.1) * 0.5, atol=1e-5)
    assert not torch.allclose(pair.model.encode((images * 255).byte()), (mean - 0.1) * 0.5, atol=1e-3)
    assert model.identity == pair.model.identity | {"vae tiles": "16"}


# The commands, on images that are not square


@pytest.mark.usefixtures("random_pipelines")
@pytest.mark.parametrize("name", ["SD", "SD3", "SDXL", "FLUX"])
def test_commands_take_every_family_and_shape(name: str, tmp_path: Path) -> None:
    small = (
        "data.classes=[star]",
        "n=[2]",
        "methods=[fix/0,fix/chm]",
        "metrics=[clip_distance]",
        "pool=3",
        "draws=2",
        "steps=2",
    )
    run = (*getattr(pipelines, name), *small, "model.size=16x8", "data.reference=4", "name=run", f"outputs={tmp_path}")
    commands = ("doctor",), ("sweep", "--dry-run"), ("sweep",), ("mix", "--weights", "0.5,0.5"), ("figure", "fig8")
    for command in commands:
        said = invoke(*command, *run)
        assert said.code == 0, said.err
    images = [file for file in tmp_path.rglob("*.png") if not file.name.startswith("fig")]
    assert {tuple(read_image(file).shape) for file in images} == {(3, 8, 16)}
    _, height, width = read_image(tmp_path / "run" / "fig1.png").shape
    assert height < width  # two images below each other


@pytest.mark.usefixtures("random_pipelines")
def test_null_text_is_refused_where_guidance_is_none() -> None:
    with pytest.raises(UserError, match="null_text needs classifier-free guidance"):
        compose([*pipelines.FLUX, "inversion=null_text"])


@only("sdxl", "flux-dev")
def test_bench_calls_the_pipeline_of_a_family_as_it_wants(pair: Pair) -> None:
    from latentmix.commands.bench import Batch, plain

    settings = {"path": pair.folder, "max_sequence_length": LENGTH, "spacing": "trailing", **pair.settings}
    config = compose(["model=flux-schnell", *(f"model.{k}={v}" for k, v in settings.items()), "steps=4", "guidance=4"])
    theirs = plain(Batch(config, pair.folder, PROMPTS[0], pair.noise, "float32", "cpu", 1))()
    cond = Conditioning(pair.model.embed(PROMPTS[:1]), pair.model.embed([""]), 4.0)
    ours = sampling.generate(predictor(pair.model, cond), pair.noise, pair.schedule(4))
    assert (pair.model.decode(ours).float() - theirs.float()).abs().max() <= 1
