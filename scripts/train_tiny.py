"""Train everything that latentmix ships: the `tiny` and `tiny-sd3` pipelines and the two networks that measure them.

    python scripts/train_tiny.py                      # all stages, then the gates; resumes where it was stopped
    python scripts/train_tiny.py vae unet --steps 50  # some stages, shortened, to try the script

The stages are `vae`, `unet` (with its text encoder), `classifier`, `clip`, `vae_sd3`, `transformer` (with its text
encoders) and `gates`. Each writes what it trained into the package (or `--to`), in the layout that `from_pretrained`
and open_clip read, so nothing about these weights is special: they load as Stable Diffusion's do. Checkpoints lie under
`--work`; every step draws its batch and noise from a seed of its own, so a resumed run continues as if it had not been
stopped. By the rates that it tells, some nine hours on one CPU core, five of them for the MMDiT.
"""

import argparse
import json
import math
import multiprocessing
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from latentmix.data import shapes
from latentmix.data.drawn import scenes as drawn_scenes
from latentmix.models.linear import by_onednn
from latentmix.runner.process import set_up_process
from latentmix.sampling import shifted

SEED = 2025
PER_CLASS = 2000
CLASSES = list(shapes.SHAPES)
HERE = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Setting:
    work: Path
    to: Path
    device: torch.device
    steps: int | None  # shortens every stage


# --- what all stages share ------------------------------------------------------------------------------------------


Round = tuple[int, float]  # steps, and the learning rate that they fall from


def train(
    name: str,
    modules: Sequence[nn.Module],
    loss: Callable[[], Tensor],
    setting: Setting,
    rounds: Sequence[Round],
    decay: float,
    matrices: Sequence[nn.Parameter] = (),
) -> None:
    """Minimise `loss()` in rounds, each of which goes on from the averaged weights of the one before; `matrices` of the
    modules by Muon, at twice the rate, and all else by AdamW."""
    before = 0
    for steps, peak in rounds:
        _train(name, modules, loss, setting, before, setting.steps or steps, peak, decay, matrices)
        before += steps


def _train(
    name: str,
    modules: Sequence[nn.Module],
    loss: Callable[[], Tensor],
    setting: Setting,
    before: int,
    steps: int,
    peak: float,
    decay: float,
    matrices: Sequence[nn.Parameter],
) -> None:
    """A round: warm-up and cosine; leaves the averaged weights in `modules`."""
    parameters = [p for module in modules for p in module.parameters()]
    average = [p.detach().clone() for p in parameters]
    others = [p for p in parameters if not any(p is matrix for matrix in matrices)]
    optimisers: list[torch.optim.Optimizer] = [torch.optim.AdamW(others, lr=peak, betas=(0.9, 0.99), weight_decay=1e-3)]
    if matrices:
        optimisers.append(torch.optim.Muon(matrices, lr=2 * peak, weight_decay=1e-3, adjust_lr_fn="match_rms_adamw"))
    schedules = [
        torch.optim.lr_scheduler.LambdaLR(
            optimiser, lambda step: min(1, (step + 1) / 100) * (0.5 + 0.5 * math.cos(math.pi * step / steps))
        )
        for optimiser in optimisers
    ]
    steppers: list[Any] = [*optimisers, *schedules]
    checkpoint, start = setting.work / f"{name}-{before + steps}.ckpt", 0
    if checkpoint.exists():
        saved = torch.load(checkpoint, map_location=setting.device, weights_only=True)
        for stepped, state in zip(steppers, saved["optimisers"], strict=True):
            stepped.load_state_dict(state)
        start = saved["step"]
        for p, a, saved_p, saved_a in zip(parameters, average, saved["now"], saved["average"], strict=True):
            p.data.copy_(saved_p)
            a.copy_(saved_a)
    began, running = time.monotonic(), 0.0
    for step in range(start, steps):
        torch.manual_seed(SEED * 1_000_003 + before + step)
        value = loss()
        for optimiser in optimisers:
            optimiser.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        for stepped in steppers:
            stepped.step()
        torch._foreach_lerp_(average, [p.data for p in parameters], 1 - min(decay, (step + 1) / (step + 11)))
        running = value.item() if step == start else 0.98 * running + 0.02 * value.item()
        if (step + 1) % 100 == 0 or step + 1 == steps:
            rate = (step + 1 - start) / (time.monotonic() - began)
            left = (steps - step - 1) / rate / 60
            print(f"{name}: step {step + 1}/{steps}, loss {running:.4f}, {rate:.1f}/s, {left:.0f} min left", flush=True)
        if (step + 1) % 500 == 0 or step + 1 == steps:
            states = [stepped.state_dict() for stepped in steppers]
            state = {"now": [p.data for p in parameters], "average": average, "optimisers": states}
            torch.save({**state, "step": step + 1}, checkpoint.with_suffix(".part"))
            checkpoint.with_suffix(".part").replace(checkpoint)
    for p, a in zip(parameters, average, strict=True):
        p.data.copy_(a)


