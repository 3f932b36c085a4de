"""The error where the weights of a feature network are not here and can't be fetched."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from latentmix.data.hub_errors import hub_refusal
from latentmix.errors import UserError


@contextmanager
def fetching(what: str, instead: str, hub: str = "") -> Iterator[None]:
    """Raise UserError where `what` can't be loaded within.

    `instead` is the setting of another network, or says what else to measure with. If nothing of the repository `hub`
    is here, it is asked first, as libraries wait for it without a limit.
    """
    from huggingface_hub import constants

    if instead in ("features", "clip", "perceptual"):
        instead = f"another network, such as model.{instead}=embedded or --{instead} embedded"
    advice = f"fetch them on a machine that is online, or measure with {instead}"
    here = Path(constants.HF_HUB_CACHE) / f"models--{hub.replace('/', '--')}"
    if hub and not here.exists() and (refused := hub_refusal(hub, "config.json")) is not None:
        raise UserError(f"{what} are not here, and {refused}; {advice}")
    try:
        yield
    except (OSError, RuntimeError) as error:
        raise UserError(f"{what} are not here and could not be fetched ({type(error).__name__}); {advice}") from error
