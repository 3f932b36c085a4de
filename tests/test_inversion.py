"""Inversions against closed forms, against plain loops of their definitions, and on both embedded models."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import analytic
import pytest
import torch
from analytic import TwoPeaks, clean_latents, text
from driver import invoke
from pipelines import SD, SD3
from torch import Tensor

from latentmix import sampling
from latentmix.compose import compose
from latentmix.config import Config
from latentmix.errors import UserError
from latentmix.inversion import INVERSIONS, fixed_point, renoise
from latentmix.inversion.base import State
from latentmix.models import load_model
from latentmix.models.protocol import Conditioning, Model, Text, predictor
from latentmix.sampling import (
    Level,
    Schedule,
    discrete_schedule,
    flow_schedule,
    flow_sigmas,
    move,
    move_by_noise,
    step,
    timesteps,
)

PRESETS = sorted(path.stem for path in Path(__file__).parents[1].joinpath("configs", "inversion").glob("*.yaml"))
CPU = torch.device("cpu")


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def away(a: Tensor, b: Tensor) -> float:
    """The root mean square of the difference, over that of `b`."""
    return ((a - b).square().mean().sqrt() / b.square().mean().sqrt()).item()


def ladders(steps: int) -> dict[str, Schedule]:
    """Stable Diffusion 1.5's and 3.5's."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    alphas = torch.cumprod(1 - betas, dim=0)
    return {
        "discrete": discrete_schedule(alphas, timesteps(steps, "trailing"), first=alphas[0].item()),
        "flow": flow_schedule(flow_sigmas(steps, "trailing", shift=3.0)),
    }


EMPTY = Text(torch.zeros(1, 1, 1), torch.zeros(1, 0))
ALONE = Conditioning(EMPTY, EMPTY)


@dataclass
class Oracle:
    """The perfect network for data that are N(mean, spread²) in every number, which the clock does not concern."""

    mean: float = 0.5
    spread: float = 0.6
    called: int = 0
    timesteps: list[tuple[float, float]] = field(default_factory=list)  # with the level that each was told for

    def predict(self, z: Tensor, here: Level, timestep: float, conditioning: Conditioning) -> tuple[Tensor, Tensor]:
        self.called += 1 if conditioning.guidance == 1 else 2
        self.timesteps.append((here.s, timestep))
        variance = here.alpha**2 * self.spread**2 + here.sigma**2
        from_mean = z - here.alpha * self.mean
        return self.mean + here.alpha * self.spread**2 / variance * from_mean, here.sigma / variance * from_mean

    def solution(self, z: Tensor, here: Level, there: Level) -> Tensor:
        """Where the differential equation leads, in closed form."""
        one, other = (math.sqrt(at.alpha**2 * self.spread**2 + at.sigma**2) for at in (here, there))
        return there.alpha * self.mean + other / one * (z - here.alpha * self.mean)


def settings(kind: str, **changed: Any) -> Any:
    """Settings of a kind; of those changed, the ones that it has."""
    plain: dict[str, Any] = {"name": kind, "kind": kind, "steps": 10, "guidance": 1.0, "spacing": "trailing"}
    changed = {"tolerance": 0.0} | changed
    cls = INVERSIONS[kind].settings
    own = {field.name for field in fields(cls)}
    return cls(**(plain | {name: value for name, value in changed.items() if name in own}))


def there_and_back(model: Any, kind: str, schedule: Schedule, **how: Any) -> tuple[State, Tensor, Tensor]:
    """What an inversion leaves of some latents, what generation returns, and the latents."""
    z0 = 0.5 + 0.6 * noise(3, 4, 8, 8)
    inversion, config = INVERSIONS[kind], settings(kind, **how)
    state = inversion.run(model, z0, schedule, ALONE, config, list("abc"))
    return state, inversion.generate(model, state, schedule, ALONE, config), z0


# The line on which all families are one.


