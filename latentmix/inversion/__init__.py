"""Inversions: clean latents -> latents at t = T from which generation returns to them. One function each."""

from collections.abc import Callable

from torch import Tensor

from latentmix.inversion.ddim import ddim
from latentmix.ladder import Ladder
from latentmix.models import Conditioning, Model

INVERSIONS: dict[str, Callable[[Model, Tensor, Ladder, Conditioning], Tensor]] = {"ddim": ddim}
