"""The equations of mixing: closed forms, invariances, and the definitions written once more as plain loops."""

import math
import re
from collections.abc import Callable, Iterator
from inspect import unwrap
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.ndimage import fourier_gaussian
from scipy.stats import chi
from torch import Tensor

from latentmix import mixing
from latentmix.mixing import Method, mix, mixtures
from latentmix.mixing import iterative as paths
from latentmix.mixing.means import low_pass
from latentmix.mixing.norms import Lengths, Norm

NORMS = ("lin", "fix", "nin", "slerp", "lol")
MEANS = ("0", "m", "chm", "lp")
METHODS = [f"{norm}/{mean}" for norm in NORMS for mean in MEANS]
REPRODUCING = [method for method in METHODS if not method.startswith("fix")]
CLOSED = [method for method in METHODS if not method.startswith("slerp")]

Array = NDArray[np.float64]
Bundle = tuple[Tensor, Tensor]  # latents [N, C, H, W] and weights [N], float64

quick = settings(max_examples=10, deadline=None, derandomize=True)


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=rng(seed), dtype=torch.float64).to(dtype)


def random_weights(*shape: int, seed: int = 0) -> Tensor:
    w = torch.rand(*shape, generator=rng(seed), dtype=torch.float64) + 0.05
    return w / w.sum(-1, keepdim=True)


def away(a: Tensor, b: Tensor) -> float:
    """How far `a` is from `b`, relative to the length of `b`."""
    return ((a.double() - b.double()).norm() / b.double().norm()).item()


def cosine(a: Tensor, b: Tensor) -> float:
    return torch.cosine_similarity(a.double().flatten(), b.double().flatten(), dim=0).item()


@st.composite
def bundles(draw: st.DrawFn, least: int = 1, most: int = 6) -> Bundle:
    """Latents of some shape, scale, common bias and biases of their own, with weights that are all positive."""
    n = draw(st.integers(least, most))
    shape = (n, draw(st.integers(2, 4)), draw(st.integers(4, 6)), draw(st.integers(4, 6)))
    seed, scale = draw(st.integers(0, 2**31)), draw(st.floats(0.2, 4))
    common, own = draw(st.floats(-1, 1)), draw(st.floats(0, 1))
    z = scale * (noise(*shape, seed=seed) + common + own * noise(n, shape[1], 1, 1, seed=seed + 1))
    w = torch.tensor(draw(st.lists(st.floats(0.05, 1), min_size=n, max_size=n)), dtype=torch.float64)
    return z, w / w.sum()


# The definitions, from the paper and its sources: one latent at a time, numpy, float64.


def the_mean(z: Array, mean: str) -> Array:
    d = np.zeros_like(z)
    if mean == "m":
        d[:] = z.sum() / z.size
    if mean == "chm":
        for c in range(len(z)):
            d[c] = z[c].sum() / z[c].size
    if mean == "lp":
        for c in range(len(z)):
            d[c] = blurred(z[c], cutoff=1.0)
    return d


def blurred(x: Array, cutoff: float) -> Array:
    """By scipy, which tells a Gaussian by its standard deviation in pixels."""
    widths = [size / (2 * math.pi * cutoff) for size in x.shape]
    return np.fft.ifft2(fourier_gaussian(np.fft.fft2(x), widths)).real


def length(x: Array) -> float:
    return math.sqrt(float((x * x).sum()))


def shoemake(a: Array, b: Array, t: float) -> Array:
    theta = 2 * math.asin(length(a - b) / 2)
    return (math.sin((1 - t) * theta) * a + math.sin(t * theta) * b) / math.sin(theta)


def buss_fillmore(points: list[Array], w: Array) -> Array:
    q = np.zeros_like(points[0])
    for p, share in zip(points, w, strict=True):
        q = q + share * p
    q = q / length(q)
    for _ in range(200):
        u = np.zeros_like(q)
        for p, share in zip(points, w, strict=True):
            u = u + share * logarithm(q, p)
        if length(u) < 1e-15:
            break
        q = math.cos(length(u)) * q + math.sin(length(u)) * u / length(u)
        q = q / length(q)
    return q


def logarithm(q: Array, p: Array) -> Array:
    """The tangent at q, of the angle's length, that points to p on the unit sphere."""
    across = p - float((p * q).sum()) * q
    theta = math.atan2(length(across), float((p * q).sum()))
    return theta / length(across) * across


def definition(z: Array, w: Array, method: str) -> Array:
    norm, mean = method.split("/")
    mixed_d, m, mixed_norm, squares = np.zeros_like(z[0]), np.zeros_like(z[0]), 0.0, 0.0
    es = []
    for latent, share in zip(z, w, strict=True):
        d = the_mean(latent, mean)
        e = latent - d
        mixed_d, m = mixed_d + share * d, m + share * e
        mixed_norm, squares = mixed_norm + share * length(e), squares + share * share
        es.append(e)
    if norm == "lin":
        return mixed_d + m
    if norm == "fix":
        return mixed_d + math.sqrt(m.size) * m / length(m)
    if norm == "nin":
        return mixed_d + mixed_norm * m / length(m)
    if norm == "lol":
        return mixed_d + m / math.sqrt(squares)
    points = [e / length(e) for e in es]
    q = shoemake(points[0], points[1], float(w[1])) if len(z) == 2 else buss_fillmore(points, w)
    return mixed_d + mixed_norm * q


@pytest.mark.parametrize("method", METHODS)
@quick
@given(bundle=bundles(least=2))
def test_mix_is_what_the_definitions_say(method: str, bundle: Bundle) -> None:
    z, w = bundle
    expected = torch.from_numpy(definition(z.numpy(), w.numpy(), method))
    assert away(mixtures(z, w[None], [method])[0][0], expected) < (4e-15 if method in CLOSED else 1e-12)