def training_images(work: Path) -> tuple[Tensor, Tensor]:
    """Images uint8 [20000, 3, 64, 64] and their class numbers [20000]; drawn once, then read from `work`."""
    path = work / "images.npy"
    if not path.exists():
        indices = [(name, drawn_scenes.TRAINING_START + i) for name in CLASSES for i in range(PER_CLASS)]
        with multiprocessing.get_context("spawn").Pool() as pool:
            drawn = np.stack(pool.starmap(shapes.draw, indices, chunksize=500))
        np.save(work / "images.part.npy", drawn)
        (work / "images.part.npy").replace(path)
    images = torch.from_numpy(np.load(path)).permute(0, 3, 1, 2).contiguous()
    return images, torch.arange(len(CLASSES)).repeat_interleave(PER_CLASS)


def moved(images: Tensor, views: int) -> Tensor:
    """[N, C, H, W] -> [views * N, C, H, W]: as they are, then moved by chance; the plane repeats, so none is cut.

    Every other view is mirrored, too, along the diagonal that the light comes from.
    """
    parts, generator = [images], torch.Generator().manual_seed(SEED)
    for view in range(1, views):
        places = torch.randint(shapes.SIZE, (len(images), 2), generator=generator).tolist()
        seen = images.transpose(-1, -2).flip(-1, -2) if view % 2 else images
        parts.append(torch.stack([one.roll(place, (-2, -1)) for one, place in zip(seen, places, strict=True)]))
    return torch.cat(parts)


def to_network(images: Tensor) -> Tensor:
    """uint8 -> float in [-1, 1], channels last."""
    return (images.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


def pick(count: int, *tensors: Tensor, device: torch.device) -> list[Tensor]:
    rows = torch.randint(len(tensors[0]), (count,))
    return [tensor[rows.to(tensor.device)].to(device) for tensor in tensors]


def half(module: Any) -> Any:
    """The weights rounded to float16, which is how they are stored; the networks run in float32."""
    return module.half()


# --- the stages -----------------------------------------------------------------------------------------------------


FLOOR = 0.1  # least variance that a direction of the VAE's latents should have, where their mean variance is 1
VIEWS = 8  # of each image, for the MMDiT: no convolution tells it that the plane is alike all over
LOOK = 100  # steps between two looks at the directions of all latents


def vae(setting: Setting) -> None:
    network = autoencoder("vae", 4, setting, rounds=[(6000, 2e-3)])
    half(network).save_pretrained(setting.to / "tiny" / "vae")


def vae_sd3(setting: Setting) -> None:
    start = setting.to / "tiny" / "vae"
    network = autoencoder("vae_sd3", 16, setting, rounds=[(3000, 2e-3), (2500, 1e-3)], start=start)
    half(network).save_pretrained(setting.to / "tiny-sd3" / "vae")


def autoencoder(name: str, channels: int, setting: Setting, rounds: Sequence[Round], start: Path | None = None) -> Any:
    """A trained AutoencoderKL with so many latent channels, its scale set; and its shift, where 3.x has one.

    Where there is a VAE to `start` from, all layers are its own but those that touch the latents.
    """
    from diffusers import AutoencoderKL
    from diffusers.models.resnet import ResnetBlock2D

    torch.manual_seed(SEED)
    network = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 32, 64, 128),  # few channels where there are many pixels
        layers_per_block=1,
        latent_channels=channels,
        norm_num_groups=4,
        sample_size=shapes.SIZE,
    ).to(setting.device, memory_format=torch.channels_last)
    with torch.no_grad():
        network.quant_conv.bias[channels:] = -6  # type: ignore[union-attr]  # a channel drowned early stays unused
        for block in network.modules():
            if isinstance(block, ResnetBlock2D):
                block.conv2.weight.zero_()  # each block starts as the identity
    if start is not None:
        known = AutoencoderKL.from_pretrained(start, torch_dtype=torch.float32).state_dict()
        there = network.state_dict()
        network.load_state_dict({k: v if v.shape == there[k].shape else there[k] for k, v in known.items()})
    images, _ = training_images(setting.work)
    idle = Idle(network, images[::5], setting.device)

    def loss() -> Tensor:
        x = to_network(pick(16, images, device=setting.device)[0])
        posterior = network.encode(x).latent_dist
        error = network.decode(posterior.sample()).sample - x
        divergence = 0.5 * (posterior.mean**2 + posterior.var - 1 - posterior.logvar).mean()
        return error.square().mean() + 0.2 * error.abs().mean() + 5e-5 * divergence + 0.05 * idle(posterior.mean)

    train(name, [network], loss, setting, rounds, decay=0.998)
    with torch.no_grad():
        sample = torch.cat(
            [network.encode(to_network(images[i::40].to(setting.device))).latent_dist.sample() for i in (0, 7)]
        )
    network.register_to_config(scaling_factor=1 / sample.std().item())
    if channels > 4:
        network.register_to_config(shift_factor=sample.mean().item())
    return network


