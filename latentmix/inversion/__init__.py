"""Inversions: clean latents -> latents at t = T, and the generation that returns from there. One line each."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from latentmix.config import InversionConfig
from latentmix.inversion import ddim, edict, fixed_point, midpoint, null_text
from latentmix.ladder import Ladder
from latentmix.models import Conditioning, Model

State = dict[str, Tensor]  # `latents` [B, C, h, w], and what else an inversion leaves, a row for each image


def halves(guidance: float) -> int:
    """Calls of the network for a prediction: the empty prompt's and the prompt's, or only the latter."""
    return 1 if guidance == 1 else 2


def _iterated(settings: InversionConfig) -> int:
    return (1 + settings.iterations) * halves(settings.guidance)


def _twice(settings: InversionConfig) -> int:
    return 2 * halves(settings.guidance)


@dataclass(frozen=True)
class Inversion:
    """A way up the ladder and the way down that belongs to it."""

    invert: Callable[[Model, Tensor, Ladder, Conditioning, InversionConfig], State]
    generate: Callable[[Model, State, Ladder, Conditioning, InversionConfig], Tensor] = ddim.generate
    companions: Mapping[str, str | None] = field(default_factory=dict)
    """What else it leaves, and the method by which that is mixed; None is the latents' own."""
    rungs: int = 1  # of the ladder to a step
    calls: Callable[[InversionConfig], int] = lambda settings: halves(settings.guidance)
    """Of the network, for an image and step, at most."""
    predictions_back: int = 1  # for an image and step of generation
    unguided: bool = False  # generation predicts without guidance, whatever it is set to

    def calls_back(self, guidance: float) -> int:
        """Of the network, for an image and step of generation."""
        return self.predictions_back * (1 if self.unguided else halves(guidance))


INVERSIONS: dict[str, Inversion] = {
    "ddim": Inversion(ddim.invert),
    "negative_prompt": Inversion(ddim.invert, ddim.negative_prompt, unguided=True),
    "null_text": Inversion(
        null_text.invert,
        null_text.generate,
        companions={"nulls": "lin/0"},  # as the paper's Appendix B does
        calls=lambda settings: 3 + 3 * settings.iterations,  # the way back through a network costs two calls
    ),
    "fixed_point": Inversion(fixed_point.fixed_point, calls=_iterated),
    "renoise": Inversion(fixed_point.renoise, calls=_iterated),
    "midpoint": Inversion(midpoint.invert, midpoint.generate, rungs=2, calls=_twice, predictions_back=2),
    "exact": Inversion(edict.invert, edict.generate, companions={"partner": None}, calls=_twice, predictions_back=2),
}
