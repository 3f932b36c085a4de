"""What people have of models: variants, shards, single files, LoRA, another VAE. Each is read as what it was made of.

The pipelines have random weights in the classes of the real ones. Single files have their weights under CompVis' names.
"""

import json
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from driver import invoke
from PIL import Image
from pipelines import SIZE, stable_diffusion, stable_diffusion_3, stable_diffusion_xl
from safetensors.torch import load_file, save_file
from torch import Tensor

import latentmix as lm
from latentmix.compose import compose
from latentmix.embedded import embedded_folder
from latentmix.errors import UserError
from latentmix.models import check_size, load_model, single_file
from latentmix.models.architectures import ARCHITECTURES
from latentmix.models.assembly import clip_tokenizer
from latentmix.models.pipeline import check_weights, find, wanted_files
from latentmix.models.protocol import Conditioning, Model
from latentmix.weight_files import read_source

CPU = torch.device("cpu")
PROMPT = "a photo of a star"
STEMS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}
SMALL = (
    *("data=shapes", "data.classes=[star]", "pool=2", "n=[2]", "methods=[fix/0]", "metrics=[fid]", "draws=2"),
    *("steps=1", "inversion.steps=1", "data.reference=2", "model.size=16", "model.name=m"),
)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATENTMIX_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("original") / "sd"
    torch.manual_seed(0)
    stable_diffusion().save_pretrained(folder)
    return folder


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    return shutil.copytree(original, tmp_path / "sd")


def model_of(path: Path, *settings: str) -> Model:
    config = compose(["model=tiny", f"model.path={path}", "model.size=16", *settings]).model
    check_weights(find(config))
    return load_model(config, CPU)


def outputs(path: Path, *settings: str) -> list[Tensor]:
    """What each network of a model returns; of the unchanged original it is computed once."""
    if path.parent.name.startswith("original") and not settings:
        return original_outputs(path)
    return computed(path, *settings)


@cache
def original_outputs(path: Path) -> list[Tensor]:
    return computed(path)


@torch.no_grad()
def computed(path: Path, *settings: str) -> list[Tensor]:
    model = model_of(path, *settings)
    text, null = model.embed([PROMPT]), model.embed([""])
    z = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(1))
    (interval,) = model.schedule(1, compose([]).model.spacing)
    noise = model.predict(z, interval.noisy, interval.timestep, Conditioning(text, null, 3.0))[1]
    return [
        text.states,
        noise,
        model.decode(z).float(),
        model.encode(torch.full((1, 3, 16, 16), 90, dtype=torch.uint8)),
    ]


def same(a: list[Tensor], b: list[Tensor], tolerance: float = 1e-5) -> bool:
    return all(torch.allclose(x, y, atol=tolerance, rtol=tolerance) for x, y in zip(a, b, strict=True))


def identity(path: Path, *settings: str) -> dict[str, str]:
    return model_of(path, *settings).identity


def refusal(path: Path, *settings: str) -> str:
    with pytest.raises(UserError) as refused:
        model_of(path, *settings)
    assert "\n" not in str(refused.value)
    return str(refused.value)


# Damaged and missing small files


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("scheduler/scheduler_config.json", "{", "can't be read"),
        ("scheduler/scheduler_config.json", None, "can't be read: No such file"),
        ("vae/config.json", "{}", "lacks 'block_out_channels'"),
        ("unet/config.json", "[1]", "can't be read"),
        ("text_encoder/config.json", "{}", "lacks 'max_position_embeddings'"),
    ],
)
def test_a_damaged_config_is_named(name: str, content: str | None, reason: str, folder: Path) -> None:
    file = folder / name
    file.unlink()
    (file.parent / "other.json").write_text("{}")
    if content is not None:
        file.write_text(content)
    line = refusal(folder)
    assert str(file) in line and reason in line and "copy the whole folder again" in line
    said = invoke("sweep", "--dry-run", *SMALL, f"model.path={folder}")
    assert said.code == 2 and str(file) in said.err


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer; run git lfs pull"),
        ("<!DOCTYPE html>", "is an HTML page, as servers send in place of a file"),
    ],
)
def test_what_is_in_the_place_of_weights_is_named(content: str, what: str, folder: Path, tmp_path: Path) -> None:
    weights, alone = folder / "unet" / "diffusion_pytorch_model.safetensors", tmp_path / "x.safetensors"
    for file in (weights, alone):
        file.write_text(content)
    with pytest.raises(UserError, match=f"{weights} {what}"):
        check_weights(folder)
    assert f"{alone} {what}" in refusal(alone)
    for setting in ("lora", "vae"):
        assert f"{alone} {what}" in refusal(embedded_folder("tiny"), f"model.{setting}={alone}")


def test_the_folder_of_a_pipeline_is_named_where_one_around_it_is_given(original: Path, tmp_path: Path) -> None:
    for place in ("around/sd", "models--me--sd/snapshots/abc"):
        shutil.copytree(original, tmp_path / place)
        for above in (
            path for path in (tmp_path / place).parents if path.is_relative_to(tmp_path / place.split("/")[0])
        ):
            assert f"no pipeline folder; {tmp_path / place} is one" in refusal(above)


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"merges.txt": None}, "lacks merges.txt (or tokenizer.json)"),
        ({"vocab.json": None}, "lacks vocab.json (or tokenizer.json)"),
        ({"vocab.json": None, "merges.txt": None}, "lacks vocab.json and merges.txt"),
        ({"merges.txt": 0}, "merges.txt is cut short: 119 tokens are missing"),
        ({"merges.txt": 400}, "merges.txt is cut short"),
        ({"vocab.json": 900}, "vocab.json can't be read"),
    ],
)
def test_a_tokenizer_that_is_not_whole_is_refused(
    files: dict[str, int | None], reason: str, original: Path, folder: Path
) -> None:
    """transformers would take what there is, and cut prompts into other tokens."""
    tokenizer = shutil.copytree(embedded_folder("tiny") / "tokenizer", folder / "tokenizer", dirs_exist_ok=True)
    for name, size in files.items():
        content = (tokenizer / name).read_bytes()
        (tokenizer / name).unlink()
        if size is not None:
            (tokenizer / name).write_bytes(content[:size])
    assert torch.equal(model_of(folder).embed([PROMPT]).states, original_outputs(original)[0])  # by tokenizer.json
    (tokenizer / "tokenizer.json").unlink()
    line = refusal(folder)
    assert reason in line and str(tokenizer) in line and "copy the whole folder again" in line


