"""Diagnoses of latents with a known bias, scatter and correlation, and the command `latentmix diagnose`."""

import json
import math
from dataclasses import astuple, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from driver import invoke
from scipy import stats
from torch import Tensor

import latentmix as lm
from latentmix.commands.diagnose import _row
from latentmix.compose import compose
from latentmix.diagnosis import (
    Autocorrelation,
    Bias,
    Diagnosis,
    Fit,
    Norms,
    autocorrelation,
    band,
    channel_stds,
    common,
    diagnose,
    gains,
    growth,
    norms,
    resolved,
    sizes_of,
    terminal,
)
from latentmix.embedded import embedded_folder
from latentmix.experiment.draws import subset
from latentmix.experiment.experiment import Experiment
from latentmix.inversion import INVERSIONS
from latentmix.inversion.base import InversionSettings
from latentmix.mixing import mix

C, H, W = 4, 8, 8


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def latents(images: int, d: Tensor | float, seed: int, size: int = H) -> Tensor:
    """Return white noise plus a common bias d. The noise adds a little to the channels' means."""
    return normal(images, C, size, size, seed=seed) + d


def exactly(images: int, d: Tensor | float, seed: int, size: int = H) -> Tensor:
    """Return white noise plus d, with channels' means of exactly d over all latents."""
    z = latents(images, 0.0, seed, size)
    return z - z.mean((0, 2, 3), keepdim=True) + d


def per_channel(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)[:, None, None]


def orders(draws: int, images: int, seed: int = 0) -> Tensor:
    return torch.rand(draws, images, generator=torch.Generator().manual_seed(seed)).argsort(1)


def diagnosis(z: Tensor) -> Diagnosis:
    return diagnose(z, torch.zeros_like(z), 0.1, [1, 2, len(z)], orders(4, len(z)))


# Each latent's own statistics.


def test_norms() -> None:
    unit = torch.nn.functional.normalize(normal(3, C * H * W, seed=1)).view(3, C, H, W)
    found = norms(unit * math.sqrt(C * H * W) * torch.tensor([0.9, 1.0, 1.4]).view(3, 1, 1, 1))
    assert (found.mean, found.std, found.least, found.most) == pytest.approx((1.1, math.sqrt(0.07), 0.9, 1.4))


def test_channel_means_and_their_intervals_by_hand() -> None:
    z = latents(12, per_channel(0.5, 0, -0.5, 2), seed=2)
    for channel, estimate in enumerate(diagnosis(z).means):
        values = z[:, channel].numpy().mean((1, 2))
        low, high = stats.t.interval(0.95, 11, values.mean(), stats.sem(values))
        assert (estimate.value, estimate.low, estimate.high) == pytest.approx((values.mean(), low, high))
        assert estimate.count == 12


def test_channel_stds_are_about_the_mean_of_all_and_intervals_hold_the_truth() -> None:
    scale = per_channel(0.5, 1, 1, 2)
    z = latents(16, 0.0, seed=3) * scale + 5
    values = np.sqrt(((z - z.mean((0, 2, 3), keepdim=True)) ** 2).mean((0, 2, 3)).numpy())
    assert [e.value for e in channel_stds(z)] == pytest.approx(values.tolist())
    pools = [channel_stds(latents(16, 0.0, seed=1000 + i) * scale + 5) for i in range(150)]
    hits = [e.low < s < e.high for pool in pools for e, s in zip(pool, scale.flatten().tolist(), strict=True)]
    assert np.mean(hits) == pytest.approx(0.95, abs=0.03)


def test_an_interval_of_a_std_reaches_to_0_and_not_below() -> None:
    """The mean square of two latents is 5 ± 12.7 · 3, whose lower end has no root."""
    found = channel_stds(
        torch.tensor([2.0, 8.0]).sqrt().view(2, 1, 1, 1) * torch.tensor([[1.0, -1.0]]).view(1, 1, 1, 2)
    )
    half = stats.t.ppf(0.975, 1) * 3
    assert (found[0].value, found[0].low, found[0].high) == pytest.approx((math.sqrt(5), 0, math.sqrt(5 + half)))


# Correlation in space.


