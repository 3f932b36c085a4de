"""Tokenizer, text encoders and prompts."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from latentmix.data import things
from latentmix.data.drawn import scenes

LONGEST = 24  # tokens of a prompt, with its start and its end


def vocabulary() -> list[str]:
    """Return all words that occur in prompts."""
    plurals = [f"{name}s" for name in things.CLASSES]
    plain = ["a", "an", "photo", "of", "on", "ground", "dark", "pale"]
    return sorted({*plain, *scenes.HUES, *scenes.COUNTS.values(), *things.CLASSES, *plurals})


def tokenizer(folder: Path) -> Any:
    """Write and return a tokenizer in CLIP's format: 512 byte symbols, and merges that build each word from the left.

    Merges by frequency would do as well, but libraries break ties at random.
    """
    from tokenizers import pre_tokenizers
    from transformers import CLIPTokenizer

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges: dict[tuple[str, str], None] = {}
    for word in vocabulary():
        symbols = [*word[:-1], word[-1] + "</w>"]
        for end in range(1, len(symbols)):
            merges["".join(symbols[:end]), symbols[end]] = None
    symbols = [*alphabet, *(b + "</w>" for b in alphabet), *map("".join, merges), "<|startoftext|>", "<|endoftext|>"]
    numbers = {symbol: i for i, symbol in enumerate(dict.fromkeys(symbols))}
    made = CLIPTokenizer(vocab=numbers, merges=list(merges), model_max_length=LONGEST)
    made.save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps(numbers))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    return made


def token_ids(words: Any, texts: Sequence[str]) -> Tensor:
    """Return the token ids of prompts: [len(texts), LONGEST]."""
    ids: Tensor = words(list(texts), padding="max_length", truncation=True, return_tensors="pt").input_ids
    return ids


def text_encoder(kind: Any, words: Any, width: int, layers: int) -> Any:
    """Return a CLIP text encoder of class `kind`, untrained."""
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
