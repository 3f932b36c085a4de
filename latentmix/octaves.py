"""The bias of latents by spatial frequency, and the largest N for which each method keeps it small.

Mixing N latents with their norm restored multiplies the bias d of a Fourier coefficient by √N, and does not change its
standard deviation √v. So the amplified bias reaches one standard deviation at N = v/d². The part that a mean splits off
is not amplified: `chm` splits off frequency 0, `pool` the bias at all frequencies.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

SURE = 0.95


@dataclass(frozen=True)
class Octave:
    """The coefficients of all channels at frequencies from `low` to below `high`, in cycles per frame.

    The channels' means are frequency 0, where both ends are 0. `bias` is an unbiased estimate of d², the mean square of
    what latents share, and `error` its standard error. `variance` is v, that of each latent's own part; white noise of
    variance 1 has v = 1 in every octave. `limit` is v/d², or None if d² does not differ from 0 significantly.
    """

    low: int
    high: int
    bias: float
    error: float
    variance: float
    limit: float | None


def octaves(z: Float[Tensor, "P C h w"]) -> tuple[Octave, ...]:
    """Return all octaves of latents, from the channels' means upwards.

    `limit` is set by a χ² test of the pool's mean against 0, at 5 % for all octaves together.
    """
    from scipy.special import chdtri

    x = torch.fft.fft2(z.double(), norm="ortho")
    frequency = torch.stack(
        torch.meshgrid(*(torch.fft.fftfreq(n, 1 / n, dtype=torch.float64) for n in z.shape[2:]), indexing="ij")
    ).norm(dim=0)
    mean, variance = x.mean(0).abs().square(), (x - x.mean(0)).abs().square().sum(0) / (len(z) - 1)
    bands = list(_bands(frequency.max().item()))
    found = []
    for low, high in bands:
        inside = (frequency >= low) & (frequency < max(high, 0.5))
        numbers = len(z[0]) * int(inside.sum())  # of real coefficients
        v, square = variance[:, inside].mean().item(), mean[:, inside].mean().item()
        d2, noise = square - v / len(z), v / len(z)
        error = math.sqrt((2 * noise**2 + 4 * max(d2, 0) * noise) / numbers)
        resolved = numbers * square > noise * float(chdtri(numbers, (1 - SURE) / len(bands)))
        found.append(Octave(low, high, d2, error, v, v / d2 if resolved else None))
    return tuple(found)


def _bands(highest: float) -> Iterator[tuple[int, int]]:
    yield 0, 0
    low = 1
    while low <= highest:
        yield low, 2 * low
        low *= 2


def safe(found: Sequence[Octave], pool: int) -> dict[str, int | None]:
    """Return the largest N that is safe to mix by each method; None is any N.

    `fix/0` amplifies the bias of every octave, and `fix/chm` that of all but the channels' means. `fix/pool` amplifies
    none, but needs a pool of at least 2·N latents.
    """
    limits = {"fix/0": found, "fix/chm": found[1:]}
    least = {name: min((o.limit for o in some if o.limit is not None), default=None) for name, some in limits.items()}
    return {name: None if limit is None else int(limit) for name, limit in least.items()} | {"fix/pool": pool // 2}


def recommended(limits: dict[str, int | None], n: int) -> str:
    """Return the method to take for mixtures of N of these latents."""
    if limits["fix/0"] is None or n <= limits["fix/0"]:
        return "nin/0"
    return "nin/pool" if n <= (limits["fix/pool"] or 0) else "nin/chm"


def shared_images(n: int, pool: int) -> float:
    """Return the mean number of images that two random subsets of n from a pool have in common.

    Their mixtures share n/pool of their variance. From half a pool on, that is at least as much as they do not share,
    and has the effect of a bias of one standard deviation.
    """
    return n * n / pool
