"""Train everything that latentmix ships: the `tiny` pipeline and the two networks that measure it.

    python scripts/train_tiny.py                      # all stages, then the gates; resumes where it was stopped
    python scripts/train_tiny.py vae unet --steps 50  # some stages, shortened, to try the script

The stages are `vae`, `unet` (with its text encoder), `classifier`, `clip` and `gates`. Each writes what it trained into
the package (or `--to`), in the layout that `from_pretrained` and open_clip read, so nothing about these weights is
special: they load as Stable Diffusion's do. Checkpoints lie under `--work`; every step draws its batch and noise from a
seed of its own, so a resumed run continues as if it had not been stopped. About an hour on two CPU cores.
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
from scipy.fft import dct
from torch import Tensor, nn

from latentmix.config import LaunchConfig
from latentmix.data import shapes
from latentmix.launch import prepare

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


def train(name: str, modules: Sequence[nn.Module], loss: Callable[[], Tensor], setting: Setting, **how: float) -> None:
    """Minimise `loss()` with AdamW, warm-up and cosine, and leave the averaged weights in `modules`.

    `how`: steps, learning_rate, decay (of the average).
    """
    steps, peak = setting.steps or int(how["steps"]), how["learning_rate"]
    parameters = [p for module in modules for p in module.parameters()]
    average = [p.detach().clone() for p in parameters]
    optimiser = torch.optim.AdamW(parameters, lr=peak, betas=(0.9, 0.99), weight_decay=1e-3)
    checkpoint, start = setting.work / f"{name}-{steps}.ckpt", 0
    if checkpoint.exists():
        saved = torch.load(checkpoint, map_location=setting.device, weights_only=True)
        optimiser.load_state_dict(saved["optimiser"])
        start = saved["step"]
        for p, a, saved_p, saved_a in zip(parameters, average, saved["now"], saved["average"], strict=True):
            p.data.copy_(saved_p)
            a.copy_(saved_a)
    began, running = time.monotonic(), 0.0
    for step in range(start, steps):
        torch.manual_seed(SEED * 1_000_003 + step)
        for group in optimiser.param_groups:
            group["lr"] = peak * min(1, (step + 1) / 100) * (0.5 + 0.5 * math.cos(math.pi * step / steps))
        value = loss()
        optimiser.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        torch._foreach_lerp_(average, [p.data for p in parameters], 1 - min(how["decay"], (step + 1) / (step + 11)))
        running = value.item() if step == start else 0.98 * running + 0.02 * value.item()
        if (step + 1) % 100 == 0 or step + 1 == steps:
            rate = (step + 1 - start) / (time.monotonic() - began)
            left = (steps - step - 1) / rate / 60
            print(f"{name}: step {step + 1}/{steps}, loss {running:.4f}, {rate:.1f}/s, {left:.0f} min left", flush=True)
        if (step + 1) % 500 == 0 or step + 1 == steps:
            state = {"now": [p.data for p in parameters], "average": average, "optimiser": optimiser.state_dict()}
            torch.save({**state, "step": step + 1}, checkpoint.with_suffix(".part"))
            checkpoint.with_suffix(".part").replace(checkpoint)
    for p, a in zip(parameters, average, strict=True):
        p.data.copy_(a)


def training_images(work: Path) -> tuple[Tensor, Tensor]:
    """Images uint8 [20000, 3, 64, 64] and their class numbers [20000]; drawn once, then read from `work`."""
    path = work / "images.npy"
    if not path.exists():
        indices = [(name, shapes.TRAINING_START + i) for name in CLASSES for i in range(PER_CLASS)]
        with multiprocessing.get_context("spawn").Pool() as pool:
            drawn = np.stack(pool.starmap(shapes.draw, indices, chunksize=500))
        np.save(work / "images.part.npy", drawn)
        (work / "images.part.npy").replace(path)
    images = torch.from_numpy(np.load(path)).permute(0, 3, 1, 2).contiguous()
    return images, torch.arange(len(CLASSES)).repeat_interleave(PER_CLASS)


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


def vae(setting: Setting) -> None:
    from diffusers import AutoencoderKL
    from diffusers.models.resnet import ResnetBlock2D

    torch.manual_seed(SEED)
    network = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 32, 64, 128),  # few channels where there are many pixels
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=shapes.SIZE,
    ).to(setting.device, memory_format=torch.channels_last)
    with torch.no_grad():
        network.quant_conv.bias[4:] = -6  # type: ignore[union-attr]  # little noise: a channel drowned early stays unused
        for block in network.modules():
            if isinstance(block, ResnetBlock2D):
                block.conv2.weight.zero_()  # each block starts as the identity
    images, _ = training_images(setting.work)

    def loss() -> Tensor:
        x = to_network(pick(16, images, device=setting.device)[0])
        posterior = network.encode(x).latent_dist
        error = network.decode(posterior.sample()).sample - x
        divergence = 0.5 * (posterior.mean**2 + posterior.var - 1 - posterior.logvar).mean()
        return error.square().mean() + 0.2 * error.abs().mean() + 5e-5 * divergence + 0.02 * idle(posterior.mean)

    train("vae", [network], loss, setting, steps=8000, learning_rate=2e-3, decay=0.998)
    with torch.no_grad():
        sample = torch.cat(
            [network.encode(to_network(images[i::40].to(setting.device))).latent_dist.sample() for i in (0, 7)]
        )
    network.register_to_config(scaling_factor=1 / sample.std().item())
    half(network).save_pretrained(setting.to / "tiny" / "vae")


def idle(mean: Tensor) -> Tensor:
    """How far directions of the latents [B, C, H, W] fall short of `FLOOR`; 0 where none does.

    A direction is a mixture of channels at one spatial frequency. One that a VAE leaves unused holds less variance than
    the least noise of the schedule, so that no inversion can take it to variance 1.
    """
    basis = cosines(mean.shape[-1]).to(mean)
    waves = (basis @ ((mean - mean.mean(0)) / mean.std()) @ basis.T).permute(2, 3, 1, 0)  # [H, W, C, B]
    variances = torch.linalg.eigvalsh(waves @ waves.mT / len(mean))
    return (math.log(FLOOR) - (variances + 1e-4).log()).relu().mean()


def cosines(size: int) -> Tensor:
    """The orthonormal basis of the discrete cosine transform [size, size], one frequency a row."""
    return torch.from_numpy(dct(np.eye(size), axis=0, norm="ortho"))


def tokenizer(setting: Setting, texts: Sequence[str]) -> Any:
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
    folder = setting.to / "tiny" / "tokenizer"
    made = CLIPTokenizer(vocab=vocabulary, merges=list(merges), model_max_length=24)
    made.save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    return made


def sentences(per_class: int = PER_CLASS) -> list[str]:
    """A prompt for every training image, in the order of `training_images`."""
    start = shapes.TRAINING_START
    return [f"a photo of {shapes.describe(name, start + i)}" for name in CLASSES for i in range(per_class)]


def unet(setting: Setting) -> None:
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(SEED + 1)
    device, prompts = setting.device, sentences()
    words = tokenizer(setting, [*prompts, *(class_prompt(name) for name in CLASSES)])
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(words),
            hidden_size=64,
            intermediate_size=192,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=words.model_max_length,
            projection_dim=64,
            bos_token_id=words.bos_token_id,
            eos_token_id=words.eos_token_id,
            pad_token_id=words.pad_token_id,
        )
    ).to(device)
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
    encoder = AutoencoderKL.from_pretrained(setting.to / "tiny" / "vae", torch_dtype=torch.float32).to(device)
    mean, std, classes = latents(encoder, setting)

    def ids(texts: Sequence[str]) -> Tensor:
        return words(list(texts), padding="max_length", truncation=True, return_tensors="pt").input_ids

    full, short, empty = ids(prompts), ids([class_prompt(name) for name in CLASSES]), ids([""])
    levels = scheduler.alphas_cumprod.to(device)

    def loss() -> Tensor:
        m, s, c, described = pick(64, mean, std, classes, full, device=device)
        chance = torch.rand(64, device=device)[:, None]
        text = torch.where(chance < 0.75, short.to(device)[c], described)
        text = torch.where(chance > 0.9, empty.to(device), text)  # for guidance
        z0, eps = m + s * torch.randn_like(m), torch.randn_like(m)
        t = torch.randint(len(levels), (64,), device=device)
        alpha = levels[t].view(-1, 1, 1, 1)
        z = alpha.sqrt() * z0 + (1 - alpha).sqrt() * eps
        return (network(z, t, text_encoder(text).last_hidden_state).sample - eps).square().mean()

    train("unet", [network, text_encoder], loss, setting, steps=8000, learning_rate=1e-3, decay=0.999)
    StableDiffusionPipeline(
        vae=encoder.half(),
        text_encoder=text_encoder.half(),
        tokenizer=words,
        unet=network.half(),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,  # type: ignore[arg-type]
        requires_safety_checker=False,
    ).save_pretrained(setting.to / "tiny")
    config = setting.to / "tiny" / "vae" / "config.json"
    plain = json.loads(config.read_text())
    plain.pop("_name_or_path", None)  # where it lay when it was read back, on the machine that trained it
    config.write_text(json.dumps(plain, indent=2, sort_keys=True) + "\n")


def class_prompt(name: str) -> str:
    return f"a photo of a {name}"


@torch.no_grad()
def latents(encoder: Any, setting: Setting) -> tuple[Tensor, Tensor, Tensor]:
    """Scaled posterior means and stds of all training images [20000, 4, 8, 8], and their class numbers."""
    images, classes = training_images(setting.work)
    scale = encoder.config.scaling_factor
    posteriors = [encoder.encode(to_network(part.to(setting.device))).latent_dist for part in images.split(250)]
    return torch.cat([p.mean for p in posteriors]) * scale, torch.cat([p.std for p in posteriors]) * scale, classes


def varied(x: Tensor) -> Tensor:
    """The batch, as a whole, flipped, transposed and softened at random; no class changes by it.

    Softened, since a VAE of 256 numbers leaves no grain: who measures its images should look at what is in them.
    """
    flip, flop, transpose, soften = torch.rand(4) < torch.tensor([0.5, 0.5, 0.5, 0.25])
    x = x.flip(-1) if flip else x
    x = x.flip(-2) if flop else x
    x = x.transpose(-1, -2) if transpose else x
    if soften:
        small = nn.functional.interpolate(x, size=(int(torch.randint(24, 56, ())),) * 2, mode="area")
        x = nn.functional.interpolate(small, size=x.shape[-2:], mode="bicubic")
    return x.contiguous(memory_format=torch.channels_last)


def attributes() -> Tensor:
    """Of every training image, in their order: class, colour of the ground, colour of the first shape, number of
    shapes; as numbers from 0 up, [20000, 4]."""
    scenes = [shapes.scene(name, shapes.TRAINING_START + i) for name in CLASSES for i in range(PER_CLASS)]
    told = [(s.ground.name(), s.shapes[0].colour.name(), len(s.shapes)) for s in scenes]
    kind = torch.arange(len(CLASSES)).repeat_interleave(PER_CLASS)
    return torch.stack(
        [kind, *(torch.from_numpy(np.unique(t, return_inverse=True)[1]) for t in zip(*told, strict=True))], dim=1
    )


def classifier(setting: Setting) -> None:
    """Trained to tell colours and counts beside the class, as the thousand classes of Inception do: features that knew
    shapes alone would not see an image turn to another colour."""
    from safetensors.torch import save_file

    from latentmix.features import Classifier

    torch.manual_seed(SEED + 2)
    images, _ = training_images(setting.work)
    known = attributes()
    network = Classifier(len(CLASSES)).to(memory_format=torch.channels_last).to(setting.device)
    heads = nn.ModuleList(nn.Linear(Classifier.WIDTH, int(told.max()) + 1) for told in known[:, 1:].T)
    heads = heads.to(setting.device)
    criterion = nn.CrossEntropyLoss(label_smoothing=0.05)

    def loss() -> Tensor:
        x, targets = pick(64, images, known, device=setting.device)
        features = network.features(varied(to_network(x)))
        first, *others = (
            criterion(head(features), t) for head, t in zip([network.head, *heads], targets.T, strict=True)
        )
        return first + 0.5 * sum(others)

    train("classifier", [network, heads], loss, setting, steps=5000, learning_rate=3e-3, decay=0.99)
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

    train("clip", [network], loss, setting, steps=1500, learning_rate=1e-3, decay=0.995)
    save_file(
        {k: v.contiguous() for k, v in half(network).state_dict().items()}, folder / "open_clip_model.safetensors"
    )


# --- the gates ------------------------------------------------------------------------------------------------------

HELD_OUT = shapes.TRAINING_START // 2  # images from here on are neither trained on nor used by experiments


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
    """What the embedded world has to show before anybody uses it."""
    from latentmix.features import embedded_classifier
    from latentmix.models.unet import UNetModel

    torch.manual_seed(SEED + 4)
    model = UNetModel(setting.to / "tiny", "float32", setting.device)
    network = embedded_classifier(setting.to / "classifier").to(setting.device)
    images = {name: held_out(name, 128) for name in CLASSES}
    clean = {name: model.encode(x) for name, x in images.items()}
    prompts = {name: model.embed([class_prompt(name)]) for name in CLASSES}
    found = [
        *picture_gates(model, network, images, clean, prompts),
        *inversion_gates(model, clean, prompts),
        *mixing_gates(model, network, images, clean, prompts),
    ]
    print(*found, sep="\n")
    text = json.dumps([{"what": g.what, "value": round(g.value, 5)} for g in found], indent=2, ensure_ascii=False)
    (setting.to / "gates.json").write_text(text + "\n")


def held_out(name: str, count: int) -> Tensor:
    drawn = np.stack([shapes.draw(name, HELD_OUT + i) for i in range(count)])
    return torch.from_numpy(drawn).permute(0, 3, 1, 2).contiguous()


def picture_gates(model, network, images, clean, prompts) -> list[Gate]:  # type: ignore[no-untyped-def]
    from latentmix.ladder import generate

    def right(made: Tensor, place: int) -> float:
        return (network(to_network(made.to(model.device))).argmax(1) == place).float().mean().item()

    errors = [
        ((model.decode(clean[c]).cpu().float() - images[c].float()) / 255).square().mean().item() for c in CLASSES
    ]
    real, made, ladder = [], [], model.ladder(20, "trailing")
    for place, name in enumerate(CLASSES):
        guided = replace(prompts[name], guidance=3.0)
        noise = torch.randn_like(clean[name][:40])
        z0 = generate(lambda *at, c=guided: model.predict(*at, c), noise, ladder)  # type: ignore[misc]
        real.append(right(images[name], place))
        made.append(right(model.decode(z0), place))
    return [
        Gate("VAE, PSNR in dB", -10 * math.log10(sum(errors) / len(errors)), low=21),
        Gate("real images classified right", sum(real) / len(real), low=0.97),
        Gate("images from noise, 20 steps at guidance 3, classified right", sum(made) / len(made), low=0.9),
    ]


def inversion_gates(model, clean, prompts) -> list[Gate]:  # type: ignore[no-untyped-def]
    from latentmix.inversion import INVERSIONS
    from latentmix.ladder import generate

    errors, norms, ladder = [], [], model.ladder(50, "trailing")
    for name in CLASSES:
        z0 = clean[name][:32]
        z = INVERSIONS["ddim"](model, z0, ladder, prompts[name])
        back = generate(lambda *at, c=prompts[name]: model.predict(*at, c), z, ladder)  # type: ignore[misc]
        errors.append((back - z0).square().mean().item() / z0.var().item())
        norms.append(z.flatten(1).norm(dim=1).mean().item() / math.sqrt(z[0].numel()))
    return [
        Gate("norm of inverted latents over √L", sum(norms) / len(norms), low=0.97, high=1.03),
        Gate("round trip, 50 steps at guidance 1, RMSE per std", math.sqrt(sum(errors) / len(errors)), high=0.1),
    ]


def mixing_gates(model, network, images, clean, prompts) -> list[Gate]:  # type: ignore[no-untyped-def]
    """√N in the channel means of centroids, and what it does to the images."""
    from latentmix.inversion import INVERSIONS
    from latentmix.ladder import generate
    from latentmix.metrics import frechet_distance

    ladder, fits, distances = model.ladder(20, "trailing"), [], {"fix/0": 0.0, "fix/chm": 0.0}
    for name in CLASSES:
        z = INVERSIONS["ddim"](model, clean[name], ladder, prompts[name])
        sizes = [1, 2, 4, 8, 16, 32, 64]
        grown = torch.stack([centroids(z, n, "fix/0").mean((0, 2, 3)) for n in sizes])  # [N, C]
        root = torch.tensor(sizes).sqrt().to(grown)[:, None]
        slope = (root * grown).sum(0) / root.square().sum()
        fits.append(1 - (grown - slope * root).square().sum().item() / (grown - grown.mean(0)).square().sum().item())
        guided = replace(prompts[name], guidance=3.0)
        real = network.features(to_network(images[name].to(model.device)))
        for method in distances:
            z0 = generate(lambda *at, c=guided: model.predict(*at, c), centroids(z, 64, method), ladder)  # type: ignore[misc]
            made = network.features(to_network(model.decode(z0)))
            distances[method] += frechet_distance(made, real) / len(CLASSES)
    return [
        Gate("R² of the channel means of fix/0 centroids against √N", sum(fits) / len(fits), low=0.9),
        Gate("Fréchet distance at N = 64, fix/chm", distances["fix/chm"]),
        Gate("Fréchet distance at N = 64, fix/0 over fix/chm", distances["fix/0"] / distances["fix/chm"], low=1.5),
    ]


def centroids(z: Tensor, n: int, method: str) -> Tensor:
    """64 centroids of n latents each, drawn without replacement."""
    from latentmix.mixing import mixtures

    draws = torch.stack([torch.randperm(len(z), generator=torch.Generator().manual_seed(k))[:n] for k in range(64)])
    weights = torch.zeros(64, len(z)).scatter_(1, draws, 1 / n)
    return mixtures(z, weights.to(z.device), [method])[0]


STAGES = {"vae": vae, "unet": unet, "classifier": classifier, "clip": clip, "gates": gates}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stages", nargs="*", default=list(STAGES), help=f"of {', '.join(STAGES)}; default all")
    parser.add_argument("--work", type=Path, default=HERE / "outputs" / "train_tiny")
    parser.add_argument("--to", type=Path, default=HERE / "latentmix" / "embedded")
    parser.add_argument("--device", type=torch.device, default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--steps", type=int)
    given = parser.parse_args()
    prepare(LaunchConfig("local"))
    given.work.mkdir(parents=True, exist_ok=True)
    setting = Setting(given.work, given.to, torch.device(given.device), given.steps)
    for stage in given.stages:
        STAGES[stage](setting)


if __name__ == "__main__":
    main()
