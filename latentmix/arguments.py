"""What callers give to the methods of `Pipeline`, checked: numbers, prompts, methods. Each error is one line."""

import math
import operator
from collections.abc import Mapping
from numbers import Real
from typing import Any

from latentmix.errors import UserError
from latentmix.inversion.base import InversionSettings
from latentmix.latents import Latents, Prompt
from latentmix.mixing import Method


def for_each(prompts: Any, count: int) -> list[Prompt]:
    """Return a prompt for each of `count` images or latents. Raises: UserError where there are not as many."""
    prompts = "" if prompts is None else prompts
    one = isinstance(prompts, str | Mapping) or not hasattr(prompts, "__iter__")
    listed = [prompts] * count if one else list(prompts)
    if wrong := [prompt for prompt in listed if not isinstance(prompt, str | Mapping)]:
        raise UserError(f"a prompt is a text, or texts with their weights, not {type(wrong[0]).__name__}")
    if len(listed) != count:
        raise UserError(f"there are {len(listed)} prompts for {count} images; give one prompt for all, or one for each")
    return listed


def count_of(name: str, value: Any) -> int:
    """Return a whole number of at least 1. Raises: UserError for anything else."""
    if not hasattr(value, "__index__") or (number := operator.index(value)) < 1:
        raise UserError(f"{name}={value!r} must be a whole number of at least 1")
    return number


def guidance_of(value: Any) -> float:
    """Return a guidance of generation. Raises: UserError for what is none."""
    if not isinstance(value, Real) or not 0 <= float(value) < math.inf:
        raise UserError(f"guidance={value!r} must be a number of at least 0; 1 is no guidance")
    return float(value)


def for_morph(method: str | Method, given: str = "method=") -> Method:
    """Return the method of a morph, `given` as an argument or an option. Raises: UserError for none, or of a pool."""
    try:
        parsed = method if isinstance(method, Method) else Method.parse(method)
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
