"""Metrics against other implementations and closed forms, intervals against scipy and simulations."""

import math
import warnings
from collections.abc import Callable
from dataclasses import astuple
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics.functional.image.lpips import _LPIPS
from torchmetrics.image.kid import KernelInceptionDistance

from latentmix.metrics import (
    METRICS,
    Estimate,
    Metric,
    Sample,
    activation_distances,
    clip_scores,
    cosine_distances,
    coverage,
    density,
    distances,
    frechet_distance,
    frechet_infinity,
    jackknifed,
    mean,
    mean_interval,
    paired,
    precision,
    recall,
)
from latentmix.metrics.bounded import bounded_interval
from latentmix.metrics.distances import extrapolated

quick = settings(max_examples=15, deadline=None, derandomize=True)


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def features(n: int, width: int, seed: int) -> Tensor:
    """Return correlated features with a mean that is not zero."""
    return normal(n, width, seed=seed) @ normal(width, width, seed=seed + 1) + 0.5 * normal(width, seed=seed + 2)


def rotation(width: int, seed: int = 0) -> Tensor:
    return torch.linalg.qr(normal(width, width, seed=seed)).Q


def whitened(n: int, width: int, seed: int) -> Tensor:
    """Return a sample with a mean of exactly 0 and a covariance of exactly 1."""
    centred = normal(n, width, seed=seed)
    centred = centred - centred.mean(0)
    return torch.linalg.qr(centred).Q * math.sqrt(n - 1)


def size(x: Tensor, y: Tensor) -> float:
    """Return the scale of rounding errors in a Fréchet distance."""
    return (x.var(0).sum() + y.var(0).sum()).item()


# The Fréchet distance.


@pytest.mark.parametrize(("n", "m", "width"), [(200, 300, 20), (30, 500, 10), (1000, 50, 40), (700, 900, 256)])
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
    """Samples a little longer and a little wider than square, against the nuclear norm of the whole product."""
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
    with pytest.raises(ValueError, match="features must be"):
        frechet_distance(torch.ones(x), torch.ones(y))


# The Fréchet distance of ever more images.


@quick
@given(n=st.integers(4, 400), parts=st.integers(2, 15), limit=st.floats(-5, 5), slope=st.floats(-50, 50))
def test_a_statistic_linear_in_1_over_n_is_extrapolated_exactly(n: int, parts: int, limit: float, slope: float) -> None:
    value = extrapolated(lambda rows: limit + slope / len(rows), torch.zeros(n, 1), parts)
    assert value == pytest.approx(limit, abs=1e-11 * (1 + abs(slope)))


def test_extrapolation_looks_at_disjoint_samples() -> None:
    seen = list[list[int]]()

    def statistic(rows: Tensor) -> float:
        seen.append(rows.flatten().int().tolist())
        return 0.0

    extrapolated(statistic, torch.arange(13.0)[:, None], parts=3)
    assert sorted(map(len, seen)) == [4, 4, 4, 6, 6, 13]
    for size in (4, 6, 13):
        every = [row for rows in seen if len(rows) == size for row in rows]
        assert len(set(every)) == len(every) >= 12
    assert all(math.isnan(extrapolated(statistic, torch.zeros(n, 1))) for n in (1, 2, 3))


