"""The MMDiT of `tiny-sd3` with its two text encoders: a `StableDiffusion3Pipeline` without T5, shift 3."""

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
        patch_size=settings.mmdit_patch,
        in_channels=16,
        out_channels=16,
        num_layers=settings.mmdit_layers,
        attention_head_dim=32,
        num_attention_heads=settings.mmdit_width // 32,
        joint_attention_dim=2 * WIDTH,
        caption_projection_dim=settings.mmdit_width,
        pooled_projection_dim=2 * WIDTH,
        pos_embed_max_size=16 // settings.mmdit_patch,
        qk_norm="rms_norm",
    )


@torch.no_grad()
def start_as_identity(network: Any) -> None:
    """Set the first weights so that the output is -z at each place, which is right where there is little noise.

    An inversion begins there, and errors of the velocity at low noise make inverted latents too short. The blocks start
    as the identity (adaLN-Zero, Peebles & Xie 2023). Patches are written, at half of their size, into directions of the
    tokens that the fixed embedding of positions does not use, so that the last layer norm hardly changes their scale.
    """
    patch, size = network.pos_embed.proj.weight, 0.5
    modulations = [norm.linear for block in network.transformer_blocks for norm in (block.norm1, block.norm1_context)]
    for layer in (*modulations, network.norm_out.linear):
        layer.weight.zero_()
        layer.bias.zero_()
    position = network.pos_embed.pos_embed[0].cpu()
    used = torch.cat([position, torch.ones(1, position.shape[1])])  # a layer norm takes the mean away
    directions = torch.linalg.svd(used, full_matrices=True)[2][torch.linalg.matrix_rank(used) :]
    numbers = patch[0].numel()
    free = (torch.linalg.qr(torch.randn(len(directions), len(directions)))[0] @ directions)[:numbers]
    patch.copy_((size * free.T).view_as(patch))
    network.pos_embed.proj.bias.zero_()
    of_position = (position - position.mean(1, keepdim=True)).square().sum(1).mean()
    spread = ((of_position + size**2 * numbers) / position.shape[1]).sqrt()
    edge = network.config.patch_size  # the output has channels last, the input first
    order = torch.arange(numbers).view(-1, edge, edge).permute(1, 2, 0).flatten()
    network.proj_out.weight.copy_(-free[order] * spread / size)
    network.proj_out.bias.zero_()


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