class Idle:
    """How far directions of the latents [B, C, H, W] fall short of `FLOOR`; 0 where none does.

    A direction that a VAE leaves unused holds less variance than the least noise of the schedule, so that no inversion
    can take it to variance 1. A batch is too small to show them: they are the last principal directions of the latents
    of many images, found anew every `LOOK` steps (so that a run that goes on from a checkpoint finds the same).
    """

    def __init__(self, network: Any, images: Tensor, device: torch.device):
        self.network, self.images, self.device, self.nfe = network, images, device, 0

    def __call__(self, mean: Tensor) -> Tensor:
        if self.nfe % LOOK == 0:
            self.look()
        self.nfe += 1
        variances = ((mean.flatten(1) - self.centre) @ self.directions).square().mean(0) / mean.var()
        short = (math.log(FLOOR) - (variances + 1e-4).log()).relu()
        return short.sum() / self.centre.numel()

    @torch.no_grad()
    def look(self) -> None:
        parts = [to_network(part.to(self.device)) for part in self.images.split(250)]
        means = torch.cat([self.network.encode(part).latent_dist.mean for part in parts]).flatten(1)
        self.centre, scale = means.mean(0), means.std()
        variances, directions = torch.linalg.eigh((means / scale).T.cov())
        short = (variances < FLOOR).float().mean()
        print(f"{short:.1%} of the directions have a variance below {FLOOR}, the least {variances[0]:.4f}", flush=True)
        self.directions = directions[:, variances < 2 * FLOOR]