@pytest.mark.parametrize("lag", [1, 2])
def test_white_noise_has_no_autocorrelation_within_the_error_that_is_given(lag: int) -> None:
    found = [autocorrelation(latents(10, 0.0, seed=i), lag) for i in range(200)]
    values = np.array([a.channels for a in found])
    error = found[0].null_error
    assert values.std() == pytest.approx(error, rel=0.1)
    assert abs(values.mean()) < 4 * error / math.sqrt(values.size)


@pytest.mark.parametrize(("width", "expected"), [(2, {1: 1 / 2, 2: 0}), (3, {1: 2 / 3, 2: 1 / 3})])
def test_autocorrelation_of_smoothed_noise(width: int, expected: dict[int, float]) -> None:
    """A running mean over k positions has 1 − lag/k. If it runs along rows only, columns stay white."""
    noise = normal(400, C, 8 + width - 1, 8 + width - 1, seed=4)
    rows = sum(noise[..., i : i + 8] for i in range(width))
    assert isinstance(rows, Tensor)
    both = sum(rows[..., i : i + 8, :] for i in range(width))
    assert isinstance(both, Tensor)
    for lag, value in expected.items():
        assert autocorrelation(both, lag).channels == pytest.approx((value,) * C, abs=0.03)
        assert autocorrelation(rows[..., :8, :], lag).channels == pytest.approx((value / 2,) * C, abs=0.03)


@pytest.mark.parametrize(("lag", "h", "w"), [(1, 3, 7), (2, 7, 3), (2, 4, 4)])
def test_autocorrelation_pair_by_pair(lag: int, h: int, w: int) -> None:
    """Every pair of two positions in a frame, and its error from how many there are."""
    z = normal(5, 2, h, w, seed=30)
    e, places = z - z.mean(0), [(i, j) for i in range(h) for j in range(w)]
    pairs = [(a, (a[0] + di, a[1] + dj)) for a in places for di, dj in ((0, lag), (lag, 0))]
    pairs = [(a, b) for a, b in pairs if b in places]
    found = autocorrelation(z, lag)
    for channel, value in enumerate(found.channels):
        x = e[:, channel]
        products = torch.stack([x[:, *a] * x[:, *b] for a, b in pairs])
        assert value == pytest.approx((products.mean() / x.square().mean()).item(), abs=1e-12)
    assert found.null_error == pytest.approx(1 / math.sqrt((5 - 1) * len(pairs)))


def test_a_common_bias_is_no_autocorrelation() -> None:
    z = latents(10, 0.0, seed=5)
    shifted = autocorrelation(z + torch.linspace(-3, 3, W) + per_channel(1, 2, 3, 4), 1)
    assert shifted.channels == pytest.approx(autocorrelation(z, 1).channels, rel=1e-9)


def test_a_small_frame_has_few_lags() -> None:
    z = normal(5, C, 2, 6, seed=6)
    assert [a.lag for a in diagnosis(z).autocorrelation] == [1]
    assert diagnosis(normal(5, C, 1, 1, seed=6)).autocorrelation == ()


# The common bias.


def test_the_bias_is_split_without_the_noise_of_its_estimate() -> None:
    wave = 0.2 * torch.sin(2 * math.pi * torch.arange(W) / W)  # mean square 0.02, mean 0
    d = per_channel(0.1, -0.1, 0.1, 0.3) + wave
    pools = [diagnosis(latents(10, d, seed=i)).bias for i in range(150)]
    noise = 0.1  # v/P, which would be added to the sum of both, and a 64th of it to the first
    for found, expected in (([b.channels for b in pools], 0.03), ([b.space for b in pools], 0.02)):
        error = float(stats.sem(found))
        assert error < noise / 50
        assert abs(np.mean(found) - expected) < 4 * error


def test_no_bias_is_found_where_there_is_none() -> None:
    values = [common(latents(10, 0.0, seed=i).mean((2, 3))) for i in range(300)]
    assert abs(np.mean(values)) < 4 * stats.sem(values)


def test_noise_passes_for_bias_in_one_pool_of_twenty() -> None:
    found = [any(resolved(normal(10, C, seed=i))) for i in range(1500)]
    assert np.mean(found) == pytest.approx(0.05, abs=0.02)


