"""What an experiment needs: found where it is, said what to do where it is not, and asked for before any work.

The hub's caches are folders of each test, in the hub's own layout. What would go out to the hub goes to a server in
this process, which answers as the hub does; there is no other network.
"""

import errno
import json
import math
import os
import re
import shlex
import shutil
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import torch
from driver import invoke
from huggingface_hub import constants
from PIL import Image
from safetensors.torch import save_file

from latentmix.commands import doctor
from latentmix.commands.doctor import INCEPTION, SIZES, WRITES, Finding, examine, require
from latentmix.compose import compose
from latentmix.data import Dataset, NotFetched
from latentmix.errors import UserError
from latentmix.experiment import batch_size as memory
from latentmix.experiment.experiment import Experiment
from latentmix.experiment.stages import inversion
from latentmix.features import embedded_folder
from latentmix.models.pipeline import parameters, wanted_files

SD15 = "stable-diffusion-v1-5/stable-diffusion-v1-5"
REVISION = "451f4fe16113bff5a5d2269ed5ad43b0592e9a14"
CLIP = "timm/vit_large_patch14_clip_224.openai"
SMALL = ("data.classes=[star]", "pool=4", "n=[2]", "methods=[fix/0]", "draws=4", "data.reference=4", "steps=1")
FRESH = ("model=sd15", "data=imagenet-hub", "data.classes=random:3")  # nothing of which is here
NETWORKS = {"text_encoder": 1, "unet": 3, "vae": 2}  # MiB of float32
MIB = 1 << 20
NOWHERE = "http://127.0.0.1:1"
RESOLVE = "/{repo_id}/resolve/{revision}/{filename}"


@dataclass
class Server:
    """Answers as the hub does, by what is in the address; what it was asked for stays in `asked`."""

    answers: dict[str, tuple[int, dict[str, str]]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    silent: bool = False

    def answer(self, path: str) -> tuple[int, dict[str, str]]:
        self.asked.append(path)
        if self.silent:
            time.sleep(1)
        headers = {"ETag": '"1"', "X-Repo-Commit": REVISION, "Content-Length": "0"}
        return next((answer for sign, answer in self.answers.items() if sign in path), (200, headers))

    def refuse(self, sign: str, code: int, reason: str) -> None:
        self.answers[sign] = code, {"X-Error-Code": reason, "Content-Length": "0"}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    served = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            code, headers = served.answer(self.path)
            self.send_response(code)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()

        def do_GET(self) -> None:  # of lists of files, which it has none of
            served.asked.append(self.path)
            self.send_error(404)

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True).start()
        here = f"http://127.0.0.1:{http.server_port}"
        monkeypatch.setattr(constants, "ENDPOINT", here)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", here + RESOLVE)
        yield served
        http.shutdown()


