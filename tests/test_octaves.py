"""The bias of latents by octave: known biases are found, at the N where mixtures of them leave what is random."""

import math
from itertools import pairwise

import pytest
import torch
from test_mixing import noise
from torch import Tensor

from latentmix.commands.diagnose import overlap
from latentmix.experiment.draws import subset
from latentmix.mixing import mix
from latentmix.octaves import Octave, octaves, recommended, safe, shared_images

C, SIZE = 4, 16


def wave(frequency: int, amplitude: float) -> Tensor:
    """Return a wave along the rows of every channel, of mean square amplitude²/2."""
    return amplitude * torch.cos(2 * math.pi * frequency * torch.arange(SIZE).double() / SIZE).expand(C, SIZE, SIZE)


def coefficients(octave: int) -> int:
    """Return the number of real coefficients of one channel in an octave of a square frame, counted one by one."""
    low, high = [(0, 1), (1, 2), (2, 4), (4, 8), (8, 16)][octave]
    frequencies = [(i if i <= SIZE // 2 else i - SIZE) for i in range(SIZE)]
    return sum(low <= math.hypot(a, b) < high for a in frequencies for b in frequencies)


@pytest.mark.parametrize(("octave", "frequency"), [(0, 0), (1, 1), (2, 2), (2, 3), (3, 4), (3, 7)])
def test_a_bias_is_found_in_the_octave_of_its_frequency(octave: int, frequency: int) -> None:
    """Its power there is its energy over the octave's coefficients, and the rest is noise of variance 1."""
    bias = wave(frequency, 0.2)
    found = octaves(noise(500, C, SIZE, SIZE) + bias)
    expected = bias.square().sum().item() / (C * coefficients(octave))
    assert [(o.low, o.high) for o in found] == [(0, 0), (1, 2), (2, 4), (4, 8), (8, 16)]
    for index, o in enumerate(found):
        assert o.variance == pytest.approx(1, abs=0.05)
        assert o.bias == pytest.approx(expected if index == octave else 0, abs=4 * o.error)
        assert (o.limit is not None) == (index == octave)
    assert found[octave].limit == pytest.approx(1 / expected, rel=0.2)


def test_noise_has_a_bias_in_one_pool_of_twenty() -> None:
    pools = [octaves(noise(40, C, 8, 8, seed=seed)) for seed in range(300)]
    assert sum(any(o.limit for o in found) for found in pools) / 300 == pytest.approx(0.05, abs=0.035)


def test_standard_errors_are_those_of_repeated_pools() -> None:
    pools = [octaves(noise(40, C, SIZE, SIZE, seed=seed) + wave(1, 0.2)) for seed in range(200)]
    for repeated in zip(*pools, strict=True):
        scatter = torch.tensor([o.bias for o in repeated]).std().item()
        assert 0.7 < scatter / (sum(o.error for o in repeated) / 200) < 1.15


def test_the_variance_is_that_of_the_octave() -> None:
    smooth = noise(200, C, SIZE, SIZE)
    smooth = (smooth + smooth.roll(1, 2) + smooth.roll(1, 3) + smooth.roll((1, 1), (2, 3))) / 2
    variances = [o.variance for o in octaves(smooth)]
    assert variances[1:] == sorted(variances[1:], reverse=True) and variances[0] == pytest.approx(4, rel=0.2)


def test_at_the_limit_the_amplified_bias_is_one_standard_deviation() -> None:
    z = noise(4000, C, SIZE, SIZE) + wave(1, 0.05)
    limits = safe(octaves(z), len(z))
    n = limits["fix/chm"]
    assert n == limits["fix/0"] and n is not None
    rows = torch.arange(n * (4000 // n)).view(-1, n)
    pattern = wave(1, 1)
    along = torch.stack([(mix(z[row], method="fix/chm") * pattern).sum((1, 2)) for row in rows]) / pattern[0].norm()
    # The bias is all in one of the octave's coefficients, and so is larger there than on average.
    assert along.mean(0).abs().mean() / along.std(0).mean() == pytest.approx(math.sqrt(coefficients(1)), rel=0.1)


def test_what_a_mean_splits_off_does_not_limit_it() -> None:
    limits = safe(octaves(noise(100, C, SIZE, SIZE) + 0.03), 100)
    assert limits["fix/0"] is not None and limits["fix/0"] < 6
    assert (limits["fix/chm"], limits["fix/pool"]) == (None, 50)
    assert [recommended(limits, n) for n in (2, 50, 51)] == ["nin/0", "nin/pool", "nin/chm"]
    assert recommended(dict.fromkeys(limits), 1000) == "nin/0"


@pytest.mark.parametrize(("limit", "n"), [(2.5, 2), (3.99, 3), (7.0, 7), (0.4, 0)])
def test_as_many_are_safe_as_stay_below_one_standard_deviation(limit: float, n: int) -> None:
    """Whole latents: with one more, the bias would be larger. The least of all octaves decides."""
    large, small = Octave(1, 2, 1 / 30, 0.0, 1.0, 30.0), Octave(2, 4, 1 / limit, 0.0, 1.0, limit)
    nothing = Octave(4, 8, 0.0, 0.1, 1.0, None)
    first = Octave(0, 0, 1 / 50, 0.0, 1.0, 50.0)
    assert safe([first, large, small, nothing], 9) == {"fix/0": n, "fix/chm": n, "fix/pool": 4}
    assert safe([small, large, nothing], 8) == {"fix/0": n, "fix/chm": 30, "fix/pool": 4}
    assert recommended({"fix/0": n, "fix/chm": 30, "fix/pool": 4}, n) == "nin/0"
    assert recommended({"fix/0": n, "fix/chm": 30, "fix/pool": 9}, n + 1) == "nin/pool"


def test_a_frame_need_not_be_square_or_even() -> None:
    found = octaves(noise(50, 1, 5, 12))
    assert [o.low for o in found] == [0, 1, 2, 4]
    assert all(o.variance == pytest.approx(1, abs=0.3) for o in found)


@pytest.mark.parametrize(("n", "pool"), [(8, 32), (16, 32), (24, 32)])
def test_draws_share_images_and_so_do_their_mixtures(n: int, pool: int) -> None:
    drawn = [set(subset(0, "star", draw, pool)[:n].tolist()) for draw in range(400)]
    shared = [len(a & b) for a, b in pairwise(drawn)]
    assert sum(shared) / len(shared) == pytest.approx(shared_images(n, pool), rel=0.06)
    z, weights = noise(pool, C, SIZE, SIZE), torch.zeros(400, pool)
    for row, chosen in zip(weights, drawn, strict=True):
        row[list(chosen)] = 1 / n
    mixed = mix(z, weights, "lol/0")
    assert mixed.mean(0).square().mean() == pytest.approx(n / pool, rel=0.1)  # of their variance of 1
    assert ("harmless" in overlap(n, pool)) == (n < pool / 2)