@pytest.mark.parametrize("family", ["discrete", "flow"])
def test_moving_by_what_is_predicted_at_z_is_a_step(family: str) -> None:
    z = noise(2, 4, 8, 8)
    for interval in ladders(7)[family]:
        for here, there in ((interval.clean, interval.noisy), (interval.noisy, interval.clean)):
            predicted = [x / max(here.alpha, 0.1) for x in (0.3 * z, z)]  # consistent: z = α x0 + σ ε
            x0 = predicted[0]
            eps = (z - here.alpha * x0) / here.sigma if here.sigma else predicted[1]
            x0 = x0 if here.sigma else z / here.alpha
            expected = step(lambda *_, of=(x0, eps): of, z, here, there, interval.timestep)
            assert away(move(z, here, there, x0, eps), expected) < 1e-13


# Order of convergence, against the closed form.


@pytest.mark.parametrize("family", ["discrete", "flow"])
@pytest.mark.parametrize(("kind", "order"), [("ddim", 1), ("midpoint", 2), ("fixed_point", 1)])
def test_the_error_falls_with_the_power_of_the_step(kind: str, order: int, family: str) -> None:
    errors = []
    for steps in (20, 40, 80):
        schedule, oracle = ladders(steps * INVERSIONS[kind].intervals_per_step)[family], Oracle()
        state, _, z0 = there_and_back(oracle, kind, schedule, iterations=30)
        errors.append(away(state["latents"], oracle.solution(z0, schedule[0].clean, schedule[-1].noisy)))
    for coarse, fine in pairwise(errors):
        rate = math.log2(coarse / fine)
        assert rate > order - 0.35
        assert order == 2 or rate < order + 0.35  # linear data spare the second order some of its error


@pytest.mark.parametrize("family", ["discrete", "flow"])
def test_the_midpoint_rule_returns_with_an_error_of_second_order(family: str) -> None:
    errors = []
    for steps in (40, 80):
        _, back, z0 = there_and_back(Oracle(), "midpoint", ladders(2 * steps)[family])
        errors.append(away(back, z0))
    assert errors[0] / errors[1] > 3
    _, plain, z0 = there_and_back(Oracle(), "ddim", ladders(80)[family])
    assert errors[0] < away(plain, z0) / 5  # at the same cost


@pytest.mark.parametrize("family", ["discrete", "flow"])
def test_the_midpoint_rule_tells_the_network_the_time_at_which_z_is(family: str) -> None:
    oracle, schedule = Oracle(), ladders(8)[family]
    there_and_back(oracle, "midpoint", schedule)
    own = {interval.noisy.s: interval.timestep for interval in schedule} | {schedule[0].clean.s: 0}
    assert len(oracle.timesteps) == 16
    assert all(timestep == (1000 * s if family == "flow" else own[s]) for s, timestep in oracle.timesteps)


def test_a_clean_end_of_diffusion_is_no_flow() -> None:
    """α + σ is 1 there, too, and for both ends of a single step from no noise to no signal."""
    alphas = torch.linspace(0.9, 0, 8, dtype=torch.float64)
    for steps in ((1, 3, 5, 7), (4, 7)):
        schedule, oracle = discrete_schedule(alphas, steps, first=1.0), Oracle()
        there_and_back(oracle, "midpoint", schedule)
        own = {interval.noisy.s: interval.timestep for interval in schedule} | {0.0: 0}
        assert len(oracle.timesteps) == 2 * len(steps)
        assert all(timestep == own[s] for s, timestep in oracle.timesteps)


# Solving a step for its noisy end.


@pytest.mark.parametrize("family", ["discrete", "flow"])
def test_fixed_points_are_what_generation_comes_from(family: str) -> None:
    errors = []
    for iterations in (1, 2, 4, 40):
        _, back, z0 = there_and_back(Oracle(), "fixed_point", ladders(20)[family], iterations=iterations)
        errors.append(away(back, z0))
    _, plain, z0 = there_and_back(Oracle(), "ddim", ladders(20)[family])
    assert away(plain, z0) > 2 * errors[0]
    assert min(errors[:2]) > 2 * errors[2]
    assert errors[3] < 1e-9


