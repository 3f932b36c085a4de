"""Text encoders: CLIP and T5. Each is loaded for one call, and freed when the call returns."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from latentmix.models.loading import encode_prompts, load_network, load_part, read_index, warn_of_cut_prompts


@torch.no_grad()
def clip(
    folder: Path, suffix: str, prompts: Sequence[str], device: torch.device, projection: bool, **options: Any
) -> list[Any]:
    """Return the output of the CLIP in `text_encoder{suffix}` for each prompt, in float32.

    `projection` says whether it is a CLIPTextModelWithProjection, which adds `text_embeds` to the output.
    """
    from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    tokenizer = load_part(CLIPTokenizer.from_pretrained, folder / f"tokenizer{suffix}")
    network = CLIPTextModelWithProjection if projection else CLIPTextModel
    encoder = load_network(network.from_pretrained, folder / f"text_encoder{suffix}", dtype=torch.float32)
    length = encoder.config.max_position_embeddings
    if ["transformers", "T5EncoderModel"] not in read_index(folder).values():  # T5 reads longer prompts
        warn_of_cut_prompts(tokenizer, prompts, length)
    return encode_prompts(encoder.to(device), tokenizer, prompts, length, **options)


@torch.no_grad()
def t5(
    folder: Path, suffix: str, prompts: Sequence[str], length: int, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """Return the states [B, length, D] of the T5 in `text_encoder{suffix}`, in `dtype`.

    It runs in float32 if `dtype` is, and in bfloat16 otherwise, as it overflows in float16.
    """
    from transformers import T5EncoderModel, T5TokenizerFast

    tokenizer = load_part(T5TokenizerFast.from_pretrained, folder / f"tokenizer{suffix}")
    warn_of_cut_prompts(tokenizer, prompts, length)
    precision = torch.float32 if dtype == torch.float32 else torch.bfloat16
    encoder = load_network(T5EncoderModel.from_pretrained, folder / f"text_encoder{suffix}", dtype=precision)
    outs = encode_prompts(encoder.to(device), tokenizer, prompts, length)
    return torch.cat([out.last_hidden_state for out in outs]).to(dtype)
