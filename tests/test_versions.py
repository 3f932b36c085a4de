"""Golden values: what each inversion, norm and mean gives for a fixed input, so that a change raises its version.

Cache keys hold the version. If behaviour changed and the version did not, old results would be taken for new ones.
"""

import pytest
import torch
from analytic import TwoPeaks, clean_latents, schedule, text
from torch import Tensor

from latentmix.inversion import INVERSIONS
from latentmix.mixing import MEANS, NORMS, Method, mixtures
from latentmix.mixing.means import find_mean
from latentmix.models.protocol import Conditioning

GOLDEN: dict[str, list[float]] = {
    "inversion ddim latents v1": [-0.221778, 0.618211, 0.202502, -0.124027, -1.20265],
    "inversion ddim back v1": [0.408729, 0.470735, 0.583692, 0.437981, 0.0420098],
    "inversion negative_prompt latents v1": [-0.221778, 0.618211, 0.202502, -0.124027, -1.20265],
    "inversion negative_prompt back v1": [0.214209, 0.310438, 0.381003, 0.242335, -0.141983],
    "inversion null_text latents v1": [0.0428505, 0.582571, 0.473426, 0.0905823, -0.904786],
    "inversion null_text nulls v1": [0.302942, 0.30835, 0.197528, 0.360998, 0.372626],
    "inversion null_text back v1": [0.284622, 0.368353, 0.468122, 0.308344, -0.0915448],
    "inversion fixed_point latents v2": [-0.621272, 1.44227, 0.363586, -0.356746, -2.9711],
    "inversion fixed_point back v2": [0.311296, 0.531971, 0.653958, 0.337258, -0.346648],
    "inversion renoise latents v2": [-0.548464, 1.30309, 0.352703, -0.340512, -2.62315],
    "inversion renoise back v2": [0.326507, 0.520412, 0.649288, 0.344087, -0.279042],
    "inversion midpoint latents v2": [-0.384818, 0.901478, 0.20676, -0.210953, -1.85912],
    "inversion midpoint back v2": [0.310913, 0.549544, 0.675632, 0.321031, -0.339629],
    "inversion exact latents v2": [-0.296169, 0.779918, 0.247508, -0.189031, -1.51226],
    "inversion exact partner v2": [-0.295878, 0.779433, 0.247411, -0.188717, -1.51123],
    "inversion exact back v2": [0.301446, 0.538246, 0.654494, 0.336454, -0.395836],
    "inversion forward latents v2": [-0.0979323, 0.92621, -0.0302594, -0.669434, 0.0652215],
    "inversion forward back v2": [0.462539, 0.57286, 0.479746, 0.213759, 0.522498],
    "norm lin v1": [0.309214, 0.395657, 0.411699, 0.295137, 0.0839461],
    "norm fix v1": [0.781744, 1.0, 1.0573, 0.757956, 0.208909],
    "norm nin v1": [0.419666, 0.536809, 0.575664, 0.412679, 0.110522],
    "norm lol v1": [0.475933, 0.613273, 0.727788, 0.521733, 0.110227],
    "norm slerp v1": [0.43122, 0.536809, 0.573067, 0.465323, 0.159353],
    "norm adain v1": [0.309214, 0.535722, 0.463311, 0.330775, -0.0744155],
    "norm nao v1": [0.679043, 0.922675, 0.95273, 0.597305, -0.0294972],
    "mean 0 v1": [0.0, 0.0, 0.0, 0.0, 0.0],
    "mean m v1": [0.301266, 0.301837, 0.317661, 0.266899, 0.307201],
    "mean chm v1": [0.301266, 0.304601, 0.375369, 0.341946, 0.345856],
    "mean lp v1": [0.301266, 0.317173, 0.390382, 0.328423, 0.499373],
    "mean pool v1": [0.301266, 0.336299, 0.34974, 0.101664, 0.35903],
    "mean pchm v1": [0.301266, 0.339057, 0.410885, 0.159351, 0.399571],
    "mean lp0.5 v1": [0.301266, 0.305027, 0.367613, 0.33885, 0.368453],
}
TOLERANCE = {"norm nao": 1e-3}  # of an optimisation of 200 steps; rounding moves the others by less than 1e-9


def statistics(x: Tensor) -> list[float]:
    """Mean, root mean square, and three numbers from different places."""
    flat = x.double().flatten()
    picked = flat[torch.linspace(0, len(flat) - 1, 3).long()]
    return [flat.mean().item(), flat.square().mean().sqrt().item(), *picked.tolist()]


def check(name: str, version: int, found: list[float]) -> None:
    golden, line = GOLDEN.get(f"{name} v{version}"), f'"{name} v{version}": {rounded(found)},'
    assert golden is not None, f"there is no value of this version; put into GOLDEN: {line}"
    tolerance = TOLERANCE.get(name, 1e-5)
    assert found == pytest.approx(golden, rel=tolerance, abs=tolerance), (
        f"the behaviour of {name} changed: raise its version, and take the new value: {line}"
    )


def rounded(found: list[float]) -> list[float]:
    return [float(f"{value:.6g}") for value in found]


@pytest.mark.parametrize("kind", INVERSIONS)
def test_an_inversion_gives_what_its_version_gave(kind: str) -> None:
    """With its default settings, which are not part of cache keys; latents, extras, and what generation returns."""
    inversion, model = INVERSIONS[kind], TwoPeaks()
    settings = inversion.settings(kind, kind, 6, 2.0, "trailing")
    intervals = schedule(6 * inversion.intervals_per_step)
    cond = Conditioning(text(0.3), text(0.1), guidance=2.0)
    state = inversion.run(model, clean_latents(2), intervals, cond, settings, ["a", "b"])  # type: ignore[arg-type]
    back = inversion.generate(model, state, intervals, cond, settings)  # type: ignore[arg-type]
    for name, tensor in {**state, "back": back}.items():
        check(f"inversion {kind} {name}", inversion.version, statistics(tensor))


def latents() -> tuple[Tensor, Tensor]:
    z = clean_latents(5, (3, 6, 4))
    return z, torch.tensor([[0.5, 0.2, 0.1, 0.1, 0.1], [0.0, 0.3, 0.0, 0.7, 0.0]], dtype=torch.float64)


@pytest.mark.parametrize("norm", NORMS)
def test_a_norm_gives_what_its_version_gave(norm: str) -> None:
    z, w = latents()
    check(f"norm {norm}", NORMS[norm].version, statistics(mixtures(z, w, [Method(norm, "0")])[0]))


@pytest.mark.parametrize("mean", [*MEANS, "lp0.5"])
def test_a_mean_gives_what_its_version_gave(mean: str) -> None:
    z, _ = latents()
    split = find_mean(mean)
    check(f"mean {mean}", split.version, statistics(split.split(z)))


def test_no_value_is_left_over() -> None:
    """Of an older version, or of what is not there any more."""
    current = {
        f"inversion {kind} {name} v{inversion.version}"
        for kind, inversion in INVERSIONS.items()
        for name in ("latents", *inversion.extras, "back")
    }
    current |= {f"norm {name} v{norm.version}" for name, norm in NORMS.items()}
    current |= {f"mean {name} v{find_mean(name).version}" for name in (*MEANS, "lp0.5")}
    assert set(GOLDEN) == current