def tokenizer(folder: Path, texts: Sequence[str]) -> Any:
    """A tokenizer in CLIP's format: its 512 byte symbols, and merges that build each word of `texts` from the left.

    Byte pairs merged by how common they are would do as well, but libraries break ties by chance.
    """
    from tokenizers import pre_tokenizers
    from transformers import CLIPTokenizer

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges: dict[tuple[str, str], None] = {}
    for word in sorted({word for text in texts for word in text.split()}):
        symbols = [*word[:-1], word[-1] + "</w>"]
        for place in range(1, len(symbols)):
            merges["".join(symbols[:place]), symbols[place]] = None
    symbols = [*alphabet, *(b + "</w>" for b in alphabet), *map("".join, merges), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {symbol: i for i, symbol in enumerate(dict.fromkeys(symbols))}
    made = CLIPTokenizer(vocab=vocabulary, merges=list(merges), model_max_length=24)
    made.save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    return made


def sentences(per_class: int = PER_CLASS) -> list[str]:
    """A prompt for every training image, in the order of `training_images`."""
    start = drawn_scenes.TRAINING_START
    scenes = ((name, shapes.scene(name, start + i)) for name in CLASSES for i in range(per_class))
    return [f"a photo of {drawn_scenes.caption(scene, name)}" for name, scene in scenes]


def text_encoder(kind: Any, words: Any, width: int, layers: int) -> Any:
    from transformers import CLIPTextConfig

    return kind(
        CLIPTextConfig(
            vocab_size=len(words),
            hidden_size=width,
            intermediate_size=3 * width,
            num_hidden_layers=layers,
            num_attention_heads=4,
            max_position_embeddings=words.model_max_length,
            projection_dim=width,
            bos_token_id=words.bos_token_id,
            eos_token_id=words.eos_token_id,
            pad_token_id=words.pad_token_id,
        )
    )


def unet(setting: Setting) -> None:
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextModel

    torch.manual_seed(SEED + 1)
    device, folder = setting.device, setting.to / "tiny"
    words = tokenizer(folder / "tokenizer", all_prompts())
    text = text_encoder(CLIPTextModel, words, 64, layers=2).to(device)
    network = UNet2DConditionModel(
        sample_size=shapes.SIZE // 8,
        block_out_channels=(64, 128),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=64,
        attention_head_dim=8,
        norm_num_groups=16,
        layers_per_block=1,
    ).to(device, memory_format=torch.channels_last)
    scheduler = DDIMScheduler(  # Stable Diffusion 1.5's settings; the class's defaults are others
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    encoder = AutoencoderKL.from_pretrained(folder / "vae", torch_dtype=torch.float32).to(device)
    draw, levels = examples(encoder, words, setting), scheduler.alphas_cumprod.to(device)

    def loss() -> Tensor:
        z0, ids = draw(64)
        eps = torch.randn_like(z0)
        t = torch.randint(len(levels), (64,), device=device)
        alpha = levels[t].view(-1, 1, 1, 1)
        z = alpha.sqrt() * z0 + (1 - alpha).sqrt() * eps
        return (network(z, t, text(ids).last_hidden_state).sample - eps).square().mean()

    train("unet", [network, text], loss, setting, rounds=[(8000, 1e-3), (10000, 1e-3)], decay=0.9995)
    pipeline = StableDiffusionPipeline(
        vae=encoder.half(),
        text_encoder=text.half(),
        tokenizer=words,
        unet=network.half(),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,  # type: ignore[arg-type]
        requires_safety_checker=False,
    )
    save_pipeline(pipeline, folder)


def transformer(setting: Setting) -> None:
    """The counterpart of Stable Diffusion 3.5: an MMDiT on two CLIP text encoders that predicts a flow's velocity."""
    from diffusers import (
        AutoencoderKL,
        FlowMatchEulerDiscreteScheduler,
        SD3Transformer2DModel,
        StableDiffusion3Pipeline,
    )
    from transformers import CLIPTextModelWithProjection

    torch.manual_seed(SEED + 5)
    device, folder, width = setting.device, setting.to / "tiny-sd3", 48
    words = tokenizer(folder / "tokenizer", all_prompts())
    texts = [text_encoder(CLIPTextModelWithProjection, words, width, layers=3).to(device) for _ in range(2)]
    network = SD3Transformer2DModel(
        sample_size=shapes.SIZE // 8,
        patch_size=1,  # 64 tokens of 16 numbers; of 16 tokens of 64 numbers, it learns no outlines
        in_channels=16,
        out_channels=16,
        num_layers=6,
        attention_head_dim=32,
        num_attention_heads=4,
        joint_attention_dim=2 * width,
        caption_projection_dim=128,
        pooled_projection_dim=2 * width,
        pos_embed_max_size=shapes.SIZE // 8,
        qk_norm="rms_norm",
    ).to(device)
    encoder = AutoencoderKL.from_pretrained(folder / "vae", torch_dtype=torch.float32).to(device)
    draw, scheduler = examples(encoder, words, setting, VIEWS), FlowMatchEulerDiscreteScheduler(shift=3.0)

    for each in (network, *texts):
        by_onednn(each)

    def loss() -> Tensor:
        z0, ids = draw(64)
        eps = torch.randn_like(z0)
        sigma = shifted(noise_levels(64).to(device), scheduler.config.shift)  # shifted as the scheduler's steps are
        cond = [text(ids, output_hidden_states=True) for text in texts]
        states = torch.cat([out.hidden_states[-2] for out in cond], dim=-1)
        pooled = torch.cat([out.text_embeds for out in cond], dim=-1)
        z = torch.lerp(z0, eps, sigma.view(-1, 1, 1, 1))
        return (network(z, states, pooled, 1000 * sigma).sample - (eps - z0)).square().mean()

    matrices = [p for p in network.transformer_blocks.parameters() if p.ndim == 2]
    train(
        "transformer",
        [network, *texts],
        loss,
        setting,
        rounds=[(12000, 1e-3), (14000, 1e-3), (10000, 1e-3)],
        decay=0.9995,
        matrices=matrices,
    )
    pipeline = StableDiffusion3Pipeline(
        vae=encoder.half(),
        text_encoder=texts[0].half(),
        text_encoder_2=texts[1].half(),
        text_encoder_3=None,  # type: ignore[arg-type]
        tokenizer=words,
        tokenizer_2=words,
        tokenizer_3=None,  # type: ignore[arg-type]
        transformer=network.half(),
        scheduler=scheduler,
    )
    save_pipeline(pipeline, folder)


def noise_levels(count: int) -> Tensor:
    """Noise levels from 0 to 1, before the shift: a third of them even, the others logit-normal (Esser et al., 3.1), as
    what an image shows is decided in between."""
    return torch.where(torch.rand(count) < 1 / 3, torch.rand(count), torch.randn(count).sigmoid())


def save_pipeline(pipeline: Any, folder: Path) -> None:
    pipeline.save_pretrained(folder)
    config = folder / "vae" / "config.json"
    plain = json.loads(config.read_text())
    plain.pop("_name_or_path", None)  # where it lay when it was read back, on the machine that trained it
    config.write_text(json.dumps(plain, indent=2, sort_keys=True) + "\n")


def examples(encoder: Any, words: Any, setting: Setting, views: int = 1) -> Callable[[int], tuple[Tensor, Tensor]]:
    """Return a function that draws a training batch: posterior samples [B, C, 8, 8] and the ids of their prompts.

    Three quarters of the prompts name the class alone, as experiments do, and one in ten is empty, for guidance.
    """

    def ids(texts: Sequence[str]) -> Tensor:
        return words(list(texts), padding="max_length", truncation=True, return_tensors="pt").input_ids

    device = setting.device
    mean, std, classes = latents(encoder, setting, views)
    full, short, empty = ids(sentences()).repeat(views, 1), ids([class_prompt(name) for name in CLASSES]), ids([""])

    def draw(count: int) -> tuple[Tensor, Tensor]:
        m, s, c, described = pick(count, mean, std, classes, full, device=device)
        generator = torch.rand(count, device=device)[:, None]
        prompts = torch.where(generator < 0.75, short.to(device)[c], described)
        return m + s * torch.randn_like(m), torch.where(generator > 0.9, empty.to(device), prompts)

    return draw


def all_prompts() -> list[str]:
    return [*sentences(), *(class_prompt(name) for name in CLASSES)]


def class_prompt(name: str) -> str:
    return f"a photo of a {name}"


@torch.no_grad()
def latents(encoder: Any, setting: Setting, views: int) -> tuple[Tensor, Tensor, Tensor]:
    """Scaled posterior means and stds of all training images [views * 20000, C, 8, 8], and their class numbers."""
    images, classes = training_images(setting.work)
    images = moved(images, views)
    scale, shift = encoder.config.scaling_factor, encoder.config.shift_factor or 0.0
    posteriors = [encoder.encode(to_network(part.to(setting.device))).latent_dist for part in images.split(250)]
    mean, std = (torch.cat([getattr(p, name) for p in posteriors]) for name in ("mean", "std"))
    return (mean - shift) * scale, std * scale, classes.repeat(views)


def varied(x: Tensor) -> Tensor:
    """The batch, as a whole, shifted, flipped, transposed and softened at random; no class changes by it.

    Softened, since a VAE of 256 numbers leaves no grain: who measures its images should look at what is in them.
    """
    flip, flop, transpose, soften = torch.rand(4) < torch.tensor([0.5, 0.5, 0.5, 0.25])
    x = x.roll(torch.randint(shapes.SIZE, (2,)).tolist(), (-2, -1))  # the plane repeats
    x = x.flip(-1) if flip else x
    x = x.flip(-2) if flop else x
    x = x.transpose(-1, -2) if transpose else x
    if soften:
        small = nn.functional.interpolate(x, size=(int(torch.randint(24, 56, ())),) * 2, mode="area")
        x = nn.functional.interpolate(small, size=x.shape[-2:], mode="bicubic")
    return x.contiguous(memory_format=torch.channels_last)


def attributes() -> Tensor:
    """Return, for every training image in order: class, colour of the ground, colour of the first shape, number of
    shapes; as numbers from 0 up, [20000, 4]."""
    scenes = [shapes.scene(name, drawn_scenes.TRAINING_START + i) for name in CLASSES for i in range(PER_CLASS)]
    cond = [(s.ground.name(), s.objects[0].colours[0].name(), len(s.objects)) for s in scenes]
    kind = torch.arange(len(CLASSES)).repeat_interleave(PER_CLASS)
    return torch.stack(
        [kind, *(torch.from_numpy(np.unique(t, return_inverse=True)[1]) for t in zip(*cond, strict=True))], dim=1
    )


@torch.no_grad()
def reconstructions(setting: Setting) -> Tensor:
    """Every training image as the VAE of `tiny` gives it back, uint8 [20000, 3, 64, 64]."""
    from latentmix.models.vae import VAE

    images, network = training_images(setting.work)[0], VAE(setting.to / "tiny" / "vae", setting.device)
    return torch.cat([network.decode(network.encode(part)).cpu() for part in images.split(250)])


def classifier(setting: Setting) -> None:
    """A judge of what is in an image.

    It is trained to tell colours and counts beside the class, as the thousand classes of Inception do: features that
    knew shapes alone would not see an image turn to another colour. And half of what it sees has been through the VAE,
    which is small and softens everything: it shall judge what is shown, not the softness that no method can help.
    """
    from safetensors.torch import save_file

    from latentmix.feature_networks import Classifier

    torch.manual_seed(SEED + 2)
    images, _ = training_images(setting.work)
    known, softened = attributes(), reconstructions(setting)
    network = Classifier(len(CLASSES)).to(memory_format=torch.channels_last).to(setting.device)
    heads = nn.ModuleList(nn.Linear(Classifier.WIDTH, int(cond.max()) + 1) for cond in known[:, 1:].T)
    heads = heads.to(setting.device)
    criterion = nn.CrossEntropyLoss(label_smoothing=0.05)

    def loss() -> Tensor:
        x, soft, targets = pick(64, images, softened, known, device=setting.device)
        through = torch.rand(64, 1, 1, 1, device=setting.device) < 0.5
        features = network.features(varied(to_network(torch.where(through, soft, x))))
        first, *others = (
            criterion(head(features), t) for head, t in zip([network.head, *heads], targets.T, strict=True)
        )
        return first + 0.5 * sum(others)

    train("classifier", [network, heads], loss, setting, rounds=[(6000, 3e-3)], decay=0.99)
    with torch.no_grad():  # the averaged weights have statistics of their own
        for _ in range(100):
            loss()
    folder = setting.to / "classifier"
    folder.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous() for k, v in half(network).state_dict().items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"classes": CLASSES}, indent=2) + "\n")


