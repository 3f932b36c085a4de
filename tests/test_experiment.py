"""What is mixed, in which batches, and under which keys it is kept."""

import gc
import math
import weakref
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations, pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from latentmix.compose import compose
from latentmix.experiment.augmentation import Augmentation
from latentmix.experiment.draws import Cell, dirichlet_weights, distinct_draws, subset, uniform_weights
from latentmix.experiment.experiment import Experiment
from latentmix.experiment.generation import padded
from latentmix.experiment.latents import PoolLatents
from latentmix.feature_networks import Network
from latentmix.metrics import METRICS
from latentmix.mixing import Method, mixtures
from latentmix.runner.tasks import split

FIX = Method("fix", "0")
NETWORK = Network("distance", {"network": "none"}, lambda images: images)
POOL = 8
quick = settings(max_examples=20, deadline=None, derandomize=True)
seeds = st.integers(0, 2**64)
names = st.text(min_size=1, max_size=20)


def experiment(*overrides: str) -> Experiment:
    return Experiment(
        compose([f"pool={POOL}", "n=[2,4]", "draws=6", "data.classes=[star,heart]", "steps=3", *overrides])
    )


@pytest.fixture(scope="module")
def usual() -> Experiment:
    return experiment()


def test_two_metrics_networks_that_are_one_extract_once(monkeypatch: pytest.MonkeyPatch) -> None:
    again = replace(METRICS["fid"], network="embedded")
    monkeypatch.setitem(vars(METRICS)["_builtin"], "again", again)
    both = experiment("metrics=[fid,again]", "model.features=embedded", "model.clip=things")
    assert [*both.networks] == ["frechet", "clip", "embedded"]
    assert [network.name for network in both.distinct_networks] == ["embedded", "things"]
    assert Augmentation(both.config).own_networks == []