def test_an_image_that_is_near_enough_is_left_alone_whatever_its_company() -> None:
    """Points on the data's mean have nothing to iterate for; a company that has must not drag them along."""
    schedule = ladders(20)["discrete"]
    oracle: Any = Oracle()
    config = settings("fixed_point", iterations=9, tolerance=1e-3)
    z0 = torch.cat([torch.full((1, 4, 8, 8), 0.5).double(), 0.5 + 3 * noise(1, 4, 8, 8)])
    together = fixed_point.invert(oracle, z0, schedule, ALONE, config)["latents"]
    called = oracle.called
    for row in (0, 1):
        alone = fixed_point.invert(oracle, z0[row : row + 1], schedule, ALONE, config)["latents"]
        assert away(together[row : row + 1], alone) < 1e-14
    assert called < 20 * (1 + 9)  # it stopped early
    everything = settings("fixed_point", iterations=9, tolerance=0.0)
    assert away(fixed_point.invert(oracle, z0, schedule, ALONE, everything)["latents"][1], together[1]) > 1e-8


@pytest.mark.parametrize("family", ["discrete", "flow"])
def test_renoise_by_its_definition(family: str) -> None:
    """The mean of the last estimates, each moved by the ε at the one before."""
    schedule, z0 = ladders(6)[family], 0.5 + noise(2, 4, 8, 8)
    oracle: Any = Oracle()
    z = z0
    for interval in schedule:
        clean, estimates = z, []
        at = clean, interval.clean
        for _ in range(5):
            x0, eps = oracle.predict(*at, interval.timestep, ALONE)
            estimates.append(move_by_noise(clean, interval.clean, interval.noisy, x0, eps))
            at = estimates[-1], interval.noisy
        z = torch.stack(estimates[-3:]).mean(0)
    made = renoise.invert(oracle, z0, schedule, ALONE, settings("renoise", iterations=4, averaged=3))["latents"]
    assert away(made, z) < 1e-13


def test_regularised_noise_has_the_statistics_of_noise() -> None:
    """A whole step down the gradient takes away a channel's mean, its excess variance and its neighbours' likeness."""
    white = noise(2, 4, 32, 32)
    white = (white - white.mean((2, 3), keepdim=True)) / white.std((2, 3), keepdim=True, correction=0)
    shifted = white + 0.1
    smooth = white + 0.2 * white.roll(1, 2)

    def regularised(eps: Tensor) -> Tensor:
        return eps - torch.func.grad(renoise._deviation)(eps)

    assert regularised(shifted).mean((2, 3)).abs().max() < 1e-12
    for wrong in (smooth, 1.1 * white):
        assert renoise._deviation(regularised(wrong)) < renoise._deviation(wrong) / 5
    assert renoise._deviation(white) < 4 * 2 * 5  # of order 1 for a channel of noise, whatever its size


def test_regularisation_lowers_the_bias_of_inverted_latents() -> None:
    def bias(strength: float) -> float:
        how = {"iterations": 4, "averaged": 2, "regularisation": strength}
        state, _, _ = there_and_back(Oracle(), "renoise", ladders(20)["discrete"], **how)
        return state["latents"].mean((0, 2, 3)).abs().mean().item()

    assert bias(0.5) < bias(0.05) < bias(0)


# EDICT.


@pytest.mark.parametrize("coupling", [0.93, 0.97, 1.0])
@pytest.mark.parametrize("family", ["discrete", "flow"])
def test_edict_returns_exactly(family: str, coupling: float) -> None:
    state, back, z0 = there_and_back(Oracle(), "exact", ladders(51)[family], coupling=coupling)
    assert away(back, z0) < 1e-11
    assert not torch.equal(state["latents"], state["partner"])