@pytest.fixture(autouse=True)
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """All caches are empty, nothing is reached but `server`, and outputs go nowhere else."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", NOWHERE + RESOLVE)
    monkeypatch.setattr(constants, "ENDPOINT", NOWHERE)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("LATENTMIX_CACHE", str(tmp_path / "latentmix"))
    monkeypatch.setattr(urllib.request, "urlopen", unreachable)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def unreachable(*_: object, **__: object) -> Any:
    raise urllib.error.URLError("no network")


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """HF_HUB_OFFLINE; whoever asks for a network all the same is noted."""
    asked: list[str] = []
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", lambda url, **_: asked.append(url))
    monkeypatch.setattr(urllib.request, "urlopen", lambda url, **_: asked.append(url))
    return asked


def experiment(*overrides: str) -> Experiment:
    return Experiment(compose([*SMALL, *overrides]))


def sd15(*overrides: str) -> Experiment:
    """Stable Diffusion 1.5, measured by what comes with latentmix."""
    embedded = ("model.features=embedded", "model.clip=embedded", "model.world=shapes")
    return experiment("model=sd15", *embedded, *overrides)


def finding(made: Experiment, what: str, command: str = "sweep") -> Finding:
    (found,) = (found for found in examine(made, command) if found.what == what)
    return found


def states(made: Experiment, command: str = "sweep") -> dict[str, str]:
    return {found.what: found.state for found in examine(made, command)}


def pipeline(folder: Path) -> Path:
    """A pipeline folder, whole as far as files go: the embedded one's settings, and weights of nothing."""
    shutil.copytree(embedded_folder("tiny"), folder, ignore=shutil.ignore_patterns("*.safetensors"))
    for part, size in NETWORKS.items():
        name = "model" if part == "text_encoder" else "diffusion_pytorch_model"
        save_file({"weight": torch.zeros(size * MIB // 4)}, folder / part / f"{name}.safetensors")
    return folder


def in_cache(files: Path, hub: str, revision: str) -> Path:
    """The files as the hub's library keeps them: blobs, a snapshot of links to them, and what main is."""
    repository = Path(constants.HF_HUB_CACHE) / f"models--{hub.replace('/', '--')}"
    snapshot = repository / "snapshots" / revision
    (repository / "blobs").mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(revision)
    for number, file in enumerate(sorted(file for file in files.rglob("*") if file.is_file())):
        link = snapshot / file.relative_to(files)
        link.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, repository / "blobs" / str(number))
        link.symlink_to(os.path.relpath(repository / "blobs" / str(number), link.parent))
    return snapshot


@pytest.fixture
def snapshot(tmp_path: Path) -> Path:
    """Stable Diffusion 1.5 in the hub's cache."""
    return in_cache(pipeline(tmp_path / "pipeline"), SD15, REVISION)


def one_file(place: Path, name: str) -> Path:
    place.mkdir(parents=True)
    (place / name).write_bytes(b"weights")
    return place


def refusal(*arguments: str) -> str:
    """The one line with which a command refuses."""
    said = invoke(*arguments)
    (line,) = said.err.splitlines()
    assert said.code and line.startswith("latentmix: error: ")
    return line


# The report


def test_the_embedded_experiment_has_all_it_needs(server: Server) -> None:
    said = invoke("doctor", *SMALL)
    lines = said.out.splitlines()
    assert [line.split()[:2] for line in lines] == [
        ["ok", what] for what in ("versions", "device", "model", "data", "features", "clip", "memory", "disk")
    ]
    assert f"torch {metadata.version('torch')}" in lines[0] and f"datasets {metadata.version('datasets')}" in lines[0]
    assert "cores" in lines[1] and "GiB" in lines[1]
    assert (said.code, said.err, server.asked) == (0, "", [])


def test_without_anything_the_report_says_what_to_do_and_fails(offline: list[str], caches: Path) -> None:
    said = invoke("doctor", *SMALL, "model=sd15")
    missing = [line.split()[1] for line in said.out.splitlines() if line.startswith("missing")]
    assert (said.code, missing) == (1, ["model", "features", "clip"])
    for wanted in (
        f"hf download {SD15} --revision {REVISION} --include 'model_index.json'",
        "model.path=FOLDER",
        f"models--{SD15.replace('/', '--')} from its cache (~/.cache/huggingface/hub, or HF_HOME/hub) to {caches}/hub",
        f"curl -LO {INCEPTION}",
        f"copy it to {caches / 'torch' / 'hub' / 'checkpoints'}",
        f"hf download {CLIP} open_clip_model.safetensors",
    ):
        assert wanted in said.out
    assert not offline


def test_a_figure_is_asked_what_it_needs_of_each_of_its_models(offline: list[str]) -> None:
    said = invoke("doctor", "--figure", "fig10", "model=sd15", "data=shapes", "data.classes=[star]")
    of_models = [line for line in said.out.splitlines() if line.startswith("missing")]
    assert [line.split()[:3] for line in of_models] == [["missing", "model", name] for name in ("sd15", "sd35-medium")]
    assert said.code == 1 and "Inception" not in said.out  # as pictures are only looked at
    probe = invoke("doctor", "--figure", "fig6", "data=folder", "data.path=nowhere")
    assert "cannot list nowhere" in probe.out
    assert "there is no figure 'fig13'; there are fig1, " in refusal("doctor", "--figure", "fig13")
    assert [line.split()[1] for line in invoke("doctor", "--figure", "fig2").out.splitlines()] == ["versions"]
    assert not offline


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "PACKAGES", ("torch", "no-such-package"))
    assert doctor.versions().state == "missing"
    assert doctor.versions().text.startswith("no-such-package can't be found")


def test_the_advised_download_is_what_a_run_would_fetch(offline: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub's own command line reads it."""
    from huggingface_hub.cli import download
    from huggingface_hub.cli.hf import app

    calls: list[tuple[str, dict[str, Any]]] = []

    def snapshot_download(repo_id: str, **how: Any) -> str:
        calls.append((repo_id, how))
        return "somewhere"

    monkeypatch.setattr(download, "snapshot_download", snapshot_download)
    (line,) = (line for line in finding(sd15(), "model").advice if "hf download" in line)
    name, *words = shlex.split(line.partition(": ")[2])
    assert name == "hf"
    app(words, standalone_mode=False)
    ((hub, how),) = calls
    assert (hub, how["revision"]) == (SD15, REVISION)
    assert {name: how[name] for name in ("allow_patterns", "ignore_patterns")} == wanted_files()


# The device


def test_a_device_that_can_not_be_used() -> None:
    said = invoke("doctor", *SMALL, "device=gpu")
    (missing,) = (line for line in said.out.splitlines() if line.startswith("missing"))
    assert said.code == 1 and "device=gpu can't be used" in missing


def test_a_gpu_is_named_with_the_memory_that_others_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    made = experiment()
    made.device = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA X")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (20 << 30, 24 << 30))
    assert finding(made, "device").text == "NVIDIA X, 20 GiB of memory"


@pytest.mark.parametrize(("precision", "size"), [("auto", 3), ("float32", 3), ("float16", 1.5)])
def test_a_network_too_large_is_warned_of(
    snapshot: Path, monkeypatch: pytest.MonkeyPatch, precision: str, size: float
) -> None:
    made = sd15(f"model.precision={precision}")
    monkeypatch.setattr(doctor, "_free_memory", lambda _: int(size * MIB) + 1)
    assert finding(made, "memory").state == "ok"
    monkeypatch.setattr(doctor, "_free_memory", lambda _: int(size * MIB))
    found = finding(made, "memory")
    assert found.state == "warning"
    assert f"network takes {size:.1f} MiB, and this machine has {size:.1f} MiB" in found.text
    assert ("model.precision=bfloat16" in found.text) == (size == 3)


@pytest.mark.parametrize(
    ("model", "inversion", "precision", "size"),
    [
        ("tiny", "ddim", "auto", 2),
        ("tiny", "ddim500", "auto", 4),
        ("tiny", "null_text", "auto", 4),
        ("tiny", "null_text", "float16", 2),
        ("tiny-sd3", "ddim500", "auto", 2),
        ("tiny-sd3", "null_text", "auto", 4),
    ],
)
def test_what_runs_in_32_bits_on_a_gpu_counts_so(
    monkeypatch: pytest.MonkeyPatch, model: str, inversion: str, precision: str, size: int
) -> None:
    made = experiment(f"model={model}", f"inversion={inversion}", f"model.precision={precision}")
    made.device = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA X")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (1, 24 << 30))
    most = max(parameters(file) for file in embedded_folder(model).rglob("*.safetensors"))
    found = finding(made, "memory")
    assert found.text.startswith(f"the model's largest network takes {doctor._size(size * most)},")


def test_a_run_short_of_memory_is_warned_and_goes_on(monkeypatch: pytest.MonkeyPatch, caches: Path) -> None:
    monkeypatch.setattr(doctor, "_free_memory", lambda _: 1)
    said = invoke("invert", *SMALL, "outputs=here")
    (warning,) = (line for line in said.err.splitlines() if line.startswith("latentmix: warning: "))
    assert said.code == 0 and "largest network takes" in warning
    assert (caches / "here" / "cache" / "latents").is_dir()


# The model


def test_a_model_in_the_hubs_cache_is_found_without_a_network(snapshot: Path, server: Server) -> None:
    assert states(sd15()) == dict.fromkeys(("device", "model", "data", "features", "clip", "memory", "disk"), "ok")
    assert finding(sd15(), "model").text == f"sd15 ({SD15}) is in {snapshot}"
    assert not server.asked


def test_another_revision_in_the_cache_does_not_count(snapshot: Path, server: Server) -> None:
    assert finding(sd15("model.revision=main"), "model").state == "ok"
    assert finding(sd15(f"model.revision={'0' * 40}"), "model").state == "fetch"


def lose_a_part(folder: Path) -> None:
    shutil.rmtree(folder / "vae")


def lose_a_blob(folder: Path) -> None:
    (folder / "unet" / "diffusion_pytorch_model.safetensors").resolve().unlink()


def cut_short(folder: Path) -> None:
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def lose_a_shard(folder: Path) -> None:
    names = {"weight": "diffusion_pytorch_model.safetensors", "more": "diffusion_pytorch_model-2.safetensors"}
    index = folder / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": names}))


@pytest.mark.parametrize("harm", [lose_a_part, lose_a_blob, cut_short, lose_a_shard])
def test_a_model_half_in_the_cache_is_not_here(
    snapshot: Path, offline: list[str], harm: Callable[[Path], None]
) -> None:
    harm(snapshot)
    found = finding(sd15(), "model")
    assert (found.state, found.text) == (
        "missing",
        f"sd15 ({SD15}) is not here, and HF_HUB_OFFLINE is set",
    )


@pytest.mark.parametrize("harm", [lose_a_part, cut_short, lose_a_shard])
def test_a_folder_that_is_not_whole_is_named(tmp_path: Path, harm: Callable[[Path], None]) -> None:
    folder = pipeline(tmp_path / "mine")
    assert finding(sd15(f"model.path={folder}"), "model").state == "ok"
    harm(folder)
    found = finding(sd15(f"model.path={folder}"), "model")
    assert found.state == "missing" and str(folder) in found.text and "copy the folder again, whole" in found.text


def test_weights_of_other_precisions_beside_do_not_count(tmp_path: Path) -> None:
    folder = pipeline(tmp_path / "mine")
    (folder / "unet" / "diffusion_pytorch_model.fp16.safetensors").write_bytes(b"")
    assert finding(sd15(f"model.path={folder}"), "model").state == "ok"


def test_settings_that_the_model_can_not_take(snapshot: Path) -> None:
    assert "model.size=100" in finding(sd15("model.size=100"), "model").text
    assert "steps" in finding(sd15("steps=2000"), "model").text


# What could be fetched


def test_what_can_be_fetched_is_said_and_does_not_stop_a_run(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    assert finding(sd15(), "model").state == "fetch"
    assert f"/{SD15}/resolve/{REVISION}/model_index.json" in server.asked
    require(sd15(), "sweep")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"latentmix: sd15 ({SD15}) is not here yet; ")


@pytest.mark.parametrize(
    ("code", "reason", "text"),
    [
        (403, "GatedRepo", f"accept its terms at https://huggingface.co/{SD15}, and log in with `hf auth login`"),
        (401, "RepoNotFound", f"the hub has no {SD15}, or it is private"),
        (404, "RevisionNotFound", f"the hub has no revision {REVISION} of it"),
        (500, "", "the Hugging Face hub can't be reached (HfHubHTTPError)"),
    ],
)
def test_what_the_hub_refuses_is_said(server: Server, code: int, reason: str, text: str) -> None:
    server.refuse(SD15, code, reason)
    found = finding(sd15(), "model")
    assert found.state == "missing" and text in found.text and found.advice
    with pytest.raises(UserError, match="latentmix doctor says what to do") as caught:
        require(sd15(), "invert")
    assert text in str(caught.value) and "\n" not in str(caught.value)


def test_no_network_is_said() -> None:
    assert "the Hugging Face hub can't be reached (ConnectError)" in finding(sd15(), "model").text


def test_a_hub_that_does_not_answer_is_given_up_soon(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.silent = True
    monkeypatch.setattr(doctor, "PATIENCE", 0.1)
    assert "can't be reached (ReadTimeout)" in finding(sd15(), "model").text


def test_a_name_that_the_hub_does_not_know_how_to_read(server: Server) -> None:
    assert "'a/b/c' is not OWNER/NAME" in finding(sd15("model.hub=a/b/c"), "model").text


def small_disk(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(total=1 << 40, used=0, free=free))


def test_a_model_without_room_in_the_cache(server: Server, caches: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = [SimpleNamespace(file_size=3 << 30, will_download=here) for here in (True, True, False)]
    cached = huggingface_hub.snapshot_download

    def snapshot_download(*what: Any, dry_run: bool = False, **how: Any) -> Any:
        return sizes if dry_run else cached(*what, **how)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    small_disk(monkeypatch, 7 << 30)
    assert finding(sd15(), "model").state == "fetch"
    small_disk(monkeypatch, 5 << 30)
    found = finding(sd15(), "model")
    assert found.state == "missing" and f"{caches / 'hub'} has 5.0 GiB for its 6.0 GiB" in found.text


# The networks that measure


def test_inception_is_where_torch_fidelity_looks() -> None:
    (file,) = (f for f in metadata.files("torch-fidelity") or () if f.name == "feature_extractor_inceptionv3.py")
    assert f'"{INCEPTION}"' in file.read_text()


def test_inception_here_elsewhere_and_nowhere(
    caches: Path, offline: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = experiment("model.features=inception")
    assert "Inception-v3 is not here, and HF_HUB_OFFLINE" in finding(made, "features").text
    assert not offline
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(urllib.request, "urlopen", unreachable)
    assert "can't be reached (URLError)" in finding(made, "features").text
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: (caches / "answer").open("wb"))
    assert finding(made, "features").state == "fetch"
    one_file(caches / "torch" / "hub" / "checkpoints", INCEPTION.rpartition("/")[2])
    assert finding(made, "features").state == "ok"


def test_dinov2_is_found_where_transformers_looks(caches: Path, offline: list[str]) -> None:
    made = experiment("model.features=dinov2")
    found = finding(made, "features")
    assert "dinov2-vitl14 (facebook/dinov2-large) is not here, and HF_HUB_OFFLINE is set" in found.text
    assert "hf download facebook/dinov2-large config.json model.safetensors" in found.advice[0]
    files = one_file(caches / "files", "model.safetensors")
    (files / "config.json").write_text("{}")
    snapshot = in_cache(files, "facebook/dinov2-large", "1" * 40)
    assert finding(made, "features").text.endswith(f"is in {snapshot / 'model.safetensors'}")
    assert SIZES["features"](made) == 4 * (1024 + 64) * 4
    assert finding(experiment("model.features=dinov2-vits14"), "features").state == "missing"
    assert not offline


def test_dinov2_is_found_in_a_folder(caches: Path, offline: list[str]) -> None:
    made = experiment(f"model.features={caches / 'dino'}")
    assert "nor such a folder" in finding(made, "features").text
    folder = one_file(caches / "dino", "model.safetensors")
    assert "holds no DINOv2" in finding(made, "features").text
    (folder / "config.json").write_text(json.dumps({"model_type": "dinov2", "hidden_size": 12}))
    assert finding(made, "features").text == f"DINOv2 (dino) is in {folder}"
    assert SIZES["features"](made) == 4 * (12 + 64) * 4
    assert not offline


def test_lpips_is_asked_for_only_where_diversity_is(
    caches: Path, offline: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = experiment("metrics=[diversity]", "model.perceptual=squeeze")
    assert "pairs" not in states(experiment("model.perceptual=squeeze"))
    found = finding(made, "pairs")
    assert "torchvision's SqueezeNet1_1 (for LPIPS) is not here, and HF_HUB_OFFLINE is set" in found.text
    assert f"Then copy it to {caches / 'torch' / 'hub' / 'checkpoints'}" in found.advice
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(urllib.request, "urlopen", unreachable)
    assert "squeezenet1_1-b8a52dc0.pth can't be reached (URLError)" in finding(made, "pairs").text
    one_file(caches / "torch" / "hub" / "checkpoints", "squeezenet1_1-b8a52dc0.pth")
    assert finding(made, "pairs").state == "ok"
    wrong = experiment("metrics=[diversity]", "model.perceptual=alx")
    assert "embedded, alex, vgg, squeeze" in finding(wrong, "pairs").text
    assert finding(experiment("metrics=[diversity]"), "pairs").text.startswith("the embedded classifier")


def test_pictures_that_pairs_need_take_room(offline: list[str]) -> None:
    for draws, kept in ((40, 40), (400, 100)):
        made = experiment("metrics=[diversity]", f"draws={draws}")
        assert SIZES["pictures"](made) == kept * 2 * 64**2
    assert SIZES["pictures"](experiment("draws=40")) == 4 * 2 * 64**2


@pytest.mark.parametrize("name", ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"])
def test_open_clip_is_found_where_it_looks(caches: Path, offline: list[str], name: str) -> None:
    import open_clip

    made = experiment("model.clip=ViT-L-14/openai")
    assert finding(made, "clip").state == "missing"
    place = in_cache(one_file(caches / "files", name), CLIP, "1" * 40) / name
    found = finding(made, "clip")
    assert found.text == f"open_clip's ViT-L-14/openai ({CLIP}) is in {place}"
    assert open_clip.download_pretrained(open_clip.get_pretrained_cfg("ViT-L-14", "openai")) == str(place)


@pytest.mark.parametrize(("setting", "what"), [("clip=ViT-L-14/opnai", "clip"), ("features=incepton", "features")])
def test_networks_that_there_are_none_of(setting: str, what: str) -> None:
    found = finding(experiment(f"model.{setting}"), what)
    assert found.state == "missing" and setting.partition("=")[2] in found.text
    assert states(experiment(f"model.{setting}"), "generate") == dict.fromkeys(
        ("device", "model", "data", "memory", "disk"), "ok"
    )


# The images


def test_classes_and_counts_that_the_data_can_not_give() -> None:
    assert "no shape is called 'staar'" in finding(experiment("data.classes=[staar]"), "data").text
    found = finding(experiment("data=folder", "data.path=/no/such/folder", "data.classes=null"), "data")
    assert found.state == "missing" and "/no/such/folder" in found.text


def imagenet(folder: Path, *class_ids: str) -> tuple[str, ...]:
    """Settings that take these classes of ImageNet, of four images each."""
    for class_id in class_ids:
        (folder / class_id).mkdir(parents=True)
        for number in range(4):
            Image.new("RGB", (8, 8), (number, 0, 0)).save(folder / class_id / f"{number}.png")
    return "data=imagenet", f"data.path={folder}", "data.reference=4"


CRANES = ("n02012849", "n03126707")


def meanings(made: Experiment) -> list[str]:
    return [found.text for found in examine(made) if found.what == "meaning"]


def test_a_model_that_does_not_know_such_images_is_warned_of(tmp_path: Path, snapshot: Path) -> None:
    assert meanings(experiment()) == []
    photographs = (*imagenet(tmp_path / "images", "n01443537"), "data.classes=null")
    assert meanings(experiment(*photographs)) == [
        "tiny knows nothing but drawn shapes; take model=sd15 for other images, or data=shapes"
    ]
    (text,) = meanings(sd15("model.world=imagenet"))
    assert text.startswith("sd15 knows photographs, not drawn shapes; ")
    for fitting in ((*photographs, "model.world=imagenet"), ("data=synthetic", "data.classes=[star]")):
        assert meanings(sd15(*fitting, "data.reference=4")) == []
    assert meanings(experiment(*photographs, f"model.path={embedded_folder('tiny')}")) == []  # which may be any


def test_a_run_begins_with_what_is_doubtful_in_a_line(tmp_path: Path, caches: Path) -> None:
    photographs = (*imagenet(tmp_path / "images", "n01443537"), "data.classes=null")
    said = invoke("invert", *SMALL, *photographs)
    assert said.code == 0
    (line,) = (line for line in said.err.splitlines() if "warning" in line)
    assert line.startswith("latentmix: warning: tiny knows nothing but drawn shapes; ")


def test_classes_of_one_name_are_warned_of_until_they_have_two(tmp_path: Path, snapshot: Path) -> None:
    settings = (*imagenet(tmp_path / "images", *CRANES, "n01443537"), "model.world=imagenet")
    (text,) = meanings(sd15(*settings, f"data.classes=[{CRANES[1]}]"))
    assert "n02012849 and n03126707 by the same name, 'crane'" in text
    (advice,) = re.findall("'(data.titles=.*)'", text)
    for told in (advice, "data.titles={n03126707: construction crane}"):
        made = sd15(*settings, "data.classes=null", told)
        assert meanings(made) == []
        assert len({made.prompt(class_id) for class_id in CRANES}) == 2
    assert made.prompt(CRANES[1]) == "a photo of a construction crane"
    assert meanings(sd15(*settings, "data.classes=[goldfish]")) == []


class Images(Dataset):
    """A data set of the hub's: here, or raising an error."""

    def __init__(self, error: UserError | None = None) -> None:
        self.error, self.fetched, self.offline = error, list[str](), list[bool]()

    def repository(self) -> str:
        return "owner/pictures"

    def volume(self, images: bool = True) -> str:
        return "all of its split 'train'"

    def home(self) -> str:
        return "are kept"

    def classes(self) -> tuple[str, ...]:
        return ("star",)

    def fetch(self, class_ids: Any) -> None:
        if self.error is not None and constants.HF_HUB_OFFLINE:
            raise self.error
        self.fetched += class_ids
        self.error = None

    def images(self, class_id: str, count: int | None = None) -> list[Any]:
        self.offline.append(constants.HF_HUB_OFFLINE)
        if self.error is not None:
            raise self.error
        return [SimpleNamespace(id=f"{class_id}/{i}") for i in range(count or 1)]


def on_hub(images: Images) -> Experiment:
    made = experiment("data.kind=hub", "data.hub=owner/pictures", "data.name=pictures", "data.classes=null")
    made.data = images
    return made


def test_images_of_the_hub_that_are_here_need_no_network(server: Server) -> None:
    images = Images()
    assert finding(on_hub(images), "data").state == "ok"
    assert set(images.offline) == {True} and not constants.HF_HUB_OFFLINE
    assert not server.asked


def test_images_of_the_hub_that_are_not_here(offline: list[str]) -> None:
    gone = Images(NotFetched("can't be reached"))
    assert "HF_HUB_OFFLINE is set" in finding(on_hub(gone), "data").text
    assert constants.HF_HUB_OFFLINE and not offline


def test_images_of_the_hub_that_can_be_fetched_or_are_gated(server: Server) -> None:
    gone = Images(NotFetched("can't be reached"))
    assert finding(on_hub(gone), "data").state == "fetch"
    assert any(path.startswith("/datasets/owner/pictures/resolve/main/") for path in server.asked)
    server.refuse("owner/pictures", 403, "GatedRepo")
    assert "accept its terms at https://huggingface.co/datasets/owner/pictures," in finding(on_hub(gone), "data").text


def test_a_mistake_in_the_settings_of_the_hubs_images_is_no_matter_of_networks(server: Server) -> None:
    found = finding(on_hub(Images(UserError("data.limit=2 keeps fewer"))), "data")
    assert (found.state, found.text) == ("missing", "data.limit=2 keeps fewer")
    assert not server.asked


def test_images_that_the_model_makes_wait_for_it(offline: list[str], caches: Path) -> None:
    settings = ("data=synthetic", "data.classes=[star]", "data.reference=6")
    assert states(sd15(*settings), "invert") == {"device": "ok", "model": "missing", "data": "fetch", "disk": "ok"}
    in_cache(pipeline(caches / "pipeline"), SD15, REVISION)
    assert finding(sd15(*settings), "data").state == "ok"
    assert SIZES["synthetic images"](sd15(*settings)) == 6 * 2 * 512**2


# The disk


def test_room_on_the_disk_is_that_of_the_results(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made = experiment("outputs=not/here/yet", "draws=10", "n=[2,4]", "methods=[fix/0,nin/0,lin/0]")
    latent, images, features = 4 * math.prod(made.model.latent_shape(64)), 10 * 2 * 3, 4 * (64 + 64)
    assert SIZES["latents"](made) == 2 * 4 * latent
    assert SIZES["centroids"](made) == images * latent
    assert SIZES["features"](made) == images * features
    assert SIZES["features of real images"](made) == 4 * features
    needed = sum(SIZES[kind](made) for kind in WRITES["sweep"])
    small_disk(monkeypatch, needed)
    assert finding(made, "disk").state == "ok"
    small_disk(monkeypatch, needed - 1)
    found = finding(made, "disk")
    assert found.state == "missing" and "outputs=" in found.text
    assert finding(made, "disk", "invert").state == "ok"
    with pytest.raises(UserError, match=r"the disk is too small: about .* will be written to not/here/yet"):
        require(made, "sweep")


def test_what_is_kept_already_is_not_counted_again(monkeypatch: pytest.MonkeyPatch) -> None:
    made = experiment()
    small_disk(monkeypatch, 100)
    assert finding(made, "disk", "invert").state == "missing"
    for task in inversion(made).tasks:
        task.run()
    kept = sum(file.stat().st_size for file in (made.config.cache / "latents").rglob("*.safetensors"))
    assert 1 <= kept / SIZES["latents"](made) < 1.2
    assert finding(made, "disk", "invert").state == "ok"


@pytest.mark.parametrize("command", WRITES)
def test_each_command_is_measured_by_what_it_keeps(command: str) -> None:
    made = experiment()
    text = finding(made, "disk", command).text
    assert doctor._size(sum(SIZES[kind](made) for kind in WRITES[command])) in text


def test_room_is_asked_for_before_anything_is_fetched(
    server: Server, counting: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Experiment(compose([*FRESH, "pool=64", "n=[2]", "model.features=embedded", "model.clip=embedded"]))
    latents = 3 * 64 * 2 * 4 * 4 * 64**2
    small_disk(monkeypatch, latents)
    assert f"about {doctor._size(latents)} will be written" in finding(made, "disk", "invert").text
    small_disk(monkeypatch, latents - 1)
    assert finding(made, "disk", "invert").state == "missing"
    unknown = Experiment(compose(["model=sd15", "data=hub", "data.hub=a/b", "model.features=embedded"]))
    assert "will be written" not in finding(unknown, "disk", "invert").text
    assert counting == []


def test_outputs_that_can_not_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    found = finding(experiment(f"outputs={tmp_path / 'file' / 'below'}"), "disk")
    assert found.state == "missing" and "choose another place with outputs=" in found.text


# Before a run


@pytest.mark.parametrize("command", WRITES)
def test_long_commands_ask_first_and_dry_runs_do_not(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Experiment, command: str) -> None:
        raise UserError(f"asked for {command}")

    monkeypatch.setattr(doctor, "require", refuse)
    assert refusal(command, *SMALL) == f"latentmix: error: asked for {command}"
    monkeypatch.setattr(Experiment, "check", lambda _, images: refuse(_, "checks"))
    assert refusal(command, *SMALL, "--dry-run") == "latentmix: error: asked for checks"


def test_one_line_lists_all_that_is_missing(offline: list[str]) -> None:
    wrong = ("model=sd15", "data.classes=[staar]")
    line = refusal("sweep", *SMALL, *wrong)
    for part in (f"sd15 ({SD15})", "no shape is called 'staar'", "Inception-v3", "ViT-L-14/openai", "latentmix doctor"):
        assert part in line
    line = refusal("generate", *SMALL, *wrong)
    assert "sd15" in line and "Inception" not in line and "ViT" not in line
    assert not offline


def test_asking_first_costs_next_to_nothing() -> None:
    require(Experiment(compose([])), "sweep")  # imports what the run imports
    took = []
    for _ in range(3):  # the collector of garbage may come in between
        made = Experiment(compose([]))
        before = time.process_time()
        require(made, "sweep")
        took.append(time.process_time() - before)
    assert min(took) < 0.5


# Dry runs


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Whatever would be downloaded, by any of the libraries."""
    import datasets
    import open_clip

    cached, asked = huggingface_hub.snapshot_download, list[str]()

    def snapshot_download(hub: str, **how: Any) -> Any:
        if how.get("local_files_only") or how.get("dry_run") or constants.HF_HUB_OFFLINE:
            return cached(hub, **how)
        asked.append(hub)

    def load_dataset(hub: str, **how: Any) -> Any:
        if constants.HF_HUB_OFFLINE:
            raise ConnectionError("offline")
        asked.append(hub)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(open_clip, "create_model", lambda name, **_: asked.append(name))
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda url, **_: asked.append(url))
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda url, *_, **__: asked.append(url))
    return asked


def planned(*arguments: str) -> tuple[dict[str, list[int]], list[str]]:
    """Of a dry run: what is to do, what is done, and evaluations, stage by stage; and what is said below."""
    said = invoke(*arguments, "--dry-run")
    assert said.code == 0, said.err
    rows = [line.strip("│").split("│") for line in said.out.splitlines() if line.startswith("│")]
    counts = {name.strip(): [int(cell.replace(",", "")) for cell in cells[:3]] for name, *cells in rows}
    return counts, said.out.partition("nothing was done. ")[2].splitlines()


def test_a_dry_run_downloads_nothing_and_says_what_a_run_would(
    server: Server, counting: list[str], caches: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: (caches / "answer").open("wb"))
    monkeypatch.setattr(doctor, "_to_fetch", lambda hub, *_: 2 << 30 if hub == SD15 else None)
    few = ("pool=4", "n=[2]", "methods=[fix/0]", "draws=4", "steps=3", "inversion.steps=5")
    counts, said = planned("sweep", *FRESH, *few)
    assert counts == {
        "real images": [3 * 1300, 0, 0],
        "invert": [12, 0, 12 * 5],
        "generate": [12, 0, 12 * 3 * 2],
    }
    assert [line.split()[:2] for line in said[1:]] == [
        ["fetch", what] for what in ("model", "data", "features", "clip")
    ]
    assert f"sd15 ({SD15}), 2.0 GiB, is not here yet" in said[1]
    assert "all of about 150 GB streams by, as all images of a class are taken (data.limit=N ends it" in said[2]
    assert counting == [] and not (caches / "outputs").exists() and not (caches / "latentmix").exists()


def test_a_limit_says_how_far_the_stream_goes(server: Server, counting: list[str]) -> None:
    counts, said = planned("sweep", *FRESH, "data.limit=200", "model.features=embedded", "model.clip=embedded")
    assert counts["real images"] == [600, 0, 0]
    assert said[2].endswith("of about 150 GB, as much streams by as it takes to find 200 images of each class")
    assert counting == []


def test_a_probe_has_nothing_stream_by(server: Server, counting: list[str]) -> None:
    counts, said = planned("probe", *FRESH)
    assert counts == {"probe": [5, 0, 5 * 50 * 2]}
    assert said[2].startswith("fetch    data") and said[2].endswith(": the names of its classes")
    assert counting == []


def test_a_dry_run_without_a_network_counts_the_same(offline: list[str], counting: list[str]) -> None:
    counts, said = planned("generate", *FRESH, "pool=4", "n=[2]", "methods=[fix/0]", "draws=4")
    assert counts == {"invert": [12, 0, 12 * 50], "generate": [12, 0, 12 * 50 * 2]}
    assert [line.split()[:2] for line in said[1:3]] == [["missing", "model"], ["missing", "data"]]
    assert said[3] == "latentmix doctor says what to do about it"
    assert offline == counting == []


def test_one_mixture_is_planned_without_anything_here(server: Server, counting: list[str]) -> None:
    counts, _ = planned("mix", *FRESH, "--class", "goldfish", "--weights", "0.5,0.5", "data.classes=[goldfish]")
    assert counts == {"invert": [128, 0, 128 * 50]}
    assert counting == []


def test_a_model_alone_that_is_not_here_leaves_the_images_counted(offline: list[str], counting: list[str]) -> None:
    counts, _ = planned("reconstruct", *SMALL, "model=sd35-medium", "guidance=1")
    assert counts == {"invert": [4, 0, 4], "reconstruct": [4, 0, 4]}
    counts, _ = planned("invert", *SMALL, "model=sd15", "data=synthetic", "data.classes=[tree frog]")
    assert counts == {"synthesize": [4, 0, 8], "invert": [4, 0, 4]}
    assert counting == []


@pytest.mark.parametrize(
    ("model", "inversion", "size"),
    [
        ("sd15", "ddim", 2 * 4 * 4 * 64**2),
        ("sd35-medium", "ddim", 2 * 4 * 16 * 128**2),
        ("sd15", "null_text", 2 * 4 * 4 * 64**2 + 4 * 50 * 77 * 768),
        ("sd35-medium", "null_text", 2 * 4 * 16 * 128**2 + 4 * 50 * (77 + 256) * 4096),
    ],
)
def test_what_a_model_that_is_not_here_leaves_on_the_disk(
    offline: list[str], model: str, inversion: str, size: int
) -> None:
    made = Experiment(compose([f"model={model}", f"inversion={inversion}", "data.classes=[star]"]))
    doctor.outlined(made, "invert")
    assert SIZES["latents"](made) == 128 * size


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ("model.size=500", "model.size=500: must be a multiple of 8"),
        ("steps=2000", "steps must be between 1 and 1000"),
        ("data.classes=[tree fog]", "no class of ImageNet is called 'tree fog'"),
        ("model.features=incepton", "no feature network 'incepton'"),
    ],
)
def test_mistakes_come_up_in_a_dry_run_without_anything_here(offline: list[str], setting: str, reason: str) -> None:
    assert reason in refusal("sweep", *FRESH, setting, "--dry-run")


def test_a_rate_that_was_measured_at_the_batch_of_a_gpu_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dry run tries nothing out."""
    made = experiment("outputs=o")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA X")
    made.device = torch.device("cuda")
    memory.recall(made)
    assert made.batch == 32
    made.batch = 128
    memory._remember(made)
    again = experiment("outputs=o")
    again.device = torch.device("cuda")
    memory.recall(again)
    assert again.batch == 128
    fixed = experiment("outputs=o", "batch=7")
    memory.recall(fixed)
    assert fixed.batch == 7


# Fetching


def test_nothing_is_fetched_for_what_comes_with_latentmix(server: Server) -> None:
    said = invoke("fetch", *SMALL)
    lines = said.out.splitlines()
    assert [line.split()[:2] for line in lines] == [["there", what] for what in ("model", "features", "clip", "data")]
    assert all(line.endswith("nothing to fetch") for line in lines)
    assert (said.code, said.err, server.asked) == (0, "", [])


@pytest.fixture
def hub(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A hub that has all, and what was downloaded from it."""
    import open_clip

    cached = huggingface_hub.snapshot_download
    downloads: list[str] = []

    def snapshot_download(hub: str, local_files_only: bool = False, dry_run: bool = False, **how: Any) -> Any:
        if dry_run:
            return []
        if not (local_files_only or constants.HF_HUB_OFFLINE):
            assert (how.pop("revision"), how) == (REVISION, wanted_files())
            downloads.append(hub)
            return str(in_cache(pipeline(tmp_path / "pipeline"), hub, REVISION))
        return cached(hub, local_files_only=True, **how)

    def download_pretrained(about: dict[str, Any]) -> None:
        downloads.append(about["hf_hub"])
        in_cache(one_file(tmp_path / "clip", "open_clip_model.safetensors"), CLIP, "1" * 40)

    def download_url_to_file(url: str, place: str) -> None:
        downloads.append(url)
        Path(place).write_bytes(b"weights")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.setattr(open_clip, "download_pretrained", download_pretrained)
    monkeypatch.setattr(torch.hub, "download_url_to_file", download_url_to_file)
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: (tmp_path / "answer").open("wb"))
    return downloads


def test_all_is_fetched_once(hub: list[str], caches: Path) -> None:
    first, second = (invoke("fetch", *SMALL, "model=sd15").out.splitlines() for _ in range(2))
    assert hub == [SD15, INCEPTION, f"{CLIP}/"]
    assert [line.split()[0] for line in first] == ["new", "new", "new", "there"]
    assert [line.split()[0] for line in second] == ["there"] * 4
    assert [line.split()[1:] for line in first] == [line.split()[1:] for line in second]
    for line, place in zip(first, ("hub", "torch/hub/checkpoints", "hub"), strict=False):
        assert str(caches / place) in line
    assert invoke("doctor", *SMALL, "model=sd15").code == 0


def test_what_a_figure_needs_is_fetched(hub: list[str]) -> None:
    said = invoke("fetch", "--figure", "fig6", "model=sd15", "data=shapes", "data.classes=[star]")
    assert (said.code, hub) == (0, [SD15])
    (line,) = said.out.splitlines()  # and no images
    assert line.startswith("new      model")


def test_what_else_measures_is_fetched(server: Server, caches: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cached, downloads = huggingface_hub.snapshot_download, list[str]()

    def snapshot_download(hub: str, **how: Any) -> Any:
        if how.get("local_files_only") or how.get("dry_run"):
            return cached(hub, **how)
        assert how == {"allow_patterns": ["config.json", "model.safetensors"]}
        downloads.append(hub)
        files = one_file(caches / "files", "model.safetensors")
        (files / "config.json").write_text("{}")
        return in_cache(files, hub, "1" * 40)

    def download_url_to_file(url: str, place: str) -> None:
        downloads.append(url)
        Path(place).write_bytes(b"weights")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.setattr(torch.hub, "download_url_to_file", download_url_to_file)
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: (caches / "answer").open("wb"))
    settings = ("model.features=dinov2-vits14", "model.perceptual=alex", "metrics=[fid,diversity]")
    first, second = (invoke("fetch", *SMALL, *settings).out.splitlines() for _ in range(2))
    assert downloads == ["facebook/dinov2-small", "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth"]
    assert [line.split()[:2] for line in first] == [
        *(["there", "model"], ["new", "features"], ["there", "clip"], ["new", "pairs"], ["there", "data"])
    ]
    assert [line.split()[0] for line in second] == ["there"] * 5


def test_images_of_the_hub_are_fetched(server: Server) -> None:
    images = Images(NotFetched("can't be reached"))
    (*_, line) = doctor.fetch(on_hub(images))
    assert line.startswith("new ") and "4 images of 1 class " in line
    assert images.fetched == ["star"] and images.offline[-1] is False


def failing(error: Exception) -> Callable[..., Any]:
    cached = huggingface_hub.snapshot_download

    def snapshot_download(*what: Any, local_files_only: bool = False, **how: Any) -> Any:
        if not local_files_only:
            raise error
        return cached(*what, local_files_only=True, **how)

    return snapshot_download


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), 1, "the disk is full: sd15"),
        (ConnectionError("reset"), 2, "could not be fetched (ConnectionError)"),
        (RuntimeError("of another library"), 2, "could not be fetched (RuntimeError)"),
    ],
)
def test_what_fails_on_the_way_is_said_in_a_line(
    server: Server, monkeypatch: pytest.MonkeyPatch, error: Exception, code: int, text: str
) -> None:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", failing(error))
    assert text in refusal("fetch", *SMALL, "model=sd15")
    assert invoke("fetch", *SMALL, "model=sd15").code == code


def test_gated_or_without_a_network_fetching_says_so_in_a_line(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.refuse(SD15, 403, "GatedRepo")
    line = refusal("fetch", *SMALL, "model=sd15")
    assert "is gated" in line and "HF_TOKEN" in line
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE" in refusal("fetch", *SMALL, "model=sd15")