def clip(setting: Setting) -> None:
    """Contrastive training on captions; images that share a caption count as each other's."""
    import open_clip
    from safetensors.torch import save_file

    prompts, folder = sentences(), setting.to / "clip"
    folder.mkdir(parents=True, exist_ok=True)
    for source in ("vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json"):
        (folder / source).write_bytes((setting.to / "tiny" / "tokenizer" / source).read_bytes())
    vocabulary = len(json.loads((folder / "vocab.json").read_text()))
    architecture = {
        "embed_dim": 64,
        "vision_cfg": {"image_size": shapes.SIZE, "layers": 4, "width": 128, "head_width": 32, "patch_size": 8},
        "text_cfg": {
            "context_length": 24,
            "vocab_size": vocabulary,
            "hf_tokenizer_name": "clip",
            "width": 64,
            "heads": 4,
            "layers": 2,
        },
    }
    preprocess = {"size": [shapes.SIZE] * 2, "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic"}
    config = {"model_cfg": architecture, "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n")
    torch.manual_seed(SEED + 3)
    network = open_clip.CLIP(**architecture).to(setting.device)
    words = open_clip.get_tokenizer(f"local-dir:{folder}")
    full, short = words(prompts), words([class_prompt(name) for name in CLASSES])
    images, classes = training_images(setting.work)

    def loss() -> Tensor:
        x, c, text = pick(128, images, classes, full, device=setting.device)
        text = torch.where(torch.rand(128, 1, device=setting.device) < 0.25, short.to(setting.device)[c], text)
        image, caption, scale = network(varied(to_network(x)), text)
        same = (text[:, None] == text[None]).all(-1).float()
        target = same / same.sum(1, keepdim=True)
        logits = scale * image @ caption.T
        return (nn.functional.cross_entropy(logits, target) + nn.functional.cross_entropy(logits.T, target)) / 2

    train("clip", [network], loss, setting, rounds=[(1500, 1e-3)], decay=0.995)
    save_file(
        {k: v.contiguous() for k, v in half(network).state_dict().items()}, folder / "open_clip_model.safetensors"
    )