@pytest.mark.parametrize("images", [2, 3, 12])
def test_a_channel_is_resolved_from_the_bound_of_students_test_on(images: int) -> None:
    """At 5 % for four channels together, by scipy; means a little below and above the bound."""
    means, level = normal(images, C, seed=31), 1 - 0.95 ** (1 / C)
    means = (means - means.mean(0)) / means.std(0)
    bound = stats.t.isf(level / 2, images - 1) / math.sqrt(images)
    shifts = torch.tensor([0.999, 1.001, -0.999, -1.001], dtype=torch.float64) * bound
    assert stats.ttest_1samp((means + shifts).numpy(), 0).pvalue == pytest.approx([level] * 4, rel=0.02)
    assert resolved(means + shifts) == (False, True, False, True)


def test_only_channels_with_a_bias_are_resolved() -> None:
    assert diagnosis(latents(40, per_channel(0, 0.2, 0, -0.2), seed=7)).resolved == (False, True, False, True)


# What is left of the image at the last level.


@pytest.mark.parametrize(
    ("own", "share"),
    [((0, 0, 0, 0), 1), ((0, 0, 0.1, 0), 0.5), ((-0.2, 0, 0, 0), -3)],
    ids=["all", "half", "none of it"],
)
def test_the_share_of_the_terminal_signal(own: tuple[float, ...], share: float) -> None:
    """The mean of the clean latents' first channel is 2, and 0.1 after α = 0.05."""
    alpha, clean = 0.05, latents(4000, per_channel(2, 0, 0, 0), seed=8)
    z = alpha * clean + math.sqrt(1 - alpha**2) * normal(*clean.shape, seed=9) + per_channel(*own)
    found = diagnose(z, clean, alpha, [1], orders(1, len(z))).terminal
    assert found.share == pytest.approx(share, abs=0.12)
    assert found.channels == pytest.approx((0.1, 0, 0, 0), abs=0.002)
    assert found.alpha == alpha


def test_a_schedule_that_ends_in_noise_explains_nothing() -> None:
    z = latents(20, 0.3, seed=10)
    found = diagnose(z, latents(20, 1.0, seed=11), 0.0, [1], orders(1, 20)).terminal
    assert (found.share, found.channels) == (0, (0, 0, 0, 0))


def test_without_a_bias_the_share_is_nan() -> None:
    means = normal(20, C, seed=12)
    assert math.isnan(terminal(means, means, 1.0, biased=False).share)
    assert math.isnan(diagnosis(latents(20, 0.0, seed=12)).terminal.share)


# Growth with N.


def test_growth_by_definition() -> None:
    """Eq. 2 with NumPy, of one draw."""
    z, order = latents(6, 0.3, seed=13), orders(1, 6)
    for n, row in zip((1, 4, 6), growth(z, [1, 4, 6], order).means, strict=True):
        mean = z.numpy()[order[0, :n].numpy()].mean(0)
        assert row == pytest.approx((math.sqrt(mean.size) * mean / np.linalg.norm(mean)).mean((1, 2)).tolist())


def test_a_small_bias_grows_by_the_root_of_n() -> None:
    d = per_channel(0.05, -0.03, 0.02, -0.04)
    found = growth(exactly(64, d, seed=14, size=32), [1, 2, 4, 8, 16, 32, 64], orders(64, 64))
    for fit in (found.root, found.exact):
        assert fit.slopes == pytest.approx(d.flatten().tolist(), rel=0.1)
        assert min(fit.r2) > 0.98
    assert found.means[-1] == pytest.approx((8 * d.flatten()).tolist(), rel=0.05)


def test_a_large_bias_outgrows_eq_9_but_not_the_amplification_itself() -> None:
    d = per_channel(0.3, -0.3, 0.3, -0.3)
    found = growth(exactly(64, d, seed=15, size=16), [1, 2, 4, 8, 16, 32, 64], orders(64, 64))
    assert max(map(abs, found.root.slopes)) < 0.2
    assert found.exact.slopes == pytest.approx(d.flatten().tolist(), rel=0.02)
    assert min(found.exact.r2) > 0.99 > max(found.root.r2)


