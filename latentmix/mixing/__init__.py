"""Mixing N latents into one: the equations of Landolsi & Kahl, "Addressing degeneracies in latent interpolation for
diffusion models", and of the methods that theirs are compared with.

A method is written `norm/mean`. The mean d of each latent is split off, z = d + e (Section 5), and mixed linearly,
because what latents have in common is amplified by √N where a norm is restored. The rest e is mixed by the norm's
formula:

    z' = f_lin(D, w) + f_norm(E, w)

Shapes, throughout: K mixtures of N latents of L = C·H·W numbers; e [N, C, H, W], w [K, N], m = Σ w e [K, C, H, W].
"""

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from latentmix.arrays import entries
from latentmix.errors import nearest
from latentmix.mixing.inputs import IN_A_LIST, checked_weights, read
from latentmix.mixing.iterative import Latents, Mixtures, Weights
from latentmix.mixing.means import MEANS, Mean, Means, find_mean
from latentmix.mixing.norms import NORMS, Lengths, Norm

__all__ = ["MEANS", "NORMS", "Mean", "Method", "Norm", "mix", "mixtures"]

HALF_A_POOL = "a mixture of more than half of a pool has little in common with its latents; take a larger pool"
WHOLE_POOL = 1 + 1e-3  # N·Σw² up to which Σ w e is little more than rounding error; it is 1 for N equal weights

REFUSED = {  # combinations that make no sense, as patterns, and why
    r"adain/(?!0$).*": "adain sets the mean of each channel itself; write adain/0",
    r"nao/lp.*": "nao seeks the norm of white noise, which a filtered latent does not have; write nao/0 or nao/chm",
}


@dataclass(frozen=True, order=True)
class Method:
    """A way of mixing: a name in NORMS, and one in MEANS or `lp` with a cut-off; `help(lm.mix)` says what they do.

    `Method.parse("nin/chm")` is `Method("nin", "chm")`. Functions with a `method` take either.
    """

    norm: str
    mean: str

    @classmethod
    def parse(cls, text: "str | Method") -> "Method":
        """Return the method that `text` names, such as "nin/chm". A `Method` is checked and returned.

        Raises: ValueError, which names the nearest method or says why there is none; UserError for a broken plugin.
        """
        if not isinstance(text, str | Method):
            raise ValueError(f"a method is a text, such as 'nin/chm', not a {type(text).__name__}")
        text = str(text)
        norm, _, mean = text.partition("/")
        try:
            _ = NORMS[norm], find_mean(mean)
        except KeyError:
            near = nearest(text, [f"{n}/{m}" for n in NORMS for m in MEANS])
            means = f"{', '.join(MEANS)}, and lp0.5 for a cut-off of 0.5 cycles per frame"
            known = f"(norms {', '.join(NORMS)}; means {means})"
            raise ValueError(f"there is no method {text!r}; did you mean {near!r}? {known}") from None
        for pattern, reason in REFUSED.items():
            if re.fullmatch(pattern, text):
                raise ValueError(f"there is no method {text!r}: {reason}")
        return cls(norm, mean)

    def __str__(self) -> str:
        return f"{self.norm}/{self.mean}"

    @property
    def of_pool(self) -> bool:
        """Return whether mixtures depend on all latents of a pool, those of weight 0 included."""
        return find_mean(self.mean).of_pool

    @property
    def identity(self) -> dict[str, object]:
        """Return what mixtures depend on, besides the latents and the weights."""
        return {"method": str(self), "versions": [NORMS[self.norm].version, find_mean(self.mean).version]}


