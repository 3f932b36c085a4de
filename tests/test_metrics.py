"""Fréchet distances against scipy and closed forms, and intervals against scipy and simulated data."""

import math
from dataclasses import astuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from latentmix.metrics import Estimate, cosine_distances, frechet_distance, jackknife_interval, mean_interval

quick = settings(max_examples=30, deadline=None, derandomize=True)


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def features(n: int, width: int, seed: int) -> Tensor:
    """Correlated features whose mean is not zero."""
    return normal(n, width, seed=seed) @ normal(width, width, seed=seed + 1) + 0.5 * normal(width, seed=seed + 2)


def rotation(width: int, seed: int = 0) -> Tensor:
    return torch.linalg.qr(normal(width, width, seed=seed)).Q


def whitened(n: int, width: int, seed: int) -> Tensor:
    """A sample whose mean is exactly 0 and whose covariance is exactly 1."""
    centred = normal(n, width, seed=seed)
    centred = centred - centred.mean(0)
    return torch.linalg.qr(centred).Q * math.sqrt(n - 1)


def size(x: Tensor, y: Tensor) -> float:
    """What rounding in a Fréchet distance is to be measured by."""
    return (x.var(0).sum() + y.var(0).sum()).item()


# The Fréchet distance.


@pytest.mark.parametrize(("n", "m", "width"), [(200, 300, 20), (30, 500, 10), (1000, 50, 40)])
def test_frechet_distance_is_the_usual_formula(n: int, m: int, width: int) -> None:
    from scipy.linalg import sqrtm

    x, y = features(n, width, 1), features(m, width, 5)
    a, b = (np.cov(f.numpy(), rowvar=False) for f in (x, y))
    apart = x.numpy().mean(0) - y.numpy().mean(0)
    expected = apart @ apart + np.trace(a + b - 2 * np.real(sqrtm(a @ b)))
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-9)


@quick
@given(width=st.integers(1, 6), seed=st.integers(0, 1000), data=st.data())
def test_frechet_distance_of_covariances_that_commute(width: int, seed: int, data: st.DataObject) -> None:
    """With a common basis it is ‖μx − μy‖² + Σ (σx − σy)², here of samples that have just these moments."""
    numbers = st.lists(st.floats(-5, 5), min_size=width, max_size=width)
    stds = st.lists(st.floats(0, 5), min_size=width, max_size=width)
    mean_x, mean_y = (torch.tensor(data.draw(numbers), dtype=torch.float64) for _ in "xy")
    std_x, std_y = (torch.tensor(data.draw(stds), dtype=torch.float64) for _ in "xy")
    basis = rotation(width, seed)
    x = whitened(width + 2, width, seed) * std_x @ basis + mean_x
    y = whitened(3 * width + 5, width, seed + 1) * std_y @ basis + mean_y
    expected = ((mean_x - mean_y).square().sum() + (std_x - std_y).square().sum()).item()
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-9, abs=1e-11)


def test_frechet_distance_of_one_number_by_hand() -> None:
    """Means 1 and 5; variances 2 and 32, so stds √2 and 4√2."""
    assert frechet_distance(torch.tensor([[0.0], [2.0]]), torch.tensor([[1.0], [9.0]])) == pytest.approx(
        16 + 18, rel=1e-14
    )


@pytest.mark.parametrize(("n", "m"), [(12, 9), (2, 2), (12, 300), (300, 12)])
def test_fewer_images_than_dimensions(n: int, m: int) -> None:
    """The eigenvalues of Σx Σy that aren't zero are those of the small product (X Yᵀ)(Y Xᵀ)."""
    x, y = features(n, 60, 1), features(m, 60, 5)
    a, b = (x - x.mean(0)) / math.sqrt(n - 1), (y - y.mean(0)) / math.sqrt(m - 1)
    eigenvalues = torch.linalg.eigvalsh(a @ b.T @ b @ a.T).clamp(min=0)
    expected = (
        (x.mean(0) - y.mean(0)).square().sum() + a.square().sum() + b.square().sum() - 2 * eigenvalues.sqrt().sum()
    )
    assert frechet_distance(x, y) == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("n", [29, 30, 31, 32, 200])
@pytest.mark.parametrize("m", [30, 31, 200])
def test_many_images_are_reduced_without_changing_the_distance(n: int, m: int) -> None:
    """Both sides of where the sample is longer than wide, against the nuclear norm of the whole product."""
    x, y = features(n, 30, 1), features(m, 30, 5)
    a, b = (x - x.mean(0)) / math.sqrt(n - 1), (y - y.mean(0)) / math.sqrt(m - 1)
    overlap = torch.linalg.svdvals(a @ b.T).sum()
    expected = (x.mean(0) - y.mean(0)).square().sum() + a.square().sum() + b.square().sum() - 2 * overlap
    assert frechet_distance(x, y) == pytest.approx(expected.item(), rel=1e-12)


