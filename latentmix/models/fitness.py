"""Checks of a pipeline's configs: refuse, before any work, what would give wrong results or can't be inverted.

diffusers loads most of these pipelines without a warning, with defaults for settings that it does not find.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from latentmix.errors import UserError
from latentmix.models.loading import read_scheduler

CLIPPED = ("clip_sample", "thresholding")  # settings that change x0 at each step, which an inversion can't undo
DISCRETE = (  # schedulers of diffusers whose configs give the noise levels of training on discrete time steps
    *("DDIM", "DDIMInverse", "DDPM", "DEISMultistep", "DPMSolverMultistep", "DPMSolverSDE", "DPMSolverSinglestep"),
    *("EulerAncestralDiscrete", "EulerDiscrete", "HeunDiscrete", "KDPM2AncestralDiscrete", "KDPM2Discrete"),
    *("LMSDiscrete", "PNDM", "UniPCMultistep"),
)
FLOW = ("FlowMatchEulerDiscrete", "FlowMatchHeunDiscrete")
UNKNOWN = (  # settings of FlowMatchEulerDiscreteScheduler that make other noise levels than `sampling` does
    *("use_dynamic_shifting", "shift_terminal", "use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"),
    *("invert_sigmas", "stochastic_sampling", "use_flow_sigmas"),
)
OTHER_INPUTS = {  # settings of a U-Net -> what it needs beside latents, time and text, which nothing here provides
    "class_embed_type": "a class, a noise level or an image",
    "num_class_embeds": "a class",
    "encoder_hid_dim_type": "an image",
    "time_cond_proj_dim": "a guidance scale, as networks distilled for few steps do",
}
MADE_FOR = {5: "depth maps", 7: "upscaling", 8: "editing by instructions", 9: "inpainting"}  # U-Nets by input channels
NO_SIGNAL = 1e-6  # ᾱ below which a level has no signal that a network could use


def check_discrete(folder: Path, predictions: Mapping[str, Any]) -> None:
    """Raise UserError for a scheduler that a U-Net on discrete time steps can't have, or that can't be inverted."""
    place, stored = folder / "scheduler", read_scheduler(folder)
    copy = "copy the scheduler of the model it is made of"
    _check_class(place, stored, DISCRETE, f"a U-Net on discrete time steps; {copy}")
    predicted = stored.get("prediction_type", "epsilon")
    if stored.get("use_flow_sigmas") or stored.get("flow_shift", 1) != 1 or predicted == "flow_prediction":
        flow = f"{place} is set for a rectified flow (flow_shift, use_flow_sigmas), and the model is a U-Net"
        raise UserError(f"{flow}; unset these there, or {copy}")
    if stored.get("timestep_type", "discrete") != "discrete":
        raise UserError(f"{place} has {stored['timestep_type']} time steps (EDM); only discrete ones can be read")
    if predicted not in predictions:
        raise UserError(f"{place}: the model predicts {predicted!r}; latentmix knows {', '.join(predictions)}")
    for setting in (s for s in CLIPPED if stored.get(s)):
        raise UserError(f"{place} sets {setting}, which can't be inverted; set it to false there")


def check_flow(folder: Path, dynamic: bool = False) -> None:
    """Raise UserError for a scheduler of unknown noise levels. `dynamic` allows a shift by the size of the image."""
    place, stored = folder / "scheduler", read_scheduler(folder)
    _check_class(place, stored, FLOW, "a rectified flow; write a FlowMatchEulerDiscreteScheduler with its shift there")
    for setting in (s for s in UNKNOWN if stored.get(s) and not (dynamic and s == "use_dynamic_shifting")):
        raise UserError(f"{place} sets {setting}, which is not known here; unset it there")


def _check_class(place: Path, stored: Mapping[str, Any], known: Sequence[str], model: str) -> None:
    name = str(stored.get("_class_name"))
    if name.removesuffix("Scheduler") not in known:
        raise UserError(f"{place} is of {name}, whose noise levels are not those of {model}")


def check_unet(folder: Path, config: Mapping[str, Any], addition: str | None, channels: int, width: int) -> None:
    """Raise UserError for a U-Net that does not fit its VAE's channels or its prompts' width, or needs other inputs.

    `addition` is the kind of the additional embedding that the family provides.
    """
    place, inputs = folder / "unet", config.get("in_channels", 4)
    if inputs != channels:
        what = "one is another model's; check model.vae and the folder"
        if inputs in MADE_FOR:
            original = "take the text-to-image model that it was made from"
            what = f"it was made for {MADE_FOR[inputs]}, and can't be inverted here; {original}"
        raise UserError(f"{place} takes {inputs} channels, and the VAE's latents have {channels}: {what}")
    if config.get("out_channels", 4) != channels:
        raise UserError(f"{place} returns {config['out_channels']} channels, not the {channels} of the VAE's latents")
    for setting, needed in OTHER_INPUTS.items():
        if config.get(setting) is not None:
            raise UserError(f"{place} needs {needed} beside a prompt ({setting}), which can't be given here")
    if config.get("addition_embed_type") != addition:
        raise UserError(f"{place} has addition_embed_type={config.get('addition_embed_type')}, not {addition}")
    dim = config.get("cross_attention_dim", 1280)
    if width not in (dim if isinstance(dim, list) else [dim]):
        raise UserError(
            f"{place} reads prompts of width {dim}, and its text encoder's have {width}; one is another model's"
        )


def check_transformer(folder: Path, config: Mapping[str, Any], channels: int, width: int | None) -> None:
    """Raise UserError for a transformer that does not fit its VAE's channels, or the width of its T5's states."""
    place, inputs = folder / "transformer", config["in_channels"]
    if inputs != channels:
        raise UserError(
            f"{place} takes {inputs} channels, and the VAE's latents have {channels}; one is another model's"
        )
    if width not in (None, config["joint_attention_dim"]):
        asked = config["joint_attention_dim"]
        raise UserError(f"{place} reads prompts of width {asked}, and T5's have {width}; one is another model's")


def check_levels(folder: Path, alphas: Sequence[float], timesteps: Sequence[int], predicted: str) -> None:
    """Raise UserError for timesteps outside a schedule of ᾱ, and for a network that predicts ε at a level of noise."""
    last = len(alphas) - 1
    if not 0 <= timesteps[0] <= timesteps[-1] <= last:
        steps = f"{len(timesteps)} steps run from {timesteps[0]} to {timesteps[-1]}"
        advice = "take fewer steps, or trailing in place of leading"
        raise UserError(f"{steps}, and {folder / 'scheduler'} ends at {last}; {advice}")
    if predicted == "epsilon" and alphas[timesteps[-1]] < NO_SIGNAL:
        silent = "ends without signal (zero terminal SNR), where no network that predicts ε can tell the image"
        advice = "if this one predicts v, set model.prediction=v_prediction; otherwise unset rescale_betas_zero_snr"
        instead = "take spacing=leading inversion.spacing=leading"
        raise UserError(f"{folder / 'scheduler'} {silent}; {advice} there, or {instead}")