def mix(latents: Any, weights: Any = None, method: str | Method = "fix/chm") -> Any:
    """Mix N latents with weights that sum to 1; by default their centroid (Landolsi & Kahl, eqs. 1 to 4, Section 5).

    `latents` is [N, C, H, W] or a list of N latents, torch tensors or numpy arrays. `weights` is [N] or, for K mixtures
    at once, [K, N], as a tensor, an array, a column of a table or numbers. The result has the layout and the type of
    one latent, or of K of them: an array if arrays are given, otherwise a tensor on the device of `latents`,
    differentiable in both (except `nao`). It is in float32 at least.

    `method` is written NORM/MEAN. The mean of each latent is split off and mixed linearly. The weighted mean of
    the rest is too short, and its norm is restored:

        lin    not at all
        fix    to √L, that of Gaussian noise with the L numbers of a latent
        nin    to the weighted mean of the inputs' norms
        slerp  as nin, with the mean on the sphere (Shoemake; Buss & Fillmore for N > 2)
        lol    by a division by √Σw² (Bodin et al., "Linear combinations of latents")
        adain  as slerp; then each channel gets the mixed mean and standard deviation (DiffMorpher)
        nao    by norm-aware optimisation, which is slow (Samuel et al.)

    The mean is one of

        0      none                  lp     the low frequencies; lp0.5 to half a cycle per frame
        m      one number            pool   the mean latent of all, those of weight 0 included
        chm    one for each channel  pchm   that of each channel, and the pattern in space of `pool`

    `fix` and `lol` are for latents at t = T, which are nearly noise. For others, such as those of a VAE or
    CLIP embeddings, take `lin`, `nin` or `slerp`.

    Latents can also be vectors [N, D] or tokens [N, S, C]. The mean `chm` is always one number for each channel:

        [N, C, H, W]  the mean over H and W, for each of the C channels
        [N, S, C]     the mean over the S tokens, for each of the C last entries
        [N, D]        the mean over D, as D numbers are one channel; so `chm` equals `m`

    Tokens that pack squares of latents, as FLUX's do, have several entries for a channel. `lp` needs [N, C, H, W].
    Latents of videos [N, C, T, H, W] are mixed as `z.flatten(3)`, with a mean over all frames.

    `latents` can also be what `Pipeline.invert` returns, or a list of such. Its extras and prompts are mixed as well.

    The means `pool` and `pchm` are taken over all latents, those of weight 0 included. So pass a whole pool, and
    weights of 0 for those that are not mixed. A warning is given where more than half of the pool is mixed.

    Values are checked, so it can't be traced by `torch.vmap` (`mixtures` can) or `torch.compile(fullgraph=True)`.

    Raises: ValueError for an unknown method, for shapes that do not fit, for NaN or infinity, for weights that are
    negative or do not sum to 1, and for `pool` and `pchm` if nearly the whole pool is mixed.
    """
    if hasattr(weights, "mixed") or not isinstance(method, str | Method):
        raise ValueError(f"weights must be numbers, and the method one text, such as 'nin/chm'; {IN_A_LIST}")
    if not hasattr(latents, "mixed"):
        latents = entries(latents)
    if isinstance(latents, list) and latents and all(hasattr(one, "mixed") for one in latents):
        latents = reduce(add, latents)
    if hasattr(latents, "mixed"):  # what `Pipeline.invert` returns
        return latents.mixed(weights, method)
    parsed = Method.parse(method)
    z, restored = read(latents, spatial=parsed.mean.startswith("lp"))
    w = checked_weights(z, weights)
    if parsed.of_pool and (number := 1 / w.square().sum(-1).min().item()) > 0.501 * len(z):
        warnings.warn(f"{method} mixes {number:.3g} of a pool of {len(z)}; {HALF_A_POOL}", stacklevel=2)
    out = restored(mixtures(z, w if w.ndim == 2 else w[None], [parsed])[0])
    return out if w.ndim == 2 else out[0]