def test_the_fit_is_a_line_through_the_origin_by_least_squares() -> None:
    found = growth(latents(9, 0.2, seed=16), [1, 4, 9], orders(5, 9))
    x, y = np.array([[1.0], [2.0], [3.0]]), np.array(found.means)
    slopes, left, *_ = np.linalg.lstsq(x, y, rcond=None)
    assert found.root.slopes == pytest.approx(slopes[0].tolist())
    assert found.root.r2 == pytest.approx((1 - left / ((y - y.mean(0)) ** 2).sum(0)).tolist())


def test_gains_are_those_of_centroids() -> None:
    z = 1.3 * latents(40, per_channel(0.2, 0, 0, 0), seed=17)
    many = orders(200, 40)
    for n, gain in zip((2, 10, 40), gains(z, [2, 10, 40]).tolist(), strict=True):
        means = torch.stack([z[order[:n]].mean(0).norm() for order in many])
        assert gain == pytest.approx((math.sqrt(C * H * W) / means).mean().item(), rel=0.02)


# The range of random centroids, and where it is left.


def outside(d: Tensor | float, n: int, count: int = 1500) -> float:
    """Return the share of centroids of N new latents with a channel's mean outside the band."""
    generator = torch.Generator().manual_seed(n)
    noise = torch.randn(count, C, H, W, generator=generator, dtype=torch.float64) / math.sqrt(n)  # the mean of N
    z = noise + d
    centroids = z * (math.sqrt(C * H * W) / z.flatten(1).norm(dim=1)).view(-1, 1, 1, 1)
    return (centroids.mean((2, 3)).abs() > band(C, H, W)).any(1).double().mean().item()


@pytest.mark.parametrize("n", [1, 9, 100])
def test_random_centroids_keep_within_the_band_whatever_n_is(n: int) -> None:
    assert outside(0.0, n) == pytest.approx(0.05, abs=0.02)


# The whole.


def test_the_order_of_the_images_does_not_matter() -> None:
    z, clean, order = latents(12, 0.2, seed=23), latents(12, 1.0, seed=24), orders(6, 12)
    shuffle = orders(1, 12, seed=5)[0]
    one = diagnose(z, clean, 0.1, [1, 5, 12], order)
    other = diagnose(z[shuffle], clean[shuffle], 0.1, [1, 5, 12], shuffle.argsort()[order])
    assert flat(one) == pytest.approx(flat(other), nan_ok=True)


def flat(found: Diagnosis) -> list[float]:
    estimates = [(e.value, e.low, e.high) for e in (*found.means, *found.stds)]
    lines = [found.growth.root.slopes, found.growth.root.r2, found.growth.exact.slopes, *found.growth.means]
    rest = (
        found.norms.mean,
        found.norms.std,
        found.bias.channels,
        found.bias.space,
        found.terminal.share,
        *(x for octave in found.octaves for x in (octave.bias, octave.error, octave.variance)),
    )
    return [x for row in (*estimates, *lines, *(a.channels for a in found.autocorrelation), rest) for x in row]


def test_latents_in_float32_do() -> None:
    z, clean, order = latents(12, 0.2, seed=25), latents(12, 1.0, seed=26), orders(6, 12)
    single = diagnose(z.float(), clean.float(), 0.1, [1, 5, 12], order)
    assert flat(single) == pytest.approx(flat(diagnose(z, clean, 0.1, [1, 5, 12], order)), rel=1e-3, abs=1e-5)


