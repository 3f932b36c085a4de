"""Mixing N latents into one: the equations of Landolsi & Kahl, "Addressing degeneracies in latent interpolation for
diffusion models", and of those that it is compared with.

A method is written `norm/mean`. The mean d of each latent is split off (Section 5), z = d + e, and mixed linearly, as
what the latents have in common is amplified by √N where a norm is restored; the rest is mixed by the norm's formula:

    z' = f_LIN(D, w) + f_norm(E, w)

Throughout: K mixtures of N latents of L = C·H·W numbers; e [N, C, H, W], w [K, N] and m = Σ w e [K, C, H, W]. The
paper's norms only scale m; those that lead elsewhere are in `paths`.
"""

import difflib
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from latentmix.mixing.iterative import adain, nao, slerp

Latents = Float[Tensor, "N C H W"]
Weights = Float[Tensor, "K N"]
Mixtures = Float[Tensor, "K C H W"]
Means = Float[Tensor, "_ _ _ _"]  # in as few numbers as tell them


@dataclass(frozen=True)
class Lengths:
    """What a norm's formula is made of: the weights, ‖e‖ of the latents, ‖m‖ of their weighted means, and L."""

    w: Weights
    e: Float[Tensor, " N"]
    m: Float[Tensor, " K"]
    L: int


SCALES: dict[str, Callable[[Lengths], Tensor]] = {  # s [K] of e' = s·m
    "lin": lambda of: torch.ones_like(of.m),  # eq. 1: the weighted mean, whose norm falls as N grows
    "fix": lambda of: _over(math.sqrt(of.L), of.m),  # eq. 2: at the norm √L, which Gaussian noise has
    "nin": lambda of: _over(of.w @ of.e, of.m),  # eq. 4: at the mixed norm of the inputs
    "lol": lambda of: (
        1 / of.w.square().sum(1).sqrt()
    ),  # Bodin et al., "Linear combinations of latents": noise's variance
}
PATHS: dict[str, Callable[[Latents, Weights, Mixtures], Mixtures]] = {"slerp": slerp, "adain": adain, "nao": nao}
NORMS = (*SCALES, *PATHS)

MEANS: dict[str, Callable[[Latents], Float[Tensor, " N #C #H #W"]]] = {
    "0": lambda z: z.new_zeros(len(z), 1, 1, 1),
    "m": lambda z: z.mean((1, 2, 3), keepdim=True),  # over the whole latent
    "chm": lambda z: z.mean((2, 3), keepdim=True),  # over each channel
    "lp": lambda z: low_pass(z, cutoff=1.0),  # what is left of it by a filter; lp0.5 is one of cut-off 0.5
}
REFUSED = {  # combinations that make no sense, as patterns, and why
    r"adain/(?!0$).*": "adain sets the mean of each channel itself; write adain/0",
    r"nao/lp.*": "nao seeks the norm of whole noise, which what a filter leaves has not; write nao/0 or nao/chm",
}


def low_pass(z: Latents, cutoff: float) -> Latents:
    """The slow part of each channel (the paper's option 4): a Gaussian of this width in the frequency domain, in cycles
    per frame. At 0 it is the channel's mean, all of the latent towards infinity."""
    height, width = z.shape[2:]
    rows, columns = (torch.fft.fftfreq(height, 1 / height), torch.fft.rfftfreq(width, 1 / width))
    square = (rows[:, None].square() + columns.square()).to(z)  # the frequency's, [H, W / 2 + 1]
    gain = torch.exp(-square / (2 * cutoff**2)) if cutoff else (square == 0).to(z)
    return torch.fft.irfft2(torch.fft.rfft2(z) * gain, s=(height, width))


@dataclass(frozen=True, order=True)
class Method:
    """A way of mixing: how the norm is restored, and which mean is split off first."""

    norm: str
    mean: str

    @classmethod
    def parse(cls, text: str) -> "Method":
        """`"nin/chm"` -> Method; raises ValueError that names the nearest method there is, or why there is none."""
        norm, _, mean = text.partition("/")
        if norm not in NORMS or (mean not in MEANS and not _CUTOFF.fullmatch(mean)):
            every = [f"{norm}/{mean}" for norm in NORMS for mean in MEANS]
            near = difflib.get_close_matches(text, every, n=1, cutoff=0)[0]
            raise ValueError(
                f"there is no method {text!r}; did you mean {near!r}? "
                f"(norms {', '.join(NORMS)}; means {', '.join(MEANS)}, and lp0.5 for a cut-off of 0.5 cycles per frame)"
            )
        for pattern, reason in REFUSED.items():
            if re.fullmatch(pattern, text):
                raise ValueError(f"there is no method {text!r}: {reason}")
        return cls(norm, mean)

    def split(self, z: Latents) -> Float[Tensor, " N #C #H #W"]:
        """d of each latent, in as few numbers as tell it."""
        return (MEANS.get(self.mean) or partial(low_pass, cutoff=float(self.mean.removeprefix("lp"))))(z)

    def __str__(self) -> str:
        return f"{self.norm}/{self.mean}"


_CUTOFF = re.compile(r"lp\d+(\.\d+)?")