def test_bodin_writes_lol_with_the_mean_spelled_out() -> None:
    z, w = noise(5, 3, 8, 8) + 0.4, random_weights(5)
    mu = torch.einsum("n,nc->c", w, z.mean((2, 3)))[:, None, None].expand(3, 8, 8)
    alpha, beta = w.sum(), w.square().sum()
    assert (
        away(mix(z, w, "lol/chm"), (1 - alpha / beta.sqrt()) * mu + torch.einsum("n,nchw->chw", w, z) / beta.sqrt())
        < 1e-14
    )


# What each method keeps.


@pytest.mark.parametrize("method", REPRODUCING)
@quick
@given(bundle=bundles(), data=st.data())
def test_a_one_hot_weight_reproduces_its_input(method: str, bundle: Bundle, data: st.DataObject) -> None:
    z, _ = bundle
    which = data.draw(st.integers(0, len(z) - 1))
    w = torch.nn.functional.one_hot(torch.tensor(which), len(z)).double()
    assert away(mix(z, w, method), z[which]) < 4e-15
    assert away(mix(z.float(), w, method), z[which].float()) < 2e-6


@pytest.mark.parametrize("mean", MEANS)
@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_fix_does_not_reproduce_its_input(mean: str, scale: float) -> None:
    z = scale * noise(3, 4, 16, 16)
    assert away(mix(z, [0.0, 1.0, 0.0], f"fix/{mean}"), z[1]) == pytest.approx(abs(1 / scale - 1), rel=0.1)


@pytest.mark.parametrize("method", METHODS)
@quick
@given(bundle=bundles(), data=st.data())
def test_order_does_not_matter(method: str, bundle: Bundle, data: st.DataObject) -> None:
    z, w = bundle
    order = data.draw(st.permutations(range(len(z))))
    assert away(mix(z[order], w[order], method), mix(z, w, method)) < 1e-13


@quick
@given(bundle=bundles())
def test_norms(bundle: Bundle) -> None:
    z, w = bundle
    norms = z.flatten(1).norm(dim=1)
    fix, nin, slerp = (mixed.norm().item() for mixed in (mix(z, w, f"{norm}/0") for norm in ("fix", "nin", "slerp")))
    assert fix == pytest.approx(math.sqrt(z[0].numel()), rel=1e-14)
    assert nin == pytest.approx((w * norms).sum().item(), rel=1e-14)
    assert slerp == pytest.approx((w * norms).sum().item(), rel=1e-14)


@pytest.mark.parametrize("mean", ["m", "chm"])
@pytest.mark.parametrize("norm", NORMS)
@quick
@given(bundle=bundles())
def test_a_mean_that_is_split_off_is_interpolated(norm: str, mean: str, bundle: Bundle) -> None:
    z, w = bundle
    axes = (1, 2, 3) if mean == "m" else (2, 3)
    expected = torch.einsum("n,nx->x", w, z.mean(axes).reshape(len(z), -1))
    mixed = mix(z, w, f"{norm}/{mean}").mean([axis - 1 for axis in axes]).flatten()
    assert (mixed - expected).abs().max() < 1e-13 * z.abs().max()


@pytest.mark.parametrize("method", [f"{norm}/{mean}" for norm in ("nin", "slerp", "lol", "lin") for mean in MEANS])
@quick
@given(bundle=bundles(), factor=st.floats(0.01, 100))
def test_all_but_fix_scale_with_their_inputs(method: str, bundle: Bundle, factor: float) -> None:
    z, w = bundle
    assert away(mix(factor * z, w, method), factor * mix(z, w, method)) < 1e-13


# Bias amplification, eqs. 5 to 9.

BIAS = torch.tensor([0.01, -0.02, 0.03, 0.015], dtype=torch.float64)


def biased(n: int) -> Tensor:
    """Gaussian noise of exactly zero channel means, plus what all have in common."""
    z = noise(n, 4, 128, 128, seed=n)
    return z - z.mean((2, 3), keepdim=True) + BIAS[:, None, None]


@pytest.mark.parametrize("norm", ["fix", "nin", "slerp", "lol"])
@pytest.mark.parametrize("n", [4, 16])
def test_a_common_bias_is_amplified_by_the_root_of_n(norm: str, n: int) -> None:
    amplified = mix(biased(n), method=f"{norm}/0").mean((1, 2))
    assert (amplified / BIAS - math.sqrt(n)).abs().max() < 0.015 * math.sqrt(n)


@pytest.mark.parametrize("norm", ["fix", "nin", "lol"])
def test_for_other_weights_the_factor_is_one_over_the_root_of_their_squares(norm: str) -> None:
    w = torch.tensor([0.5, 0.2, 0.1, 0.1, 0.05, 0.05], dtype=torch.float64)
    amplified = mix(biased(6), w, f"{norm}/0").mean((1, 2))
    assert (amplified / BIAS * w.square().sum().sqrt() - 1).abs().max() < 0.015


@pytest.mark.parametrize("norm", NORMS)
def test_splitting_the_channel_means_off_keeps_a_common_bias(norm: str) -> None:
    mixed = mix(biased(16), method=f"{norm}/chm")
    assert (mixed.mean((1, 2)) / BIAS - 1).abs().max() < 1e-12
    if norm != "lin":
        assert mixed.std() == pytest.approx(1, abs=0.01)


# How near the methods are to each other on Gaussian inputs.


@pytest.mark.parametrize("n", [2, 8, 64])
def test_lol_chm_is_nearly_fix_chm_and_uniform_slerp_nearly_fix(n: int) -> None:
    z = noise(n, 4, 64, 64, seed=n, dtype=torch.float32)
    lol, fix_chm, slerp, fix_0 = (mix(z, method=method) for method in ("lol/chm", "fix/chm", "slerp/0", "fix/0"))
    assert cosine(lol, fix_chm) >= 0.999999
    assert cosine(slerp, fix_0) >= 0.998


