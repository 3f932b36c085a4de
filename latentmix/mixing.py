"""Mixing N latents into one: the equations of Landolsi & Kahl, "Addressing degeneracies in latent interpolation for
diffusion models", and of those that it is compared with.

A method is written `norm/mean`. The mean d of each latent is split off (Section 5), z = d + e, and mixed linearly, as
what the latents have in common is amplified by √N where a norm is restored; the rest is mixed by the norm's formula:

    z' = f_LIN(D, w) + f_norm(E, w)

Throughout: K mixtures of N latents of L = C·H·W numbers; e [N, L], w [K, N] and m = Σ w e [K, L].
"""

import difflib
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

Norm = Callable[[Float[Tensor, "N L"], Float[Tensor, "K N"], Float[Tensor, "K L"]], Float[Tensor, "K L"]]
Mean = Callable[[Float[Tensor, "N C H W"]], Float[Tensor, " N #C #H #W"]]


def _lin(e: Tensor, w: Tensor, m: Tensor) -> Tensor:
    """Eq. 1: the weighted mean, whose norm falls as N grows."""
    return m


def _fix(e: Tensor, w: Tensor, m: Tensor) -> Tensor:
    """Eq. 2: the weighted mean at the norm √L, which Gaussian noise has."""
    return math.sqrt(m.shape[1]) * _unit(m)


def _nin(e: Tensor, w: Tensor, m: Tensor) -> Tensor:
    """Eq. 4: the weighted mean at the mixed norm of the inputs."""
    return (w @ _norm(e)) * _unit(m)


def _lol(e: Tensor, w: Tensor, m: Tensor) -> Tensor:
    """Bodin et al., "Linear combinations of latents": the variance that one latent of zero mean has, in closed form."""
    return m / w.square().sum(1, keepdim=True).sqrt()


def _slerp(e: Tensor, w: Tensor, m: Tensor) -> Tensor:
    """The weighted mean on the sphere (Buss & Fillmore, algorithm A1) at the mixed norm of the inputs.

    For N = 2 it is Shoemake's slerp of the normalised inputs (eq. 3). It can't be stated in closed form for more, so it
    is iterated until the tangent step vanishes.
    """
    p = _unit(e)
    q = _unit(w @ p)
    for _ in range(100):
        cos = (q @ p.T).clamp(-1, 1)  # [K, N]
        pull = w * _angle_over_sine(cos)
        u = pull @ p - (pull * cos).sum(1, keepdim=True) * q  # the mean in the tangent plane at q
        length = _norm(u)
        q = _unit(q * length.cos() + u * torch.sinc(length / math.pi))
        if length.max() < 8 * torch.finfo(u.dtype).eps:
            break
    return (w @ _norm(e)) * q


def _angle_over_sine(cos: Tensor) -> Tensor:
    """θ / sin θ, which tends to 1 as θ does to 0, where it could not be differentiated as written."""
    near = cos > 1 - 1e-4
    safe = torch.where(near, torch.zeros_like(cos), cos)
    series = 1 + (1 - cos) / 3 + 2 * (1 - cos).square() / 15
    return torch.where(near, series, safe.arccos() / (1 - safe.square()).sqrt())


def _norm(x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x, dim=1, keepdim=True)


def _unit(x: Tensor) -> Tensor:
    """Zero stays zero: a latent that its mean explains wholly has no direction, and keeps none."""
    return x / _norm(x).clamp_min(torch.finfo(x.dtype).tiny)


NORMS: dict[str, Norm] = {"lin": _lin, "fix": _fix, "nin": _nin, "slerp": _slerp, "lol": _lol}

MEANS: dict[str, Mean] = {
    "0": lambda z: z.new_zeros(len(z), 1, 1, 1),
    "m": lambda z: z.mean((1, 2, 3), keepdim=True),  # over the whole latent
    "chm": lambda z: z.mean((2, 3), keepdim=True),  # over each channel
}


@dataclass(frozen=True, order=True)
class Method:
    """A way of mixing: how the norm is restored, and which mean is split off first."""

    norm: str
    mean: str

    @classmethod
    def parse(cls, text: str) -> "Method":
        """`"nin/chm"` -> Method; raises ValueError that names the nearest method there is."""
        norm, _, mean = text.partition("/")
        if norm in NORMS and mean in MEANS:
            return cls(norm, mean)
        every = [f"{norm}/{mean}" for norm in NORMS for mean in MEANS]
        near = difflib.get_close_matches(text, every, n=1, cutoff=0)[0]
        raise ValueError(
            f"there is no method {text!r}; did you mean {near!r}? (norms {', '.join(NORMS)}; means {', '.join(MEANS)})"
        )

    def __str__(self) -> str:
        return f"{self.norm}/{self.mean}"


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


def mixtures(
    latents: Float[Tensor, "N C H W"], weights: Float[Tensor, "K N"], methods: Sequence[str | Method]
) -> list[Float[Tensor, "K C H W"]]:
    """What `mix` gives for each of several methods, at the cost of one matrix product: all means are linear in z."""
    parsed = [method if isinstance(method, Method) else Method.parse(method) for method in methods]
    z = _at_least_float32(latents)
    w = weights.to(z)
    with _all_bits(z.device):
        centroid = w @ z.flatten(1)
        return [_mix(z, w, centroid, method) for method in parsed]


def _mix(z: Tensor, w: Tensor, centroid: Tensor, method: Method) -> Tensor:
    d = MEANS[method.mean](z)
    e = (z - d).flatten(1)
    mixed_d = torch.einsum("kn,nchw->kchw", w, d)
    m = (centroid.view(-1, *z.shape[1:]) - mixed_d).flatten(1)
    return mixed_d + NORMS[method.norm](e, w, m).view(-1, *z.shape[1:])


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
