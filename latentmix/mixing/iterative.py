"""Mixing by more than a scale: the methods that the paper's are compared with.

Each takes the latents without their means, e [N, C, H, W], weights w [K, N] and weighted means m [K, C, H, W].
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

Latents = Float[Tensor, "N C H W"]
Weights = Float[Tensor, "K N"]
Mixtures = Float[Tensor, "K C H W"]


def slerp(e: Latents, w: Weights, m: Mixtures) -> Mixtures:
    """Return the weighted mean on the sphere (Buss & Fillmore, algorithm A1), at the weighted mean of the norms.

    For N = 2 it is Shoemake's slerp of the normalised inputs (eq. 3). For more inputs there is no closed form; the
    iteration stops when the step in the tangent plane vanishes. Between two opposite inputs no path is the shortest;
    the result then has the direction of the one with the larger weight.

    DiffMorpher (Zhang et al.) interpolates the raw latents instead. For two inverted latents that differs by about 2 %.
    """
    flat = e.flatten(1)
    p = _unit(flat)
    q = _unit(w @ p)
    for _ in range(100):
        cos = (q @ p.T).clamp(-1, 1)  # [K, N]
        pull = w * _angle_over_sine(cos)
        u = pull @ p - (pull * cos).sum(1, keepdim=True) * q  # the mean in the tangent plane at q
        length = _norm(u)
        q = _unit(q * length.cos() + u * torch.sinc(length / math.pi))
        if length.max() < 8 * torch.finfo(u.dtype).eps:
            break
    return ((w @ _norm(flat)) * q).view_as(m)


def _angle_over_sine(cos: Tensor) -> Tensor:
    """Return θ / sin θ, near θ = 0 by its series, as the formula can't be differentiated there.

    At θ = π, up to rounding, it is 0: no direction leads to the opposite point, which then pulls nowhere.
    """
    near, opposite = cos > 1 - 1e-4, cos < -1 + 64 * torch.finfo(cos.dtype).eps
    safe = torch.where(near | opposite, torch.zeros_like(cos), cos)
    series = 1 + (1 - cos) / 3 + 2 * (1 - cos).square() / 15
    ratio = torch.where(near, series, safe.arccos() / (1 - safe.square()).sqrt())
    return torch.where(opposite, torch.zeros_like(cos), ratio)


def _norm(x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x, dim=1, keepdim=True)


def _unit(x: Tensor) -> Tensor:
    """Return rows of norm 1; a row of zeros stays zero."""
    return x / _norm(x).clamp_min(torch.finfo(x.dtype).tiny)


def adain(e: Latents, w: Weights, m: Mixtures) -> Mixtures:
    """Return slerp's result with each channel at the weighted mean of the inputs' means and standard deviations.

    This is the adaptive instance normalisation of DiffMorpher (Zhang et al.), carried from two inputs to N.
    DiffMorpher's slerp is of the raw latents, so for two inverted latents its results differ by about 2 %.
    """
    mean, std = (torch.einsum("kn,nc->kc", w, statistic)[:, :, None, None] for statistic in _statistics(e))
    mixed = slerp(e, w, m)
    own_mean, own_std = (statistic[:, :, None, None] for statistic in _statistics(mixed))
    return mean + std * (mixed - own_mean) / own_std.clamp_min(torch.finfo(m.dtype).tiny)


def _statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean and the standard deviation of each channel, [N, C] each."""
    mean = x.mean((2, 3))
    return mean, torch.linalg.vector_norm(x - mean[:, :, None, None], dim=(2, 3)) / math.sqrt(x[0, 0].numel())


NAO_POINTS = 8  # on the path from the centroid to each input, without its ends
NAO_STEPS, NAO_RATE = 200, 0.01


def nao(e: Latents, w: Weights, m: Mixtures) -> Mixtures:
    """Return the weighted centroid by norm-aware optimisation (Samuel et al., "Norm-guided latent space exploration").

    It is the point c from which paths lead to all inputs through norms that are likely for Gaussian noise:

        minimise  −f(‖c‖) − N Σ w Σ ‖segment‖·f(‖midpoint‖),  f the log density of such a norm

    over c and all points of the paths, by Adam. It is thousands of times slower than the others and not differentiable.
    A single input of weight 1 is returned as it is.

    All points start at norm √L, above the straight lines between the ends. The authors start on the lines themselves.
    From there Adam's first steps are the same in every coordinate; they turn c towards the signs of the mean, and the
    final cost is higher.
    """
    with torch.inference_mode(False):  # inference mode would forbid gradients
        mixed = [_nao(e.flatten(1)[row > 0].detach().clone(), row[row > 0].detach().clone()) for row in w]
    return torch.stack(mixed).view_as(m)


@torch.enable_grad()
def _nao(points: Float[Tensor, "N L"], w: Float[Tensor, " N"]) -> Float[Tensor, " L"]:
    if len(points) == 1:
        return points[0]
    start, root = w @ points, math.sqrt(points.shape[1])
    along = torch.linspace(0, 1, NAO_POINTS + 2, dtype=torch.float32, device="cpu").to(points)[1:-1, None, None]
    lines = torch.lerp(start, points, along)  # [P, N, L]
    centroid, paths = ((x / x.norm(dim=-1, keepdim=True) * root).requires_grad_() for x in (start, lines))
    optimiser = torch.optim.Adam([centroid, paths], lr=NAO_RATE)
    for _ in range(NAO_STEPS):
        path = torch.cat([centroid.expand(1, *points.shape), paths, points[None]])
        lengths = torch.linalg.vector_norm(path.diff(dim=0), dim=2)
        density = _log_density(((path[1:] + path[:-1]) / 2).norm(dim=2), len(start))
        loss = -_log_density(centroid.norm(), len(start)) - len(w) * (w * lengths * density).sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return centroid.detach()


def _log_density(norm: Tensor, L: int) -> Tensor:
    """Return ln of the χ density with L degrees of freedom, in float64: it is a small difference of large numbers."""
    x = norm.double()
    constant = (L / 2 - 1) * math.log(2) + math.lgamma(L / 2)
    return ((L - 1) * x.log() - x.square() / 2 - constant).to(norm)