samples = st.tuples(st.integers(2, 12), st.integers(2, 12), st.integers(1, 8), st.integers(0, 1000))


@quick
@given(sample=samples)
def test_frechet_distance_is_a_distance(sample: tuple[int, int, int, int]) -> None:
    n, m, width, seed = sample
    x, y = features(n, width, seed), features(m, width, seed + 10)
    rounding = 1e-13 * size(x, y)
    assert frechet_distance(x, y) == pytest.approx(frechet_distance(y, x), rel=1e-12, abs=rounding)
    assert frechet_distance(x, y) >= (x.mean(0) - y.mean(0)).square().sum().item() * (1 - 1e-12) - rounding
    assert frechet_distance(x, x) == pytest.approx(0, abs=rounding)


@quick
@given(sample=samples, factor=st.floats(0.1, 10))
def test_what_frechet_distance_does_not_depend_on(sample: tuple[int, int, int, int], factor: float) -> None:
    n, m, width, seed = sample
    x, y = features(n, width, seed), features(m, width, seed + 10)
    distance, turn, shift = frechet_distance(x, y), rotation(width, seed), normal(width, seed=seed)
    close = pytest.approx(distance, rel=1e-10, abs=1e-12 * size(x, y))
    assert frechet_distance(x @ turn + shift, y @ turn + shift) == close
    assert frechet_distance(x.flip(0), y.roll(1, 0)) == close
    assert frechet_distance(x.flip(1), y.flip(1)) == close
    assert frechet_distance(factor * x, factor * y) / factor**2 == close


def test_single_precision_features_are_taken_in_double() -> None:
    x, y = (features(50, 8, seed).float() for seed in (1, 5))
    assert frechet_distance(x + 1000, y + 1000) == frechet_distance((x + 1000).double(), (y + 1000).double())


@pytest.mark.parametrize(("x", "y"), [((1, 3), (5, 3)), ((5, 3), (1, 3)), ((0, 3), (5, 3)), ((5, 3), (5, 4))])
def test_features_that_do_not_fit_are_refused(x: tuple[int, int], y: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="at least 2"):
        frechet_distance(torch.ones(x), torch.ones(y))


# Cosine distances.


def test_cosine_distances_by_hand() -> None:
    """The mean direction of (2, 0) and (0, 5) is the diagonal, whatever their lengths."""
    x = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 3.0], [-1.0, 1.0], [-4.0, -4.0]])
    y = torch.tensor([[2.0, 0.0], [0.0, 5.0]])
    expected = torch.tensor([1 - 0.5**0.5, 1 - 0.5**0.5, 0, 1, 2], dtype=torch.float64)
    assert (cosine_distances(x, y) - expected).abs().max() < 1e-15


@quick
@given(n=st.integers(1, 6), m=st.integers(1, 6), width=st.integers(2, 8), seed=st.integers(0, 1000))
def test_cosine_distances_heed_directions_alone(n: int, m: int, width: int, seed: int) -> None:
    x, y = features(n, width, seed), features(m, width, seed + 10)
    distances, turn = cosine_distances(x, y), rotation(width, seed)
    lengths_x, lengths_y = (normal(k, 1, seed=seed + k).exp() for k in (n, m))
    mean = (y / y.norm(dim=1, keepdim=True)).mean(0)
    assert distances.shape == (n,)
    for row, distance in zip(x, distances, strict=True):
        assert distance.item() == pytest.approx(1 - (row @ mean / row.norm() / mean.norm()).item(), abs=1e-13)
    assert (cosine_distances(x * lengths_x, y * lengths_y) - distances).abs().max() < 1e-13
    assert (cosine_distances(x @ turn, y @ turn) - distances).abs().max() < 1e-13


# Intervals.


@quick
@given(values=st.lists(st.floats(-100, 100), min_size=2, max_size=40).filter(lambda v: np.std(v) > 1e-3))
def test_the_interval_of_a_mean_is_students(values: list[float]) -> None:
    from scipy import stats

    low, high = stats.t.interval(0.95, len(values) - 1, loc=np.mean(values), scale=stats.sem(values))
    estimate = mean_interval(torch.tensor(values, dtype=torch.float64))
    expected = (np.mean(values), low, high, len(values))
    assert astuple(estimate) == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_the_interval_of_a_mean_by_hand() -> None:
    """Mean 2, std 1, and t = 4.302653 for two degrees of freedom."""
    low, high = 2 - 4.302653 / 3**0.5, 2 + 4.302653 / 3**0.5
    assert astuple(mean_interval(torch.tensor([1.0, 2.0, 3.0]))) == pytest.approx((2, low, high, 3), rel=1e-6)


