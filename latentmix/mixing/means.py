"""Means: the part d of a latent z = d + e that is split off and mixed linearly. One line each in `MEANS`."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from latentmix.mixing.iterative import Latents
from latentmix.plugins import Table

Means = Float[Tensor, "_ _ _ _"]  # [N, C, H, W], with 1 for each dimension that d is constant along, N included


@dataclass(frozen=True)
class Mean:
    """The function `split`, which returns the d of latents [N, C, H, W].

    `of_pool` says that d contains the mean latent of all N, those of weight 0 included. Then e sums to 0 over them, and
    whatever all N have in common cancels in Σ w e.
    """

    split: Callable[[Latents], Means]
    label: str = ""  # in words, for the report
    version: int = 1  # part of cache keys; raise it when the same latents give another d
    of_pool: bool = False


def low_pass(z: Latents, cutoff: float) -> Latents:
    """Return the low frequencies of each channel (the paper's option 4).

    The filter is a Gaussian in the frequency domain, `cutoff` its standard deviation in cycles per frame. At 0 the
    result is the channel's mean; towards infinity it is the latent itself.
    """
    height, width = z.shape[2:]
    rows = torch.fft.fftfreq(height, 1 / height, dtype=torch.float32, device="cpu")
    columns = torch.fft.rfftfreq(width, 1 / width, dtype=torch.float32, device="cpu")
    square = (rows[:, None].square() + columns.square()).to(z)  # of the frequency, [H, W / 2 + 1]
    gain = torch.exp(-square / (2 * cutoff**2)) if cutoff else (square == 0).to(z)
    return torch.fft.irfft2(torch.fft.rfft2(z) * gain, s=(height, width))


def pattern_and_own_means(z: Latents) -> Latents:
    """Return what all latents have in common in space, plus the channel means of each."""
    common = z.mean(0, keepdim=True)
    return common - common.mean((2, 3), keepdim=True) + z.mean((2, 3), keepdim=True)


MEANS: Mapping[str, Mean] = Table(
    "means",
    {
        "0": Mean(lambda z: z.new_zeros(len(z), 1, 1, 1), "nothing split off"),
        "m": Mean(lambda z: z.mean((1, 2, 3), keepdim=True), "the mean of each latent split off first"),
        "chm": Mean(lambda z: z.mean((2, 3), keepdim=True), "the mean of each channel split off first"),
        "lp": Mean(partial(low_pass, cutoff=1.0), "the low frequencies of each channel split off first"),
        "pool": Mean(lambda z: z.mean(0, keepdim=True), "the mean latent of the pool split off first", of_pool=True),
        "pchm": Mean(pattern_and_own_means, "channels' means and the pool's pattern split off first", of_pool=True),
    },
    kind=Mean,
)
_CUTOFF = re.compile(r"lp(\d+(\.\d+)?)")


def find_mean(name: str) -> Mean:
    """Return a mean of MEANS, or the low-pass filter of another cut-off, such as `lp0.5`. Raises: KeyError."""
    if cutoff := _CUTOFF.fullmatch(name):
        return replace(MEANS["lp"], split=partial(low_pass, cutoff=float(cutoff[1])))
    return MEANS[name]