@pytest.mark.parametrize("family", ["discrete", "flow"])
def test_edict_solves_the_same_equation(family: str) -> None:
    schedule, oracle = ladders(200)[family], Oracle()
    state, _, z0 = there_and_back(oracle, "exact", schedule, coupling=0.99)
    for name in ("latents", "partner"):
        assert away(state[name], oracle.solution(z0, schedule[0].clean, schedule[-1].noisy)) < 0.03


# The embedded models.

SETTINGS = ["data.classes=[star]", "pool=4", "n=[2]", "draws=2", "steps=10", "keep=1"]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@dataclass(frozen=True)
class World:
    """An embedded model, some clean latents of its data, and its prompts."""

    model: Model
    config: Config
    clean: Tensor
    prompts: Conditioning

    def schedule(self, kind: str, steps: int) -> Schedule:
        return self.model.schedule(steps * INVERSIONS[kind].intervals_per_step, self.config.spacing)

    def error(self, kind: str, steps: int = 10, guidance: float = 1.0, **how: Any) -> float:
        """Of the round trip, by the root mean square over the latents' own."""
        schedule, inversion = self.schedule(kind, steps), INVERSIONS[kind]
        inverted_at = guidance if kind == "null_text" else 1.0
        config = settings(kind, guidance=inverted_at, **how)
        cond = replace(self.prompts, guidance=inverted_at)
        state = inversion.run(
            self.model, self.clean, schedule, cond, config, [f"{row}" for row in range(len(self.clean))]
        )
        back = inversion.generate(self.model, state, schedule, replace(self.prompts, guidance=guidance), config)
        return away(back, self.clean)


@pytest.fixture(scope="module", params=["tiny", "tiny-sd3"])
def world(request: pytest.FixtureRequest) -> World:
    import numpy as np

    from latentmix.data.shapes import draw

    config = compose([f"model={request.param}", *SETTINGS])
    model = load_model(config.model, CPU)
    images = np.stack([draw("star", index) for index in range(4)])
    clean = model.encode(torch.from_numpy(images).permute(0, 3, 1, 2).contiguous())
    return World(model, config, clean, Conditioning(model.embed(["a photo of a star"]), model.embed([""])))


def test_the_ways_back_on_a_trained_model(world: World) -> None:
    """Each better inversion returns nearer than DDIM's, and EDICT exactly."""
    world = replace(world, clean=world.clean[:1])
    plain = world.error("ddim")
    assert plain > 0.01
    few, many = (world.error("fixed_point", iterations=iterations) for iterations in (1, 6))
    assert many < few < plain
    assert many < plain / 5
    assert world.error("renoise", iterations=6, averaged=2) < plain / 5
    assert world.error("midpoint", steps=5) < plain  # at the same cost
    assert world.error("midpoint", steps=20) < world.error("midpoint", steps=10) / 2
    assert world.error("exact", steps=50) < 1e-4


def test_null_text_returns_under_guidance(world: World) -> None:
    world = replace(world, clean=world.clean[:1])
    plain = world.error("ddim", steps=20, guidance=7.5)
    fitted = world.error("null_text", steps=20, guidance=7.5, iterations=10)
    assert fitted < plain / {"tiny": 2, "tiny-sd3": 1.25}[world.config.model.name]
    assert world.error("negative_prompt", steps=20, guidance=7.5) < plain / 2


def test_negative_prompt_is_the_prompt_in_the_empty_ones_place(world: World) -> None:
    schedule, inversion = world.schedule("negative_prompt", 10), INVERSIONS["negative_prompt"]
    z, config = noise(*world.clean.shape, dtype=torch.float32), settings("negative_prompt")
    cond = replace(world.prompts, guidance=7.5)
    ours = inversion.generate(world.model, {"latents": z}, schedule, cond, config)
    both = replace(cond, null=cond.text)
    theirs = INVERSIONS["ddim"].generate(world.model, {"latents": z}, schedule, both, config)
    assert away(ours, theirs) < 1e-4
    assert away(ours, INVERSIONS["ddim"].generate(world.model, {"latents": z}, schedule, cond, config)) > 1e-2