def mixtures(latents: Latents, weights: Weights, methods: Sequence[str | Method]) -> list[Mixtures]:
    """Return what `mix` does for each of several methods, at the cost of one matrix product: m = Σ w z − Σ w d.

    `latents` is a tensor [N, C, H, W] and `weights` one [K, N] whose rows sum to 1; values are not checked. Return a
    tensor [K, C, H, W] for each method, float32 at least. `torch.vmap` can be applied to it, except for `slerp`,
    `adain`, `nao` and the means of a pool.

        plain, kept = lm.mixtures(latents, torch.full((1, n), 1 / n), ["lin/0", "nin/chm"])
    """
    tensors = isinstance(latents, Tensor) and isinstance(weights, Tensor)
    if not tensors or latents.ndim != 4 or weights.ndim != 2 or weights.shape[1] != len(latents):
        raise ValueError("latents must be a tensor [N, C, H, W], and weights one [K, N]; lm.mix takes others")
    if isinstance(methods, str | Method):
        raise ValueError(f"methods go in a list: [{str(methods)!r}]; lm.mix takes one")
    parsed = [Method.parse(method) for method in methods]
    z = latents.to(torch.promote_types(latents.dtype, torch.float32))
    w = weights.to(z)
    with _full_precision(z.device):
        centroids = (w @ z.flatten(1)).unflatten(1, z.shape[1:])
        results = {method: torch.empty_like(centroids) for method in parsed}
        splits = {mean: _Split.create(z, w, find_mean(mean)) for mean in {method.mean for method in results}}
        for rows in _chunks(centroids):  # all methods use a chunk while it is in the CPU's caches
            for mean, split in splits.items():
                outs = {method.norm: result[rows] for method, result in results.items() if method.mean == mean}
                _mix(z, w[rows], centroids[rows] - split.mixed[rows], split, outs)
                for out in outs.values():
                    out += split.mixed[rows]
        return [results[method] for method in parsed]


@dataclass(frozen=True)
class _Split:
    """Latents split in two, z = d + e. e is not kept, as it is as large as z."""

    d: Means
    mixed: Means  # f_lin(D, w)
    e_norms: Float[Tensor, " N"]  # ‖e‖
    of_pool: bool

    @classmethod
    def create(cls, z: Latents, w: Weights, mean: Mean) -> "_Split":
        d = mean.split(z)
        if mean.of_pool:
            _refuse_whole_pool(w)
        each = d.expand(len(z), *d.shape[1:])
        e_norms = torch.cat([torch.linalg.vector_norm(z[rows] - each[rows], dim=(1, 2, 3)) for rows in _chunks(z)])
        all_share_d = len(d) == 1
        mixed = w.sum(1).view(-1, 1, 1, 1) * d if all_share_d else torch.einsum("kn,nchw->kchw", w, d)
        return cls(d, mixed, e_norms, mean.of_pool)

    def squares(self, w: Weights) -> Float[Tensor, " K"]:
        """Return the variance of m relative to that of e. If d contains the mean of all N, m weighs z by w − 1/N."""
        squares = w.square().sum(1)
        return (squares - 1 / w.shape[1]) / (1 - 1 / w.shape[1]) if self.of_pool else squares


def _mix(z: Latents, w: Weights, m: Mixtures, split: _Split, outs: Mapping[str, Mixtures]) -> None:
    """Write f_norm(E, w) for several norms into their tensors of `outs`."""
    lengths = Lengths(w, split.squares(w), split.e_norms, torch.linalg.vector_norm(m, dim=(1, 2, 3)), m[0].numel())
    for name, out in outs.items():
        norm = NORMS[name]
        if norm.scale is not None:
            out.copy_(norm.scale(lengths).view(-1, 1, 1, 1) * m)
        elif norm.path is not None:
            mixed = norm.path(z - split.d, w, m)
            if mixed.shape != m.shape:  # `copy_` would broadcast it
                raise ValueError(f"the norm {name!r} returns {list(mixed.shape)} instead of {list(m.shape)}")
            out.copy_(mixed)


def _chunks(x: Tensor) -> list[slice]:
    """Return slices of rows to compute together: on a CPU as many as its caches hold, elsewhere all."""
    rows = max(1, 2**18 // x[0].numel()) if x.device.type == "cpu" else len(x)
    return [slice(start, start + rows) for start in range(0, len(x), rows)]


def _refuse_whole_pool(w: Weights) -> None:
    """Raise ValueError if a mixture minus the mean latent of its pool is nothing but rounding error."""
    if bool((w.square().sum(1) * w.shape[1] <= WHOLE_POOL).any()):
        needed = f"a mean of the pool needs latents that are not mixed, and these weights mix all {w.shape[1]}"
        raise ValueError(f"{needed}; pass a larger pool, with weights of 0, or take fix/chm")


@contextmanager
def _full_precision(device: torch.device) -> Iterator[None]:
    """Turn TF32 and autocast off: a bias of a thousandth matters here, because it is multiplied by √N."""
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    matmul.fp32_precision = "ieee"
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        matmul.fp32_precision = before
