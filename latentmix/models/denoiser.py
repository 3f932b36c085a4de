"""Loading the diffusion network onto its device: whole, with quantized weights, or layer by layer from main memory.

A precision such as "bfloat16+nf4" names the type of products, and that of the weights of linear layers.
"""

import importlib
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from latentmix.errors import UserError, optional_imports
from latentmix.models.compile import compiled
from latentmix.models.loading import dtype_of, load_network
from latentmix.models.settings import SpeedConfig
from latentmix.weight_files import read_source

PACKAGES = {"int8": "torchao", "fp8": "torchao", "nf4": "bitsandbytes"}


def check_quantization(kind: str, device: torch.device) -> None:
    """Raise UserError where nothing can quantize to `kind`: its package is not installed, or the device can't."""
    if kind == "nf4" and device.type == "cpu":
        raise UserError("model.quantize=nf4 needs a GPU (diffusers quantizes to 4 bits there alone); take int8 or fp8")
    with optional_imports():
        importlib.import_module(PACKAGES[kind])


def load_denoiser(
    load: Callable[..., Any], folder: Path, precision: str, device: torch.device, speed: SpeedConfig, offload: bool
) -> Any:
    """Return the diffusion network in a folder, frozen, on the device, ready to be run."""
    dtype, kind = dtype_of(precision), precision.partition("+")[2]
    if kind:
        network = _quantized(load, folder, kind, dtype)
    else:
        network = load_network(load, folder, onednn=speed.onednn, torch_dtype=dtype)
    if speed.fused_norms:
        network = with_fused_norms(network)
    channels_last = folder.name == "unet" and speed.channels_last
    layout = {"memory_format": torch.channels_last} if channels_last else {}
    network = network.to("cpu" if offload else device, **layout)
    if offload:  # it is not compiled, as its weights move during each evaluation
        from accelerate import cpu_offload

        return cpu_offload(network, execution_device=device)
    return compiled(network) if speed.compile is True else network


def with_fused_norms(network: Any) -> Any:
    """Return a network of diffusers after replacing its RMSNorms, of seven kernels, by torch's, which is one.

    torch squares, averages and scales in float32, as diffusers does, and rounds once, where diffusers rounds twice.
    """
    from diffusers.models.normalization import RMSNorm

    class FusedRMSNorm(RMSNorm):
        def forward(self, hidden_states: Tensor) -> Tensor:
            x = hidden_states
            out = functional.rms_norm(x, list(self.dim), None if self.weight is None else self.weight.to(x), self.eps)
            return out if self.bias is None else out + self.bias

    for module in network.modules():
        if type(module) is RMSNorm:
            module.__class__ = FusedRMSNorm
    return network


def _quantized(load: Callable[..., Any], folder: Path, kind: str, dtype: torch.dtype) -> Any:
    """Return the network in a folder, with the weights of its linear layers quantized by diffusers.

    diffusers quantizes weights while it reads them from a folder. Weights with LoRA, and those of a single file, are
    first written to a temporary folder.
    """
    from diffusers import BitsAndBytesConfig, TorchAoConfig

    if kind == "nf4":
        config: Any = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type=kind, bnb_4bit_compute_dtype=dtype)
    else:
        from torchao.quantization import Float8WeightOnlyConfig, Int8WeightOnlyConfig

        config = TorchAoConfig(Int8WeightOnlyConfig(version=2) if kind == "int8" else Float8WeightOnlyConfig())
    options = {"torch_dtype": dtype, "quantization_config": config}
    source = read_source(folder)
    if source.place.is_dir() and not source.loras:
        return load_network(load, folder, **options)
    with TemporaryDirectory(prefix="latentmix-") as place:
        load_network(load, folder, torch_dtype=dtype).save_pretrained(place)
        return load_network(load, Path(place), **options)