def reference_null_text(
    model: Any, cond: Conditioning, z0: Tensor, schedule: Schedule, most: int
) -> tuple[Tensor, list[int]]:
    """Return the embeddings [steps, S, D] of one image by torch's own Adam, as the paper's algorithm says, and how
    often each was moved."""
    guidance, cond = cond.guidance, replace(cond, guidance=1.0)
    path = [z0]
    for interval in schedule:
        x0, eps = model.predict(path[-1], interval.clean, interval.timestep, cond)
        path.append(interval.noisy.alpha * x0 + interval.noisy.sigma * eps)

    def stepped(z: Tensor, interval: Any, null: Tensor) -> Tensor:
        here = replace(cond, null=replace(cond.null, states=null), guidance=guidance)
        x0, eps = model.predict(z, interval.noisy, interval.timestep, here)
        return interval.clean.alpha * x0 + interval.clean.sigma * eps

    z, null, found, counts = path[-1], cond.null.states, [], []
    for i, (interval, target) in enumerate(zip(reversed(schedule), reversed(path[:-1]), strict=True)):
        null = null.detach().clone().requires_grad_()
        adam = torch.optim.Adam([null], lr=1e-2 * (1 - i / 100))
        count = 0
        for _ in range(most):
            count += 1
            loss = torch.nn.functional.mse_loss(stepped(z, interval, null), target)
            adam.zero_grad()
            loss.backward()
            adam.step()
            if loss.item() < 1e-5 + i * 2e-5:
                break
        found.append(null.detach())
        counts.append(count)
        z = stepped(z, interval, null.detach())
    return torch.cat(found), counts


def test_null_text_in_a_batch_is_null_text_one_by_one(world: World) -> None:
    schedule, config = world.schedule("null_text", 4), settings("null_text", guidance=7.5, iterations=4)
    cond = replace(world.prompts, guidance=7.5)
    together = INVERSIONS["null_text"].invert(world.model, world.clean[:2], schedule, cond, config)["nulls"]
    for row in range(2):
        alone, _ = reference_null_text(world.model, cond, world.clean[row : row + 1], schedule, most=4)
        assert away(together[row] - cond.null.states, alone - cond.null.states) < 0.02


def test_null_text_stops_at_an_error_that_grows_with_the_steps() -> None:
    """At 1e-5 + i · 2e-5: with a fixed threshold, later steps would go on for longer."""
    model: Any = TwoPeaks()
    intervals, z0 = analytic.schedule(12), clean_latents(2) * torch.tensor([1.0, 3.0]).view(2, 1, 1, 1)
    cond = Conditioning(text(0.3), text(0.1), guidance=3.0)
    config = settings("null_text", guidance=3.0, iterations=40)
    moved = []
    nulls = INVERSIONS["null_text"].invert(model, z0, intervals, cond, config)["nulls"]
    for row in range(2):
        expected, counts = reference_null_text(model, cond, z0[row : row + 1], intervals, most=40)
        assert away(nulls[row] - cond.null.states, expected - cond.null.states) < 1e-9
        assert min(counts) < 40 and len(set(counts)) > 2, counts  # it stops early, after different numbers of moves
        moved.append(counts)
    first, second = moved  # each image stops by itself, so neither the first nor the last to stop decides for both
    assert first != second


