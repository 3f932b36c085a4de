"""The training of the embedded networks, with settings that are as small as they can be: that it runs, and resumes."""

import contextlib
import dataclasses
import importlib
import io
import json
import math
import subprocess
import sys
import time
import warnings
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

ROOT = Path(__file__).parents[1]
STAGES = ("vae", "vae_sd3", "clip", "classifier", "unet", "transformer")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Every stage, then two of them again; the gates; and what was printed."""
    folder, tf32 = tmp_path_factory.mktemp("training"), torch.backends.cuda.matmul.allow_tf32
    arguments = ["--settings", "smoke", "--device", "cpu"]
    arguments += ["--work", str(folder / "work"), "--to", str(folder / "weights")]
    arguments += ["images", *STAGES, "unet", "vae", "spectrum", "gates_tiny", "gates_sd3"]
    with (
        pytest.MonkeyPatch.context() as patch,
        torch.backends.cudnn.flags(),  # which the training sets, as it sets TF32
        torch.random.fork_rng(),
        warnings.catch_warnings(action="ignore"),
        contextlib.redirect_stdout(io.StringIO()) as printed,
    ):
        patch.syspath_prepend(str(ROOT))
        patch.setattr(sys, "argv", ["scripts.training", *arguments])
        assert importlib.import_module("scripts.training.__main__").main() == 0
    torch.backends.cuda.matmul.allow_tf32 = tf32
    return folder / "weights", printed.getvalue()


@pytest.mark.slow
def test_every_stage_writes_its_networks_and_is_not_repeated(trained: tuple[Path, str]) -> None:
    weights, printed = trained
    for stage in STAGES:
        assert len(json.loads((weights / "rounds" / f"{stage}.json").read_text())) == 1
        assert printed.count(f"{stage}: step 2, 100%") == 1
    for written in ("tiny/unet", "tiny/vae", "tiny-sd3/transformer", "tiny-sd3/text_encoder_2"):
        assert list((weights / written).glob("*.safetensors"))
    assert (weights / "classifier" / "model.safetensors").exists()
    assert (weights / "clip" / "open_clip_model.safetensors").exists()


@pytest.mark.slow
def test_the_gates_are_measured_for_both_pipelines(trained: tuple[Path, str]) -> None:
    for name in ("tiny", "tiny-sd3"):
        found = json.loads((trained[0] / f"gates-{name}.json").read_text())["gates"]
        assert len(found) == 10
        assert all("value" in gate for gate in found)
    assert json.loads((trained[0] / "spectrum-tiny.json").read_text())["directions"] == 1024


def test_a_time_limit_ends_a_late_stage_and_its_wheels_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stages of a time limit run in processes of their own, with the packages of the wheels."""
    (tmp_path / "wheels").mkdir()
    with zipfile.ZipFile(tmp_path / "wheels" / "some-1-py3-none-any.whl", "w") as wheel:
        wheel.writestr("sitecustomize.py", "print('from a wheel')")
    command = [sys.executable, "-m", "scripts.training", "images", "--settings", "smoke", "--device", "cpu"]
    command += ["--wheels", str(tmp_path / "wheels"), "--work", str(tmp_path / "work"), "--to", str(tmp_path / "to")]
    done = subprocess.run([*command, "--minutes", "1"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "failed: none" in done.stdout and "from a wheel" in done.stdout
    assert sorted(path.name for path in (tmp_path / "work").glob("*.npy")) == ["held-out-2.npy", "images-4.npy"]

    monkeypatch.syspath_prepend(str(ROOT))
    main = importlib.import_module("scripts.training.__main__")
    codes = {"slow": "import time; time.sleep(60)", "broken": "raise SystemExit(3)", "good": ""}
    children = [
        main.Child(name, subprocess.Popen([sys.executable, "-c", code], start_new_session=True))
        for name, code in codes.items()
    ]
    assert main.wait(children, late=time.time() + 3) == ["slow", "broken"]
    assert children[0].process.returncode == -9


def test_unused_directions_are_found_and_pushed_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 4 channels, the last repeats the first with a little noise: a quarter of the directions is hardly used."""
    monkeypatch.syspath_prepend(str(ROOT))
    vae = importlib.import_module("scripts.training.vae")
    unused = vae.Unused(4, 8, torch.device("cpu"))
    torch.manual_seed(0)
    own = torch.tensor(0.1, requires_grad=True)
    for _ in range(200):
        z = torch.randn(8, 4, 8, 8)
        short = unused(torch.cat([z[:, :3], z[:, :1] + own * z[:, 3:]], dim=1))
    expected = math.log(vae.FLOOR / (0.1**2 / 2)) / 4  # the variance is that of own * z / √2, roughly
    assert short.item() == pytest.approx(expected, rel=0.15)
    short.backward()
    assert own.grad is not None
    assert own.grad < 0  # so a step against the gradient adds variance


def test_directions_in_use_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    unused = importlib.import_module("scripts.training.vae").Unused(4, 8, torch.device("cpu"))
    torch.manual_seed(0)
    for _ in range(200):
        short = unused(torch.randn(8, 4, 8, 8))
    assert short.item() == 0


def test_iterating_on_gram_matrices_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    muon = importlib.import_module("scripts.training.muon")
    torch.manual_seed(0)
    x = torch.randn(3, 16, 144)
    made = muon.orthogonal(x)
    monkeypatch.setattr(muon, "GRAM_FROM", math.inf)
    torch.testing.assert_close(made, muon.orthogonal(x), rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", [(2, 8, 24), (1, 24, 8), (3, 16, 16)])
def test_updates_of_muon_have_singular_values_near_one(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int, int]
) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    torch.manual_seed(0)
    made = importlib.import_module("scripts.training.muon").orthogonal(torch.randn(shape))
    values = torch.linalg.svdvals(made)
    assert made.shape == shape
    assert 0.3 < values.min() < values.max() < 1.3


def untrained(monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any]:
    """The module of the MMDiT, and an MMDiT of two blocks whose first weights are set."""
    monkeypatch.syspath_prepend(str(ROOT))
    mmdit, settings = (importlib.import_module(f"scripts.training.{name}") for name in ("mmdit", "settings"))
    sizes = dataclasses.replace(settings.CPU, mmdit_layers=2)
    torch.manual_seed(0)
    network = mmdit.mmdit(settings.Run(sizes, torch.device("cpu"), Path(), Path()))
    mmdit.start_as_identity(network)
    mmdit.look_nearby(network)
    return mmdit, network.requires_grad_(False)


def test_the_mmdit_starts_as_minus_its_input(monkeypatch: pytest.MonkeyPatch) -> None:
    mmdit, network = untrained(monkeypatch)
    z, states, pooled = torch.randn(2, 16, 16, 16), torch.randn(2, 24, 96), torch.randn(2, 96)
    made = network(z, states, pooled, torch.tensor([100.0, 900.0])).sample
    assert (made + z).square().mean() < 0.01
    levels = mmdit.noise_levels(4000, torch.device("cpu"))
    assert 0 <= levels.min() < 0.01 and 0.95 < levels.max() <= 1
    assert 0.2 < (levels < 0.3).float().mean() < 0.35  # an inversion begins there


def test_heads_of_the_mmdit_look_at_places_near_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    _, network = untrained(monkeypatch)
    tokens = functional.layer_norm(network.pos_embed(torch.randn(1, 16, 16, 16)), (96,))
    seen = []
    for attention in (block.attn for block in network.transformer_blocks):
        q, k = (
            norm(layer(tokens).view(256, 3, 32))
            for norm, layer in ((attention.norm_q, attention.to_q), (attention.norm_k, attention.to_k))
        )
        weights = torch.einsum("qhd,khd->hqk", q, k).div(32**0.5).softmax(-1)[:, 8 * 16 + 8].view(3, 16, 16)
        seen += [divmod(int(head.argmax()), 16) for head in weights[:2]]
        assert weights[:2, 6:11, 6:11].sum((1, 2)).min() > 0.8 > 0.3 > weights[2, 6:11, 6:11].sum()
    assert len(set(seen)) == 4 and seen[0] == (8, 8)
    assert all(abs(y - 8) + abs(x - 8) == 1 for y, x in seen[1:])


def test_an_ideal_model_of_gaussian_latents_loses_what_its_steps_lose(monkeypatch: pytest.MonkeyPatch) -> None:
    """With many steps, norms are 1 and round trips exact; with one, what the formula of a single step says."""
    monkeypatch.syspath_prepend(str(ROOT))
    ideal = importlib.import_module("scripts.training.spectrum").ideal
    variances = torch.tensor([0.1, 1.0, 30.0])
    assert ideal(variances, 1000, flow=True) == pytest.approx((1, 0), abs=0.02)
    norm, lost = ideal(torch.tensor([4.0]), 1, flow=True)  # at σ = 1 the velocity is z: inverted z, back 2 z - 2 z = 0
    assert (norm, lost) == pytest.approx((4.0, 1.0))
    norm, lost = ideal(variances, 500, flow=False)
    assert lost < 0.02
    assert ideal(variances, 50, flow=False)[1] > lost