# --- the gates ------------------------------------------------------------------------------------------------------

POOL = 512  # images of each class; draws of 64 from fewer overlap so much that all centroids look alike
HELD_OUT = drawn_scenes.TRAINING_START // 2  # images from here on are neither trained on nor used by experiments


@dataclass(frozen=True)
class Gate:
    """Something measured on held-out images, and between which bounds it has to lie."""

    what: str
    value: float
    low: float = -math.inf
    high: float = math.inf

    def __str__(self) -> str:
        bounds = " and ".join(
            [f"at least {self.low:g}"] * (self.low > -math.inf) + [f"at most {self.high:g}"] * (self.high < math.inf)
        )
        passed = "pass" if self.low <= self.value <= self.high else "FAIL"
        return f"{passed}  {self.what}: {self.value:.4g} ({bounds})"


@torch.no_grad()
def gates(setting: Setting) -> None:
    """Measure what the embedded networks have to show before anybody uses it."""
    from latentmix.feature_networks import embedded_classifier

    network = embedded_classifier(setting.to / "classifier").to(setting.device)
    images = {name: held_out(name, POOL) for name in CLASSES}
    table = {}
    for folder in (setting.to / name for name in ("tiny", "tiny-sd3")):
        if (folder / "model_index.json").exists():
            table[folder.name] = gates_of(subject(folder, images, setting), network, images)
            print(folder.name, *table[folder.name], sep="\n")
    plain = {name: [{"what": g.what, "value": round(g.value, 5)} for g in found] for name, found in table.items()}
    (setting.to / "gates.json").write_text(json.dumps(plain, indent=2, ensure_ascii=False) + "\n")


