"""The MMDiT of `tiny-sd3` with its two text encoders: a `StableDiffusion3Pipeline` without T5, shift 3."""

import math
from itertools import cycle
from typing import Any

import torch
from torch import Tensor

from . import package
from .latents import examples, read_vae, vae_digest
from .loop import rounds
from .muon import matrices
from .saving import float16, load, write_pipeline
from .settings import SEED, Run
from .text import text_encoder, tokenizer

NEAR = [(y, x) for y in range(-2, 3) for x in range(-2, 3) if x**2 + y**2 <= 4]  # offsets to places nearby
SHARPNESS = 1.5  # factor of the queries, and of the keys, of heads that look there
WIDTH = 48  # of each text encoder
SHIFT = 3.0  # of the noise levels, as Stable Diffusion 3's


def transformer(run: Run) -> None:
    """Train the MMDiT and the text encoders to predict the velocity of the flow from latents to noise."""
    from transformers import CLIPTextModelWithProjection

    folder = run.weights / "tiny-sd3"
    torch.manual_seed(SEED + 5)
    words = tokenizer(folder / "tokenizer")
    texts = [text_encoder(CLIPTextModelWithProjection, words, WIDTH, layers=3) for _ in range(2)]
    network = mmdit(run)
    start_as_identity(network)
    look_nearby(network)
    places = (folder / "text_encoder", folder / "text_encoder_2", folder / "transformer")
    known = min(load(each, place) for each, place in zip((*texts, network), places, strict=True))
    for each in (network, *texts):
        each.to(run.device)
    if run.device.type == "cpu":
        package.fast_on_cpu(network, *texts)
    encoder, digest = read_vae(run, folder), vae_digest(folder)
    batch = run.settings.stages["transformer"].batch
    draw = examples(run, encoder, digest, words, batch, run.settings.mmdit_views)
    predict = torch.compile(network) if run.compiled else network

    def losses() -> dict[str, Tensor]:
        z0, ids = draw()
        eps, sigma = torch.randn_like(z0), noise_levels(batch, run.device)
        encoded = [text(ids, output_hidden_states=True) for text in texts]
        states = torch.cat([out.hidden_states[-2] for out in encoded], dim=-1)
        pooled = torch.cat([out.text_embeds for out in encoded], dim=-1)
        z = torch.lerp(z0, eps, sigma.view(-1, 1, 1, 1))
        predicted = predict(z, states, pooled, 1000 * sigma).sample
        return {"loss": (predicted.float() - (eps - z0)).square().mean()}

    updated = matrices(network.transformer_blocks)
    for _ in rounds(run, "transformer", [network, *texts], losses, updated, base=digest, known=known):
        write_pipeline(stable_diffusion_3(encoder, texts, words, network), folder)


def mmdit(run: Run) -> Any:
    """Return the MMDiT, untrained."""
    from diffusers import SD3Transformer2DModel

    settings = run.settings
    return SD3Transformer2DModel(
        sample_size=16,
        patch_size=1,
        in_channels=16,
        out_channels=16,
        num_layers=settings.mmdit_layers,
        attention_head_dim=32,
        num_attention_heads=settings.mmdit_width // 32,
        joint_attention_dim=2 * WIDTH,
        caption_projection_dim=settings.mmdit_width,
        pooled_projection_dim=2 * WIDTH,
        pos_embed_max_size=16,
        qk_norm="rms_norm",
    )


