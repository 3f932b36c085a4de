"""The means of a pool: what all latents have in common cancels in a mixture, whatever its shape."""

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_mixing import Array, away, cosine, length, noise, quick, random_weights
from torch import Tensor

from latentmix.mixing import Method, mix, mixtures

MEANS = ("pool", "pchm")
NORMS = ("lin", "fix", "nin", "slerp", "lol")
METHODS = [f"{norm}/{mean}" for norm in NORMS for mean in MEANS]


@st.composite
def pools(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """Latents of a pool with a bias in space, and weights that are positive for fewer than half of them."""
    mixed, rest = draw(st.integers(2, 4)), draw(st.integers(4, 6))
    shape = (mixed + rest, draw(st.integers(2, 3)), draw(st.integers(4, 6)), draw(st.integers(4, 6)))
    seed = draw(st.integers(0, 2**31))
    z = draw(st.floats(0.2, 4)) * (noise(*shape, seed=seed) + draw(st.floats(-1, 1)) * noise(1, *shape[1:], seed=seed))
    w = torch.zeros(len(z), dtype=torch.float64)
    w[torch.randperm(len(z), generator=torch.Generator().manual_seed(seed))[:mixed]] = random_weights(mixed, seed=seed)
    return z, w


def definition(z: Array, w: Array, method: str) -> Array:
    """Return the formulas, one latent at a time."""
    norm, mean = method.split("/")
    centre, es, mixed_d = z.mean(0), [], np.zeros_like(z[0])
    for latent, share in zip(z, w, strict=True):
        d = centre.copy()
        if mean == "pchm":
            for channel, own in zip(d, latent, strict=True):
                channel += own.mean() - channel.mean()
        es.append(latent - d)
        mixed_d += share * d
    m = sum(share * e for share, e in zip(w, es, strict=True))
    scale = {
        "lin": 1.0,
        "fix": math.sqrt(m.size) / length(m),
        "nin": sum(share * length(e) for share, e in zip(w, es, strict=True)) / length(m),
        "lol": math.sqrt((1 - 1 / len(z)) / (sum(share**2 for share in w) - 1 / len(z))),
    }[norm]
    return mixed_d + scale * m


@pytest.mark.parametrize("method", [method for method in METHODS if not method.startswith("slerp")])
@quick
@given(pool=pools())
def test_mix_is_what_the_formulas_say(method: str, pool: tuple[Tensor, Tensor]) -> None:
    z, w = pool
    expected = torch.from_numpy(definition(z.numpy(), w.numpy(), method))
    assert away(mix(z, w, method), expected) < 1e-14
    assert away(mix(z.float(), w, method), expected) < 1e-5


@pytest.mark.parametrize("method", [method for method in METHODS if not method.startswith("fix")])
@quick
@given(pool=pools())
def test_a_one_hot_weight_reproduces_its_input(method: str, pool: tuple[Tensor, Tensor]) -> None:
    z, _ = pool
    w = torch.eye(len(z), dtype=torch.float64)
    assert away(mix(z, w, method), z) < 1e-14
    assert away(mix(z.float(), w, method), z.float()) < 2e-6


@pytest.mark.parametrize("method", METHODS)
@quick
@given(pool=pools(), data=st.data())
def test_the_order_of_the_pool_does_not_matter(method: str, pool: tuple[Tensor, Tensor], data: st.DataObject) -> None:
    z, w = pool
    order = data.draw(st.permutations(range(len(z))))
    assert away(mix(z[order], w[order], method), mix(z, w, method)) < 1e-13


@pytest.mark.parametrize("method", METHODS)
@quick
@given(pool=pools(), size=st.floats(0.01, 10))
def test_any_field_that_all_share_is_added_to_the_mixture_and_changes_nothing_else(
    method: str, pool: tuple[Tensor, Tensor], size: float
) -> None:
    """The contrast property. The field has every frequency, and no mean of a single latent could remove it."""
    z, w = pool
    field = size * noise(*z.shape[1:], seed=5)
    assert away(mix(z + field, w, method) - field, mix(z, w, method)) < 1e-12


def test_other_means_amplify_a_field_in_space() -> None:
    z, field = noise(128, 4, 16, 16), 0.2 * torch.linspace(-1, 1, 16).double().expand(4, 16, 16)
    w = torch.zeros(128).double()
    w[:32] = 1 / 32

    def gain(method: str) -> float:
        change = mix(z + field, w, method) - mix(z, w, method)
        return ((change * field).sum() / field.square().sum()).item()

    assert gain("fix/pool") == pytest.approx(1, abs=1e-9)
    assert gain("lol/chm") == pytest.approx(math.sqrt(32), abs=1e-9)


@pytest.mark.parametrize("mean", MEANS)
@pytest.mark.parametrize("n", [4, 32, 96])
def test_the_scale_of_lol_restores_the_variance_of_noise_for_any_share_of_the_pool(mean: str, n: int) -> None:
    z, w = noise(128, 4, 64, 64, seed=n), torch.zeros(128).double()
    w[:n] = 1 / n
    lol, fix = mixtures(z, w[None], [f"lol/{mean}", f"fix/{mean}"])
    assert lol.std() == pytest.approx(1, abs=0.015)
    assert cosine(lol, fix) > 0.99999


def test_what_a_mixture_has_in_common_with_its_latents() -> None:
    """Its cosine with each is √(1/N − 1/P), and 1/P more from the pool's mean, which is noise here."""
    z, w = noise(128, 4, 64, 64), torch.zeros(128).double()
    w[:32] = 1 / 32
    assert cosine(mix(z, w, "fix/pool"), z[0]) == pytest.approx(math.sqrt(1 / 32 - 1 / 128) + 1 / 128, abs=0.005)


@pytest.mark.parametrize("method", METHODS)
def test_gradients_are_right(method: str) -> None:
    z, w = (noise(6, 2, 2, 3) + 0.3).requires_grad_(), torch.tensor([0.6, 0.4]).double().requires_grad_()

    def mixed(latents: Tensor, shares: Tensor) -> Tensor:
        return mix(latents, torch.cat([shares, torch.zeros(4).double()]), method)

    assert torch.autograd.gradcheck(mixed, (z, w))


@pytest.mark.parametrize("method", METHODS)
def test_several_methods_and_mixtures_at_once_equal_one_at_a_time(method: str) -> None:
    z, w = noise(12, 3, 5, 7) + 0.3, torch.zeros(4, 12).double()
    w[:, :5] = random_weights(4, 5)
    together = mixtures(z, w, ["fix/0", method, "fix/chm"])[1]
    assert all(away(mix(z, row, method), mixed) < 1e-14 for row, mixed in zip(w, together, strict=True))


# What is refused, and what is warned of.


@pytest.mark.parametrize("mean", MEANS)
@pytest.mark.parametrize("size", [1, 2, 7, 300])
def test_a_mixture_of_the_whole_pool_is_refused(mean: str, size: int) -> None:
    with pytest.raises(ValueError, match=f"mix all {size}; pass a larger pool"):
        mixtures(noise(size, 1, 2, 2), torch.full((1, size), 1 / size), [f"nin/{mean}"])


@pytest.mark.parametrize("size", [3, 300])
def test_all_but_one_of_a_pool_are_mixed_with_a_warning(size: int) -> None:
    z, w = noise(size, 2, 8, 8), torch.full((size,), 1 / (size - 1))
    w[0] = 0
    with pytest.warns(UserWarning, match=f"nin/pool mixes {size - 1} of a pool of {size}; .*take a larger pool"):
        assert mix(z, w, "nin/pool").isfinite().all()


def test_half_a_pool_is_mixed_without_a_warning() -> None:
    w = torch.zeros(2, 96)
    w[:, :48] = 1 / 48
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mix(noise(96, 2, 8, 8, dtype=torch.float32), w, Method.parse("fix/pool"))
        mix(noise(4, 2, 8, 8), method="fix/chm")


def test_one_latent_more_than_half_a_pool_in_any_mixture_is_warned_of() -> None:
    w = torch.zeros(3, 96)
    for row, n in zip(w, (2, 49, 30), strict=True):
        row[:n] = 1 / n
    with pytest.warns(UserWarning, match="fix/pool mixes 49 of a pool of 96"):
        mix(noise(96, 2, 8, 8, dtype=torch.float32), w, "fix/pool")


def test_the_whole_pool_in_any_mixture_is_refused() -> None:
    w = torch.zeros(2, 6)
    w[0, :3], w[1] = 1 / 3, 1 / 6
    with pytest.raises(ValueError, match="mix all 6"):
        mixtures(noise(6, 1, 2, 2), w, ["fix/pool"])


@pytest.mark.parametrize("mean", MEANS)
def test_adain_has_no_mean_of_a_pool(mean: str) -> None:
    with pytest.raises(ValueError, match="write adain/0"):
        Method.parse(f"adain/{mean}")