@dataclass(frozen=True)
class Subject:
    """A model under test: its clean latents of held-out images and its prompts, by class."""

    model: Any
    spacing: str
    clean: dict[str, Tensor]
    prompts: dict[str, Any]

    def generate(self, z: Tensor, name: str, steps: int, guidance: float) -> Tensor:
        from latentmix.models.protocol import predictor
        from latentmix.sampling import generate

        cond = replace(self.prompts[name], guidance=guidance)
        return generate(predictor(self.model, cond), z, self.model.schedule(steps, self.spacing))

    def invert(self, name: str, steps: int, count: int | None = None) -> Tensor:
        from latentmix.models.protocol import predictor
        from latentmix.sampling import invert

        cond, schedule = self.prompts[name], self.model.schedule(steps, self.spacing)
        return invert(predictor(self.model, cond), self.clean[name][:count], schedule)


def subject(folder: Path, images: dict[str, Tensor], setting: Setting) -> Subject:
    from latentmix.compose import compose
    from latentmix.models import load_model
    from latentmix.models.protocol import Conditioning

    config = compose([f"model={folder.name}", f"model.path='{folder}'", "model.precision=float32"]).model
    model = load_model(config, setting.device)
    null = model.embed([""])
    prompts = {name: Conditioning(model.embed([class_prompt(name)]), null) for name in CLASSES}
    return Subject(model, config.spacing, {name: model.encode(x) for name, x in images.items()}, prompts)


def gates_of(tested: Subject, network: Any, images: dict[str, Tensor]) -> list[Gate]:
    torch.manual_seed(SEED + 4)
    return [*picture_gates(tested, network, images), *inversion_gates(tested), *mixing_gates(tested, network, images)]


def held_out(name: str, count: int) -> Tensor:
    drawn = np.stack([shapes.draw(name, HELD_OUT + i) for i in range(count)])
    return torch.from_numpy(drawn).permute(0, 3, 1, 2).contiguous()