def test_a_single_value_has_no_interval() -> None:
    alone, jackknifed = mean_interval(torch.tensor([7.0])), jackknife_interval(mean_of, torch.tensor([[7.0]]))
    for estimate in (alone, jackknifed):
        assert (estimate.value, estimate.count) == (7, 1)
        assert math.isnan(estimate.low)
        assert math.isnan(estimate.high)


def mean_of(x: Tensor) -> float:
    return x.mean().item()


def log_variance_of(x: Tensor) -> float:
    return x.var().log().item()


@pytest.mark.parametrize(("n", "groups"), [(40, 20), (60, 20), (10, 5), (100, 10)])
def test_jackknife_of_the_mean_is_the_classical_formula(n: int, groups: int) -> None:
    """Of groups of one size: the mean of the groups' means, with Student's interval."""
    from scipy import stats

    x = normal(n, 1, seed=3).exp()
    means = x.view(-1, groups).mean(0).numpy()  # group g has rows g, g + groups, …
    low, high = stats.t.interval(0.95, groups - 1, loc=means.mean(), scale=stats.sem(means))
    assert astuple(jackknife_interval(mean_of, x, groups)) == pytest.approx((means.mean(), low, high, n), rel=1e-10)


def test_jackknife_of_the_mean_with_groups_of_unlike_sizes_is_nearly_that() -> None:
    x = normal(487, 1, seed=3)
    plain, jackknifed = mean_interval(x[:, 0]), jackknife_interval(mean_of, x)
    assert jackknifed.value == pytest.approx(plain.value, rel=1e-12)
    assert (jackknifed.low + jackknifed.high) / 2 == pytest.approx(jackknifed.value, abs=1e-12)
    assert jackknifed.high - jackknifed.low == pytest.approx(plain.high - plain.low, rel=0.5)


def test_jackknife_takes_each_group_out_once() -> None:
    """The statistic sees all rows first, then all but one group, which together are all rows."""
    x, seen = torch.arange(45.0)[:, None], list[set[float]]()

    def statistic(rows: Tensor) -> float:
        seen.append(set(rows.flatten().tolist()))
        return 0.0

    assert jackknife_interval(statistic, x, groups=10) == Estimate(0.0, 0.0, 0.0, 45)
    every, *kept = seen
    out = [every - rows for rows in kept]
    assert every == set(range(45))
    assert len(out) == 10
    assert {len(rows) for rows in out} == {4, 5}
    assert set.union(*out) == every
    assert sum(map(len, out)) == 45


@pytest.mark.parametrize(("n", "groups"), [(2, 0), (3, 0), (4, 2), (9, 4), (39, 19), (40, 20), (41, 20)])
def test_jackknife_never_leaves_out_more_than_it_can(n: int, groups: int) -> None:
    """Two rows at least are left, so that a Fréchet distance can be taken."""
    left = list[int]()

    def statistic(rows: Tensor) -> float:
        left.append(len(rows))
        return mean_of(rows)

    estimate = jackknife_interval(statistic, normal(n, 1, seed=0))
    assert len(left) == 1 + groups
    assert min(left) >= 2
    assert math.isnan(estimate.low) == (groups == 0)


@pytest.mark.parametrize("interval", ["mean", "jackknife of the mean", "jackknife of a log variance"])
def test_an_interval_holds_the_truth_19_times_in_20(interval: str) -> None:
    trials, held = 400, 0
    for seed in range(trials):
        x = normal(100, 1, seed=seed)
        if interval == "mean":
            estimate = mean_interval(x[:, 0])
        else:
            estimate = jackknife_interval(mean_of if interval.endswith("mean") else log_variance_of, x)
        held += estimate.low <= 0 <= estimate.high
    assert 0.92 <= held / trials <= 0.98  # 0.95 ± 2.75 standard errors


def test_jackknife_of_a_frechet_distance_holds_it() -> None:
    x, y = features(80, 4, 1), features(500, 4, 5)
    estimate = jackknife_interval(lambda rows: frechet_distance(rows, y), x)
    assert estimate.value == frechet_distance(x, y)
    assert estimate.low < estimate.value < estimate.high
    assert estimate.high - estimate.low < estimate.value