def test_a_tokenizer_without_tokenizer_json_is_read(original: Path, folder: Path) -> None:
    shutil.copytree(embedded_folder("tiny") / "tokenizer", folder / "tokenizer", dirs_exist_ok=True)
    (folder / "tokenizer" / "tokenizer.json").unlink()
    assert torch.equal(model_of(folder).embed([PROMPT]).states, original_outputs(original)[0])


# Variants and shards


def as_variant(folder: Path, name: str, dtype: torch.dtype, keep: bool = False) -> None:
    for part, stem in STEMS.items():
        file = folder / part / f"{stem}.safetensors"
        weights = {key: value.to(dtype) for key, value in load_file(file).items()}
        save_file(weights, folder / part / f"{stem}.{name}.safetensors", {"format": "pt"})
        if not keep:
            file.unlink()


def shard(folder: Path, part: str, variant: str = "", index: bool = True, count: int = 3) -> None:
    file = folder / part / f"{STEMS[part]}.safetensors"
    weights = load_file(file)
    names, places = sorted(weights), dict[str, str]()
    for number in range(count):
        name = f"{STEMS[part]}{variant}-{number + 1:05d}-of-{count:05d}.safetensors"
        save_file({key: weights[key] for key in names[number::count]}, folder / part / name, {"format": "pt"})
        places |= dict.fromkeys(names[number::count], name)
    if index:
        (folder / part / f"{file.name}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    file.unlink()


@pytest.mark.parametrize(("name", "dtype"), [("fp16", torch.float16), ("bf16", torch.bfloat16)])
def test_a_variant_alone_is_found_by_itself(name: str, dtype: torch.dtype, original: Path, folder: Path) -> None:
    as_variant(folder, name, dtype)
    found = outputs(folder)
    assert same(found, outputs(original), 0.1) and not same(found, outputs(original), 1e-6)
    assert identity(folder)["weights"] != identity(original)["weights"]
    assert identity(folder) == identity(folder, f"model.variant={name}")


def test_a_named_variant_is_taken_where_there_is_one(original: Path, folder: Path) -> None:
    as_variant(folder, "fp16", torch.float16, keep=True)
    (folder / "vae" / "diffusion_pytorch_model.fp16.safetensors").unlink()
    assert same(outputs(folder), outputs(original), 0)
    text, noise, *_ = outputs(folder, "model.variant=fp16")
    assert not torch.equal(text, outputs(original)[0]) and not torch.equal(noise, outputs(original)[1])
    assert torch.equal(outputs(folder, "model.variant=fp16")[2], outputs(original)[2])
    assert "no weights of model.variant=bf16; its variants are: fp16" in refusal(folder, "model.variant=bf16")


@pytest.mark.parametrize(("variant", "index"), [("", True), ("", False), (".fp16", False)])
@pytest.mark.parametrize("part", ["unet", "text_encoder"])
def test_shards_are_read_with_an_index_or_without(
    part: str, variant: str, index: bool, original: Path, folder: Path
) -> None:
    shard(folder, part, variant, index)
    assert same(outputs(folder), outputs(original), 1e-5)  # products round by where weights lie in memory
    next((folder / part).glob("*-00002-of-*")).unlink()
    assert str(folder / part) in refusal(folder)


def test_doctor_dry_run_and_run_agree_on_what_is_there(folder: Path, tmp_path: Path) -> None:
    as_variant(folder, "fp16", torch.float16)
    arguments = (*SMALL, f"model.path={folder}", f"outputs={tmp_path / 'out'}")
    for command in (["doctor"], ["sweep", "--dry-run"], ["sweep"], ["mix"]):
        result = invoke(*command, *arguments)
        assert result.code == 0, result.err
        assert command != ["doctor"] or f"is in {folder}; its fp16 weights are read" in result.out
    (folder / "unet" / "diffusion_pytorch_model.fp16.safetensors").unlink()
    for command in (["doctor"], ["sweep", "--dry-run"], ["sweep", "name=again"]):
        result = invoke(*command, *arguments)
        assert str(folder / "unet") in result.out + result.err and (result.code or "--dry-run" in command)


# Single files, under the names that CompVis gave


def to_compvis(
    folder: Path, place: Path, dtype: torch.dtype = torch.float32, text: str = "cond_stage_model.", **more: Tensor
) -> Path:
    """Write a pipeline of one layer a block as one file, by the names of the checkpoints of Stable Diffusion 1."""
    unet, vae, encoder = (load_file(folder / part / f"{stem}.safetensors") for part, stem in STEMS.items())
    names = {f"model.diffusion_model.{unet_name(name)}": value for name, value in unet.items()}
    for name, value in vae.items():
        is_attention = any(f".{part}." in name for part in ("to_q", "to_k", "to_v", "to_out.0"))
        value = value[:, :, None, None] if is_attention and value.ndim == 2 else value  # were convolutions
        names[f"first_stage_model.{vae_name(name)}"] = value
    prefix = f"{text}transformer.text_model."
    names |= {prefix + name.removeprefix("text_model."): value for name, value in encoder.items()}
    names |= {f"{prefix}embeddings.position_ids": torch.arange(77)[None]} | more
    save_file({name: value.to(dtype).contiguous() for name, value in names.items()}, place)
    return place


RESNET = {"norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1"}
RESNET |= {"norm2": "out_layers.0", "conv2": "out_layers.3", "conv_shortcut": "skip_connection"}


def unet_name(name: str, levels: int = 2, layers: int = 1) -> str:
    """The name that a weight of diffusers' U-Net has in CompVis' layout."""
    block, *rest = name.split(".")
    plain = {"conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2"}
    if block in plain:
        return ".".join([plain[block], *rest])
    if block == "time_embedding":
        return ".".join(["time_embed", {"linear_1": "0", "linear_2": "2"}[rest[0]], *rest[1:]])
    if block == "add_embedding":  # of SDXL
        return ".".join(["label_emb.0", {"linear_1": "0", "linear_2": "2"}[rest[0]], *rest[1:]])
    if block == "mid_block":
        start = f"middle_block.{1 if rest[0] == 'attentions' else 2 * int(rest[1])}"
        return ".".join([start, *inner(rest[0], rest[2:])])
    level, kind, layer, rest = int(rest[0]), rest[1], int(rest[2]), rest[3:]
    if block == "down_blocks":
        number = 1 + level * (layers + 1) + (layers if kind == "downsamplers" else layer)
        return ".".join([f"input_blocks.{number}.{int(kind == 'attentions')}", *inner(kind, rest, "op")])
    number = level * (layers + 1) + (layers if kind == "upsamplers" else layer)
    has_attention = level == 0  # of the random pipeline
    place = {"resnets": 0, "attentions": 1, "upsamplers": 1 + has_attention}[kind]
    return ".".join([f"output_blocks.{number}.{place}", *inner(kind, rest)])


def inner(kind: str, rest: list[str], sampler: str = "conv") -> list[str]:
    if kind == "resnets":
        return [RESNET[rest[0]], *rest[1:]]
    return [sampler, *rest[1:]] if kind.endswith("samplers") else rest


def vae_name(name: str, levels: int = 3) -> str:
    name = name.replace("down_blocks.", "down.").replace("mid_block.resnets.0", "mid.block_1")
    name = name.replace("mid_block.resnets.1", "mid.block_2").replace("mid_block.attentions.0", "mid.attn_1")
    for new, old in (("resnets", "block"), ("downsamplers.0", "downsample"), ("upsamplers.0", "upsample")):
        name = name.replace(new, old)
    for new, old in (("conv_shortcut", "nin_shortcut"), ("conv_norm_out", "norm_out"), ("group_norm", "norm")):
        name = name.replace(new, old)
    for new, old in (("to_q", "q"), ("to_k", "k"), ("to_v", "v"), ("to_out.0", "proj_out")):
        name = name.replace(f".{new}.", f".{old}.")
    start, found, rest = name.partition("up_blocks.")
    if found:
        level, _, rest = rest.partition(".")
        return f"{start}up.{levels - 1 - int(level)}.{rest}"
    return name


@pytest.fixture(scope="module")
def checkpoint(original: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return to_compvis(original, tmp_path_factory.mktemp("checkpoint") / "tuned.safetensors")


def test_a_single_file_is_read_as_the_folder_that_it_was_made_of(original: Path, checkpoint: Path) -> None:
    own = f"model.architecture={original}"
    assert same(outputs(checkpoint, own), outputs(original), 1e-6)
    known = identity(checkpoint, own)
    copy = shutil.copy(checkpoint, checkpoint.with_name("renamed.safetensors"))
    assert identity(Path(copy), own) == known != identity(original)


def test_a_single_file_is_a_pipeline_by_its_name(checkpoint: Path, original: Path) -> None:
    settings = (f"model.architecture={original}", f"model.size={SIZE}", "steps=2")
    pipes = [lm.Pipeline.from_pretrained(str(path), *settings, device="cpu") for path in (checkpoint, original)]
    images = []
    for pipe in pipes:
        pipe.progress = False
        images.append(pipe.generate(pipe.noise(1), "a cat", output="tensor"))
    assert int((images[0].int() - images[1].int()).abs().max()) <= 1


def test_a_single_file_goes_through_all_commands(original: Path, checkpoint: Path, tmp_path: Path) -> None:
    arguments = (*SMALL, f"model.path={checkpoint}", f"model.architecture={original}", f"outputs={tmp_path / 'out'}")
    for command in (["doctor"], ["fetch"], ["sweep"]):
        result = invoke(*command, *arguments)
        assert result.code == 0, result.err
        assert command[0] not in ("doctor", "fetch") or f"is in {checkpoint}" in result.out


def test_without_configs_of_its_own_a_single_file_has_those_of_its_family(original: Path, checkpoint: Path) -> None:
    """A real Stable Diffusion 1.5 is 320 channels wide."""
    text = refusal(checkpoint)
    assert "does not have the usual unet: " in text or "does not have the usual text_encoder: " in text
    assert "[320" in text or "[49408, 768]" in text


@pytest.mark.parametrize("halves", [torch.float16, torch.bfloat16])
def test_a_single_file_may_be_in_sixteen_bits_and_pickled(
    halves: torch.dtype, original: Path, checkpoint: Path, tmp_path: Path
) -> None:
    own = f"model.architecture={original}"
    small = to_compvis(original, tmp_path / "half.safetensors", halves)
    assert same(outputs(small, own), outputs(original), 0.1)
    pickle = tmp_path / "tuned.ckpt"
    torch.save({"state_dict": load_file(small), "global_step": 7}, pickle)
    assert "set model.pickled=true" in refusal(pickle, own)
    assert same(outputs(pickle, own, "model.pickled=true"), outputs(small, own), 0)


def test_what_a_single_file_says_of_its_prediction_is_followed(original: Path, tmp_path: Path) -> None:
    own = f"model.architecture={original}"
    plain = to_compvis(original, tmp_path / "e.safetensors")
    spoken = to_compvis(original, tmp_path / "v.safetensors", v_pred=torch.tensor([]), ztsnr=torch.tensor([]))

    def scheduler(path: Path, *settings: str) -> dict[str, Any]:
        made = find(compose(["model=tiny", f"model.path={path}", own, *settings]).model)
        return json.loads((made / "scheduler" / "scheduler_config.json").read_text())

    assert scheduler(plain)["prediction_type"] == "epsilon" and not scheduler(plain)["rescale_betas_zero_snr"]
    assert scheduler(spoken)["prediction_type"] == "v_prediction" and scheduler(spoken)["rescale_betas_zero_snr"]
    assert scheduler(plain, "model.prediction=v_prediction")["prediction_type"] == "v_prediction"


@pytest.mark.parametrize(
    ("tensors", "text"),
    [
        ({"lora_unet_x.lora_up.weight": (4, 4)}, "holds no Stable Diffusion; single files of sd15"),
        ({"model.diffusion_model.input_blocks.0.0.weight": (320, 9, 3, 3)}, "'inpainting'"),
        ({"model.diffusion_model.input_blocks.0.0.weight": (320, 8, 3, 3)}, "'instruct-pix2pix'"),
        ({"model.diffusion_model.x": (1,), "cond_stage_model.x": (1,)}, "lacks vae; give a pipeline folder"),
        ({"model.diffusion_model.x": (1,), "first_stage_model.x": (1,)}, "lacks text_encoder; give a pipeline folder"),
        ({"conditioner.embedders.0.model.transformer.resblocks.9.mlp.c_proj.bias": (1,)}, "'xl_refiner'"),
        (
            {
                "model.diffusion_model.input_blocks.2.1.transformer_blocks.0.attn2.to_k.weight": (320, 1024),
                **{"first_stage_model.x": (1,), "cond_stage_model.x": (1,)},
            },
            "is a Stable Diffusion 2, and does not say what it predicts: set model.prediction=v_prediction",
        ),
        ({"double_blocks.0.img_attn.norm.key_norm.scale": (1,)}, "lacks text_encoder, text_encoder_2, vae; give"),
        ({"joint_blocks.0.context_block.adaLN_modulation.1.bias": (1,)}, "lacks text_encoder, text_encoder_2, text_"),
        (
            {"double_blocks.0.img_attn.norm.key_norm.scale": (1,), "double_blocks.0.img_attn.qkv.scale_weight": (1,)},
            "holds weights in scaled 8 bits, which can't be read; take the file in 16 bits",
        ),
    ],
)
def test_single_files_of_other_models_are_refused_by_name(
    tensors: dict[str, tuple[int, ...]], text: str, tmp_path: Path
) -> None:
    save_file({name: torch.zeros(shape) for name, shape in tensors.items()}, tmp_path / "x.safetensors")
    assert text in refusal(tmp_path / "x.safetensors")


def test_what_a_single_file_lacks_is_read_from_a_folder(original: Path, checkpoint: Path, tmp_path: Path) -> None:
    whole = load_file(checkpoint)
    part = tmp_path / "part.safetensors"
    save_file({name: value for name, value in whole.items() if not name.startswith("first_stage_model")}, part)
    assert same(outputs(part, f"model.architecture={original}"), outputs(original), 1e-6)
    (vae,) = (original / "vae").glob("*.safetensors")
    given = (f"model.architecture={original}", f"model.vae={vae}")
    other = shutil.copy(checkpoint, tmp_path / "other.safetensors")
    save_file({name: value + 1 for name, value in whole.items()}, other)
    assert identity(Path(other), *given) != identity(checkpoint, *given) != identity(original)
    (tmp_path / "configs").mkdir()
    assert "is no pipeline folder" in refusal(part, f"model.architecture={tmp_path / 'configs'}")


SD3_NAMES = {  # of a block of Stable Diffusion 3 -> of diffusers; {side} is x or context
    "{side}_block.attn.proj": "attn.{out}",
    "{side}_block.adaLN_modulation.1": "norm1{more}.linear",
    "{side}_block.mlp.fc1": "ff{more}.net.0.proj",
    "{side}_block.mlp.fc2": "ff{more}.net.2",
}
SD3_PLAIN = {
    "pos_embed": "pos_embed.pos_embed",
    "x_embedder.proj": "pos_embed.proj",
    "t_embedder.mlp.0": "time_text_embed.timestep_embedder.linear_1",
    "t_embedder.mlp.2": "time_text_embed.timestep_embedder.linear_2",
    "y_embedder.mlp.0": "time_text_embed.text_embedder.linear_1",
    "y_embedder.mlp.2": "time_text_embed.text_embedder.linear_2",
    "context_embedder": "context_embedder",
    "final_layer.linear": "proj_out",
    "final_layer.adaLN_modulation.1": "norm_out.linear",
}


def to_sd3(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a transformer of Stable Diffusion 3 by the names of its published files."""
    found = {"pos_embed": weights["pos_embed.pos_embed"]}
    layers = 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("transformer_blocks."))
    names = dict(SD3_PLAIN)
    for layer in range(layers):
        start, block = f"transformer_blocks.{layer}", f"joint_blocks.{layer}"
        for side, more, out, letters in (
            ("x", "", "to_out.0", "to_{}"),
            ("context", "_context", "to_add_out", "add_{}_proj"),
        ):
            for theirs, ours in SD3_NAMES.items():
                names[f"{block}.{theirs.format(side=side)}"] = f"{start}.{ours.format(more=more, out=out)}"
            for kind in ("weight", "bias"):
                parts = [weights[f"{start}.attn.{letters.format(letter)}.{kind}"] for letter in "qkv"]
                found[f"{block}.{side}_block.attn.qkv.{kind}"] = torch.cat(parts)
            for letter in "qk":
                norm = f"norm_{letter}" if side == "x" else f"norm_added_{letter}"
                found[f"{block}.{side}_block.attn.ln_{letter}.weight"] = weights[f"{start}.attn.{norm}.weight"]
    swapped = ("norm_out.linear", f"transformer_blocks.{layers - 1}.norm1_context.linear")  # scale and shift
    for theirs, ours in names.items():
        for kind in ("weight", "bias"):
            if (value := weights.get(f"{ours}.{kind}")) is not None:
                found[f"{theirs}.{kind}"] = torch.cat(value.chunk(2)[::-1]) if ours in swapped else value
    return found


def test_a_transformer_alone_is_read_with_the_rest_of_a_folder(original: Path, tmp_path: Path) -> None:
    folder, file = tmp_path / "sd3", tmp_path / "tuned.safetensors"
    torch.manual_seed(0)
    stable_diffusion_3().save_pretrained(folder)
    weights = load_file(folder / "transformer" / "diffusion_pytorch_model.safetensors")
    save_file({name: value.contiguous() for name, value in to_sd3(weights).items()}, file)
    sd3 = ("model=tiny-sd3", "model.size=16", "model.max_sequence_length=8")

    def predicted(path: Path, *more: str) -> Tensor:
        model = load_model(compose([*sd3, f"model.path={path}", *more]).model, CPU)
        z, text = torch.ones(1, 4, 4, 4), model.embed([PROMPT])
        (interval,) = model.schedule(1, "linspace")
        with torch.no_grad():
            return model.predict(z, interval.noisy, interval.timestep, Conditioning(text, text))[0]

    expected = predicted(folder)
    (folder / "transformer" / "diffusion_pytorch_model.safetensors").unlink()
    assert torch.allclose(predicted(file, f"model.architecture={folder}"), expected, atol=1e-5)
    assert "lacks text_encoder, text_encoder_2, text_encoder_3, vae; give" in refusal(file, *sd3)
    other = f"model.architecture={original}"
    assert "holds sd35-medium, and model.architecture=" in refusal(file, *sd3, other)


def test_damaged_and_missing_single_files_are_named(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    assert "x.gguf can't be read; give a *.safetensors" in refusal(tmp_path / "x.gguf")
    assert f"there is no file {tmp_path / 'x.safetensors'}" in refusal(tmp_path / "x.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(checkpoint.read_bytes()[:10_000])
    assert "cut.safetensors can't be read as safetensors" in refusal(tmp_path / "cut.safetensors")
    assert "for a single file give model.path=FILE, one of cut.safetensors" in refusal(tmp_path)
    (tmp_path / "cut.ckpt").write_bytes(b"<html>")
    line = refusal(tmp_path / "cut.ckpt", "model.pickled=true")
    assert line.endswith("cut.ckpt can't be read as weights: it is damaged, or holds more than tensors")


@pytest.fixture(scope="module")
def xl(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A pipeline of SDXL's classes as a folder and as one file."""
    from transformers import CLIPTextModelWithProjection

    folder = tmp_path_factory.mktemp("xl") / "folder"
    torch.manual_seed(0)
    pipeline = stable_diffusion_xl()
    pipeline.text_encoder_2.config.num_hidden_layers = 10  # by the tenth layer SDXL is told
    second = CLIPTextModelWithProjection(pipeline.text_encoder_2.config).eval()
    pipeline.register_modules(text_encoder_2=second)
    pipeline.save_pretrained(folder)
    prefix, weights = "conditioner.embedders.1.model.", load_file(folder / "text_encoder_2" / "model.safetensors")
    more = {f"{prefix}{name}": value for name, value in open_clip_weights(weights).items()}
    file = to_compvis(folder, folder.with_name("xl.safetensors"), torch.float32, "conditioner.embedders.0.", **more)
    return folder, file


@pytest.mark.parametrize("form", ["variant", "shards", "single file", "SDXL", "single file of SDXL"])
def test_commands_take_every_form(
    form: str, folder: Path, checkpoint: Path, original: Path, xl: tuple[Path, Path], tmp_path: Path
) -> None:
    own: tuple[str, ...] = ()
    if form == "variant":
        as_variant(folder, "fp16", torch.float16)
    elif form == "shards":
        shard(folder, "unet")
    elif form == "single file":
        folder, own = checkpoint, (f"model.architecture={original}",)
    else:
        folder, own = (xl[0], ()) if form == "SDXL" else (xl[1], (f"model.architecture={xl[0]}",))
    pictures = [str(tmp_path / f"{level}.png") for level in (50, 200)]
    for picture, level in zip(pictures, (50, 200), strict=True):
        Image.new("RGB", (24, 20), (level, 90, 120)).save(picture)
    arguments = (*SMALL, f"model.path={folder}", *own, f"outputs={tmp_path / 'out'}")
    morph = ("morph", *pictures, "--frames", "3", "-o", str(tmp_path / "morph.gif"))
    for command in (("doctor",), ("sweep", "--dry-run"), ("mix",), morph, ("figure", "fig1")):
        result = invoke(*command, *arguments)
        assert result.code == 0, result.err
    with Image.open(tmp_path / "morph.gif") as animation:
        assert animation.n_frames == 3  # type: ignore[attr-defined]
    assert list((tmp_path / "out").rglob("fig1.png"))


def open_clip_weights(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """A text encoder's weights by OpenCLIP's names, in which queries, keys and values are one matrix."""
    plain = {name.removeprefix("text_model."): value for name, value in weights.items()}
    made = {
        "positional_embedding": plain["embeddings.position_embedding.weight"],
        "token_embedding.weight": plain["embeddings.token_embedding.weight"],
        "text_projection": plain["text_projection.weight"].T,
        **{f"ln_final.{kind}": plain[f"final_layer_norm.{kind}"] for kind in ("weight", "bias")},
    }
    names = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}
    for layer in range(10):
        start, end = f"encoder.layers.{layer}", f"transformer.resblocks.{layer}"
        for kind in ("weight", "bias"):
            parts = [plain[f"{start}.self_attn.{letter}_proj.{kind}"] for letter in "qkv"]
            made[f"{end}.attn.in_proj_{kind}"] = torch.cat(parts)
            made[f"{end}.attn.out_proj.{kind}"] = plain[f"{start}.self_attn.out_proj.{kind}"]
            made |= {f"{end}.{theirs}.{kind}": plain[f"{start}.{ours}.{kind}"] for ours, theirs in names.items()}
    return made


def test_a_single_file_of_sdxl_is_read_as_its_folder(xl: tuple[Path, Path]) -> None:
    folder, file = xl
    assert same(outputs(file, f"model.architecture={folder}"), outputs(folder), 1e-5)
    assert find(compose(["model=tiny", f"model.path={file}", f"model.architecture={folder}"]).model).is_dir()


def test_a_lora_of_sdxl_names_blocks_as_compvis_did(xl: tuple[Path, Path], tmp_path: Path) -> None:
    folder, lora = xl[0], tmp_path / "l.safetensors"
    module = "down_blocks.1.attentions.0.transformer_blocks.1.attn1.to_v"
    names = [module, "mid_block.resnets.1.conv1", "up_blocks.0.attentions.1.proj_in"]
    added = make_lora(lora, folder, "kohya", "unet", names)
    theirs = {
        f"lora_unet_{unet_name(f'{name}.weight').removesuffix('.weight')}".replace(".", "_"): name for name in names
    }
    tensors = load_file(lora)
    renamed = {
        f"{new}.lora_{kind}.weight": tensors[f"lora_unet_{name.replace('.', '_')}.lora_{kind}.weight"]
        for new, name in theirs.items()
        for kind in ("down", "up")
    }
    assert any("input_blocks_3_1" in name for name in renamed) and any("middle_block_2" in name for name in renamed)
    save_file(renamed, lora)
    fused(shutil.copytree(folder, tmp_path / "xl"), "unet", added, 1.0)
    assert same(outputs(folder, f"model.lora={lora}"), outputs(tmp_path / "xl"), 1e-5)


@pytest.mark.parametrize("zero_padded", [False, True])
def test_the_tokenizer_of_single_files_is_that_of_clip(zero_padded: bool, tmp_path: Path) -> None:
    from open_clip import SimpleTokenizer
    from transformers import CLIPTokenizer

    for name, content in clip_tokenizer(zero_padded).items():
        (tmp_path / name).write_bytes(content)
    tokenizer, theirs = CLIPTokenizer.from_pretrained(tmp_path), SimpleTokenizer()
    for prompt in ("a photo of a tree frog", "", "Ünïcödé, 123 & émojis 🐸", "it's " * 100):
        ids = tokenizer(prompt, max_length=77, padding="max_length", truncation=True).input_ids
        expected = theirs([prompt])[0].tolist()
        end = expected.index(49407)
        assert ids[: end + 1] == expected[: end + 1]
        assert set(ids[end + 1 :]) <= {0 if zero_padded else 49407}


# LoRA


LORA = {  # the ways in which the same change of a module is named
    "kohya": ("lora_{short}_{flat}.lora_{kind}.weight", ("down", "up"), {"unet": "unet", "text_encoder": "te"}),
    "diffusers": ("{part}.{name}.lora.{kind}.weight", ("down", "up"), {}),
    "peft": ("{part}.{name}.lora_{kind}.weight", ("A", "B"), {}),
    "peft, an adapter": ("{part}.{name}.lora_{kind}.default.weight", ("A", "B"), {}),
    "one network": ("{name}.lora_{kind}.weight", ("A", "B"), {}),
    "one network, processors": ("{name}.lora.{kind}.weight", ("down", "up"), {}),
}


def make_lora(
    file: Path, folder: Path, way: str, part: str, names: list[str], alpha: float | None = None
) -> dict[str, Tensor]:
    """Write a LoRA of rank 2 for some modules; return what it adds to their weights."""
    (weights,) = (folder / part).glob("*.safetensors")
    shapes = {name: load_file(weights)[f"{name}.weight"].shape for name in names}
    form, kinds, shorts = LORA[way]
    tensors, added = {}, {}
    for seed, (name, shape) in enumerate(shapes.items()):
        rng = torch.Generator().manual_seed(seed)
        down = torch.randn(2, *shape[1:], generator=rng) / 4
        up = torch.randn(shape[0], 2, *[1] * (len(shape) - 2), generator=rng) / 4
        words = {"part": part, "short": shorts.get(part), "name": name, "flat": name.replace(".", "_")}
        for kind, tensor in zip(kinds, (down, up), strict=True):
            tensors[form.format(kind=kind, **words)] = tensor
        if alpha is not None:
            tensors[form.format(kind="x", **words).replace(".lora_x.weight", ".alpha")] = torch.tensor(alpha)
        added[f"{name}.weight"] = (up.flatten(1) @ down.flatten(1)).view(shape) * (1 if alpha is None else alpha / 2)
    save_file(tensors, file)
    return added


def fused(folder: Path, part: str, added: dict[str, Tensor], factor: float) -> None:
    """Add to the weights of a folder."""
    (file,) = (folder / part).glob("*.safetensors")
    weights = load_file(file)
    for name, value in added.items():
        weights[name] = weights[name] + factor * value
    save_file(weights, file, {"format": "pt"})


ATTENTION = "down_blocks.1.attentions.0.transformer_blocks.0.attn2"
UNET = [f"{ATTENTION}.to_q", f"{ATTENTION}.to_out.0", "down_blocks.1.attentions.0.proj_in", "mid_block.resnets.0.conv1"]


@pytest.mark.parametrize(("way", "alpha"), [("kohya", 1.0), *((way, None) for way in LORA)])
def test_a_lora_is_added_to_the_weights(
    way: str, alpha: float | None, original: Path, folder: Path, tmp_path: Path
) -> None:
    added = make_lora(tmp_path / "l.safetensors", original, way, "unet", UNET, alpha)
    fused(folder, "unet", added, 0.7)
    assert same(outputs(original, f"model.lora={tmp_path / 'l.safetensors'}:0.7"), outputs(folder), 1e-5)
    assert not same(outputs(original), outputs(folder), 1e-3)


def test_a_model_with_a_lora_and_a_single_file_can_be_quantized(
    original: Path, checkpoint: Path, folder: Path, tmp_path: Path
) -> None:
    pytest.importorskip("torchao")
    fused(folder, "unet", make_lora(tmp_path / "l.safetensors", original, "peft", "unet", UNET), 1.0)
    settings = (f"model.lora={tmp_path / 'l.safetensors'}", "model.quantize=int8")
    quantized = outputs(folder, "model.quantize=int8")
    assert not same(quantized, outputs(folder), 1e-5)
    assert same(outputs(original, *settings), quantized, 1e-3)
    assert same(outputs(checkpoint, f"model.architecture={original}", *settings), quantized, 1e-3)


def test_several_loras_add_up_also_in_the_text_encoder(original: Path, folder: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one.safetensors", tmp_path / "two.safetensors"
    fused(folder, "unet", make_lora(one, original, "kohya", "unet", UNET[:1]), 1.0)
    names = load_file(original / "text_encoder" / "model.safetensors")
    layer = next(name for name in names if name.endswith("layers.1.self_attn.q_proj.weight"))
    fused(
        folder, "text_encoder", make_lora(two, original, "kohya", "text_encoder", [layer.removesuffix(".weight")]), -2.0
    )
    loras = f"model.lora=[{one},{two}:-2]"
    assert same(outputs(original, loras), outputs(folder), 1e-5)
    known = {
        json.dumps(identity(original, setting)) for setting in (loras, f"model.lora={one}", f"model.lora={one}:0.5")
    }
    assert len(known | {json.dumps(identity(original))}) == 4
    assert identity(original, f"model.lora=[{one},{two}]") != identity(original, f"model.lora={one}")
    moved = shutil.copy(one, tmp_path / "moved.safetensors")
    assert identity(original, f"model.lora={moved}") == identity(original, f"model.lora={one}")


@pytest.mark.parametrize(
    ("names", "text"),
    [
        ({"lora_unet_nowhere.lora_down.weight": (2, 3), "lora_unet_nowhere.lora_up.weight": (3, 2)}, "changes nowhere"),
        ({"lora_te2_x.lora_down.weight": (2, 3), "lora_te2_x.lora_up.weight": (3, 2)}, "changes text_encoder_2, which"),
        ({"lora_unet_x.hada_w1_a": (2, 2)}, "hada_w1_a', which no plain LoRA"),
        ({"lora_unet_x.dora_scale": (2, 2)}, "dora_scale', which no plain LoRA"),
        ({"lora_unet_x.lora_down.weight": (2, 3)}, "lacks a half"),
        (
            {f"unet.{ATTENTION}.to_q.lora_A.weight": (2, 768), f"unet.{ATTENTION}.to_q.lora_B.weight": (768, 2)},
            "made for another model",
        ),
    ],
)
def test_a_lora_that_does_not_fit_is_refused_at_the_start(
    names: dict[str, tuple[int, ...]], text: str, original: Path, tmp_path: Path
) -> None:
    save_file({name: torch.zeros(shape) for name, shape in names.items()}, tmp_path / "l.safetensors")
    with pytest.raises(UserError, match=text):
        find(compose(["model=tiny", f"model.path={original}", f"model.lora={tmp_path / 'l.safetensors'}"]).model)
    assert "no such file" in refusal(original, f"model.lora={tmp_path / 'none.safetensors'}").lower()
    for factor in ("x", "", "nan", "-inf"):
        assert f"{factor!r} is no number; write FILE or" in refusal(original, f"model.lora={original}/l:{factor}")


def test_a_lora_of_one_network_has_its_rank_and_alpha_in_its_metadata(original: Path, tmp_path: Path) -> None:
    """As diffusers' `save_lora_adapter` writes it."""
    lora, again = tmp_path / "l.safetensors", tmp_path / "again.safetensors"
    make_lora(lora, original, "one network", "unet", UNET[:1])
    save_file(load_file(lora), again, {"lora_adapter_metadata": json.dumps({"r": 2, "lora_alpha": 1.0})})
    assert same(outputs(original, f"model.lora={again}"), outputs(original, f"model.lora={lora}:0.5"), 1e-5)
    save_file(load_file(lora), again, {"lora_adapter_metadata": "{"})
    with pytest.raises(UserError, match="read; save it again"):
        outputs(original, f"model.lora={again}")


def test_a_file_of_two_adapters_and_a_comma_in_a_factor_are_refused(original: Path, tmp_path: Path) -> None:
    lora = tmp_path / "l.safetensors"
    make_lora(lora, original, "one network", "unet", UNET[:1])
    tensors = load_file(lora)
    save_file(tensors | {name.replace(".weight", ".default.weight"): x.clone() for name, x in tensors.items()}, lora)
    assert "holds two changes of" in refusal(original, f"model.lora={lora}")
    assert "write a factor with a point, such as FILE:0.5" in refusal(original, f"model.lora={lora}:0,5")


def test_a_lora_is_found_by_its_place(original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two runs at once, each in a folder with a LoRA of the same name, each read their own."""
    found: list[Path] = []
    for place in ("one", "two"):
        (tmp_path / place).mkdir()
        monkeypatch.chdir(tmp_path / place)
        make_lora(tmp_path / place / "l.safetensors", original, "kohya", "unet", UNET[: 1 + len(found)])
        found.append(find(compose(["model=tiny", f"model.path={original}", "model.lora=l.safetensors"]).model))
    assert [read_source(folder / "unet").loras for folder in found] == [
        ((tmp_path / place / "l.safetensors", 1.0),) for place in ("one", "two")
    ]


# Another VAE, no T5, other pipelines of the same parts


@pytest.mark.parametrize("kind", ["folder", "pipeline", "file", "CompVis file"])
def test_another_vae_takes_its_place(kind: str, original: Path, folder: Path, tmp_path: Path) -> None:
    (file,) = (folder / "vae").glob("*.safetensors")
    save_file({name: 1.1 * value for name, value in load_file(file).items()}, file, {"format": "pt"})
    given = {"folder": folder / "vae", "pipeline": folder, "file": file, "CompVis file": tmp_path / "vae.safetensors"}[
        kind
    ]
    if kind == "CompVis file":
        whole = load_file(to_compvis(folder, tmp_path / "whole.safetensors"))
        start = "first_stage_model."
        save_file({k.removeprefix(start): v for k, v in whole.items() if k.startswith(start)}, given)
    found, own, other = outputs(original, f"model.vae={given}"), outputs(original), outputs(folder)
    assert same(found[:2], own[:2], 0) and same(found[2:], other[2:], 1e-6) and not same(found[3:], own[3:], 1e-3)
    assert identity(original, f"model.vae={given}") != identity(original)


def test_the_same_vae_has_one_key_however_it_is_given(original: Path, folder: Path, tmp_path: Path) -> None:
    (file,) = (folder / "vae").glob("*.safetensors")
    save_file({name: 1.1 * value for name, value in load_file(file).items()}, file, {"format": "pt"})
    shutil.copy(file, tmp_path / "my_vae.safetensors")
    given = [folder, folder / "vae", file, tmp_path / "my_vae.safetensors"]
    assert len({identity(original, f"model.vae={place}")["weights"] for place in given}) == 1
    shutil.copy(original / "vae" / file.name, tmp_path / "my_vae.safetensors")
    assert identity(original, f"model.vae={given[-1]}") != identity(original, f"model.vae={folder}")


def test_a_vae_that_is_not_there_or_another_is_refused(original: Path, tmp_path: Path) -> None:
    assert str(tmp_path / "none") in refusal(original, f"model.vae={tmp_path / 'none'}")
    shutil.copytree(original / "vae", tmp_path / "vae")
    config = json.loads((tmp_path / "vae" / "config.json").read_text())
    (tmp_path / "vae" / "config.json").write_text(json.dumps(config | {"_class_name": "AutoencoderTiny"}))
    assert "AutoencoderTiny; only an AutoencoderKL" in refusal(original, f"model.vae={tmp_path / 'vae'}")


def test_t5_can_be_left_out(original: Path, tmp_path: Path) -> None:
    from transformers import T5Config, T5EncoderModel

    pipeline = stable_diffusion_3()
    pipeline.save_pretrained(tmp_path / "without")
    width = pipeline.transformer.config.joint_attention_dim
    settings = T5Config(vocab_size=600, d_model=width, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    pipeline.register_modules(text_encoder_3=T5EncoderModel(settings).eval(), tokenizer_3=pipeline.tokenizer)
    pipeline.save_pretrained(tmp_path / "with")
    sd3 = ("model=tiny-sd3", "model.max_sequence_length=8")

    def states(name: str, *more: str) -> tuple[Tensor, dict[str, str]]:
        model = load_model(compose([*sd3, f"model.path={tmp_path / name}", "model.size=16", *more]).model, CPU)
        return model.embed([PROMPT]).states, model.identity

    left_out, known = states("with", "model.t5=false")
    assert torch.equal(left_out, states("without")[0])
    shutil.rmtree(tmp_path / "with" / "text_encoder_3")  # is not needed any more
    assert states("with", "model.t5=false")[1] == known
    assert "text_encoder_3" in refusal(tmp_path / "with", *sd3)
    assert "and StableDiffusionPipeline can't" in refusal(original, "model.t5=false")
    assert "is a rectified flow; leave it out" in refusal(tmp_path / "without", *sd3, "model.prediction=epsilon")


@pytest.mark.parametrize(
    "name",
    ["StableDiffusionImg2ImgPipeline", "StableDiffusionPAGPipeline", "StableDiffusionControlNetImg2ImgPipeline"],
)
def test_other_pipelines_of_the_same_parts_are_read(name: str, original: Path, folder: Path) -> None:
    index = json.loads((folder / "model_index.json").read_text())
    more = {"_class_name": name, "controlnet": ["diffusers", "ControlNetModel"]}
    (folder / "model_index.json").write_text(json.dumps(index | more))
    assert same(outputs(folder), outputs(original), 0)


def published_flux() -> dict[str, Tensor]:
    """The names and shapes of the weights in flux1-dev.safetensors."""
    width, shapes = 3072, dict[str, tuple[int, ...]]()
    layers = {"img_in": (width, 64), "txt_in": (width, 4096), "final_layer.linear": (64, width)}
    layers["final_layer.adaLN_modulation.1"] = (2 * width, width)
    for name, inputs in (("time_in", 256), ("vector_in", 768), ("guidance_in", 256)):
        layers |= {f"{name}.in_layer": (width, inputs), f"{name}.out_layer": (width, width)}
    for block in (f"double_blocks.{i}.{side}" for i in range(19) for side in ("img", "txt")):
        layers |= {f"{block}_attn.qkv": (3 * width, width), f"{block}_attn.proj": (width, width)}
        layers |= {f"{block}_mlp.0": (4 * width, width), f"{block}_mlp.2": (width, 4 * width)}
        layers[f"{block}_mod.lin"] = (6 * width, width)
        shapes |= {f"{block}_attn.norm.{kind}_norm.scale": (128,) for kind in ("query", "key")}
    for block in (f"single_blocks.{i}" for i in range(38)):
        layers |= {f"{block}.linear1": (7 * width, width), f"{block}.linear2": (width, 5 * width)}
        layers[f"{block}.modulation.lin"] = (3 * width, width)
        shapes |= {f"{block}.norm.{kind}_norm.scale": (128,) for kind in ("query", "key")}
    for name, shape in layers.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


def test_the_published_file_of_flux_fits_the_published_config(tmp_path: Path) -> None:
    from diffusers import FluxTransformer2DModel

    tensors = published_flux()
    assert sum(tensor.numel() for tensor in tensors.values()) == 11_901_408_320
    assert single_file.architecture(tmp_path, tensors) == "flux-dev"
    with torch.device("meta"):
        network = FluxTransformer2DModel.from_config(
            FluxTransformer2DModel.load_config(ARCHITECTURES / "flux-dev" / "transformer")
        )
        schnell = FluxTransformer2DModel.from_config({**network.config, "guidance_embeds": False})
    single_file.check(network, "transformer", tensors)
    with pytest.raises(ValueError, match=r"it also has time_text_embed.guidance_embedder"):
        single_file.check(schnell, "transformer", tensors)
    with pytest.raises(ValueError, match="its weights have other names or sizes"):
        single_file.check(network, "transformer", {k: v for k, v in tensors.items() if k != "img_in.weight"})


def test_a_family_of_another_package_that_knows_squares_alone_says_so() -> None:
    class Squares:
        def latent_shape(self, size: Any) -> tuple[int, int, int]:
            return 4, size // 8, size // 8

    model: Any = Squares()
    check_size(model, 64)
    with pytest.raises(UserError, match=r"model\.size=96x64: this family of models knows squares alone"):
        check_size(model, "96x64")


def test_a_refiner_is_refused(xl: tuple[Path, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(xl[0], tmp_path / "refiner")
    shutil.rmtree(folder / "text_encoder")
    index = json.loads((folder / "model_index.json").read_text())
    index |= {"_class_name": "StableDiffusionXLImg2ImgPipeline", "text_encoder": [None, None]}
    (folder / "model_index.json").write_text(json.dumps(index))
    assert "was saved without text_encoder, as refiners" in refusal(folder)


# On the hub


NAMES = ["unet/diffusion_pytorch_model.fp16.safetensors", "text_encoder/model.safetensors", "README.md"]
NAMES += ["text_encoder/model.fp16.safetensors", "vae/diffusion_pytorch_model-00001-of-00001.safetensors"]


@pytest.mark.parametrize(
    ("settings", "wanted", "unwanted"),
    [
        ((), [NAMES[0], NAMES[1], NAMES[4]], [NAMES[3]]),
        (("model.variant=fp16",), [NAMES[0], NAMES[3], NAMES[4]], [NAMES[1]]),
        (("model.vae=/x",), [NAMES[0]], []),
    ],
)
def test_of_the_hub_the_files_are_fetched_that_would_be_opened(
    settings: tuple[str, ...], wanted: list[str], unwanted: list[str]
) -> None:
    patterns = wanted_files(compose(["model=sd15", *settings]).model, NAMES)
    assert set(wanted) <= set(patterns["allow_patterns"]) and not set(unwanted) & set(patterns["allow_patterns"])
    assert ("vae/*" in patterns["ignore_patterns"]) == ("model.vae=/x" in settings)
    assert "text_encoder_3/*" in wanted_files(compose(["model=sd35-medium", "model.t5=false"]).model)["ignore_patterns"]