# Slerp.


@pytest.mark.parametrize("t", [0.0, 0.1, 0.25, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("theta", [1e-4, 0.012, 0.3, 1.5, 2.8])
def test_slerp_of_two_is_shoemakes(theta: float, t: float) -> None:
    """At any angle, nearly parallel ones included, and at any two lengths."""
    basis = torch.linalg.qr(noise(2 * 8 * 8, 2)).Q
    a, b = basis[:, 0], math.cos(theta) * basis[:, 0] + math.sin(theta) * basis[:, 1]
    expected = ((1 - t) * 5 + t * 11) * torch.from_numpy(shoemake(a.numpy(), b.numpy(), t))
    mixed = mix(torch.stack([5 * a, 11 * b]).view(2, 2, 8, 8), [1 - t, t], "slerp/0").flatten()
    assert away(mixed, expected) < 1e-11
    angle = 2 * math.asin((mixed / mixed.norm() - a).norm().item() / 2)
    assert angle == pytest.approx(t * theta, abs=1e-11)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("norm", ["slerp", "adain"])
def test_between_opposite_latents_slerp_takes_the_heavier_one(norm: str, dtype: torch.dtype) -> None:
    """There the angle over its sine is infinite, and rounding would decide the direction."""
    z = noise(1, 4, 32, 32, seed=3, dtype=dtype)
    opposite = torch.cat([z - z.mean((2, 3), keepdim=True), z.mean((2, 3), keepdim=True) - z]).requires_grad_()
    for w in ([0.3, 0.7], [0.9, 0.1], [1.0, 0.0], [0.0, 1.0]):
        mixed, heavier = mix(opposite, w, f"{norm}/0"), opposite[w.index(max(w))]
        assert away(mixed, heavier) < 1e-2 if norm == "slerp" else cosine(mixed, heavier) > 0.99
        assert torch.autograd.grad(mixed.square().sum(), opposite)[0].isfinite().all()
    assert away(mix(opposite, [1.0, 0.0], f"{norm}/0"), opposite[0]) < 1e-6
    three = torch.cat([opposite, noise(1, 4, 32, 32, seed=4, dtype=dtype)])
    assert away(mix(three, [1.0, 0.0, 0.0], f"{norm}/0"), three[0]) < 1e-6


def test_slerp_of_nearly_opposite_latents_is_still_shoemakes() -> None:
    a, b = torch.linalg.qr(noise(4096, 2)).Q.unbind(1)
    for gap in (0.1, 1e-3, 1e-6):
        other = -math.cos(gap) * a + math.sin(gap) * b
        mixed = mix(torch.stack([a, other]).view(2, 4, 32, 32), [0.3, 0.7], "slerp/0").flatten()
        angle = 0.7 * (math.pi - gap)
        assert away(mixed, math.cos(angle) * a + math.sin(angle) * b) < 1e-15 / gap + 1e-8


@quick
@given(bundle=bundles(least=3, most=12))
def test_slerp_of_more_is_the_mean_on_the_sphere(bundle: Bundle) -> None:
    """The tangents at the mean to all points, weighted, cancel."""
    z, w = bundle
    q = mix(z, w, "slerp/0").flatten().numpy()
    tangents = [logarithm(q / length(q), p.flatten().numpy() / length(p.numpy())) for p in z]
    assert length(sum((share * u for share, u in zip(w.numpy(), tangents, strict=True)), np.zeros_like(q))) < 1e-13


def test_slerp_of_more_has_converged_for_64_latents() -> None:
    z, w = noise(64, 4, 16, 16), random_weights(64)
    q = mix(z, w, "slerp/0").flatten().numpy()
    tangents = [logarithm(q / length(q), p.flatten().numpy() / length(p.numpy())) for p in z]
    assert length(sum((share * u for share, u in zip(w.numpy(), tangents, strict=True)), np.zeros_like(q))) < 1e-10


# The low-pass mean.


@pytest.mark.parametrize("norm", NORMS)
def test_a_cut_off_of_zero_is_the_channel_mean_and_one_of_infinity_leaves_nothing(norm: str) -> None:
    z, w = noise(4, 3, 8, 12) + 0.3, random_weights(4)
    assert away(mix(z, w, f"{norm}/lp0"), mix(z, w, f"{norm}/chm")) < 1e-13
    assert away(mix(z, w, f"{norm}/lp0.01"), mix(z, w, f"{norm}/chm")) < 1e-13
    if norm != "fix":  # which would bring whatever is left to the norm of noise
        assert away(mix(z, w, f"{norm}/lp10000"), mix(z, w, "lin/0")) < 1e-6
    assert torch.equal(mix(z, w, f"{norm}/lp1.0"), mix(z, w, f"{norm}/lp"))


@pytest.mark.parametrize("size", [(8, 8), (9, 12), (16, 7)])
def test_the_filter_is_scipys(size: tuple[int, int]) -> None:
    z = noise(2, 3, *size)
    for cutoff in (0.3, 1.0, 2.5):
        expected = np.stack([[blurred(channel, cutoff) for channel in latent] for latent in z.numpy()])
        assert away(low_pass(z, cutoff), torch.from_numpy(expected)) < 1e-13


def test_a_bias_in_space_that_is_slow_is_kept_from_being_amplified() -> None:
    """What /chm can't do: all have a slope in common, from which a low-pass of more cycles takes more away."""
    slope = torch.linspace(-1, 1, 32).double().expand(1, 1, 32, 32)
    z = noise(64, 2, 32, 32) + 0.2 * slope

    def amplified(method: str) -> float:
        return ((mix(z, method=method) * slope[0]).mean() / (0.2 * slope.square().mean())).item()

    assert amplified("fix/chm") > 5
    assert amplified("fix/lp2") < amplified("fix/lp1") < 0.8 * amplified("fix/chm")


# AdaIN.


def test_adain_by_its_definition() -> None:
    z, w = noise(3, 2, 6, 8) + 0.4, random_weights(3)
    mixed, expected = mix(z, w, "slerp/0").numpy(), np.zeros((2, 6, 8))
    for c in range(2):
        mean = sum(share * x[c].mean() for share, x in zip(w.tolist(), z.numpy(), strict=True))
        std = sum(share * x[c].std() for share, x in zip(w.tolist(), z.numpy(), strict=True))
        expected[c] = mean + std * (mixed[c] - mixed[c].mean()) / mixed[c].std()
    assert away(mix(z, w, "adain/0"), torch.from_numpy(expected)) < 1e-13


@quick
@given(bundle=bundles(), data=st.data())
def test_adain_reproduces_and_does_not_mind_the_order(bundle: Bundle, data: st.DataObject) -> None:
    z, w = bundle
    which, order = data.draw(st.integers(0, len(z) - 1)), data.draw(st.permutations(range(len(z))))
    one_hot = torch.nn.functional.one_hot(torch.tensor(which), len(z)).double()
    assert away(mix(z, one_hot, "adain/0"), z[which]) < 1e-13
    assert away(mix(z[order], w[order], "adain/0"), mix(z, w, "adain/0")) < 1e-12


def test_adain_is_differentiable() -> None:
    z, w = (noise(3, 2, 2, 3) + 0.3).requires_grad_(), random_weights(3).requires_grad_()
    assert torch.autograd.gradcheck(lambda latents, shares: mix(latents, shares, "adain/0"), (z, w))


# Norm-aware optimisation.


@pytest.mark.parametrize("size", [16, 1024, 16384])
def test_the_density_of_norms_is_chis(size: int) -> None:
    norms = torch.tensor([0.5, 0.9, 1.0, 1.1]).double() * math.sqrt(size)
    assert away(paths._log_density(norms, size), torch.from_numpy(chi.logpdf(norms.numpy(), size))) < 1e-9


def cost_of(c: Array, points: Array, w: Array, paths_to: Array) -> float:
    """What norm-aware optimisation minimises, as loops: `paths_to` [N, P, L] from c to each point."""
    size, total = c.size, 0.0
    for point, share, path in zip(points, w, paths_to, strict=True):
        stops = [c, *path, point]
        for a, b in pairwise(stops):
            total -= len(w) * share * length(b - a) * float(chi.logpdf(length((a + b) / 2), size))
    return total - float(chi.logpdf(length(c), size))


def test_norm_aware_optimisation_finds_a_cheaper_centroid() -> None:
    """Straight paths through the middle of space cost more than arcs to its result, whatever the weights."""
    z, w = noise(3, 4, 8, 8), random_weights(3)
    flat = z.flatten(1).numpy()

    def arcs(c: Array) -> Array:
        """On the way from c to each point, at the norm of noise."""
        steps = np.linspace(0, 1, 10)[1:-1]
        lines = np.stack([[(1 - t) * c + t * point for t in steps] for point in flat])
        return lines / np.linalg.norm(lines, axis=-1, keepdims=True) * math.sqrt(c.size)

    mean, found = (mix(z, w, method).flatten().numpy() for method in ("lin/0", "nao/0"))
    straight = np.stack([[(1 - t) * mean + t * point for t in np.linspace(0, 1, 10)[1:-1]] for point in flat])
    assert cost_of(found, flat, w.numpy(), arcs(found)) < cost_of(mean, flat, w.numpy(), straight) / 3
    assert length(found) == pytest.approx(16, rel=0.05)
    assert length(mean) < 11


def test_norm_aware_optimisation_ends_near_fix() -> None:
    """By symmetry, for like inputs of like weights; so it amplifies a bias as much."""
    z = noise(8, 4, 16, 16) + 0.1
    found = mix(z, method="nao/0")
    assert cosine(found, mix(z, method="fix/0")) > 0.99
    assert found.mean().item() == pytest.approx(mix(z, method="fix/0").mean().item(), rel=0.05)
    assert cosine(mix(z, method="nao/chm") - 0.1, mix(z, method="fix/chm") - 0.1) > 0.98


def test_norm_aware_optimisation_keeps_one_input_and_does_not_mind_the_order() -> None:
    z, w = noise(3, 2, 4, 4), random_weights(3)
    assert torch.equal(mix(z, [0.0, 1.0, 0.0], "nao/0"), z[1])
    order = torch.tensor([2, 0, 1])
    assert away(mix(z[order], w[order], "nao/0"), mix(z, w, "nao/0")) < 1e-4  # Adam enlarges rounding


# Shapes and precision.


def test_many_mixtures_at_once_equal_one_at_a_time() -> None:
    z, w = noise(6, 3, 5, 7) + 0.3, random_weights(9, 6)
    for method, together in zip(METHODS, mixtures(z, w, METHODS), strict=True):
        assert together.shape == (9, 3, 5, 7)
        assert away(mix(z, w, method), together) == 0
        for row, mixed in zip(w, together, strict=True):
            assert mix(z, row, method).shape == (3, 5, 7)
            assert away(mix(z, row, method), mixed) < 1e-14


def test_weights_may_be_left_out_or_be_a_list_and_a_method_a_string() -> None:
    z = noise(4, 2, 4, 4)
    assert torch.equal(mix(z), mix(z, [0.25] * 4, Method("fix", "chm")))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("method", METHODS)
def test_sixteen_bits_are_mixed_in_thirty_two(method: str, dtype: torch.dtype) -> None:
    z = noise(3, 2, 8, 8, dtype=dtype)
    mixed = mix(z, [0.2, 0.3, 0.5], method)
    assert mixed.dtype == torch.float32
    assert torch.equal(mixed, mix(z.float(), [0.2, 0.3, 0.5], method))
    assert away(mixed, mix(z.double(), [0.2, 0.3, 0.5], method)) < 1e-6


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("latents", [torch.float32, torch.float64])
@pytest.mark.parametrize("weights", [torch.float32, torch.float64])
def test_the_latents_say_the_precision(method: str, latents: torch.dtype, weights: torch.dtype) -> None:
    z, w = noise(3, 2, 8, 8, dtype=latents), torch.tensor([0.25, 0.5, 0.25], dtype=weights)
    mixed = mix(z, w, method)
    assert mixed.dtype == latents
    assert away(mixed, mix(z.double(), w.double(), method)) < (1e-15 if latents == torch.float64 else 1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_autocast_does_not_reach_the_mixing(method: str) -> None:
    z = noise(3, 2, 8, 8, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = mix(z, method=method)
    assert mixed.dtype == torch.float32
    assert torch.equal(mixed, mix(z, method=method))


def test_the_inputs_are_left_as_they_were() -> None:
    z, w = noise(3, 2, 4, 4), random_weights(3)
    before_z, before_w = z.clone(), w.clone()
    mixtures(z, w[None], METHODS)
    assert torch.equal(z, before_z)
    assert torch.equal(w, before_w)


@pytest.fixture
def matmul_settings() -> Iterator[None]:
    yield
    torch.backends.cuda.matmul.fp32_precision = "none"
    torch.set_float32_matmul_precision("highest")


@pytest.mark.usefixtures("matmul_settings")
@pytest.mark.parametrize(
    "setting",
    [
        "off",
        "allow_tf32",
        "high",
        "medium",
        "fp32_precision",
    ],
)
def test_tf32_is_off_while_mixing_and_as_it_was_afterwards(setting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    during: list[str] = []

    def probe(x: Lengths) -> Tensor:
        during.append(torch.backends.cuda.matmul.fp32_precision)
        return x.m

    def failing(_: Lengths) -> Tensor:
        raise ArithmeticError

    monkeypatch.setattr(mixing, "NORMS", {"fix": Norm(probe), "nin": Norm(failing)})
    if setting in ("high", "medium"):
        torch.set_float32_matmul_precision(setting)
    elif setting in ("off", "allow_tf32"):
        torch.backends.cuda.matmul.allow_tf32 = setting == "allow_tf32"
    elif setting == "fp32_precision":
        torch.backends.cuda.matmul.fp32_precision = "tf32"
    before = torch.backends.cuda.matmul.fp32_precision
    assert before == ("ieee" if setting == "off" else "tf32")

    mix(noise(2, 1, 2, 2), method="fix/0")
    assert during == ["ieee"]
    assert torch.backends.cuda.matmul.fp32_precision == before
    if setting in ("high", "medium"):
        assert torch.get_float32_matmul_precision() == setting

    with pytest.raises(ArithmeticError):  # what goes wrong half-way must not leave it off
        mix(noise(2, 1, 2, 2), method="nin/0")
    assert torch.backends.cuda.matmul.fp32_precision == before


# Gradients.


@pytest.mark.parametrize("weights", ["uniform", "generic"])
@pytest.mark.parametrize("method", [*METHODS, "adain/0"])
def test_gradients_are_right(method: str, weights: str) -> None:
    z = (noise(3, 2, 2, 3) + 0.3).requires_grad_()
    w = (torch.full((3,), 1 / 3, dtype=torch.float64) if weights == "uniform" else random_weights(3)).requires_grad_()

    def mixed(latents: Tensor, shares: Tensor) -> Tensor:
        return mix(latents, shares, method)

    assert torch.autograd.gradcheck(mixed, (z, w))


@pytest.mark.parametrize("mean", ["pool", "pchm"])
@pytest.mark.parametrize("norm", NORMS)
def test_gradients_with_a_mean_of_the_pool_are_right(norm: str, mean: str) -> None:
    z, w = noise(6, 2, 2, 3).requires_grad_(), torch.tensor([0.4, 0.48, 0.03, 0.03, 0.03, 0.03]).double()

    def mixed(latents: Tensor, shares: Tensor) -> Tensor:
        return mix(latents, shares, f"{norm}/{mean}")

    assert torch.autograd.gradcheck(mixed, (z, w.requires_grad_()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("method", REPRODUCING)
def test_at_a_one_hot_weight_the_gradient_is_that_of_the_input_alone(method: str, dtype: torch.dtype) -> None:
    z = noise(3, 2, 4, 4, dtype=dtype).requires_grad_()
    w = torch.tensor([0.0, 1.0, 0.0], dtype=dtype, requires_grad=True)
    towards = noise(2, 4, 4, seed=7, dtype=dtype)
    to_z, to_w = torch.autograd.grad((mix(z, w, method) * towards).sum(), (z, w))
    expected = torch.zeros_like(z)
    expected[1] = towards
    assert away(to_z, expected) < (1e-5 if dtype == torch.float32 else 1e-14)
    assert to_w.isfinite().all()


@pytest.mark.parametrize("mean", MEANS)
def test_the_gradient_of_fix_at_a_one_hot_weight_is_finite(mean: str) -> None:
    z, w = noise(3, 2, 4, 4).requires_grad_(), torch.tensor([0.0, 1.0, 0.0]).double().requires_grad_()
    for gradient in torch.autograd.grad(mix(z, w, f"fix/{mean}").square().sum(), (z, w)):
        assert gradient.isfinite().all()


@pytest.mark.filterwarnings("ignore:.torch.jit.script")  # of torch's own rules for forward mode
@pytest.mark.parametrize("method", [method for method in METHODS if not method.startswith("slerp")])
def test_transforms_of_torch_can_be_applied(method: str) -> None:
    z, w = noise(2, 3, 2, 3, 3) + 0.3, random_weights(2, 1, 3)

    def mixed(latents: Tensor, weights: Tensor) -> Tensor:
        return mixtures(latents, weights, [method])[0]

    one_by_one = torch.stack([mixed(*pair) for pair in zip(z, w, strict=True)])
    torch.testing.assert_close(torch.vmap(mixed)(z, w), one_by_one)
    forward = torch.autograd.forward_ad
    with forward.dual_level():
        towards = forward.unpack_dual(mixed(forward.make_dual(z[0], z[1]), w[0])).tangent
    expected = (mixed(z[0] + 1e-6 * z[1], w[0]) - mixed(z[0] - 1e-6 * z[1], w[0])) / 2e-6
    torch.testing.assert_close(towards, expected, rtol=1e-6, atol=1e-8)


# Methods and errors.


@pytest.mark.parametrize("text", METHODS)
def test_a_methods_name_can_be_parsed(text: str) -> None:
    norm, mean = text.split("/")
    assert Method.parse(text) == Method(norm, mean)
    assert str(Method.parse(text)) == text


@pytest.mark.parametrize(
    ("typo", "meant"),
    [
        ("fixx/0", "fix/0"),
        ("nin/chn", "nin/chm"),
        ("slurp/m", "slerp/m"),
        ("nin chm", "nin/chm"),
        ("lol/chm/0", "lol/chm"),
    ],
)
def test_an_unknown_method_names_the_nearest(typo: str, meant: str) -> None:
    with pytest.raises(ValueError, match=f"{re.escape(repr(typo))}.*did you mean '{meant}'"):
        Method.parse(typo)
    with pytest.raises(ValueError, match=f"did you mean '{meant}'"):
        mix(noise(2, 1, 2, 2), method=typo)


@pytest.mark.parametrize("text", ["fix/lp0", "nin/lp2", "lol/lp0.25", "nao/chm", "adain/0"])
def test_a_cut_off_is_part_of_the_name(text: str) -> None:
    assert str(Method.parse(text)) == text


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("adain/chm", "adain sets the mean of each channel itself; write adain/0"),
        ("adain/lp0.5", "adain sets the mean of each channel itself; write adain/0"),
        ("nao/lp", "nao seeks the norm of white noise"),
        ("nao/lp2", "nao seeks the norm of white noise"),
    ],
)
def test_combinations_without_sense_are_refused_with_a_reason(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Method.parse(text)


@pytest.mark.parametrize("text", ["", "/", "fix", "fix/", "/chm", "0/fix", "µ", "fix/lp-1", "fix/lp1e3", "lp/fix"])
def test_whatever_is_no_method_raises_value_error(text: str) -> None:
    with pytest.raises(ValueError, match="there is no method"):
        Method.parse(text)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1.5, -0.5, 0.0], "negative"),
        ([[0.2, 0.3, 0.5], [1.5, -0.5, 0.0]], "negative"),
        ([math.nan, 0.5, 0.5], "finite"),
        ([math.inf, 0.5, 0.5], "finite"),
        ([0.2, 0.2, 0.2], "sum to 1; they are off by 0.4"),
        ([[0.2, 0.3, 0.5], [0.4, 0.4, 0.4]], "sum to 1; they are off by 0.2"),
        ([0.5, 0.5], r"not \[2\]"),
        ([[0.5, 0.5]], r"not \[1, 2\]"),
        (torch.zeros(0, 3), r"not \[0, 3\]"),
        ([[[0.2, 0.3, 0.5]]], r"not \[1, 1, 3\]"),
        (1.0, "not one number"),
        (torch.ones(1, 2, 2), r"latents go in a list: lm.mix\(\[a, b\], \[0.5, 0.5\]\)"),
        ([], r"not \[0\]"),
    ],
)
def test_weights_that_cannot_be_meant_are_refused(weights: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mix(noise(3, 1, 2, 2), torch.as_tensor(weights))


@pytest.mark.parametrize("method", [0.5, [0.5, 0.5], torch.tensor(0.5), None])
def test_two_latents_as_two_arguments_are_refused(method: Any) -> None:
    """With `lm.mix(a, b, 0.5)`, the weight would be taken for the method."""
    a, b = noise(2, 4, 8, 8)
    with pytest.raises(ValueError, match=r"latents go in a list: lm.mix\(\[a, b\], \[0.5, 0.5\]\)"):
        unwrap(mix)(a, b, method)  # the types of arguments are checked in tests alone
    with pytest.raises(ValueError, match="a method is a text, such as 'nin/chm', not a"):
        unwrap(Method.parse.__func__)(Method, method)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda z, w: mix(z, "nin/chm"), "write method='nin/chm' for a method"),
        (lambda z, w: mix(["a.png"], [1]), "not str; images become latents by Pipeline.invert"),
        (lambda z, w: unwrap(mixtures)(z, w, "nin/chm"), r"methods go in a list: \['nin/chm'\]; lm.mix takes one"),
        (lambda z, w: unwrap(mixtures)(z, w, Method("nin", "m")), r"methods go in a list: \['nin/m'\]"),
        (lambda z, w: unwrap(mixtures)(z, w[0], ["nin/m"]), r"weights one \[K, N\]; lm.mix takes others"),
        (lambda z, w: unwrap(mixtures)(z[1:], w, ["nin/m"]), r"weights one \[K, N\]; lm.mix takes others"),
        (lambda z, w: unwrap(mixtures)(list(z), w, ["nin/m"]), r"latents must be a tensor \[N, C, H, W\]"),
        (lambda z, w: unwrap(mixtures)(z, w.tolist(), ["nin/m"]), r"weights one \[K, N\]"),
    ],
)
def test_other_calls_that_come_to_mind_are_refused_with_what_to_do(call: Callable[..., Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(noise(3, 4, 8, 8), random_weights(2, 3))


@pytest.mark.parametrize("weights", ["half each", [[0.2, 0.3, 0.5], [1.0]], [None] * 3, object()])
def test_weights_that_are_no_numbers_are_refused(weights: Any) -> None:
    with pytest.raises(ValueError, match="weights must be numbers"):
        mix(noise(3, 1, 2, 2), weights)


def test_weights_may_be_a_list_of_tensors_or_arrays() -> None:
    z, rows = noise(3, 2, 3, 3), random_weights(2, 3)
    for listed in (list(rows), list(rows.numpy()), [list(row) for row in rows]):
        torch.testing.assert_close(mix(z, listed), mix(z, rows), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("n", [3, 6, 7, 12, 49])
def test_weights_of_16_bits_may_be_off_by_their_own_rounding(dtype: torch.dtype, n: int) -> None:
    z = noise(n, 2, 3, 3)
    w = torch.full((n,), 1 / n, dtype=dtype)
    torch.testing.assert_close(mix(z, w), mix(z), rtol=1e-12, atol=1e-12)
    if dtype == torch.float16:
        torch.testing.assert_close(mix(z.numpy(), w.numpy()), mix(z).numpy(), rtol=1e-12, atol=1e-12)
    with pytest.raises(ValueError, match="sum to 1"):
        mix(z, w * 1.02)


@pytest.mark.parametrize("shape", [(0, 4, 8, 8), (2, 1, 4, 8, 8), (16,)])
def test_latents_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=re.escape(str(list(shape)))):
        mix(torch.ones(shape))


@pytest.mark.parametrize("method", ["nin/chm", "nin/m", "slerp/chm", "lol/chm", "fix/chm"])
def test_latents_that_their_mean_explains_wholly_are_mixed_linearly(method: str) -> None:
    z = torch.tensor([1.0, 3.0]).view(2, 1, 1, 1).expand(2, 4, 8, 8)
    assert torch.equal(mix(z, [1.0, 0.0], method), z[0])
    assert torch.equal(mix(z, method=method), torch.full((4, 8, 8), 2.0))


# What `mix` takes

W = [0.5, 0.3, 0.2]


@pytest.mark.parametrize("method", [*METHODS, "adain/0"])
def test_lists_arrays_and_single_batches_are_mixed_as_tensors_are(method: str) -> None:
    z = noise(3, 4, 5, 6, dtype=torch.float32) + 0.1
    expected = mix(z, W, method)
    assert torch.equal(mix(list(z), W, method), expected)
    assert torch.equal(mix(tuple(z), torch.tensor(W), method), expected)
    assert torch.equal(mix(list(z.split(1)), W, method), expected[None])
    array = mix(z.numpy(), np.array(W), method)
    assert isinstance(array, np.ndarray) and np.array_equal(array, expected.numpy())
    arrays = mix(list(z.numpy()), [W, W[::-1]], method)
    assert isinstance(arrays, np.ndarray) and arrays.shape == (2, 4, 5, 6) and arrays.dtype == np.float32


@pytest.mark.parametrize("changed", [lambda x: x[::-1], lambda x: x.astype(x.dtype.newbyteorder()), lambda x: x.T])
def test_arrays_that_torch_refuses_are_mixed(changed: Callable[[Any], Any]) -> None:
    z, w = noise(3, 3, 3, 3).numpy(), np.array(W)
    for arrays in (changed(z), list(changed(z)), [changed(x) for x in z]):
        plain = np.ascontiguousarray(np.stack(list(arrays)), dtype=np.float64)
        assert np.allclose(mix(arrays, changed(w)), mix(plain, list(changed(w))), rtol=1e-12)


def test_integers_half_floats_and_other_strides_are_mixed_as_their_values_are() -> None:
    z = (10 * noise(3, 4, 5, 6)).round().float()
    expected = mix(z, W, "nin/chm")
    for latents in (z.short(), z.half(), z.to(memory_format=torch.channels_last), z.repeat(1, 1, 1, 2)[..., :6]):
        torch.testing.assert_close(mix(latents, W, "nin/chm"), expected)
    for array in (z.numpy().astype(np.float16), z.numpy().astype(np.int64)):
        np.testing.assert_allclose(mix(array, W, "nin/chm"), expected, rtol=1e-5)
    torch.testing.assert_close(mix(z[:1], method="nin/chm"), z[0])
    torch.testing.assert_close(mix(z[:1].expand(3, -1, -1, -1), W, "nin/chm"), z[0])


@pytest.mark.parametrize("norm", NORMS)
def test_tokens_have_the_channel_last_and_vectors_have_one_channel(norm: str) -> None:
    z = noise(3, 4, 5, 6) + torch.arange(4.0)[:, None, None]
    tokens = z.flatten(2).mT  # [N, S, C]
    for mean in ("0", "m", "chm"):
        expected = mix(z, W, f"{norm}/{mean}")
        torch.testing.assert_close(mix(tokens, W, f"{norm}/{mean}"), expected.flatten(1).mT)
    vectors = z.flatten(1)
    for mean in ("0", "m"):
        torch.testing.assert_close(mix(vectors, W, f"{norm}/{mean}"), mix(z, W, f"{norm}/{mean}").flatten())
    torch.testing.assert_close(mix(vectors, W, f"{norm}/chm"), mix(vectors, W, f"{norm}/m"))
    assert mix(vectors, [W, W], f"{norm}/chm").shape == (2, 120)
    assert mix(list(tokens), [W, W], f"{norm}/chm").shape == (2, 30, 4)
    assert mix(tokens, W, f"{norm}/chm").is_contiguous()  # as safetensors needs it
    videos = noise(3, 4, 2, 5, 6)
    for mean in ("0", "m", "chm"):  # as the error about videos says
        mixed = mix(videos.flatten(3), W, f"{norm}/{mean}").unflatten(-1, (5, 6))
        torch.testing.assert_close(mixed, mix(videos.flatten(2, 3), W, f"{norm}/{mean}").unflatten(1, (2, 5)))


@pytest.mark.parametrize("method", [*METHODS, "adain/0", "nao/0"])
def test_mixing_in_inference_mode_changes_nothing(method: str) -> None:
    z = noise(2, 2, 4, 4, dtype=torch.float32)
    expected = mix(z, [0.4, 0.6], method)
    with torch.inference_mode():
        assert torch.equal(mix(z.clone(), [0.4, 0.6], method), expected)
        made_inside = z + 0
    assert torch.equal(mix(made_inside, [0.4, 0.6], method), expected)


@pytest.mark.parametrize(("bad", "name"), [(math.nan, "NaN"), (math.inf, "infinity"), (-math.inf, "infinity")])
def test_latents_that_are_not_finite_are_refused_by_number(bad: float, name: str) -> None:
    z = noise(3, 4, 5, 6)
    z[1, 2, 3, 4] = bad
    with pytest.raises(ValueError, match=f"latents 1 of 3 hold {name}"):
        mix(z, [1.0, 0.0, 0.0])
    with pytest.raises(ValueError, match=f"latents 1 of 3 hold {name}"):
        mix(list(z.numpy()))


@pytest.mark.parametrize(
    ("latents", "message"),
    [
        ([], "an empty list"),
        ([torch.ones(4, 8, 8), torch.ones(4, 8, 9)], r"not \[4, 8, 8\], \[4, 8, 9\]"),
        ([torch.ones(2, 4, 8, 8)] * 2, r"not \[2, 2, 4, 8, 8\]; for videos .* mix z.flatten\(3\)"),
        (torch.full((2, 4, 8, 8), 1e30), "latents 0, 1 of 2 hold numbers that are too large for float32"),
        ([torch.ones(1, 64, 4)] * 2, "pass torch.cat"),
        ([[1.0, 2.0]], "not list"),
        ("latents", "not str"),
        (None, "not NoneType"),
    ],
)
def test_whatever_is_no_batch_of_latents_is_refused(latents: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mix(latents)


def test_a_low_pass_filter_needs_a_plane() -> None:
    with pytest.raises(ValueError, match="frequencies need"):
        mix(noise(3, 16, 4), W, "fix/lp0.5")


# What callers hand in


def test_weights_and_latents_may_be_columns_of_tables() -> None:
    pandas = pytest.importorskip("pandas")

    z = torch.randn(3, 4, 2, 2, generator=torch.Generator().manual_seed(0)).numpy()
    expected = mix(z, [0.2, 0.3, 0.5])
    index = [7, 0, 3]  # as of a table that was filtered or sorted; places count, and not the index
    weights = pandas.Series([0.2, 0.3, 0.5], index=index)
    for latents in (z, pandas.Series(list(z), index=index), iter(z), np.array([*z, None], dtype=object)[:3]):
        found = mix(latents, weights)
        assert isinstance(found, np.ndarray) and np.array_equal(found, expected)
    table = pandas.DataFrame(z.reshape(3, -1), index=index)
    assert np.array_equal(mix(table, weights, "nin/m"), mix(z.reshape(3, -1), [0.2, 0.3, 0.5], "nin/m"))
    both = pandas.DataFrame([[0.2, 0.3, 0.5], [1, 0, 0]], index=[4, 2])
    assert np.array_equal(mix(z, both)[0], expected)


@pytest.mark.filterwarnings("error")
def test_arrays_may_be_read_only_or_of_long_numbers() -> None:
    z = np.arange(32.0, dtype=np.float32).reshape(2, 4, 2, 2)
    expected = mix(z, [0.5, 0.5])
    z.setflags(write=False)
    assert np.array_equal(mix(z, [0.5, 0.5]), expected)
    np.testing.assert_allclose(mix(z.astype(np.longdouble), [0.5, 0.5]), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("latents", "message"),
    [
        (torch.zeros(2, 4, 2, 2, dtype=torch.complex64), "latents of complex64 can't be mixed"),
        (torch.zeros(2, 4, 2, 2).to(torch.float8_e4m3fn), "latents of float8_e4m3fn can't be mixed"),
        (torch.zeros(2, 4, 2, 2, device="meta"), "latents on the device meta hold no numbers"),
        (torch.ones(2, 4, 2, 2).to_sparse(), "latents must be a dense tensor"),
        ([torch.zeros(4, 2, 2), torch.zeros(4, 2, 2, device="meta")], "latents are on cpu and meta; move them to one"),
        (np.ma.masked_array(np.zeros((2, 4)), np.eye(2, 4, dtype=bool)), "a masked array has entries without a value"),
        (np.array([["a"], ["b"]]), "latents can't be read as numbers"),
        ({"a": torch.zeros(4)}, "not dict"),
    ],
)
def test_latents_that_hold_no_real_numbers_are_refused(latents: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        mix(latents, [0.5, 0.5])
    assert "\n" not in str(caught.value)


def test_weights_that_hold_no_real_numbers_are_refused() -> None:
    z = torch.zeros(2, 4, 2, 2)
    for weights in (torch.full((2,), 0.5 + 0j), torch.full((2,), 0.5, device="meta")):
        with pytest.raises(ValueError, match="weights "):
            mix(z, weights)
    with pytest.raises(ValueError, match="off by 1; divide them by their sum"):
        mix(z, [1.0, 1.0])


@pytest.mark.parametrize("method", [Method("nix", "chm"), Method("adain", "chm"), "slerp"])
def test_a_method_that_is_none_is_refused(method: Any) -> None:
    with pytest.raises(ValueError, match="there is no method"):
        mix(torch.zeros(2, 4, 2, 2), [0.5, 0.5], method)
