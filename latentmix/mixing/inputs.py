"""The layouts of latents that `mix` takes: each is brought to [N, C, H, W], and the mixture back to its own layout."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from latentmix.arrays import as_tensor, entries

EXPECTED = "latents must be [N, C, H, W], [N, S, C] (tokens) or [N, D] (vectors), or a list of N of one shape"
IN_A_LIST = "latents go in a list: lm.mix([a, b], [0.5, 0.5])"
VIDEO = "for videos z [N, C, T, H, W], mix z.flatten(3), and give the mixture its shape by unflatten(-1, (H, W))"

Change = Callable[[Tensor], Tensor]
# Number of dimensions of N latents -> the function to [N, C, H, W], and the one from mixtures [K, C, H, W] back.
LAYOUTS: dict[int, tuple[Change, Change]] = {
    2: (lambda z: z[:, None, None, :], lambda z: z[:, 0, 0, :]),  # D numbers are one channel
    3: (lambda z: z.mT[..., None], lambda z: z[..., 0].mT.contiguous()),  # each of the C last is a channel of S tokens
    4: (lambda z: z, lambda z: z),
    5: (lambda z: z[:, 0], lambda z: z[:, None]),  # a stacked list of [1, C, H, W], a single latent of diffusers
}


def read(latents: Any, spatial: bool = False) -> tuple[Tensor, Callable[[Tensor], Any]]:
    """Return latents as [N, C, H, W] in float32 at least, and a function.

    The function brings mixtures [K, C, H, W] to the layout and type of `latents`. `spatial` refuses layouts without H
    and W. Raises: ValueError for another layout, and for NaN or infinity, with the index of the latent that has it.
    """
    latents = entries(latents)
    listed = isinstance(latents, list)
    first = latents[0] if listed and len(latents) else latents
    z = _stacked(latents) if listed else _tensor(latents)
    one_by_one = listed and first.ndim == 4 and len(first) == 1
    if z.ndim not in LAYOUTS or not z.numel() or (z.ndim == 5 and not one_by_one):
        raise ValueError(f"{EXPECTED}, not {list(z.shape)}" + f"; {VIDEO}" * (z.ndim in (5, 6) and z.numel() > 0))
    if listed and first.ndim == 3 and len(first) == 1:
        raise ValueError(f"a list of {list(first.shape)} may mean one channel, or tokens; pass torch.cat of it instead")
    if spatial and z.ndim < 4:
        raise ValueError(f"frequencies need latents [N, C, H, W], not {list(z.shape)}")
    refuse_not_real(z, "latents")
    z = z.to(torch.promote_types(z.dtype, torch.float32))
    _refuse_not_finite(z)
    to_nchw, from_nchw = LAYOUTS[z.ndim]

    def restored(mixed: Tensor) -> Any:
        out = from_nchw(mixed)
        return out if isinstance(first, Tensor) else out.detach().cpu().numpy()

    return to_nchw(z), restored


def checked_weights(z: Tensor, weights: Any) -> Tensor:
    """Return the weights of latents `z` as a tensor of their dtype and device; None gives uniform weights.

    The sum of 16-bit weights may differ from 1 by as much as their type rounds; they are divided by it.
    Raises: ValueError for another shape, for negative weights, and for those that do not sum to 1.
    """
    if weights is None:
        return z.new_full((len(z),), 1 / len(z))
    w = _numbers(entries(weights))
    refuse_not_real(w, "weights")
    if w.ndim not in (1, 2) or w.shape[-1] != len(z) or not len(w):
        hint, shape = f"; {IN_A_LIST}" * (w.ndim > 2), list(w.shape) or "one number"
        raise ValueError(f"weights must be [{len(z)}] or [K, {len(z)}] for {len(z)} latents, not {shape}{hint}")
    rounding = torch.finfo(w.dtype).eps if w.dtype in (torch.float16, torch.bfloat16) else 0.0
    w = w.to(torch.float64 if rounding else z.dtype).to(z.device)
    if not bool(w.isfinite().all()) or bool((w < 0).any()):
        raise ValueError("weights must be finite and none negative")
    sums = w.sum(-1, keepdim=True)
    worst = (sums - 1).abs().max().item()
    if worst > max(1e-4, rounding):
        raise ValueError(f"weights must sum to 1; they are off by {worst:.3g}; divide them by their sum")
    return (w / sums if rounding else w).to(z.dtype)


def _numbers(weights: Any) -> Tensor:
    """Return weights as a tensor of their own type; Python's numbers become float64. Raises: ValueError."""
    try:
        if isinstance(weights, list) and weights and all(hasattr(row, "dtype") for row in weights):
            return torch.stack([as_tensor(row) for row in weights])
        if hasattr(weights, "__array__"):
            return as_tensor(weights)
        return torch.as_tensor(weights, dtype=torch.float64, device="cpu")
    except (TypeError, ValueError, RuntimeError) as error:
        reason = "write method='nin/chm' for a method" if isinstance(weights, str) else error
        raise ValueError(f"weights must be numbers, a list, a tensor or an array of them: {reason}") from error


def _tensor(x: Any) -> Tensor:
    """Return a tensor or an array as a tensor. Raises: ValueError for anything else."""
    if not hasattr(x, "ndim"):
        raise ValueError(f"{EXPECTED}, not {type(x).__name__}; images become latents by Pipeline.invert")
    try:
        return as_tensor(x)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"latents can't be read as numbers: {error}") from error


def _stacked(latents: Any) -> Tensor:
    tensors = [_tensor(x) for x in latents]
    if len({x.shape for x in tensors}) != 1:
        raise ValueError(f"{EXPECTED}, not {', '.join(str(list(x.shape)) for x in tensors) or 'an empty list'}")
    if len({x.device for x in tensors}) != 1:
        raise ValueError(f"latents are on {' and '.join(sorted({str(x.device) for x in tensors}))}; move them to one")
    return torch.stack(tensors)


def refuse_not_real(x: Tensor, what: str) -> None:
    """Raise ValueError for a tensor without data, sparse or nested, or of complex or 8-bit floating-point numbers."""
    if x.is_meta:
        raise ValueError(f"{what} on the device meta hold no numbers")
    if x.is_nested or x.layout != torch.strided:
        raise ValueError(f"{what} must be a dense tensor, such as x.to_dense()")
    if x.is_complex() or (x.is_floating_point() and x.itemsize == 1):
        kind = str(x.dtype).removeprefix("torch.")
        raise ValueError(f"{what} of {kind} can't be mixed; convert them to float32")


def _refuse_not_finite(z: Tensor) -> None:
    """Raise ValueError for latents that hold NaN or infinity, or numbers whose squares are too large for their type."""
    finite = torch.linalg.vector_norm(z.detach().flatten(1), dim=1).isfinite()
    if not bool(finite.all()):
        bad = [row for row, ok in enumerate(finite.tolist()) if not ok]
        large = f"numbers that are too large for {str(z.dtype).removeprefix('torch.')}"
        what = "NaN" if bool(z[bad].isnan().any()) else "infinity" if bool(z[bad].isinf().any()) else large
        raise ValueError(f"latents {', '.join(map(str, bad))} of {len(z)} hold {what}")
