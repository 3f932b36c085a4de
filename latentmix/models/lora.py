"""LoRA: low-rank changes of a network's weights, added to them once when the network is loaded.

Files of kohya's scripts, of diffusers and of peft are read: all name a module of the network, by dots or underscores.
"""

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from latentmix.errors import UserError
from latentmix.weight_files import instead_of_weights

PARTS = {  # the beginning of a weight's name, with underscores for dots -> the network
    **{"lora_unet_": "unet", "lora_te1_": "text_encoder", "lora_te2_": "text_encoder_2", "lora_te_": "text_encoder"},
    **{f"{part}_": part for part in ("unet", "transformer", "text_encoder_2", "text_encoder")},
}
BARE = {  # the same for names that do not name the network
    **dict.fromkeys(("down_blocks_", "mid_block_", "up_blocks_"), "unet"),
    **dict.fromkeys(("transformer_blocks_", "single_transformer_blocks_"), "transformer"),
}
WEIGHT = re.compile(
    r"(?P<module>.+?)(?:_lora)?_(?:lora_|linear_layer_)*(?P<kind>A|B|down|up)(?:_default(?:_0)?)?_weight|(?P<of>.+)_alpha"
)
COMPVIS = ("input_blocks_", "middle_block_", "output_blocks_")  # the U-Net's blocks in files for SDXL
BLOCK = re.compile(r"(down_blocks|mid_block|up_blocks)_(?:(\d+)_)?(resnets|attentions)_(\d+)_")
RESNET = (
    *(("conv1", "in_layers_2"), ("conv2", "out_layers_3"), ("time_emb_proj", "emb_layers_1")),
    ("conv_shortcut", "skip_connection"),
)


# What is added to a weight, scale · up · down: "down", "up" and perhaps "alpha" -> the names of tensors in the file.
Change = dict[str, str]


def parse(setting: str) -> tuple[Path, float]:
    """Return the file and the factor in FILE or FILE:FACTOR; for a folder, diffusers' file in it. Raises: UserError."""
    name, _, factor = setting.rpartition(":")
    path, number = Path(setting), 1.0
    if setting.isdecimal() and not path.exists():
        raise UserError(
            f"model.lora: there is no file {setting}; write a factor with a point, such as FILE:0.{setting}"
        )
    if name and not path.exists():  # paths may have colons
        try:
            path, number = Path(name), float(factor)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise UserError(f"model.lora={setting}: {factor!r} is no number; write FILE or FILE:FACTOR, as {name}:0.8")
    return path / "pytorch_lora_weights.safetensors" if path.is_dir() else path, number


def changes(file: Path, names: Iterable[str]) -> dict[str, dict[str, Change]]:
    """Return a file's changes by network and module, whose name has underscores for dots.

    Raises: UserError for what is no plain LoRA.
    """
    found: dict[str, dict[str, Change]] = {}
    for name in names:
        flat = name.replace(".", "_").removeprefix("base_model_model_")
        match = WEIGHT.fullmatch(flat)
        bare = (("", part) for start, part in BARE.items() if name.replace(".", "_").startswith(start))
        named = ((start, part) for start, part in PARTS.items() if flat.startswith(start))
        start, part = next(bare, next(named, ("", "")))
        if match is None or not part:
            raise UserError(f"{file} holds {name!r}, which no plain LoRA of Stable Diffusion has; it can't be read")
        module = (match["module"] or match["of"]).removeprefix(start)
        module = module.replace("_processor_", "_").removeprefix("text_model_")
        kind = {"A": "down", "B": "up", None: "alpha"}.get(match["kind"], match["kind"])
        if found.setdefault(part, {}).setdefault(module, {}).setdefault(str(kind), name) != name:
            raise UserError(f"{file} holds two changes of {module}; give a file for each, model.lora=[FILE,FILE]")
    for modules in found.values():
        for module, tensors in modules.items():
            if not {"down", "up"} <= tensors.keys():
                raise UserError(f"{file} lacks a half of its change of {module}; copy it again")
    return found


def parts(file: Path) -> set[str]:
    """Return the networks that a file changes. Raises: UserError where it can't be read."""
    with _opened(file) as opened:
        return set(changes(file, opened.keys()))