def mix(latents: Tensor, weights: Tensor | Sequence[float] | None = None, method: str | Method = "fix/chm") -> Tensor:
    """Mix N latents with weights that sum to 1; by default their centroid.

    `latents` is [N, C, H, W], `weights` [N] or, for K mixtures at once, [K, N]; the result is [C, H, W] or
    [K, C, H, W], in float32 at least, on the device of `latents`, and differentiable in both. Raises ValueError for an
    unknown method, for shapes that do not fit and for weights that are negative or do not sum to 1.
    """
    z = _at_least_float32(latents)
    w = _check(z, weights)
    mixed = mixtures(z, w if w.ndim == 2 else w[None], [method])[0]
    return mixed if w.ndim == 2 else mixed[0]


def mixtures(latents: Latents, weights: Weights, methods: Sequence[str | Method]) -> list[Mixtures]:
    """What `mix` gives for each of several methods, at the cost of one matrix product: all means are linear in z."""
    parsed = [method if isinstance(method, Method) else Method.parse(method) for method in methods]
    z = _at_least_float32(latents)
    w = weights.to(z)
    with _all_bits(z.device):
        centroids = (w @ z.flatten(1)).unflatten(1, z.shape[1:])
        mixed = {method: torch.empty_like(centroids) for method in parsed}
        splits = {method.mean: _Split.of(z, w, method) for method in mixed}
        for rows in _rows(centroids):  # by all methods, while these are in reach
            for mean, split in splits.items():
                places = {method: whole[rows] for method, whole in mixed.items() if method.mean == mean}
                _mix(z, w[rows], centroids[rows] - split.mixed[rows], split, places)
                for place in places.values():
                    place += split.mixed[rows]
        return [mixed[method] for method in parsed]


def _mix(z: Latents, w: Weights, m: Mixtures, split: "_Split", places: Mapping[Method, Tensor]) -> None:
    """f_norm(E, w) into the place of each method, all of which split the same mean off."""
    of = Lengths(w, split.e_norm, torch.linalg.vector_norm(m, dim=(1, 2, 3)), m[0].numel())
    for method, place in places.items():
        if method.norm in SCALES:
            _scaled(m, SCALES[method.norm](of).view(-1, 1, 1, 1), place)
        else:
            place.copy_(PATHS[method.norm](z - split.d, w, m))


@dataclass(frozen=True)
class _Split:
    """Latents in two, z = d + e: d, its mixtures f_LIN(D, w), and ‖e‖; e itself, as large as z, is not kept."""

    d: Means
    mixed: Means
    e_norm: Float[Tensor, " N"]

    @classmethod
    def of(cls, z: Latents, w: Weights, method: Method) -> "_Split":
        d = method.split(z)
        e_norm = torch.cat([torch.linalg.vector_norm(z[rows] - d[rows], dim=(1, 2, 3)) for rows in _rows(z)])
        return cls(d, torch.einsum("kn,nchw->kchw", w, d), e_norm)


def _scaled(m: Tensor, scale: Tensor, place: Tensor) -> None:
    """s·m, at once in its place where no gradient is asked for."""
    if torch.is_grad_enabled() and (scale.requires_grad or m.requires_grad):
        place.copy_(scale * m)
    else:
        torch.mul(scale, m, out=place)


def _rows(x: Tensor) -> list[slice]:
    """Rows that are worked on at once: on a CPU as many as its caches hold, elsewhere all."""
    many = max(1, 2**18 // x[0].numel()) if x.device.type == "cpu" else len(x)
    return [slice(start, start + many) for start in range(0, len(x), many)]


def _over(a: Tensor | float, b: Tensor) -> Tensor:
    """a / b, and 0 where b is: a latent that its mean explains wholly has no direction, and keeps none."""
    return torch.where(b > 0, a / torch.where(b > 0, b, 1), 0)


def _at_least_float32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _check(z: Tensor, weights: Tensor | Sequence[float] | None) -> Tensor:
    """The weights as a tensor beside `z`, or a ValueError."""
    if z.ndim != 4 or len(z) == 0:
        raise ValueError(f"latents must be [N, C, H, W] with N of at least 1, not {list(z.shape)}")
    if weights is None:
        return z.new_full((len(z),), 1 / len(z))
    w = torch.as_tensor(weights, dtype=z.dtype, device=z.device)
    if w.ndim not in (1, 2) or w.shape[-1] != len(z):
        raise ValueError(f"weights must be [{len(z)}] or [K, {len(z)}] for {len(z)} latents, not {list(w.shape)}")
    if not bool(w.isfinite().all()) or bool((w < 0).any()):
        raise ValueError("weights must be finite and none negative")
    worst = (w.sum(-1) - 1).abs().max().item()
    if worst > 1e-4:
        raise ValueError(f"weights must sum to 1; they are off by {worst:.3g}")
    return w


@contextmanager
def _all_bits(device: torch.device) -> Iterator[None]:
    """No TF32 and no autocast: a bias of a thousandth matters here, once √N has multiplied it."""
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    matmul.fp32_precision = "ieee"
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        matmul.fp32_precision = before