def test_extras_of_many_steps_are_mixed_a_step_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of null-text inversion take 272 MB an image for Stable Diffusion 3.5."""
    nulls, latents = torch.randn(POOL, 5, 7, 6), torch.randn(POOL, 4, 8, 8)
    pool = PoolLatents(
        lambda _: {"latents": latents.unbind(), "nulls": nulls.unbind()}, {"nulls": "lin/0"}, torch.device("cpu")
    )
    weights = torch.zeros(2, POOL)
    weights[0, :2], weights[1, 3:5] = 0.5, torch.tensor([0.25, 0.75])
    pool.pool("star")
    sizes, stack = [], torch.stack

    def recorded(rows: list[torch.Tensor]) -> torch.Tensor:
        sizes.append(sum(row.numel() for row in rows))
        return stack(rows)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "stack", recorded)
        mixed = pool.mix("star", weights, FIX)
    assert max(sizes) == 4 * 7 * 6  # one step of the images that have a weight
    torch.testing.assert_close(mixed["nulls"], mixtures(nulls, weights, ["lin/0"])[0])
    torch.testing.assert_close(mixed["latents"], mixtures(latents, weights, [FIX])[0])


# Draws


@quick
@given(seeds, names, st.integers(0, 10**6), st.integers(1, 200))
def test_a_draw_is_a_permutation_and_the_same_each_time(seed: int, class_id: str, draw: int, pool: int) -> None:
    order = subset(seed, class_id, draw, pool)
    assert sorted(order) == list(range(pool))
    np.testing.assert_array_equal(order, subset(seed, class_id, draw, pool))


def test_draws_never_change_since_caches_hold_what_was_made_of_them() -> None:
    assert subset(0, "star", 0, POOL).tolist() == [1, 5, 7, 3, 2, 4, 6, 0]
    assert subset(0, "star", 1, POOL).tolist() == [6, 7, 0, 4, 2, 1, 3, 5]
    assert subset(3, "n02012849", 999, POOL).tolist() == [2, 4, 0, 1, 7, 5, 6, 3]


@quick
@given(seeds, names, names, st.integers(0, 1000), st.integers(0, 1000))
def test_seeds_classes_and_draws_all_count(seed: int, one: str, other: str, draw: int, later: int) -> None:
    order = subset(seed, one, draw, 100).tolist()
    assert subset(seed + 1, one, draw, 100).tolist() != order
    assert (subset(seed, other, draw, 100).tolist() == order) == (one == other)
    assert (subset(seed, one, later, 100).tolist() == order) == (draw == later)


def subsets(seed: int, class_id: str, draws: Sequence[int], n: int, pool: int) -> list[frozenset[int]]:
    return [frozenset(subset(seed, class_id, draw, pool)[:n].tolist()) for draw in draws]


@quick
@given(seeds, names, st.integers(1, 40), st.integers(1, 7), st.data())
def test_draws_are_distinct_subsets_as_many_as_there_are(
    seed: int, class_id: str, draws: int, pool: int, data: st.DataObject
) -> None:
    n = data.draw(st.integers(1, pool))
    found = distinct_draws(seed, class_id, draws, n, pool)
    assert len(found) == min(draws, math.comb(pool, n))
    assert len(set(subsets(seed, class_id, found, n, pool))) == len(found)
    skipped = set(range(found[-1])) - set(found)
    for draw in skipped:
        (again,) = subsets(seed, class_id, [draw], n, pool)
        assert again in subsets(seed, class_id, [k for k in found if k < draw], n, pool)
    assert list(distinct_draws(seed, class_id, max(1, draws // 2), n, pool)) == list(found[: max(1, draws // 2)])


def test_draws_that_were_distinct_already_keep_their_numbers() -> None:
    assert list(distinct_draws(0, "star", 1000, 64, 128)) == list(range(1000))
    assert list(distinct_draws(0, "star", 20, 2, 256)) == list(range(20))
    assert len(set(subsets(0, "star", range(20), 2, 256))) == 20


def test_mixtures_with_random_weights_differ_though_their_images_are_the_same() -> None:
    weighted = experiment("weights=1.0", "pool=3", "n=[1,2]", "draws=10")
    assert (
        len(weighted.cells.draws(Cell("star", 2, FIX))) == 10 and len(weighted.cells.draws(Cell("star", 1, FIX))) == 3
    )
    assert "3 of n=1; each" in weighted.cells.few_draws


@pytest.mark.parametrize("n", [1, 2, 5])
def test_every_image_is_drawn_equally_often(n: int) -> None:
    pool, draws = 10, 2000
    drawn = np.stack([subset(0, "star", draw, pool)[:n] for draw in range(draws)])
    counts = np.bincount(drawn.ravel(), minlength=pool)
    wanted = draws * n / pool
    # Counts without replacement scatter less than a multinomial's, by (pool − n) / (pool − 1).
    statistic = ((counts - wanted) ** 2 / wanted).sum() * (pool - 1) / (pool - n)
    assert 1e-4 < stats.chi2.sf(statistic, pool - 1) < 1 - 1e-4


def test_every_pair_is_drawn_equally_often() -> None:
    pool, draws = 7, 2100
    pairs = Counter(tuple(sorted(subset(1, "heart", draw, pool)[:2].tolist())) for draw in range(draws))
    assert set(pairs) == set(combinations(range(pool), 2))
    assert 1e-4 < stats.chisquare(list(pairs.values())).pvalue < 1 - 1e-4


def test_neighbouring_draws_are_independent() -> None:
    pool, draws = 5, 2000
    first = [int(subset(0, "star", draw, pool)[0]) for draw in range(draws)]
    table = np.zeros((pool, pool))
    np.add.at(table, (first[:-1], first[1:]), 1)
    assert stats.chi2_contingency(table).pvalue > 1e-4


# Weights


@quick
@given(st.integers(1, POOL), st.lists(st.integers(0, 1000), min_size=1, max_size=10))
def test_weights_are_uniform_over_exactly_n_images(n: int, draws: list[int]) -> None:
    weights = uniform_weights(0, "star", draws, n, POOL)
    assert weights.shape == (len(draws), POOL)
    assert ((weights > 0).sum(1) == n).all()
    assert (weights[weights > 0] == torch.tensor(1 / n)).all()
    torch.testing.assert_close(weights.sum(1), torch.ones(len(draws)))


def test_draws_are_nested_in_n() -> None:
    images = [uniform_weights(0, "star", range(20), n, POOL) > 0 for n in (1, 2, 4, POOL)]
    for fewer, more in pairwise(images):
        assert (fewer <= more).all() and not torch.equal(fewer, more)


def test_weights_of_a_draw_do_not_depend_on_the_draws_beside_it() -> None:
    together = uniform_weights(0, "heart", range(6), 4, POOL)
    for draw in reversed(range(6)):
        assert torch.equal(uniform_weights(0, "heart", [draw], 4, POOL)[0], together[draw])


@pytest.mark.parametrize("alpha", [0.3, 1.0])
def test_dirichlet_weights_are_of_the_same_images_and_nested(alpha: float) -> None:
    """Their squares sum to (1 + α) / (1 + nα) on average, and the ratio of two does not depend on n."""
    few, more = (dirichlet_weights(0, "star", range(4000), n, POOL, alpha) for n in (2, 4))
    assert torch.equal(few > 0, uniform_weights(0, "star", range(4000), 2, POOL) > 0)
    torch.testing.assert_close(more.sum(1), torch.ones(4000))
    assert more.square().sum(1).mean().item() == pytest.approx((1 + alpha) / (1 + 4 * alpha), rel=0.03)
    torch.testing.assert_close(torch.where(few > 0, more, 0) / torch.where(few > 0, more, 0).sum(1, keepdim=True), few)
    torch.testing.assert_close(dirichlet_weights(0, "star", [7], 2, POOL, alpha)[0], few[7])
    assert not torch.equal(dirichlet_weights(1, "star", [7], 2, POOL, alpha)[0], few[7])


@pytest.mark.parametrize("alpha", [1e-2, 1e-3, 1e-6])
def test_weights_of_a_tiny_concentration_are_those_of_one_image(alpha: float) -> None:
    """Its shares are below the least float64, most of them or all."""
    for n in (1, 4):
        weights = dirichlet_weights(0, "star", range(400), n, POOL, alpha)
        torch.testing.assert_close(weights.sum(1), torch.ones(400))
        assert ((weights > 0) <= (uniform_weights(0, "star", range(400), n, POOL) > 0)).all()
        assert weights.amax(1).mean() > 0.97


def test_another_class_or_seed_draws_other_images() -> None:
    weights = uniform_weights(0, "star", range(6), 4, POOL)
    assert not torch.equal(uniform_weights(0, "heart", range(6), 4, POOL), weights)
    assert not torch.equal(uniform_weights(1, "star", range(6), 4, POOL), weights)


# Cells and keys


def test_cells_are_every_class_n_and_method_once_and_class_by_class() -> None:
    there = experiment("methods=[fix/0,nin/m,fix/0]", "data.classes=[star,heart,star]").cells.mixed
    assert len(set(there)) == len(there) == 2 * 2 * 2
    assert [cell.class_id for cell in there] == ["star"] * 4 + ["heart"] * 4


def place(*overrides: str) -> dict[str, str]:
    """Where a run with these settings keeps what it makes of the class "star"."""
    made = experiment(*overrides)
    return {
        "latents": made.layout.latents("star").folder.name,
        "cell": made.layout.cell_folder(Cell("star", 2, FIX)).name,
        "references": made.layout.references("star", NETWORK).folder.parent.name,
    }


@pytest.mark.parametrize(
    "override",
    [
        "batch=3",
        "draws=7",
        "n=[2,3]",
        "methods=[fix/0]",
        "keep=1",
        "name=other",
        "launch.threads=1",
        "outputs=elsewhere",
        "data.reference=9",
        "data.classes=[drop,star]",
        "device=cpu",
        "guidance=3.0",  # what the model says anyway
        "inversion.steps=3",
    ],
)
def test_what_changes_no_result_changes_no_key(override: str) -> None:
    assert place(override) == place()


@pytest.mark.parametrize(
    ("override", "changed"),
    [
        ("seed=1", {"cell"}),
        ("pool=9", {"cell"}),
        ("guidance=1", {"cell"}),
        ("steps=4", {"latents", "cell"}),
        ("spacing=leading", {"latents", "cell"}),
        ("inversion.steps=4", {"latents", "cell"}),
        ("inversion.spacing=leading", {"latents", "cell"}),
        ("inversion.guidance=2", {"latents", "cell"}),
        ("model.prompt='a drawing of a {}'", {"latents", "cell"}),
        ("model.precision=bfloat16", {"latents", "cell"}),
        ("model.size=32", {"latents", "cell", "references"}),
    ],
)
def test_what_changes_a_result_changes_its_key(override: str, changed: set[str]) -> None:
    before, after = place(), place(override)
    assert {name for name in before if before[name] != after[name]} == changed


def test_an_experiment_that_nobody_holds_is_freed_with_its_networks() -> None:
    made = experiment()
    cell = made.cells.mixed[0]
    assert made.data.pool("star") is made.data.pool("star") and made.layout.cell_folder(
        cell
    ) == made.layout.cell_folder(cell)
    gone = weakref.ref(made)
    del made
    gc.collect()
    assert gone() is None


def test_classes_numbers_and_methods_have_keys_of_their_own(usual: Experiment) -> None:
    cells = [Cell(c, n, m) for c in ("star", "heart") for n in (2, 4) for m in (FIX, Method("nin", "0"))]
    assert len({usual.layout.cell_folder(cell) for cell in cells}) == len(cells)
    assert usual.layout.latents("star").folder != usual.layout.latents("heart").folder


# Batches


@quick
@given(st.lists(st.integers(), min_size=1, max_size=300), st.integers(1, 64))
def test_batches_are_all_items_in_order_in_equal_parts(items: list[int], batch: int) -> None:
    chunks = split(items, batch)
    assert [item for chunk in chunks for item in chunk] == items
    assert {len(chunk) for chunk in chunks[:-1]} <= {len(chunks[0])}
    assert 0 < len(chunks[-1]) <= len(chunks[0]) <= batch
    assert len(chunks) == -(-len(items) // batch)  # no more than it takes


@quick
@given(st.integers(1, 8), st.integers(0, 8))
def test_padding_repeats_the_last_row(rows: int, more: int) -> None:
    x = torch.arange(rows * 6.0).view(rows, 3, 2)
    whole = padded(x, rows + more)
    assert torch.equal(whole[:rows], x)
    assert torch.equal(whole[rows:], x[-1:].expand(more, 3, 2))