def compvis_name(name: str, layers: int) -> str:
    """Return CompVis' name of a U-Net's module, both with underscores for dots; `layers` are those of a block."""
    if found := BLOCK.match(name):
        side, level, kind, layer = found.groups()
        number, rest = int(level or 0) * (layers + 1) + int(layer), name[found.end() :]
        if kind == "resnets":
            rest = next((theirs + rest.removeprefix(ours) for ours, theirs in RESNET if rest.startswith(ours)), rest)
        if side == "mid_block":
            return f"middle_block_{1 if kind == 'attentions' else 2 * int(layer)}_{rest}"
        start = f"input_blocks_{number + 1}" if side == "down_blocks" else f"output_blocks_{number}"
        return f"{start}_{int(kind == 'attentions')}_{rest}"
    return name


def targets(network: nn.Module, part: str, file: Path, names: Iterable[str]) -> Iterator[tuple[Any, str, Change]]:
    """Yield each module that a file changes, its name in the file, and its change.

    Raises: UserError for a module that the network does not have.
    """
    wanted = changes(file, names).get(part, {})
    modules = {name.replace(".", "_").removeprefix("text_model_"): module for name, module in network.named_modules()}
    if any(name.startswith(COMPVIS) for name in wanted):
        config: Any = network.config
        modules = {compvis_name(name, config.layers_per_block): module for name, module in modules.items()}
    for name, change in wanted.items():
        module = modules.get(name) if hasattr(modules.get(name), "weight") else modules.get(f"{name}_0")
        if module is None:
            raise UserError(f"{file} changes {name}, which the model's {type(network).__name__} does not have")
        yield module, name, change


def check(network: nn.Module, part: str, file: Path) -> None:
    """Raise UserError where a file's changes do not fit a network, which may be on torch's meta device."""
    with _opened(file) as opened:
        for module, name, change in targets(network, part, file, opened.keys()):
            down, up = (opened.get_slice(name).get_shape() for name in (change["down"], change["up"]))
            inputs = module.weight[0].numel()
            if up[0] != len(module.weight) or torch.Size(down[1:]).numel() != inputs or up[1] != down[0]:
                raise UserError(f"{file} was made for another model: its change of {name} has another size")


@torch.no_grad()
def add(network: nn.Module, part: str, file: Path, factor: float) -> None:
    """Add `factor` times the changes that a file has for a network to its weights, in float32."""
    with _opened(file) as opened:
        usual = _usual_scale(file, part, opened.metadata() or {})
        for module, _, change in targets(network, part, file, opened.keys()):
            down, up = (opened.get_tensor(name).float().flatten(1) for name in (change["down"], change["up"]))
            scale = opened.get_tensor(change["alpha"]).item() / len(down) if "alpha" in change else usual
            weight: Tensor = module.weight
            product = (up @ down).view(weight.shape).to(weight.device)
            weight.copy_(weight.float() + factor * scale * product)


def _usual_scale(file: Path, part: str, metadata: Mapping[str, str]) -> float:
    """Return alpha / rank where a file's metadata has them, as peft's does, and else 1."""
    try:
        plain = dict(json.loads(metadata.get("lora_adapter_metadata", "{}")))
    except (ValueError, TypeError) as error:
        raise UserError(f"{file} has metadata (lora_adapter_metadata) that can't be read; save it again") from error
    settings = {name.removeprefix(f"{part}."): value for name, value in plain.items()}  # of one network, without part
    for name in ("use_dora", "use_rslora", "alpha_pattern", "rank_pattern"):
        if settings.get(name):
            raise UserError(f"{file} uses peft's {name}, which is not known here")
    rank = settings.get("r")
    return settings.get("lora_alpha", rank) / rank if rank else 1.0


def _opened(file: Path) -> Any:
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(file, "pt")
    except (OSError, SafetensorError) as error:
        if what := instead_of_weights(file):
            raise UserError(f"{file} is {what}") from error
        raise UserError(f"{file} can't be read as a LoRA in safetensors: {error}; check model.lora") from error
