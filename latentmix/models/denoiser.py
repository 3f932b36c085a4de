"""How a diffusion network gets onto its device: whole, with quantized weights, or layer by layer from main memory.

A precision such as "bfloat16+nf4" says in which type products are computed, and in which one the weights of linear
layers are kept. Weights are quantized after they are loaded, so that it makes no difference which files they are from.
"""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from latentmix.errors import optional_imports
from latentmix.models.compile import compiled
from latentmix.models.loading import dtype_of, load_network
from latentmix.models.norms import with_fused_norms
from latentmix.models.settings import SpeedConfig

PACKAGES = {"int8": "torchao", "fp8": "torchao", "nf4": "bitsandbytes"}


def check_quantization(kind: str) -> None:
    """Raise UserError where the package that quantizes to `kind` is not installed."""
    with optional_imports():
        importlib.import_module(PACKAGES[kind])


def load_denoiser(
    load: Callable[..., Any], folder: Path, precision: str, device: torch.device, speed: SpeedConfig
) -> Any:
    """Return the diffusion network in a folder, frozen, on the device, ready to be run."""
    dtype, kind = dtype_of(precision), precision.partition("+")[2]
    network = load_network(load, folder, onednn=speed.onednn and not kind, torch_dtype=dtype)
    if folder.name == "unet" and speed.channels_last:
        network = network.to(memory_format=torch.channels_last)
    if speed.fused_norms:
        network = with_fused_norms(network)
    if speed.offload:  # its weights are nowhere to be compiled for
        from accelerate import cpu_offload

        return cpu_offload(network, execution_device=device)
    if kind:
        _quantize(network, kind, dtype, device)
    network = network.to(device)
    return compiled(network) if speed.compile is True else network


def _quantize(network: Any, kind: str, dtype: torch.dtype, device: torch.device) -> None:
    """Replace the weights of all linear layers: 8 bits by torchao on the device, 4 by bitsandbytes on the way there."""
    check_quantization(kind)
    if kind == "nf4":
        _to_nf4(network, dtype)
        return
    from torchao.quantization import Float8WeightOnlyConfig, Int8WeightOnlyConfig, quantize_

    quantize_(network, Int8WeightOnlyConfig(version=2) if kind == "int8" else Float8WeightOnlyConfig(), device=device)


def _to_nf4(network: Any, dtype: torch.dtype) -> None:
    from bitsandbytes.nn import Linear4bit, Params4bit

    for parent in list(network.modules()):
        for name, layer in parent.named_children():
            if type(layer) is torch.nn.Linear:
                options: Any = {"bias": layer.bias is not None, "compute_dtype": dtype, "quant_type": "nf4"}
                small = Linear4bit(layer.in_features, layer.out_features, device="meta", **options)
                small.weight, small.bias = Params4bit(layer.weight.data, False, quant_type="nf4"), layer.bias
                setattr(parent, name, small)
