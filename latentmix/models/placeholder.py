"""A published model without its files: enough to plan a run, so that a dry run fetches nothing."""

from collections.abc import Collection

import torch

from latentmix.embedded import embedded_folder
from latentmix.errors import UserError
from latentmix.models.family_table import family_of
from latentmix.models.protocol import Model
from latentmix.models.settings import ModelConfig, SpeedConfig

ARCHITECTURES = embedded_folder("architectures")  # pipeline folders of JSON files alone


def placeholder(config: ModelConfig, float32: Collection[str] = ()) -> Model:
    """Return a `Model` whose sizes, schedule and precision on a GPU are known, and which can compute nothing.

    `float32` names denoisers that precision=auto leaves in 32 bits.
    Its identity names the hub's repository: nothing can have been computed from files that are not here.
    Raises: UserError where the settings name no known architecture.
    """
    folder = ARCHITECTURES / str(config.architecture)
    if config.architecture is None or not folder.is_dir():
        known = ", ".join(architectures())
        raise UserError(f"model {config.name!r} is not here; to plan without it, set model.architecture=, of {known}")
    family = family_of(folder)
    device = torch.device("cuda")  # for its precision; nothing is put there
    precision = family.precision(config.precision, device, float32)
    model = family.build(folder, config, precision, device, SpeedConfig())
    vars(model)["identity"] = {"hub": str(config.hub), "revision": str(config.revision)}
    return model


def architectures() -> list[str]:
    """Return the names of the published architectures that are known."""
    return sorted(folder.name for folder in ARCHITECTURES.iterdir())