def test_null_text_of_more_than_100_steps_stands_still_at_last() -> None:
    """The learning rate falls by a hundredth of its start in each step; below 0 it would lead away."""
    model: Any = TwoPeaks()
    cond, config = Conditioning(text(0.3), text(0.1), guidance=7.5), settings("null_text", guidance=7.5, iterations=1)
    nulls = INVERSIONS["null_text"].invert(model, clean_latents(1), analytic.schedule(104), cond, config)["nulls"]
    moves = nulls.diff(dim=1).abs().amax((0, 2, 3))
    for index in (1, 50, 99, 100, 103):
        assert moves[index - 1].item() == pytest.approx(max(0.01 * (1 - index / 100), 1e-8), rel=0.05), index


def test_null_text_generates_each_step_with_its_own_embedding() -> None:
    model: Any = TwoPeaks()
    inversion, intervals = INVERSIONS["null_text"], analytic.schedule(8)
    cond, config = Conditioning(text(0.3), text(0.1), guidance=3.0), settings("null_text", guidance=3.0)
    state = inversion.invert(model, clean_latents(2), intervals, cond, config)
    z = state["latents"]
    for index, interval in enumerate(reversed(intervals)):  # of noise first
        own = replace(cond, null=Text(state["nulls"][:, index], cond.null.pooled.expand(2, -1)))
        x0, eps = model.predict(z, interval.noisy, interval.timestep, own)
        z = interval.clean.alpha * x0 + interval.clean.sigma * eps
    assert away(inversion.generate(model, state, intervals, cond, config), z) < 1e-12
    shifted = state | {"nulls": state["nulls"].roll(1, dims=1)}
    assert away(inversion.generate(model, shifted, intervals, cond, config), z) > 1e-3


@pytest.mark.usefixtures("random_pipelines")
@pytest.mark.parametrize(("preset", "guidance"), [("ddim", 1.0), ("ddim_cfg", 3.0)])
def test_the_preset_says_under_which_guidance_a_run_inverts(preset: str, guidance: float, tmp_path: Path) -> None:
    from latentmix.experiment.experiment import Experiment

    overrides = [*SD, *SETTINGS, "guidance=3", f"inversion={preset}", f"outputs={tmp_path}"]
    said = invoke("invert", *overrides)
    assert said.code == 0, said.err
    experiment = Experiment(compose(overrides))
    rows = experiment.layout.latents("star").read()
    cond = experiment.texts.conditioning("star", guidance, experiment.model)
    for row in rows.values():
        z = sampling.invert(predictor(experiment.model, cond), row["clean"][None], experiment.inversion_schedule)
        assert away(row["latents"], z[0]) < 1e-4


@pytest.mark.parametrize("kind", INVERSIONS)
def test_the_stated_number_of_calls_is_made(kind: str) -> None:
    inversion, schedule = INVERSIONS[kind], ladders(10 * INVERSIONS[kind].intervals_per_step)["discrete"]
    if kind == "null_text":
        pytest.skip("a way back through the network is no call, and an oracle has none")
    for guidance in (1.0, 2.0):
        oracle: Any = Oracle()
        config = settings(kind, guidance=guidance, iterations=3)
        cond = replace(ALONE, guidance=guidance)
        state = inversion.run(oracle, 0.5 + noise(2, 4, 8, 8), schedule, cond, config, ["a", "b"])
        assert oracle.called == (10 - getattr(config, "replaced", 0)) * inversion.nfe(config)
        oracle.called = 0
        inversion.generate(oracle, state, schedule, cond, config)
        assert oracle.called == 10 * inversion.nfe_generation(guidance)


# From the command line.


