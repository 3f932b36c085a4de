"""Checks of arguments to the methods of `Pipeline`: numbers, prompts, methods. Each error is one line."""

import math
import operator
from collections.abc import Mapping, Sequence, Set
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from latentmix.arrays import as_tensor
from latentmix.errors import UserError
from latentmix.inversion.base import InversionSettings
from latentmix.latents import Latents, Prompt
from latentmix.mixing import Method
from latentmix.mixing.inputs import refuse_not_real

ROUNDING = 1e-4  # by which the sum of weights may differ from 1
OF_LOADING = (  # settings that decide which model is loaded, and how
    *(f"model.{name}" for name in ("path", "hub", "revision", "variant", "architecture", "embedded", "pickled")),
    *(f"model.{name}" for name in ("precision", "quantize", "offload", "lora", "vae", "t5")),
)


def for_each(prompts: Any, count: int) -> list[Prompt]:
    """Return a prompt for each of `count` images or latents. Raises: UserError where there are not as many."""
    prompts = "" if prompts is None else prompts
    one = isinstance(prompts, str | bytes | Mapping | Set) or not hasattr(prompts, "__iter__")
    listed = [prompts] * count if one else list(prompts)
    if wrong := [prompt for prompt in listed if not isinstance(prompt, str | Mapping)]:
        hint = "" if isinstance(wrong[0], Real | None) else "; several images or latents go in a list"
        raise UserError(f"a prompt is a text, or texts with their weights, not {type(wrong[0]).__name__}{hint}")
    if len(listed) != count:
        raise UserError(f"there are {len(listed)} prompts for {count} images; give one prompt for all, or one for each")
    return [prompt if isinstance(prompt, str) else _checked_weights(prompt) for prompt in listed]


def _checked_weights(prompt: Mapping[Any, Any]) -> Prompt:
    """Return a prompt of several texts. Raises: UserError where weights are no numbers or do not sum to 1."""
    try:
        weights = {text: float(weight) for text, weight in prompt.items()}
    except (TypeError, ValueError):
        raise UserError(
            "the weights of a prompt's texts must be numbers, such as {'a cat': 0.5, 'a fox': 0.5}"
        ) from None
    if wrong := [text for text in weights if not isinstance(text, str)]:
        raise UserError(f"a prompt's texts must be texts, not {wrong[0]!r}")
    if not all(0 <= weight < math.inf for weight in weights.values()) or abs(sum(weights.values()) - 1) > ROUNDING:
        raise UserError(f"the weights of a prompt's texts must sum to 1, and none be negative: {weights}")
    return weights


def count_of(name: str, value: Any, least: int = 1) -> int:
    """Return a whole number of at least `least`. Raises: UserError for anything else."""
    try:
        if (number := operator.index(value)) >= least:
            return number
    except TypeError:
        pass
    shown = repr(value) if isinstance(value, str | Real | None) else type(value).__name__
    hint = "; several images go in a list" if name == "frames" and not isinstance(value, Real) else ""
    raise UserError(f"{name}={shown} must be a whole number of at least {least}{hint}")


def size_of(value: Any) -> str:
    """Return the override for a size. Raises: UserError for what is neither a number nor a text."""
    if not isinstance(value, str) and not hasattr(value, "__index__"):
        raise UserError(f"size={value!r} must be pixels: 512, or '768x512' for width and height")
    return f"model.size={value}"


def check_loaded(settings: Sequence[str]) -> None:
    """Raise UserError for settings of loading, which have no effect on a pipeline that is loaded already."""
    for setting in settings:
        key = setting.lstrip("+").partition("=")[0]
        if key == "device":
            raise UserError(f"leave out {setting}; the modules of a pipeline stay where they are")
        if key in OF_LOADING or key.startswith("speed."):
            raise UserError(f"leave out {setting}; the modules of a pipeline stay as they are")


def plain_latents(latents: Any, channels: int) -> Tensor:
    """Return latents of unknown origin, a single one or several, as float32. Raises: UserError for anything else."""
    expected = (
        f"latents must be [{channels}, h, w] or [N, {channels}, h, w], or what `invert`, `noise` or `lm.mix` returned"
    )
    try:
        rows = list(map(as_tensor, latents)) if isinstance(latents, list) else []
        singles = bool(rows) and all(row.ndim == 4 for row in rows)  # [1, C, h, w], as diffusers has them
        z = (torch.cat if singles else torch.stack)(rows) if isinstance(latents, list) else as_tensor(latents)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{expected}, not {type(latents).__name__}") from error
    try:
        refuse_not_real(z, "latents")
    except ValueError as error:
        raise UserError(str(error)) from error
    if z.ndim not in (3, 4) or z.shape[-3] != channels or 0 in z.shape[-2:]:
        raise UserError(f"{expected}, not {list(z.shape)}")
    return z.float()


def seed_of(value: Any) -> int:
    """Return a seed. Raises: UserError for what is none."""
    return count_of("seed", value, least=0)


def guidance_of(value: Any) -> float:
    """Return a guidance of generation. Raises: UserError for what is none."""
    if not isinstance(value, Real) or not 0 <= float(value) < math.inf:
        raise UserError(f"guidance={value!r} must be a number of at least 0; 1 is no guidance")
    return float(value)


def for_morph(method: str | Method, given: str = "method=") -> Method:
    """Return the method of a morph. Raises: UserError for an unknown one, or one of a pool.

    `given` is what errors put before the method: the argument "method=" or an option.
    """
    try:
        parsed = Method.parse(method)
    except ValueError as error:
        raise UserError(f"{given}{method}: {error}") from error
    if parsed.of_pool:
        raise UserError(f"{given}{parsed} needs a pool of pictures that are not mixed; take {parsed.norm}/chm")
    return parsed


def check_pairs(z: Latents, own: InversionSettings, guidance: float) -> None:
    """Raise UserError where generation must repeat a setting of the inversion, and does not."""
    for name, asked in (("steps", own.steps), ("guidance", guidance)):
        inverted = getattr(z.settings, name)
        if name in z.inversion.paired and asked != inverted:
            needed = f"{own.name} needs the same {name} in both directions: latents were inverted with {inverted}"
            raise UserError(f"{needed}, and {asked} are asked for; give {name}={asked} to invert too")
