"""Single-file checkpoints, as CompVis and Stability release them: their family, and the weights of each network.

The names of weights are converted by diffusers' own tables. Files of Stable Diffusion 1, 2 and XL hold all networks,
and their configs come from latentmix/embedded/architectures. Those of Stable Diffusion 3 and FLUX.1 hold the
transformer, and some the VAE; a pipeline folder has the rest. `assembly.py` makes a pipeline of both.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from zipfile import is_zipfile

import torch
from torch import Tensor

from latentmix.errors import UserError
from latentmix.weight_files import instead_of_weights, read_source, shapes

ARCHITECTURES = {"v1": "sd15", "v2": "sd21", "xl_base": "sdxl"}  # what diffusers calls a checkpoint -> ours
TRANSFORMERS = {"sd3": "sd35-medium", "sd35_medium": "sd35-medium", "sd35_large": "sd35-large"}
TRANSFORMERS |= {"flux-dev": "flux-dev", "flux-schnell": "flux-schnell"}
PREFIXES = {  # of the weights of each network: before SDXL, and since
    "unet": ("model.diffusion_model.", "model_ema."),
    "transformer": ("model.diffusion_model.",),
    "vae": ("first_stage_model.", "vae."),
    "text_encoder": ("cond_stage_model.", "conditioner.embedders.0."),
    "text_encoder_2": ("conditioner.embedders.1.",),
}
PICKLES = (".ckpt", ".pt", ".pth", ".bin")
SCALED = (".scale_weight", ".weight_scale", "scaled_fp8")  # endings of names in files with scaled 8-bit weights


def is_single_file(path: Path) -> bool:
    """Return True for a file of weights, or a path that can only be one."""
    return path.is_file() or path.suffix in (".safetensors", ".ckpt")


def headers(file: Path, pickled: bool) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint; those of safetensors are on the meta device. Raises: UserError."""
    if not file.is_file():
        raise UserError(f"there is no file {file}; check model.path")
    if file.suffix == ".safetensors":
        try:
            return {name: torch.empty(shape, device="meta") for name, shape in shapes(file).items()}
        except Exception as error:
            what = instead_of_weights(file)
            reason = f"is {what}" if what else f"can't be read as safetensors: {error}; copy it again"
            raise UserError(f"{file} {reason}") from error
    if file.suffix not in PICKLES:
        raise UserError(f"{file} can't be read; give a *.safetensors or *.ckpt file, or a pipeline folder")
    if not pickled:
        raise UserError(f"{file} is a pickle; if you trust whoever made it, set model.pickled=true")
    return _unpickled(file)


def architecture(file: Path, tensors: Mapping[str, Tensor]) -> str:
    """Return the architecture of a checkpoint, by its weights' names and shapes. Raises: UserError for others."""
    kind = _kind(tensors)
    if kind in TRANSFORMERS:
        if any(name.endswith(SCALED) for name in tensors if not name.startswith("text_encoders.")):
            raise UserError(f"{file} holds weights in scaled 8 bits, which can't be read; take the file in 16 bits")
        return TRANSFORMERS[kind]
    if kind not in ARCHITECTURES or not any(holds(tensors, part) for part in PREFIXES):
        what = "no Stable Diffusion" if kind == "v1" else repr(kind)
        known = ", ".join(dict.fromkeys([*ARCHITECTURES.values(), *TRANSFORMERS.values()]))
        raise UserError(f"{file} holds {what}; single files of {known} can be read")
    return ARCHITECTURES[kind]


def _kind(tensors: Mapping[str, Tensor]) -> str:
    """Return what diffusers calls a checkpoint; "v1" where it knows none."""
    from diffusers.loaders.single_file_utils import CHECKPOINT_KEY_NAMES, infer_diffusers_model_type

    is_sd3 = any(name in tensors for name in CHECKPOINT_KEY_NAMES["sd3"])
    try:
        kind = str(infer_diffusers_model_type(dict(tensors)))
    except UnboundLocalError:  # of Stable Diffusion 3 in a size that diffusers does not know
        kind = "v1"
    return "sd3" if is_sd3 and kind == "v1" else kind


def holds(tensors: Mapping[str, Tensor], part: str) -> bool:
    """Return whether a checkpoint has the weights of a network. Text encoders beside a transformer are not read."""
    if _kind(tensors) in TRANSFORMERS and part != "vae":
        return part == "transformer"
    return any(name.startswith(PREFIXES[part]) for name in tensors)