def test_frechet_infinity_is_where_numpys_line_meets_0() -> None:
    x, y = features(60, 4, 1), features(90, 4, 5)
    sizes = [60 // part for part in range(1, 5)]
    values = [np.mean([frechet_distance(x[i::part][: 60 // part], y) for i in range(part)]) for part in range(1, 5)]
    line = np.polynomial.Polynomial.fit([1 / size for size in sizes], values, 1).convert()
    assert frechet_infinity(x, y, parts=4) == pytest.approx(line.coef[0], rel=1e-9)


def test_frechet_infinity_takes_the_bias_of_few_images_away() -> None:
    """Two Gaussians of 8 numbers, 2 apart in one: 4. The mean of 40 trials, beside that of the plain distance."""
    y = whitened(4000, 8, seed=999)
    plain, limit = 0.0, 0.0
    for seed in range(40):
        x = normal(200, 8, seed=seed) + torch.eye(8)[0] * 2
        plain, limit = plain + frechet_distance(x, y) / 40, limit + frechet_infinity(x, y) / 40
    assert plain - 4 > 0.1
    assert abs(limit - 4) < 0.4 * (plain - 4)


# Kernel distances.


def kid(x: Tensor, y: Tensor) -> float:
    return METRICS["kid"].sample(x, y).value


def cmmd(x: Tensor, y: Tensor) -> float:
    return METRICS["cmmd"].sample(x, y).value


class Given(nn.Module):
    """A feature network for torchmetrics that returns its input, so that images are features."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_features = width

    def forward(self, x: Tensor) -> Tensor:
        return x


def kid_of_torchmetrics(x: Tensor, y: Tensor, size: int) -> float:
    with warnings.catch_warnings(action="ignore"):  # it says that it keeps all features
        metric = KernelInceptionDistance(feature=Given(x.shape[1]), subsets=1, subset_size=size)
    metric.set_dtype(torch.float64)
    metric.update(y, real=True)
    metric.update(x, real=False)
    return metric.compute()[0].item()


@pytest.mark.parametrize(("n", "width"), [(2, 3), (40, 64), (60, 7)])
def test_kid_is_that_of_torchmetrics_with_the_whole_set_as_its_subset(n: int, width: int) -> None:
    x, y = features(n, width, 1), features(n, width, 5)
    assert kid(x, y) == pytest.approx(kid_of_torchmetrics(x, y, n), rel=1e-9)


def mmd_by_loops(k: np.ndarray, n: int, biased: bool = False) -> float:
    """Return MMD² from the kernel matrix of all rows. The first n rows are x."""
    sums = {"xx": [0.0, 0], "yy": [0.0, 0], "xy": [0.0, 0]}
    for i, j in product(range(len(k)), repeat=2):
        kind = "xx" if max(i, j) < n else "yy" if min(i, j) >= n else "xy"
        if kind == "xy" or i != j or biased:
            sums[kind] = [sums[kind][0] + k[i, j], sums[kind][1] + 1]
    xx, yy, xy = (sums[kind][0] / sums[kind][1] for kind in ("xx", "yy", "xy"))
    return float(xx + yy - 2 * xy)


@quick
@given(n=st.integers(2, 7), m=st.integers(2, 7), width=st.integers(1, 5), seed=st.integers(0, 1000))
def test_kernel_distances_are_their_definitions(n: int, m: int, width: int, seed: int) -> None:
    """CMMD is computed from distances, and compared with the biased estimator of its authors' code."""
    x, y = features(n, width, seed), features(m, width, seed + 10)
    every = np.concatenate([x.numpy(), y.numpy()])
    polynomial = (every @ every.T / width + 1) ** 3
    assert kid(x, y) == pytest.approx(mmd_by_loops(polynomial, n), rel=1e-9, abs=1e-12 * polynomial.max())
    unit = every / np.linalg.norm(every, axis=1, keepdims=True)
    gaussian = np.exp(-np.square(unit[:, None] - unit[None]).sum(2) / (2 * 10**2))
    assert cmmd(x, y) == pytest.approx(1000 * mmd_by_loops(gaussian, n), abs=1e-9)
    (kx, ky) = (
        (part.sum() - len(part)) / (len(part) * (len(part) - 1)) for part in (gaussian[:n, :n], gaussian[n:, n:])
    )
    biased = cmmd(x, y) + 1000 * ((1 - kx) / n + (1 - ky) / m)
    assert biased == pytest.approx(1000 * mmd_by_loops(gaussian, n, biased=True), abs=1e-9)


def test_kid_of_one_number_by_hand() -> None:
    """k(0, 2) = 1, k(1, 3) = 64; k(0, ·) = 1, k(2, 1) = 27, k(2, 3) = 343: 1 + 64 − 2 · 372 / 4."""
    assert kid(torch.tensor([[0.0], [2.0]]), torch.tensor([[1.0], [3.0]])) == pytest.approx(1 + 64 - 186, rel=1e-14)


@quick
@given(n=st.integers(2, 9), m=st.integers(2, 9), width=st.integers(1, 5), seed=st.integers(0, 1000))
def test_what_kernel_distances_do_not_depend_on(n: int, m: int, width: int, seed: int) -> None:
    x, y = features(n, width, seed), features(m, width, seed + 10)
    turn, lengths = rotation(width, seed), normal(n, 1, seed=seed).exp()
    for distance in (kid, cmmd):
        same = pytest.approx(distance(x, y), rel=1e-9, abs=1e-8)
        assert distance(y, x) == same
        assert distance(x.flip(0), y.roll(1, 0)) == same
        assert distance(x @ turn, y @ turn) == same
    assert cmmd(x * lengths, 3 * y) == pytest.approx(cmmd(x, y), rel=1e-9, abs=1e-8)


def test_kernel_distances_are_unbiased() -> None:
    """For two samples of 12 the mean of 400 trials is 0 if they have one distribution, and more if not."""
    trials = [(normal(12, 4, seed=seed), normal(12, 4, seed=10_000 + seed)) for seed in range(400)]
    for distance in (kid, cmmd):
        values = torch.tensor([distance(x, y) for x, y in trials])
        shifted = torch.tensor([distance(x + 1, y) for x, y in trials])
        assert abs(values.mean()) < 3.5 * values.std() / 20
        assert shifted.mean() > 10 * values.std() / 20


@pytest.mark.parametrize("name", ["kid", "cmmd"])
def test_parts_scatter_as_a_kernel_distance_does(name: str) -> None:
    """Their interval contains the limit of the distance to y, which a far larger sample tells."""
    y, sample = normal(300, 8, seed=77), METRICS[name].sample
    truth = sample(normal(3000, 8, seed=78) + 1, y).value
    held = 0
    for seed in range(200):
        estimate = mean_interval(sample(normal(60, 8, seed=seed) + 1, y).parts)
        held += estimate.low <= truth <= estimate.high
    assert 0.90 <= held / 200 <= 0.99


@pytest.mark.parametrize("name", ["kid", "cmmd"])
def test_the_interval_of_a_kernel_distance_is_that_of_weighted_rows(name: str) -> None:
    """With many rows, which leave the one not drawn little weight: by random weights and Gretton's formula."""
    x, y = features(300, 6, 1) + 1, features(80, 6, 2)
    sample = METRICS[name].sample(x, y)
    if name == "cmmd":
        x, y = functional.normalize(x, dim=1), functional.normalize(y, dim=1)
        k_x, k_y, across = (1000 * torch.exp(-torch.cdist(a, b).square() / 200) for a, b in ((x, x), (y, y), (x, y)))
    else:
        k_x, k_y, across = ((a @ b.T / 6 + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
    of_y = (k_y.sum() - k_y.trace()) / (80 * 79)
    values = []
    for w in np.random.default_rng(0).dirichlet(np.ones(300), 2000):
        w = torch.from_numpy(w)
        pairs = torch.outer(w, w).fill_diagonal_(0)
        values.append(((pairs * k_x).sum() / pairs.sum() - 2 * w @ across.mean(1) + of_y).item())
    low, high = np.quantile(values, [0.025, 0.975])
    assert sample.low == pytest.approx(low, abs=0.1 * (high - low))
    assert high - 0.1 * (high - low) < sample.high < high + 0.35 * (high - low)


@pytest.mark.parametrize(("n", "m"), [(1, 5), (5, 1)])
def test_a_kernel_distance_of_one_row_is_refused(n: int, m: int) -> None:
    for distance in (kid, cmmd):
        with pytest.raises(ValueError, match="at least 2 rows"):
            distance(torch.ones(n, 3), torch.ones(m, 3))


# Precision, recall, density and coverage.


def by_loops(x: np.ndarray, y: np.ndarray, k: int) -> tuple[list[float], float, list[float], float]:
    """Return precision, recall, density and coverage by loops: precision and density of each row of x."""

    def reach(rows: np.ndarray, at: int) -> float:
        others = sorted(float(np.linalg.norm(rows[at] - rows[j])) for j in range(len(rows)) if j != at)
        return others[k - 1]

    def inside(point: np.ndarray, rows: np.ndarray) -> list[bool]:
        return [bool(np.linalg.norm(point - rows[j]) <= reach(rows, j)) for j in range(len(rows))]

    balls = [inside(a, y) for a in x]
    return (
        [float(any(ball)) for ball in balls],
        float(np.mean([any(inside(b, x)) for b in y])),
        [sum(ball) / k for ball in balls],
        float(np.mean([any(ball[j] for ball in balls) for j in range(len(y))])),
    )


@quick
@given(
    n=st.integers(5, 12), m=st.integers(5, 12), width=st.integers(1, 4), k=st.integers(1, 4), seed=st.integers(0, 999)
)
def test_neighbours_are_counted_as_defined(n: int, m: int, width: int, k: int, seed: int) -> None:
    x, y = normal(n, width, seed=seed), normal(m, width, seed=seed + 10_000)
    expected = by_loops(x.numpy(), y.numpy(), k)
    assert precision(x, y, k).tolist() == expected[0]
    assert recall(x, y, k).value == pytest.approx(expected[1], abs=1e-15)
    assert density(x, y, k).tolist() == pytest.approx(expected[2], abs=1e-15)
    assert coverage(x, y, k).value == pytest.approx(expected[3], abs=1e-15)


@pytest.mark.parametrize(("n", "m", "apart"), [(60, 90, 0.0), (90, 60, 0.5), (40, 40, 1.5)])
def test_precision_and_recall_are_those_of_torch_fidelity(n: int, m: int, apart: float) -> None:
    from torch_fidelity.metric_prc import prc_features_to_metric

    x, y = normal(n, 5, seed=1) + apart, normal(m, 5, seed=2)
    theirs = prc_features_to_metric(x, y, prc_neighborhood=3, prc_batch_size=50, save_cpu_ram=False, verbose=False)
    assert precision(x, y).mean().item() == pytest.approx(theirs["precision"], abs=1e-6)
    assert recall(x, y).value == pytest.approx(theirs["recall"], abs=1e-6)
    assert theirs["precision"] > 0


@pytest.mark.parametrize("k", [1, 5])
def test_density_and_coverage_are_those_that_scipys_trees_count(k: int) -> None:
    from scipy.spatial import KDTree

    x, y = normal(70, 4, seed=1) + 0.5, normal(80, 4, seed=2)
    reach = KDTree(y.numpy()).query(y.numpy(), k=k + 1)[0][:, k]
    held = KDTree(x.numpy()).query_ball_point(y.numpy(), reach)  # by each real image: which generated ones
    counts = np.bincount([i for inside in held for i in inside], minlength=70)
    assert density(x, y, k).tolist() == pytest.approx((counts / k).tolist())
    assert coverage(x, y, k).value == pytest.approx(np.mean([bool(inside) for inside in held]))


def test_neighbours_by_hand() -> None:
    """Real 0, 1, 2, 10 with balls of 1, 1, 1, 8; generated 1.5, 5 and 30 with balls of 3.5, 3.5 and 25."""
    x, y = torch.tensor([[1.5], [5.0], [30.0]]), torch.tensor([[0.0], [1.0], [2.0], [10.0]])
    assert precision(x, y, 1).tolist() == [1, 1, 0]
    assert density(x, y, 1).tolist() == [2, 1, 0]
    assert recall(x, y, 1).value == 1
    assert coverage(x, y, 1).value == 0.75


@quick
@given(n=st.integers(2, 12), m=st.integers(2, 12), seed=st.integers(0, 999), factor=st.floats(0.1, 10))
def test_what_neighbours_do_not_depend_on(n: int, m: int, seed: int, factor: float) -> None:
    """The smallest samples have fewer than k neighbours."""
    x, y, turn = normal(n, 3, seed=seed), normal(m, 3, seed=seed + 10_000), factor * rotation(3, seed)
    moved_x, moved_y = x @ turn + 1, y @ turn + 1
    assert torch.equal(precision(moved_x, moved_y), precision(x, y))
    assert torch.equal(density(moved_x, moved_y), density(x, y))
    assert recall(moved_x, moved_y).value == recall(x, y).value == precision(y, x).mean()
    assert coverage(moved_x, moved_y).value == coverage(x, y).value


def test_neighbours_of_the_same_and_of_far_images() -> None:
    x, y = normal(200, 4, seed=1), normal(200, 4, seed=2)
    for fidelity, near in ((precision, 0.8), (density, 0.8)):
        assert fidelity(x, y).mean() > near
        assert fidelity(x + 100, y).mean() == 0
        assert fidelity(0.01 * x, y).mean() > fidelity(x, y).mean()  # all in the middle: faithful
    for diversity, near in ((recall, 0.8), (coverage, 0.8)):
        assert diversity(x, y).value > near
        assert diversity(x + 100, y).value == 0
        assert diversity(0.01 * x, y).value < 0.3  # but not diverse
    assert precision(x, x).mean() == recall(x, x).value == coverage(x, x).value == 1


def plain_recall(x: Tensor, y: Tensor) -> float:
    return precision(y, x).mean().item()


def plain_coverage(x: Tensor, y: Tensor) -> float:
    radii = torch.cdist(y, y).sort(1).values[:, 5]
    return (torch.cdist(x, y) <= radii).any(0).double().mean().item()


@pytest.mark.parametrize(("metric", "plain"), [(recall, plain_recall), (coverage, plain_coverage)])
def test_recall_and_coverage_have_jackknives(
    metric: Callable[[Tensor, Tensor], Sample], plain: Callable[[Tensor, Tensor], float]
) -> None:
    for n in (5, 23):
        x, y = normal(n, 3, seed=1), normal(70, 3, seed=2) + 0.5
        without = torch.tensor([plain(x[torch.arange(n) != i], y) for i in range(n)], dtype=torch.float64)
        assert metric(x, y).value == plain(x, y)
        assert (metric(x, y).parts - (n * plain(x, y) - (n - 1) * without)).abs().max() < 1e-12


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


def test_cosine_distances_are_scipys() -> None:
    from scipy.spatial.distance import cdist

    x, y = features(20, 6, 1), features(30, 6, 5)
    for unit in (True, False):
        centre = ((y / y.norm(dim=1, keepdim=True)) if unit else y).mean(0, keepdim=True)
        expected = cdist(x.numpy(), centre.numpy(), "cosine")[:, 0]
        assert cosine_distances(x, y, unit).tolist() == pytest.approx(expected.tolist(), abs=1e-13)


def test_clip_scores_are_100_times_the_cosine_or_nothing() -> None:
    from scipy.spatial.distance import cdist

    x, text = features(40, 5, 1), normal(1, 5, seed=9)
    cosines = 1 - cdist(x.numpy(), text.numpy(), "cosine")[:, 0]
    assert (cosines < 0).any() and (cosines > 0).any()
    assert clip_scores(x, text).tolist() == pytest.approx((100 * cosines.clip(0)).tolist(), abs=1e-11)
    assert (clip_scores(3 * x.float(), 5 * text.float()) - clip_scores(x, text)).abs().max() < 1e-4
    assert clip_scores(torch.eye(2), torch.tensor([[3.0, -1.0]])).tolist() == pytest.approx([300 / 10**0.5, 0])


# Distances between two images.


class Layers(nn.Module):
    """A network for torchmetrics' LPIPS that returns given activations, whatever the images."""

    def __init__(self, *layers: tuple[Tensor, Tensor]) -> None:
        super().__init__()
        self.ends = iter(zip(*layers, strict=True))

    def forward(self, _: Tensor) -> tuple[Tensor, ...]:
        return next(self.ends)


def test_activation_distances_are_torchmetrics_lpips_with_all_weights_1() -> None:
    layers = [(normal(3, c, s, s + 1, seed=c), normal(3, c, s, s + 1, seed=c + 1)) for c, s in ((4, 6), (7, 3), (2, 1))]
    lpips = _LPIPS(pretrained=False, pnet_rand=True).double()
    lpips.net, lpips.L = Layers(*layers), len(layers)  # type: ignore[assignment]
    for lin, (activations, _) in zip([lpips.lin0, lpips.lin1, lpips.lin2], layers, strict=True):
        ones = nn.Conv2d(activations.shape[1], 1, 1, bias=False).double().requires_grad_(False)
        ones.weight.fill_(1)
        lin.model = nn.Sequential(ones)
    theirs = lpips(*torch.zeros(2, 3, 3, 8, 8, dtype=torch.float64)).flatten()
    ours = activation_distances(*zip(*layers, strict=True))
    assert theirs.shape == ours.shape == (3,)
    assert ours.tolist() == pytest.approx(theirs.tolist(), rel=1e-6)


def test_activation_distances_by_hand() -> None:
    """Two places: in one the directions are at right angles, ‖a − b‖² = 2, in the other alike; lengths don't count."""
    a, b = torch.tensor([[3.0, 1.0], [0.0, 1.0]]), torch.tensor([[0.0, 5.0], [2.0, 5.0]])  # channels, places
    layer = a.view(1, 2, 1, 2), b.view(1, 2, 1, 2)
    assert activation_distances([layer[0]], [layer[1]]).tolist() == pytest.approx([1.0])
    assert activation_distances([layer[0]] * 3, [layer[1]] * 3).tolist() == pytest.approx([3.0])
    assert activation_distances([layer[0]], [layer[0]]).tolist() == [0]


def test_a_mean_of_raw_features_leans_to_the_long_ones() -> None:
    """(2, 0) and (0, 6) have the mean (1, 3)."""
    x, y = torch.tensor([[3.0, 0.0], [0.0, 0.1]]), torch.tensor([[2.0, 0.0], [0.0, 6.0]])
    expected = [1 - 1 / 10**0.5, 1 - 3 / 10**0.5]
    assert cosine_distances(x, y, unit=False).tolist() == pytest.approx(expected, rel=1e-12)


# The table of metrics.


def beside(metric: Metric, y: Tensor) -> Tensor:
    """Return what a metric compares with: the features y of real images, or their mean as that of a prompt."""
    return y.mean(0, keepdim=True) if metric.against == "prompt" else y


def test_every_metric_takes_features_and_has_an_interval_where_it_can() -> None:
    from scipy import stats

    x, real = features(30, 6, 1), features(40, 6, 1)
    for name, metric in METRICS.items():
        y = beside(metric, real)
        sample, few = metric.sample(x, y), metric.sample(x[:2], y)
        estimate = sample.interval()
        assert estimate.count == 30 and few.count == 2
        assert math.isfinite(estimate.value), name
        if name == "fid_infinity":
            assert math.isnan(estimate.low) and math.isnan(estimate.high)
        else:
            parts = sample.parts.numpy()
            assert len(parts) in (15, 30), name  # groups of the jackknife, or images
            width = 2 * stats.t.ppf(0.975, len(parts) - 1) * stats.sem(parts)
            assert estimate.low < estimate.high, name
            assert estimate.low <= estimate.value <= estimate.high, name
            if not sample.rare:
                assert estimate.high - estimate.low == pytest.approx(width, rel=1e-9), name
        if sample.by_row:
            assert sample.value == sample.parts.mean().item()
        assert metric.sample(x.float(), y.float()).value == pytest.approx(sample.value, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("changed", [lambda x: x, lambda x: x[..., ::-1], lambda x: x.astype(">f8")])
def test_features_may_be_arrays(changed: Callable[[Any], Any]) -> None:
    x, y = (changed(features(n, 6, seed=n).numpy()) for n in (12, 15))
    same = [torch.from_numpy(np.ascontiguousarray(array, dtype=np.float64)) for array in (x, y)]
    functions: list[Any] = [frechet_distance, frechet_infinity, cosine_distances, precision, recall]
    functions += [density, coverage, *(METRICS[name].sample for name in ("kid", "cmmd", "fid", "fid_infinity"))]
    for function in functions:
        assert str(function(x, y)) == str(function(*same)), function
    assert torch.equal(clip_scores(x, y[:1]), clip_scores(same[0], same[1][:1]))
    assert mean_interval(x[:, 0]) == mean_interval(same[0][:, 0])
    assert str(jackknifed(mean_of, x)) == str(jackknifed(mean_of, same[0]))
    layers = changed(normal(2, 3, 4, 5, seed=0).numpy())
    assert activation_distances([layers], [layers]).tolist() == [0, 0]


def test_metrics_have_the_settings_that_the_documentation_names() -> None:
    """3 neighbours for precision and recall, 5 for density and coverage, 10 sizes; a score's interval allows for 0."""
    x, y = features(40, 3, 1), features(60, 3, 5)
    values = {name: METRICS[name].sample(x, y).value for name in ("precision", "recall", "density", "coverage")}
    assert values["precision"] == precision(x, y, k=3).mean() != precision(x, y, k=2).mean()
    assert values["recall"] == recall(x, y, k=3).value != recall(x, y, k=2).value
    assert values["density"] == density(x, y, k=5).mean() != density(x, y, k=4).mean()
    assert values["coverage"] == coverage(x, y, k=5).value != coverage(x, y, k=4).value
    assert METRICS["fid_infinity"].sample(x, y).value == frechet_infinity(x, y, 10) != frechet_infinity(x, y, 5)
    score, scores = METRICS["clip_score"].sample(x, y[:1]), clip_scores(x, y[:1])
    assert (score.low, score.high) == bounded_interval(scores, 0.0, None)
    positive = METRICS["clip_score"].sample(y[:1] + 0.1 * x, y[:1])
    assert positive.low < positive.parts.min()


def test_better_images_are_better_by_every_metric() -> None:
    y, near, far = normal(80, 4, seed=1) + 1, normal(60, 4, seed=2) + 1, normal(60, 4, seed=3) - 1
    for name, metric in METRICS.items():
        better, worse = (metric.sample(x, beside(metric, y)).value for x in (near, far))
        assert (better < worse) == metric.lower, name


def test_columns_name_the_network() -> None:
    columns = {(n, network): METRICS[n].column(n, network) for n in METRICS for network in ("inception", "embedded")}
    assert (columns["fid", "inception"], columns["fid", "embedded"]) == ("fid", "fd_embedded")
    assert (columns["kid", "inception"], columns["kid", "embedded"]) == ("kid", "kd_embedded")
    assert (columns["fid_infinity", "inception"]) == "fid_infinity"
    assert columns["precision", "inception"] == "precision_inception"
    assert METRICS["fid"].column("fid", "dinov2-vitl14") == "fd_dinov2-vitl14"
    assert METRICS["diversity"].column("diversity", "lpips-alex") == "diversity_lpips-alex"
    for (name, network), column in columns.items():
        assert column.endswith(network) or (network, column) == ("inception", name)
    assert len(set(columns.values())) == len(columns)


# Intervals.


@quick
@given(values=st.lists(st.floats(-100, 100), min_size=2, max_size=40).filter(lambda v: np.std(v) > 1e-3))
def test_the_interval_of_a_mean_is_students(values: list[float]) -> None:
    from scipy import stats

    low, high = stats.t.interval(0.95, len(values) - 1, loc=np.mean(values), scale=stats.sem(values))
    estimate = mean_interval(torch.tensor(values, dtype=torch.float64))
    expected = (np.mean(values), low, high, len(values))
    assert astuple(estimate)[:4] == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_the_interval_of_a_mean_by_hand() -> None:
    """Mean 2, std 1, and t = 4.302653 for two degrees of freedom."""
    low, high = 2 - 4.302653 / 3**0.5, 2 + 4.302653 / 3**0.5
    assert astuple(mean_interval(torch.tensor([1.0, 2.0, 3.0])))[:4] == pytest.approx((2, low, high, 3), rel=1e-6)


def test_a_single_value_has_no_interval() -> None:
    alone, jackknifed = mean_interval(torch.tensor([7.0])), jackknife_interval(mean_of, torch.tensor([[7.0]]))
    for estimate in (alone, jackknifed):
        assert (estimate.value, estimate.count) == (7, 1)
        assert math.isnan(estimate.low)
        assert math.isnan(estimate.high)


def jackknife_interval(statistic: Callable[[Tensor], float], x: Tensor, groups: int = 20) -> Estimate:
    return jackknifed(statistic, x, groups).interval()


def mean_of(x: Tensor) -> float:
    return x.mean().item()


def log_variance_of(x: Tensor) -> float:
    return x.var().log().item()


@pytest.mark.parametrize(("n", "groups"), [(40, 20), (60, 20), (10, 5), (100, 10)])
def test_jackknife_of_the_mean_is_the_classical_formula(n: int, groups: int) -> None:
    """For groups of one size it is the mean of the groups' means, with Student's interval."""
    from scipy import stats

    x = normal(n, 1, seed=3).exp()
    means = x.view(-1, groups).mean(0).numpy()  # group g has rows g, g + groups, …
    low, high = stats.t.interval(0.95, groups - 1, loc=means.mean(), scale=stats.sem(means))
    assert astuple(jackknife_interval(mean_of, x, groups))[:4] == pytest.approx((means.mean(), low, high, n), rel=1e-10)


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
    """At least two rows are left, which a Fréchet distance needs."""
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


def test_jackknife_of_a_frechet_distance_holds_its_expected_value_19_times_in_20() -> None:
    """The expected value is that of distances of 80 rows, as the distance depends on their number."""
    y, turn = features(500, 4, 5), normal(4, 4, seed=2)
    samples = [normal(80, 4, seed=10 + seed) @ turn for seed in range(300)]
    expected = float(np.mean([frechet_distance(x, y) for x in samples]))
    estimates = [jackknife_interval(lambda rows: frechet_distance(rows, y), x) for x in samples]
    assert estimates[0].value == frechet_distance(samples[0], y)
    held = np.mean([estimate.low <= expected <= estimate.high for estimate in estimates])
    assert 0.91 <= held <= 0.98


# Methods compared.


@quick
@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=2, max_size=20))
def test_a_paired_comparison_is_students_paired_test(draws: list[tuple[int, int]]) -> None:
    from scipy import stats

    a, b = (torch.tensor(values, dtype=torch.float64) for values in zip(*draws, strict=True))
    compared = paired(mean(a), mean(b))
    assert compared.difference.value == pytest.approx((a - b).mean().item(), abs=1e-12)
    assert compared.difference.count == len(draws)
    wins, ties = sum(x < y for x, y in draws), sum(x == y for x, y in draws)
    assert compared.won == pytest.approx((wins + ties / 2) / len(draws))
    assert paired(mean(a), mean(b), lower=False).won == pytest.approx(1 - compared.won)
    assert paired(mean(b), mean(a)).difference.value == -compared.difference.value
    if (a - b).std() > 0:
        low, high = stats.ttest_rel(a.numpy(), b.numpy()).confidence_interval(0.95)
        assert (compared.difference.low, compared.difference.high) == pytest.approx((low, high), abs=1e-9)


def test_pairing_takes_away_what_draws_have_in_common() -> None:
    common, own = 10 * normal(100, seed=1), normal(100, seed=2)
    a, b = mean(common + 0.5), mean(common + 0.1 * own)
    compared = paired(a, b).difference
    assert compared.low > 0.4 and compared.high < 0.6
    assert a.interval().low < b.interval().high and b.interval().low < a.interval().high


def test_statistics_without_a_part_for_each_draw_are_compared_by_groups() -> None:
    """The paired jackknife of the mean is the paired comparison of the groups' means."""
    x, y = normal(60, 1, seed=1), normal(60, 1, seed=2)
    compared = paired(jackknifed(mean_of, x), jackknifed(mean_of, y))
    groups = mean_interval((x - y).view(-1, 20).mean(0))
    assert astuple(compared.difference)[:3] == pytest.approx(astuple(groups)[:3], rel=1e-9)
    assert compared.difference.count == 60
    assert math.isnan(compared.won)


def test_what_is_not_of_the_same_draws_is_not_paired() -> None:
    values = normal(10, seed=1)
    for other in (mean(values[:9]), jackknifed(mean_of, values[:, None])):
        with pytest.raises(ValueError, match="paired"):
            paired(mean(values), other)
    nothing = Sample(1.0, values[:0], 3)
    assert math.isnan(paired(nothing, nothing).difference.low)


@pytest.mark.parametrize("metric", [frechet_distance, precision, coverage, distances.kid])
def test_features_that_are_not_finite_or_of_other_shapes_are_refused(metric: Any) -> None:
    """A row of NaN would be far from everything without a word."""
    x = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
    broken = x.clone()
    broken[2, 1] = torch.nan
    for pair in ((broken, x), (x, broken)):
        with pytest.raises(ValueError, match="features hold NaN or infinity"):
            metric(*pair)
