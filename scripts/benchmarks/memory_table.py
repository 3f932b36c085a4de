"""Print how much of a GPU's memory each model needs, as docs/models.md has it. It is computed, not measured.

Networks are built from their published configs on torch's meta device, which has shapes and no numbers. One guided
prediction and one decoding are run on it, and the tensors that are alive at once are counted. What CUDA's libraries
take for themselves is not in this, except for the context.

    python -m scripts.benchmarks.memory_table
"""

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pkgutil import resolve_name
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from latentmix.compose import compose
from latentmix.models.architectures import ARCHITECTURES, placeholder, random_network
from latentmix.models.protocol import Conditioning, Text
from latentmix.models.registry import family_of

CARDS = (12, 16, 24, 48, 80)  # GB
MODELS = ("sd15", "sd21", "sdxl", "sd35-medium", "sd35-large", "flux-schnell", "flux-dev")
QUANTIZED = {"int8": 1.0, "nf4": 0.5 + 4 / 64}  # bytes of a weight of a linear layer; nf4 has a scale for each 64
MEASURING = (24e6 + 428e6) * 4  # bytes of Inception-v3 and CLIP ViT-L/14
CONTEXT = 0.7e9  # bytes of CUDA's context
T5 = ARCHITECTURES / "flux-dev" / "text_encoder_2"  # which Stable Diffusion 3 has too


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all tensors that are alive at once, beside the weights of a network."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.now = self.peak = 0
        weights = (*network.parameters(), *network.buffers())
        self._seen: dict[int, Any] = {tensor.untyped_storage()._cdata: None for tensor in weights}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in (leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)):
            storage = tensor.untyped_storage()
            if (identifier := storage._cdata) not in self._seen:
                self._seen[identifier] = weakref.finalize(storage, self._free, identifier, storage.nbytes())
                self.now += storage.nbytes()
                self.peak = max(self.peak, self.now)
        return out

    def _free(self, identifier: int, size: int) -> None:
        del self._seen[identifier]
        self.now -= size


@contextmanager
def fused_attention() -> Iterator[None]:
    """Treat attention as one kernel that keeps no matrix of scores, as GPUs run it."""

    def attention(query: Tensor, *_: object, **__: object) -> Tensor:
        return torch.empty_like(query)

    with patch.object(functional, "scaled_dot_product_attention", attention):
        yield


def peak(compute: Callable[[], object], network: Any) -> int:
    """Return the bytes of a network's activations in a computation on the meta device."""
    with torch.no_grad(), fused_attention(), LiveBytes(network) as live:
        compute()
    return live.peak


def number_of(folder: Any, class_name: str) -> int:
    """Return the number of parameters of a whole text encoder."""
    network = resolve_name(class_name)
    with torch.device("meta"):
        built = network(network.config_class.from_pretrained(folder))
    return sum(p.numel() for p in built.parameters())


def needs(name: str) -> dict[str, float]:
    """Return bytes: of text encoders at once, of the denoiser's linear and other weights, and of activations."""
    config = compose([f"model={name}"]).model
    folder, meta = ARCHITECTURES / str(config.architecture), torch.device("meta")
    family, model = family_of(folder), placeholder(config)
    with meta:
        denoiser = random_network(folder / family.denoiser, family.networks[family.denoiser]).to(model.dtype)
        vae = random_network(folder / "vae", family.networks["vae"]).float()
    fields: Any = model
    fields.device = fields.vae.device = meta
    vars(fields)[f"_{family.denoiser}"], vars(fields.vae)["_network"] = denoiser, vae
    settings = denoiser.config
    pooled = settings.get("pooled_projection_dim") or (settings.get("projection_class_embeddings_input_dim") or 0) - (
        6 * (settings.get("addition_time_embed_dim") or 0)
    )
    states = torch.empty(1, *model.text_shape, dtype=model.dtype, device=meta)
    text = Text(states, torch.empty(1, max(0, pooled), dtype=model.dtype, device=meta))
    z = torch.empty(1, *model.latent_shape(config.size), device=meta)
    interval = model.schedule(4, config.spacing)[-1]
    cond = Conditioning(text, text, config.guidance)
    linear = sum(m.weight.numel() for m in denoiser.modules() if isinstance(m, torch.nn.Linear))
    encoders = {part: kind for part, kind in family.networks.items() if part.startswith("text_encoder")}
    return {
        "text": max(
            number_of(T5 if kind.endswith("T5EncoderModel") else folder / part, kind) * (2 if "T5" in kind else 4)
            for part, kind in encoders.items()
        ),
        "linear": linear,
        "other": sum(p.numel() for p in denoiser.parameters()) - linear,
        "vae": sum(p.numel() for p in vae.parameters()) * 4,
        "predict": peak(lambda: model.predict(z, interval.noisy, interval.timestep, cond), denoiser),
        "decode": peak(lambda: model.decode(z), vae),
        "size": float(str(config.size)),
    }


def total(found: dict[str, float], weights: float) -> float:
    """Return the bytes that a sweep of one image at once needs, with so many bytes of the denoiser on the GPU.

    Prompts are encoded first, before the networks that measure are loaded.
    """
    generation = weights + found["vae"] + max(found["predict"], found["decode"])
    return CONTEXT + max(found["text"], MEASURING + generation)


def main() -> None:
    """Print two tables in Markdown: what each part takes, and what fits where."""
    rows = {name: needs(name) for name in MODELS}
    print("| `model=` | px | text encoders | denoiser | `int8`, `fp8` | `nf4` | one prediction | VAE and one image |")
    print("|---|---|---|---|---|---|---|---|")
    totals = {}
    for name, found in rows.items():
        whole = 2 * (found["linear"] + found["other"])
        small = {kind: found["linear"] * size + 2 * found["other"] for kind, size in QUANTIZED.items()}
        parts = [found["text"], whole, *small.values(), found["predict"], found["vae"] + found["decode"]]
        print(f"| `{name}` | {found['size']:.0f} | {' | '.join(f'{part / 1e9:.1f}' for part in parts)} |")
        totals[name] = {"16 bits": whole} | small | {"model.offload": 0.02 * whole}
    print(f"\n| `model=` | total | {' | '.join(f'{card} GB' for card in CARDS)} |")
    print(f"|---|---|{'---|' * len(CARDS)}")
    for name, kinds in totals.items():
        needed = {kind: total(rows[name], weights) / 1e9 for kind, weights in kinds.items()}
        fits = [next((kind for kind, size in needed.items() if size < 0.95 * card), "-") for card in CARDS]
        print(f"| `{name}` | {needed['16 bits']:.1f} | {' | '.join(fits)} |")


if __name__ == "__main__":
    main()