@pytest.mark.parametrize(
    ("shape", "clean", "order", "chosen", "reason"),
    [
        ((5, 4, 8), (5, 4, 8), (2, 5), [1], r"must be \[P, C, h, w\]"),
        ((1, 4, 8, 8), (1, 4, 8, 8), (2, 1), [1], "at least 2"),
        ((5, 4, 8, 8), (4, 4, 8, 8), (2, 5), [1], r"clean latents must be \[5, 4, 8, 8\]"),
        ((5, 4, 8, 8), (5, 4, 8, 8), (2, 6), [1], r"orders must be \[K, 5\]"),
        ((5, 4, 8, 8), (5, 4, 8, 8), (5,), [1], r"orders must be \[K, 5\]"),
        ((5, 4, 8, 8), (5, 4, 8, 8), (2, 5), [6], "between 1 and 5"),
        ((5, 4, 8, 8), (5, 4, 8, 8), (2, 5), [0], "between 1 and 5"),
        ((5, 4, 8, 8), (5, 4, 8, 8), (2, 5), [], "between 1 and 5"),
    ],
)
def test_shapes_and_sizes_that_do_not_fit_are_refused(
    shape: tuple[int, ...], clean: tuple[int, ...], order: tuple[int, ...], chosen: list[int], reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        diagnose(torch.zeros(shape), torch.zeros(clean), 0.1, chosen, torch.zeros(order, dtype=torch.int64))


def test_the_verdict_says_how_many_to_mix_by_which_method() -> None:
    found = diagnosis(latents(40, per_channel(0.4, 0, 0, 0), seed=27))
    few = replace(found, safe={"fix/0": 9, "fix/chm": None, "fix/pool": 20})
    assert few.verdict(10) == (
        "safe to mix: 9 by fix/0, any by fix/chm, 20 by fix/pool (half of the pool); for N = 10 take nin/pool"
    )
    assert "safe to mix: none by fix/0" in replace(found, safe=few.safe | {"fix/0": 1}).verdict(10)
    assert few.verdict(9).endswith("take nin/0") and few.verdict(21).endswith("take nin/chm")
    unbiased = diagnosis(latents(40, 0.0, seed=28))
    assert unbiased.verdict(10) == "40 images show no bias at any frequency; for N = 10 take nin/0"


def test_python_diagnoses_latents_of_any_kind_and_says_which_method_to_take() -> None:
    z = latents(40, per_channel(0.4, 0, 0, 0), seed=27)
    found, known = lm.diagnose(z.requires_grad_()), diagnosis(z.detach())
    assert (found.octaves, found.safe, found.stds) == (known.octaves, known.safe, known.stds)
    assert found.growth.sizes == tuple(sizes_of(40)) and math.isnan(found.terminal.share)
    assert found.recommended(20) == "nin/pool"
    lines = str(found).splitlines()
    assert lines[2].split() == ["0", "to", "0", *(f"{x:.4f}" for x in astuple(found.octaves[0])[2:5]), "none"]
    assert lines[-1].endswith("; take nin/pool up to N = 20, nin/chm up to N = 40")
    assert repr(lm.diagnose(z.detach().numpy())) == repr(lm.diagnose(list(z))) == repr(found)
    settings = InversionSettings("ddim", "ddim", 2, 1.0, "trailing")
    rows = lm.Latents({"latents": z.detach()}, ("",) * 40, INVERSIONS["ddim"], settings)
    assert repr(lm.diagnose(rows)) == repr(lm.diagnose(list(rows))) == repr(found)
    for wrong, message in ((z[:1], "at least 2"), (z[0], "need latents"), (z.detach() * math.nan, "hold NaN")):
        with pytest.raises(ValueError, match=message):
            lm.diagnose(wrong)


def test_a_row_of_the_table_has_the_numbers_that_its_legend_names() -> None:
    plain = diagnosis(latents(40, per_channel(0.1, -0.4, 0, 0), seed=29))
    found = replace(
        plain,
        norms=Norms(1.0234, 0.1, 0.9, 1.2),
        autocorrelation=(Autocorrelation(1, (0.1, 0.2, 0.3, 0.2), 0.01), Autocorrelation(2, (0.9,) * 4, 0.01)),
        bias=Bias(0.0123, 0.0045),
        terminal=replace(plain.terminal, share=0.256),
        growth=replace(plain.growth, root=Fit((1.0,) * 4, (0.1, 0.98765, 0.3, 0.4)), exact=Fit((2.0,) * 4, (0.5,) * 4)),
        safe={"fix/0": 9, "fix/chm": None, "fix/pool": 20},
    )
    mean = f"{found.means[1].value:+.3f} (1)"
    assert mean == f"{found.means[1].value:.3f} (1)" and mean.startswith("-0.")
    assert _row(found) == ("1.023", mean, "+0.200", "12.3 + 4.5", "26%", "0.988", "9; any")
    little = replace(found, terminal=replace(found.terminal, share=math.nan), safe=found.safe | {"fix/chm": 1})
    assert _row(little)[4:] == ("–", "0.988", "9; none")


@pytest.mark.parametrize("pool", [2, 3, 16, 128, 1000])
def test_sizes_span_the_pool(pool: int) -> None:
    chosen = sizes_of(pool)
    assert (chosen[0], chosen[-1]) == (1, pool)
    assert chosen == sorted(set(chosen)) and len(chosen) <= 12
    assert np.diff(np.sqrt(chosen)).max() < 2 * (math.sqrt(pool) - 1) / min(11, pool - 1)


# The command.

POOL, STEPS = 8, 2
BASE = ("data.classes=[star,heart]", "n=[2]", f"pool={POOL}", f"steps={STEPS}", "launch.threads=1")


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("diagnose")
    said = invoke("diagnose", *BASE, f"outputs={folder}")
    assert said.code == 0, said.err
    run = folder / "tiny-shapes"
    written = [str(run / n) for n in ("diagnosis.json", "fig4.png", "fig4.pdf", "octaves.png", "octaves.pdf")]
    assert said.out.splitlines()[-5:] == written
    assert "Two draws of N = 2 from a pool of 8 share 0.5 images on average, which is harmless" in said.out
    for class_id in ("star", "heart"):
        assert f"{class_id}: {classes(folder)[class_id]['verdict']}" in said.out
        assert f"│ {class_id}" in said.out
    return folder


def classes(outputs: Path) -> dict[str, dict]:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    note = json.loads((outputs / "tiny-shapes" / "diagnosis.json").read_text(), parse_constant=refuse)
    assert (note["model"], note["data"], note["inversion"]) == ("tiny", "shapes", "ddim")
    return note["classes"]


def test_the_numbers_are_those_of_the_cached_latents(outputs: Path) -> None:
    experiment = Experiment(compose([*BASE, f"outputs={outputs}"]))
    alphas = DDIMScheduler.from_pretrained(embedded_folder("tiny") / "scheduler").alphas_cumprod
    assert set(classes(outputs)) == {"star", "heart"}
    for class_id, found in classes(outputs).items():
        z, clean = (
            experiment.layout.latents(class_id).gather([f"{class_id}/{i}" for i in range(POOL)], n) for n in NAMES
        )
        assert [m["value"] for m in found["means"]] == pytest.approx(z.mean((0, 2, 3)).tolist(), abs=1e-6)
        assert found["terminal"]["alpha"] == pytest.approx(alphas[999].sqrt().item())
        signal = alphas[999].sqrt() * clean.mean((0, 2, 3))
        assert found["terminal"]["channels"] == pytest.approx(signal.tolist(), abs=1e-6)
        assert found["images"] == POOL
        assert [octave["low"] for octave in found["octaves"]] == [0, 1, 2, 4]
        assert found["safe"]["fix/pool"] == POOL // 2


NAMES = ("latents", "clean")


def test_draws_are_those_of_a_sweep(outputs: Path) -> None:
    experiment = Experiment(compose([*BASE, f"outputs={outputs}"]))
    z, found = experiment.latents.pool("star"), classes(outputs)["star"]["growth"]
    means = [mix(z[subset(0, "star", k, POOL)[: found["sizes"][1]]], method="fix/0").mean((1, 2)) for k in range(100)]
    assert found["means"][1] == pytest.approx(torch.stack(means).mean(0).tolist(), abs=1e-5)


def test_once_more_inverts_nothing_and_changes_nothing(outputs: Path) -> None:
    before = {path: path.read_bytes() for path in (outputs / "tiny-shapes").glob("*.*")}
    said = invoke("diagnose", *BASE, f"outputs={outputs}")
    assert f"all {2 * POOL} images are there already" in said.err
    assert {path: path.read_bytes() for path in (outputs / "tiny-shapes").glob("*.*")} == before


def test_a_dry_run_only_plans(tmp_path: Path) -> None:
    said = invoke("diagnose", *BASE, f"outputs={tmp_path / 'outputs'}", "--dry-run")
    assert said.code == 0 and "invert" in said.out and "nothing was done" in said.out
    assert not (tmp_path / "outputs").exists()


def test_a_single_latent_can_not_be_diagnosed(tmp_path: Path) -> None:
    said = invoke("diagnose", *BASE, "pool=1", "n=[1]", f"outputs={tmp_path}")
    assert said.code == 2
    assert "pool=1 is too small" in said.err.splitlines()[-1]