def picture_gates(tested: Subject, network: Any, images: dict[str, Tensor]) -> list[Gate]:
    model, clean = tested.model, tested.clean

    def right(made: Tensor, place: int) -> float:
        return (network(to_network(made.to(model.device))).argmax(1) == place).float().mean().item()

    errors = [
        ((model.decode(clean[c]).cpu().float() - images[c].float()) / 255).square().mean().item() for c in CLASSES
    ]
    real, made = [], []
    for place, name in enumerate(CLASSES):
        noise = torch.randn_like(clean[name][:40])
        real.append(right(images[name], place))
        made.append(right(model.decode(tested.generate(noise, name, 20, guidance=3.0)), place))
    return [
        Gate("VAE, PSNR in dB", -10 * math.log10(sum(errors) / len(errors)), low=21),
        Gate("real images classified right", sum(real) / len(real), low=0.97),
        Gate("images from noise, 20 steps at guidance 3, classified right", sum(made) / len(made), low=0.9),
    ]


def inversion_gates(tested: Subject) -> list[Gate]:
    errors, norms = [], []
    for name in CLASSES:
        z0, z = tested.clean[name][:32], tested.invert(name, 50, count=32)
        back = tested.generate(z, name, 50, guidance=1.0)
        errors.append((back - z0).square().mean().item() / z0.var().item())
        norms.append(z.flatten(1).norm(dim=1).mean().item() / math.sqrt(z[0].numel()))
    return [
        Gate("norm of inverted latents over √L", sum(norms) / len(norms), low=0.97, high=1.03),
        Gate("round trip, 50 steps at guidance 1, RMSE per std", math.sqrt(sum(errors) / len(errors)), high=0.1),
    ]


def mixing_gates(tested: Subject, network: Any, images: dict[str, Tensor]) -> list[Gate]:
    """√N in the channel means of centroids, and what it does to the images."""
    from latentmix.metrics import frechet_distance

    fits, distances = [], {"fix/0": 0.0, "fix/chm": 0.0}
    for name in CLASSES:
        z = tested.invert(name, 20)
        sizes = [1, 2, 4, 8, 16, 32, 64]
        grown = torch.stack([centroids(z, n, "fix/0").mean((0, 2, 3)) for n in sizes])  # [N, C]
        root = torch.tensor(sizes).sqrt().to(grown)[:, None]
        slope = (root * grown).sum(0) / root.square().sum()
        fits.append(1 - (grown - slope * root).square().sum().item() / (grown - grown.mean(0)).square().sum().item())
        real = network.features(to_network(images[name].to(z.device)))
        for method in distances:
            made = tested.model.decode(tested.generate(centroids(z, 64, method), name, 20, guidance=3.0))
            distances[method] += frechet_distance(network.features(to_network(made)), real) / len(CLASSES)
    return [
        Gate("R² of the channel means of fix/0 centroids against √N", sum(fits) / len(fits), low=0.9),
        Gate("Fréchet distance at N = 64, fix/chm", distances["fix/chm"]),
        Gate("Fréchet distance at N = 64, fix/0 over fix/chm", distances["fix/0"] / distances["fix/chm"], low=1.5),
    ]


def centroids(z: Tensor, n: int, method: str) -> Tensor:
    """128 centroids of n latents each, drawn without replacement."""
    from latentmix.mixing import mixtures

    draws = torch.stack([torch.randperm(len(z), generator=torch.Generator().manual_seed(k))[:n] for k in range(128)])
    weights = torch.zeros(128, len(z)).scatter_(1, draws, 1 / n)
    return mixtures(z, weights.to(z.device), [method])[0]


STAGES = {
    "vae": vae,
    "unet": unet,
    "classifier": classifier,
    "clip": clip,
    "vae_sd3": vae_sd3,
    "transformer": transformer,
    "gates": gates,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stages", nargs="*", default=list(STAGES), help=f"of {', '.join(STAGES)}; default all")
    parser.add_argument("--work", type=Path, default=HERE / "outputs" / "train_tiny")
    parser.add_argument("--to", type=Path, default=HERE / "latentmix" / "embedded")
    parser.add_argument("--device", type=torch.device, default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--steps", type=int)
    given = parser.parse_args()
    set_up_process(None)
    given.work.mkdir(parents=True, exist_ok=True)
    setting = Setting(given.work, given.to, torch.device(given.device), given.steps)
    for stage in given.stages:
        STAGES[stage](setting)


if __name__ == "__main__":
    main()
