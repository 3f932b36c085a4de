"""The weights of a morph's frames: from picture to picture, evenly spaced in perceptual distance.

Time n shows picture n alone, and between two of them weights change linearly. Equal steps of the weights look uneven:
nearly all of the change falls into a few frames (Yang et al., "IMPUS: Image morphing with perceptually-uniform sampling
using diffusion models"). So a part of the frames is rendered first, and the time between two pictures is divided such
that neighbouring frames are about equally far apart. Perceptual distances grow with the square of a small change, so
the length of a step is the square root of its distance.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from latentmix.errors import UserError

Render = Callable[[Tensor], Tensor]  # weights [K, N] -> images, uint8 [K, 3, H, W]
Distance = Callable[[Tensor, Tensor], Tensor]  # two batches of images, uint8 [B, 3, H, W] -> [B]

ROUNDS = 3  # in which steps that are too long are halved
FEWEST_PROBES = 4  # least number of steps between two pictures that are measured at first


def frame_weights(
    count: int, frames: int, loop: bool = False, render: Render | None = None, distance: Distance | None = None
) -> Tensor:
    """Return the weights [F, N] of the frames of a morph through N pictures; each picture is a frame.

    With `loop`, the last frame leads to the first picture again. Frames are evenly spaced in perceptual distance if
    `render` and `distance` are given, otherwise in time.
    Raises: UserError for fewer than two pictures, or fewer frames than pictures.
    """
    if count < 2:
        raise UserError(f"a morph needs at least two pictures, not {count}")
    segments = count if loop else count - 1
    steps = frames if loop else frames - 1
    if steps < segments:
        raise UserError(f"{frames} frames are too few for {count} pictures; give at least {segments + 1 - loop}")
    profiles = [([0.0, 1.0], [1.0])] * segments
    if render is not None and distance is not None:
        profiles = _measured(count, segments, steps, render, distance)
    counts = _shares(steps, [sum(lengths) for _, lengths in profiles])
    times = [n + t for n, (profile, k) in enumerate(zip(profiles, counts, strict=True)) for t in _divided(*profile, k)]
    return weights_at(times if loop else [*times, segments], count)


def weights_at(times: Sequence[float], count: int) -> Tensor:
    """Return the weights [F, N] at times: at n picture n alone, at N picture 0 again."""
    t = torch.tensor(times, dtype=torch.float64)[:, None]
    away = (t - torch.arange(count)).abs()
    away = torch.minimum(away, count - away)  # on a circle, for loops
    weights = (1 - away).clamp_min(0)
    return (weights / weights.sum(1, keepdim=True)).float()


Profile = tuple[list[float], list[float]]  # times from 0 to 1 between two pictures, and the lengths of the steps


def _measured(count: int, segments: int, steps: int, render: Render, distance: Distance) -> list[Profile]:
    """Return the measured profile of each segment; steps of more than twice the usual length are halved."""
    probes = max(FEWEST_PROBES, steps // (2 * segments))
    times = [n + k / probes for n in range(segments) for k in range(probes)] + [float(segments)]
    for _ in range(ROUNDS):
        lengths = _lengths(render(weights_at(times, count)), distance)
        longest = 2 * sum(lengths) / steps
        halves = [(a + b) / 2 for a, b, x in zip(times, times[1:], lengths, strict=False) if x > longest]
        if not halves:
            break
        times = sorted([*times, *halves])
    lengths = _lengths(render(weights_at(times, count)), distance)
    profiles = []
    for n in range(segments):
        inside = [i for i, t in enumerate(times) if n <= t <= n + 1]
        profiles.append(([times[i] - n for i in inside], [lengths[i] for i in inside[:-1]]))
    return profiles


def _lengths(images: Tensor, distance: Distance) -> list[float]:
    return distance(images[:-1], images[1:]).double().clamp_min(0).sqrt().tolist()


def _shares(steps: int, lengths: Sequence[float]) -> list[int]:
    """Divide steps among segments by their lengths, at least one for each."""
    counts = [1] * len(lengths)
    for _ in range(steps - len(lengths)):  # to the one whose steps are longest
        counts[max(range(len(lengths)), key=lambda i: (lengths[i] / counts[i], -counts[i]))] += 1
    return counts


def _divided(times: Sequence[float], lengths: Sequence[float], count: int) -> list[float]:
    """Return the starts of `count` steps of equal length; within a measured step, length is linear in time."""
    ends = torch.cumsum(torch.tensor([0.0, *lengths], dtype=torch.float64), 0)
    if ends[-1] <= 0:  # the two pictures look the same
        return [k / count for k in range(count)]
    wanted = torch.arange(count, dtype=torch.float64) / count * ends[-1]
    after = torch.searchsorted(ends, wanted, right=True).clamp(1, len(lengths))
    t = torch.tensor(times, dtype=torch.float64)
    share = (wanted - ends[after - 1]) / (ends[after] - ends[after - 1]).clamp_min(1e-12)
    return (t[after - 1] + share * (t[after] - t[after - 1])).tolist()
