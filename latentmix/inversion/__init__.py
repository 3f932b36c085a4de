"""Inversions: clean latents -> latents at t = T, and the generation that returns from there. One line each."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from latentmix.config import InversionConfig
from latentmix.inversion import ddim, edict, fixed_point, midpoint, null_text
from latentmix.models.protocol import Conditioning, Model
from latentmix.sampling import Schedule

State = dict[str, Tensor]  # `latents` [B, C, h, w], and what else an inversion leaves, a row for each image


def cfg_factor(guidance: float) -> int:
    """Calls of the network for a prediction: the empty prompt's and the prompt's, or only the latter."""
    return 1 if guidance == 1 else 2


def _iterated(settings: InversionConfig) -> int:
    return (1 + settings.iterations) * cfg_factor(settings.guidance)


def _twice(settings: InversionConfig) -> int:
    return 2 * cfg_factor(settings.guidance)


@dataclass(frozen=True)
class Inversion:
    """A way up the ladder and the way down that belongs to it."""

    invert: Callable[[Model, Tensor, Schedule, Conditioning, InversionConfig], State]
    generate: Callable[[Model, State, Schedule, Conditioning, InversionConfig], Tensor] = ddim.generate
    extras: Mapping[str, str | None] = field(default_factory=dict)
    """What else it leaves, and the method by which that is mixed; None is the latents' own."""
    schedule: int = 1  # of the ladder to a step
    nfe: Callable[[InversionConfig], int] = lambda settings: cfg_factor(settings.guidance)
    """Of the network, for an image and step, at most."""
    predictions_per_step: int = 1  # for an image and step of generation
    unguided: bool = False  # generation predicts without guidance, whatever it is set to

    def nfe_generation(self, guidance: float) -> int:
        """Of the network, for an image and step of generation."""
        return self.predictions_per_step * (1 if self.unguided else cfg_factor(guidance))


INVERSIONS: dict[str, Inversion] = {
    "ddim": Inversion(ddim.invert),
    "negative_prompt": Inversion(ddim.invert, ddim.negative_prompt, unguided=True),
    "null_text": Inversion(
        null_text.invert,
        null_text.generate,
        extras={"nulls": "lin/0"},  # as the paper's Appendix B does
        nfe=lambda settings: 3 + 3 * settings.iterations,  # the way back through a network costs two calls
    ),
    "fixed_point": Inversion(fixed_point.fixed_point, nfe=_iterated),
    "renoise": Inversion(fixed_point.renoise, nfe=_iterated),
    "midpoint": Inversion(midpoint.invert, midpoint.generate, schedule=2, nfe=_twice, predictions_per_step=2),
    "exact": Inversion(edict.invert, edict.generate, extras={"partner": None}, nfe=_twice, predictions_per_step=2),
}
