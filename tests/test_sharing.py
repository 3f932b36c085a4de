"""Where a finished run's results also go: experiment trackers, and the Hugging Face hub."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import fake_hub
import pytest
from driver import Said, invoke
from fake_hub import empty_caches  # noqa: F401 - no network, no login
from huggingface_hub import constants
from PIL import Image
from pipelines import SD

from latentmix import figures
from latentmix.experiment.experiment import Experiment
from latentmix.experiment.results_table import read_table

server = fake_hub.server
pytestmark = pytest.mark.usefixtures("random_pipelines")
BASE = (
    *SD,
    *("data.classes=[star]", "n=[2,4]", "methods=[fix/0]", "pool=6", "draws=4", "data.reference=4", "steps=1"),
    *("batch=8", "keep=0", "metrics=[fid,clip_distance]", "name=small", "launch.threads=1"),
)
FAKE_WANDB = """
import json, pathlib, types
events = []
config = types.SimpleNamespace(update=lambda values, **_: events.append(["config", values]))
class Image:
    def __init__(self, data): self.shape = list(data.shape)
class Run:
    def log(self, values, step=None, **_):
        plain = {k: [i.shape for i in v] if isinstance(v, list) else v for k, v in values.items()}
        events.append(["log", plain, step])
    def finish(self): pathlib.Path("wandb.json").write_text(json.dumps(events))
def init(project, name): events.append(["init", project, name]); return Run()
"""


@pytest.fixture(autouse=True)
def figure(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One small figure, as real ones take longer than all the rest."""

    def draw(experiment: Experiment) -> list[Path]:
        path = experiment.config.folder / "fig7.png"
        Image.new("RGB", (5, 3)).save(path)
        return [path]

    monkeypatch.setattr(figures, "draw_run", draw)
    yield


def sweep(outputs: Path, *more: str) -> Said:
    return invoke("sweep", *BASE, f"outputs={outputs}", *more)


# Trackers


def package(folder: Path, name: str, code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / f"{name}.py").write_text(code)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(__import__("sys").modules, name, raising=False)


def test_a_tracker_is_sent_settings_averages_and_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package(tmp_path, "wandb", FAKE_WANDB, monkeypatch)
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}.items():  # of a process that never comes
        monkeypatch.setenv(name, value)
    said = sweep(tmp_path, "track=wandb")
    assert said.code == 0, said.err
    assert "failed" not in said.err, said.err
    begin, (_, settings), *logged = json.loads((tmp_path / "wandb.json").read_text())
    assert begin == ["init", "latentmix", "small"]
    assert settings["model.size"] == 16 and settings["inversion.name"] == "ddim" and settings["n"] == "[2, 4]"
    values = {(step, name): value for _, found, step in logged for name, value in found.items()}
    for result in read_table(tmp_path / "small" / "metrics.csv"):
        if result.class_id == "all":
            assert values[result.n, f"{result.metric}/{result.method}"] == pytest.approx(result.estimate.value)
    assert values[None, "fig7"] == [[3, 5, 3]]


def test_a_tracker_that_fails_costs_no_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package(tmp_path, "wandb", "def init(**_): raise RuntimeError('no login\\nhere')", monkeypatch)
    said = sweep(tmp_path, "track=wandb")
    assert said.code == 0 and (tmp_path / "small" / "done.json").exists()
    assert f"track=wandb failed: no login here; the results are in {tmp_path / 'small'}" in said.err


@pytest.mark.parametrize("track", ["trackio", "mlflow", "tensorboard"])
def test_a_tracker_that_is_not_installed(track: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("latentmix.commands.shared.tracking.find_spec", lambda _: None)
    said = sweep(tmp_path, f"track={track}")
    (line,) = said.err.splitlines()
    assert said.code == 2 and f"track={track} needs {track}, which is not installed: pip install {track}" in line
    assert not (tmp_path / "small").exists()


def test_a_tracker_that_is_none(tmp_path: Path) -> None:
    assert "'trackio', 'wandb', 'tensorboard' or 'mlflow'" in sweep(tmp_path, "track=wand").err


# The hub


@pytest.fixture
def login(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_test")


def sent(server: fake_hub.Server) -> dict[str, bytes]:
    """The files of the only commit."""
    ((path, body),) = [(path, body) for path, body in server.posted if "/commit/" in path]
    assert path == "/api/datasets/me/mixtures/commit/main"
    lines = [json.loads(line) for line in body.splitlines()]
    return {e["value"]["path"]: base64.b64decode(e["value"]["content"]) for e in lines if e["key"] == "file"}


@pytest.mark.usefixtures("login")
def test_a_run_is_uploaded_in_one_commit_with_a_card(tmp_path: Path, server: fake_hub.Server) -> None:
    said = sweep(tmp_path, "--push-to-hub", "me/mixtures")
    assert said.code == 0, said.err
    made = json.loads(next(body for path, body in server.posted if path == "/api/repos/create"))
    assert (made["organization"], made["name"], made["type"]) == ("me", "mixtures", "dataset")
    files, folder = sent(server), tmp_path / "small"
    names = {"metrics.csv", "pairs.csv", "images.parquet", "parts.parquet", "fig7.png", "config.yaml", "report.html"}
    assert files.keys() == names | {"README.md"}
    assert all(files[name] == (folder / name).read_bytes() for name in names)
    card = files["README.md"].decode()
    assert (
        card.startswith("---\ntags: ")
        and "![fig7.png](fig7.png)" in card
        and "| `fd_embedded` | N = 2 | N = 4 |" in card
    )
    assert "latentmix sweep " in card
    before = len(server.posted)
    said = invoke("report", str(folder), "--push-to-hub", "me/mixtures")
    assert said.code == 0 and len(server.posted) == 2 * before


@pytest.mark.usefixtures("login")
def test_a_hub_that_refuses_is_one_line_and_costs_no_results(tmp_path: Path, server: fake_hub.Server) -> None:
    server.refuse("/commit/", 403, "")
    said = sweep(tmp_path, "--push-to-hub", "me/mixtures")
    line = said.err.splitlines()[-1]
    assert said.code == 2 and line.startswith("latentmix: error: me/mixtures could not be written: ")
    assert (tmp_path / "small" / "done.json").exists()


def test_what_can_not_be_pushed_is_refused_before_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    assert constants.HF_TOKEN_PATH.startswith(str(tmp_path))
    for more, part in (
        (["mixtures"], "is not OWNER/NAME"),
        (["me/mixtures.git"], "can't be a repository: Repo_id cannot end by '.git'"),
        (["me/mixtures"], "run hf auth login"),
        (["me/mixtures", "-m", "seed=0,1"], "run hf auth login"),
    ):
        said = sweep(tmp_path, "--push-to-hub", *more)
        assert said.code == 2 and part in said.err and not (tmp_path / "small").exists()
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    with monkeypatch.context() as patch:
        patch.setattr(constants, "is_offline_mode", lambda: True)
        assert "HF_HUB_OFFLINE is set; unset it" in sweep(tmp_path, "--push-to-hub", "me/mixtures").err
    said = sweep(tmp_path, "--push-to-hub", "me/mixtures", "-m", "seed=0,1")
    assert said.code == 2 and "latentmix report RUN --push-to-hub" in said.err