@torch.no_grad()
def start_as_identity(network: Any) -> None:
    """Set the first weights so that the output is -z at each place, which is right where there is little noise.

    An inversion begins there, and errors of the velocity at low noise make inverted latents too short. The blocks start
    as the identity (adaLN-Zero, Peebles & Xie 2023). Latents are written, at half of their size, into directions of the
    tokens that the fixed embedding of positions does not use, so that the last layer norm hardly changes their scale.
    """
    written, size = network.pos_embed.proj.weight, 0.5
    modulations = [norm.linear for block in network.transformer_blocks for norm in (block.norm1, block.norm1_context)]
    for layer in (*modulations, network.norm_out.linear):
        layer.weight.zero_()
        layer.bias.zero_()
    position = network.pos_embed.pos_embed[0].cpu()
    used = torch.cat([position, torch.ones(1, position.shape[1])])  # a layer norm takes the mean away
    directions = torch.linalg.svd(used, full_matrices=True)[2][torch.linalg.matrix_rank(used) :]
    channels = written.shape[1]
    free = (torch.linalg.qr(torch.randn(len(directions), len(directions)))[0] @ directions)[:channels]
    written.copy_((size * free.T).view_as(written))
    network.pos_embed.proj.bias.zero_()
    of_position = (position - position.mean(1, keepdim=True)).square().sum(1).mean()
    spread = ((of_position + size**2 * channels) / position.shape[1]).sqrt()
    network.proj_out.weight.copy_(-free * spread / size)
    network.proj_out.bias.zero_()


@torch.no_grad()
def look_nearby(network: Any) -> None:
    """Set the first weights so that all heads but one of each block look at a place near their own.

    A convolution does so from the start; a transformer has to learn it. Keys are the embeddings of positions, at their
    highest frequencies, and queries those of the place to look at: a shift is a linear map of the embeddings.
    """
    position, head = network.pos_embed.pos_embed[0].cpu(), network.config.attention_head_dim
    side, quarter = math.isqrt(len(position)), position.shape[1] // 4  # sines and cosines of columns and of rows
    sharpest = torch.cat([torch.arange(part * quarter, part * quarter + head // 4) for part in range(4)])
    plane, offsets = position.view(side, side, -1), cycle(sorted(NEAR, key=lambda offset: math.hypot(*offset)))
    for block in network.transformer_blocks:
        attention = block.attn
        attention.norm_q.weight.fill_(SHARPNESS)
        attention.norm_k.weight.fill_(SHARPNESS)
        for start in range(0, (network.config.num_attention_heads - 1) * head, head):
            rows = slice(start, start + head)
            attention.to_q.weight[rows], attention.to_k.weight[rows] = (
                shift(plane, offset)[sharpest] for offset in (next(offsets), (0, 0))
            )
        attention.to_q.bias.zero_()
        attention.to_k.bias.zero_()


def shift(plane: Tensor, offset: tuple[int, int]) -> Tensor:
    """Return the matrix that takes the embeddings [side, side, width] of places to those of places at an offset.

    It takes what is at right angles to all embeddings to zero.
    """
    side = len(plane)
    y, x = (slice(max(0, -o), side - max(0, o)) for o in offset)
    there_y, there_x = (slice(max(0, o), side + min(0, o)) for o in offset)
    here, there = plane[y, x].flatten(0, 1).double(), plane[there_y, there_x].flatten(0, 1).double()
    return torch.linalg.lstsq(here, there, rcond=1e-5, driver="gelsd").solution.T.float()


def noise_levels(count: int, device: torch.device) -> Tensor:
    """Return random noise levels: half of them logit-normal, shifted as the scheduler's steps are (Esser et al. 2024,
    section 3.1), since what an image shows is decided at middle levels; half lower ones, where an inversion begins."""
    middle = torch.randn(count, device=device).sigmoid()
    middle = SHIFT * middle / (1 + (SHIFT - 1) * middle)
    lower = torch.rand(count, device=device) ** 1.5
    return torch.where(torch.rand(count, device=device) < 0.5, middle, lower)


def stable_diffusion_3(encoder: Any, texts: list[Any], words: Any, network: Any) -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, StableDiffusion3Pipeline

    return StableDiffusion3Pipeline(
        vae=float16(encoder),
        text_encoder=float16(texts[0]),
        text_encoder_2=float16(texts[1]),
        text_encoder_3=None,  # type: ignore[arg-type]
        tokenizer=words,
        tokenizer_2=words,
        tokenizer_3=None,  # type: ignore[arg-type]
        transformer=float16(network),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=SHIFT),
    )