@pytest.mark.usefixtures("random_pipelines", "no_figures")
@pytest.mark.parametrize("model", [SD, SD3])
@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_goes_through_a_sweep(preset: str, model: tuple[str, ...], tmp_path: Path) -> None:
    steps = ["inversion.steps=5", "steps=4"] if preset == "ddim500" else ["steps=4"]
    few = ["metrics=[fid,clip_distance]", "controls=[]", "data.reference=4"]
    wanted = [*SETTINGS[:4], *steps, "methods=[fix/0,nin/chm]", *few, f"outputs={tmp_path}", "name=run"]
    said = invoke("sweep", *model, f"inversion={preset}", *wanted)
    assert said.code == 0, said.err
    rows = (tmp_path / "run" / "metrics.csv").read_text().splitlines()
    assert all(f",{preset}," in row for row in rows[1:])
    assert len(rows) == 1 + 2 * 2 * 2
    again = invoke("sweep", *model, f"inversion={preset}", *wanted)
    assert "all 4 images are there already" in again.err
    assert (tmp_path / "run" / "metrics.csv").read_text().splitlines() == rows


@pytest.mark.usefixtures("random_pipelines")
def test_a_one_hot_mixture_of_null_text_is_the_image_itself(tmp_path: Path) -> None:
    """Its embeddings are mixed with it."""
    from latentmix.experiment.experiment import Experiment
    from latentmix.mixing import Method

    overrides = [*SD, *SETTINGS, "inversion=null_text", f"outputs={tmp_path}"]
    experiment = Experiment(compose(overrides))
    assert invoke("invert", *overrides).code == 0
    rows = experiment.layout.latents("star").read()
    assert away(rows["star/0"]["nulls"], rows["star/1"]["nulls"]) > 1e-3
    mixed = experiment.latents.mix("star", torch.tensor([[0.0, 1, 0, 0]]), Method("nin", "chm"))
    assert away(mixed["latents"][0], rows["star/1"]["latents"]) < 1e-6
    assert torch.equal(mixed["nulls"][0], rows["star/1"]["nulls"])
    half = experiment.latents.mix("star", torch.tensor([[0.5, 0.5, 0, 0]]), Method("nin", "chm"))
    assert away(half["nulls"][0], (rows["star/0"]["nulls"] + rows["star/1"]["nulls"]) / 2) < 1e-6


def refused(*overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        compose(list(overrides))
    return str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["inversion=null_text", "inversion.guidance=1"], "same guidance in both directions, not 1.0 and 3.0"),
        (["inversion=exact", "inversion.steps=7"], "same steps in both directions"),
        (
            ["inversion=ddim", "inversion.iterations=7"],
            "no key 'inversion.iterations'; it belongs to inversion=fixed_point, null_text and renoise",
        ),
        (["+inversion.coupling=0.9"], "no key 'inversion.coupling'; it belongs to inversion=exact"),
        (["inversion=ddim", "inversion.kind=dim"], "there is no kind 'dim'; did you mean 'ddim'?"),
        (["inversion=renoise", "inversion.iterations=2"], "averaged=3 is more than iterations=2"),
        (["inversion=exact", "inversion.coupling=0.2"], "inversion.coupling"),
        (["inversion=ddimm"], "there is no inversion=ddimm; did you mean ddim? there are ddim, ddim500"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(overrides: list[str], message: str) -> None:
    assert message in refused(*overrides)


def test_ddim500_goes_both_ways_without_guidance_and_in_float32() -> None:
    config = compose(["model=sd15", "inversion=ddim500"])
    assert (config.steps, config.guidance, config.inversion.steps, config.inversion.guidance) == (500, 1, 500, 1)
    assert config.inversion.float32 == ("unet",)
    assert compose(["model=sd15", "inversion=ddim500", "guidance=7.5"]).guidance == 7.5
    assert compose(["model=sd15", "inversion=ddim_cfg"]).inversion.guidance == 7.5


@pytest.mark.parametrize(
    ("float32", "precision", "expected"),
    [((), "auto", "float16"), (("unet",), "auto", "tf32"), (("unet",), "float16", "float16")],
)
def test_some_inversions_keep_a_network_in_float32(float32: tuple[str, ...], precision: str, expected: str) -> None:
    from latentmix.models.unet import FAMILY

    assert FAMILY.precision(precision, torch.device("cuda"), float32) == expected