def load(from_pretrained: Callable[..., Any], folder: Path, **options: Any) -> tuple[Any, list[str]]:
    """Return the network in `folder` with weights from the file that it names, and the names of missing weights."""
    network_class: Any = from_pretrained.__self__  # type: ignore[attr-defined]
    source, dtype = read_source(folder), options.get("torch_dtype", options.get("dtype"))
    tensors = _read(source.place, PREFIXES[folder.name])
    if folder.name.startswith("text_encoder"):
        config = network_class.config_class.from_pretrained(folder / "config.json")
        options = {"config": config, "state_dict": _text_weights(tensors, folder.name, config), "dtype": dtype}
        network, info = network_class.from_pretrained(None, output_loading_info=True, **options)
        return network.eval(), sorted(info["missing_keys"])
    with torch.device("meta"):
        network = network_class.from_config(network_class.load_config(folder))
    state = _weights(tensors, folder.name, network.config, source.variant == "ema")
    state = {name: tensor.to(dtype) for name, tensor in state.items()}
    return network.eval(), sorted(network.load_state_dict(state, strict=False, assign=True).missing_keys)


def check(network: Any, part: str, tensors: Mapping[str, Tensor]) -> None:
    """Raise ValueError where a checkpoint's weights do not fit a network, which is on torch's meta device."""
    own = {name: tensor for name, tensor in tensors.items() if name.startswith(PREFIXES[part])} or dict(tensors)
    try:
        state = _weights(own, part, network.config)
    except (KeyError, IndexError, RuntimeError) as error:  # of diffusers' tables
        raise ValueError(f"its weights have other names or sizes ({error})") from error
    if not hasattr(network, "text_model"):
        state = {name.removeprefix("text_model."): tensor for name, tensor in state.items()}
    for name, tensor in network.state_dict().items():
        if name not in state:
            raise ValueError(f"it lacks {name}")
        if state[name].shape != tensor.shape:
            raise ValueError(f"{name} has the shape {[*state[name].shape]}, not {[*tensor.shape]}")
    if part == "transformer" and (more := state.keys() - network.state_dict().keys()):
        raise ValueError(f"it also has {min(more)}")


def _weights(tensors: dict[str, Tensor], part: str, config: Any, ema: bool = False) -> dict[str, Tensor]:
    """Return the weights of a network by the names of diffusers and transformers."""
    from diffusers.loaders import single_file_utils as utils

    if part.startswith("text_encoder"):
        return _text_weights(tensors, part, config)
    if part == "unet":
        return dict(utils.convert_ldm_unet_checkpoint(tensors, config, extract_ema=ema))
    if part == "transformer":
        is_flux = any("double_blocks." in name for name in tensors)
        convert = "flux" if is_flux else "sd3"
        return dict(getattr(utils, f"convert_{convert}_transformer_checkpoint_to_diffusers")(tensors))
    if any(name.startswith("encoder.down_blocks.") for name in tensors):  # a VAE alone, as diffusers saves it
        return tensors
    return dict(utils.convert_ldm_vae_checkpoint(tensors, config))


def _text_weights(tensors: dict[str, Tensor], part: str, config: Any) -> dict[str, Tensor]:
    from diffusers.loaders import single_file_utils as utils

    prefix = next(prefix for prefix in PREFIXES[part] if any(name.startswith(prefix) for name in tensors))
    if any(name.startswith(f"{prefix}transformer.") for name in tensors):  # of OpenAI's CLIP
        state = utils.convert_ldm_clip_checkpoint(tensors)
    else:
        state = utils.convert_open_clip_checkpoint(SimpleNamespace(config=config), tensors, f"{prefix}model.")
    return {name: tensor for name, tensor in state.items() if not name.endswith("position_ids")}


def _read(file: Path, prefixes: tuple[str, ...]) -> dict[str, Tensor]:
    """Return the tensors whose names begin with one of `prefixes`; all where none does, as in the file of a VAE."""
    if file.suffix != ".safetensors":
        tensors = _unpickled(file)
        return {name: tensor for name, tensor in tensors.items() if name.startswith(prefixes)} or tensors
    from safetensors import safe_open

    with safe_open(file, "pt") as opened:
        names = list(opened.keys())
        own = [name for name in names if name.startswith(prefixes)]
        return {name: opened.get_tensor(name) for name in own or names}


def _unpickled(file: Path) -> dict[str, Tensor]:
    """Return the tensors of a pickled checkpoint. Nothing but tensors is read from it."""
    try:
        content = torch.load(file, map_location="cpu", weights_only=True, mmap=is_zipfile(file))
        content = content.get("state_dict", content)
        return {name: tensor for name, tensor in content.items() if isinstance(tensor, Tensor)}
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        if "weights_only" in reason:  # torch says how to read it unsafely
            reason = "it is damaged, or holds more than tensors"
        raise UserError(f"{file} can't be read as weights: {reason}") from error
