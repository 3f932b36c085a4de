"""A server in this process that answers as the Hugging Face hub does, empty caches, and small files to put into them.

A test file takes a fixture by giving it a name of its own: `server = fake_hub.server`.
"""

import json
import os
import shutil
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

from latentmix.checks import examine, machine
from latentmix.checks.finding import Finding
from latentmix.compose import compose
from latentmix.embedded import embedded_folder
from latentmix.experiment.experiment import Experiment
from latentmix.experiment.stages import StageType
from latentmix.experiment.sweep import SWEEP

SD15 = "stable-diffusion-v1-5/stable-diffusion-v1-5"
REVISION = "451f4fe16113bff5a5d2269ed5ad43b0592e9a14"
CLIP = "timm/vit_large_patch14_clip_224.openai"
SMALL = ("data.classes=[star]", "pool=4", "n=[2]", "methods=[fix/0]", "draws=4", "data.reference=4", "steps=1")
EMBEDDED = ("model.features=embedded", "model.clip=embedded")  # networks that come with latentmix
MIB = 1 << 20
UNREACHABLE = "http://127.0.0.1:1"
NETWORKS = {"text_encoder/model": 1, "unet/diffusion_pytorch_model": 3, "vae/diffusion_pytorch_model": 2}  # MiB


@dataclass
class Server:
    """Answers by what is in the path of a request. Keeps all paths in `asked`, and what is sent in `posted`."""

    answers: dict[str, tuple[int, dict[str, str]]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    posted: list[tuple[str, bytes]] = field(default_factory=list)
    delay: float = 0.0

    def answer(self, path: str) -> tuple[int, dict[str, str]]:
        self.asked.append(path)
        time.sleep(self.delay)
        headers = {"ETag": '"1"', "X-Repo-Commit": REVISION, "Content-Length": "0"}
        return next((answer for part, answer in self.answers.items() if part in path), (200, headers))

    def post_answer(self, path: str, body: bytes) -> tuple[int, bytes]:
        """Answer as the hub does when a repository is made and written to; all files are small enough for a commit."""
        if any(part in path and answer[0] >= 400 for part, answer in self.answers.items()):
            return 403, b'{"error": "you may not write here"}'
        if path == "/api/repos/create":
            made = json.loads(body)
            return 200, json.dumps(
                {"url": f"{constants.ENDPOINT}/datasets/{made['organization']}/{made['name']}"}
            ).encode()
        if "/preupload/" in path:
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            return 200, json.dumps({"files": files}).encode()
        return 200, json.dumps(
            {"commitUrl": f"{constants.ENDPOINT}{path.removeprefix('/api')}", "commitOid": REVISION, "hookOutput": ""}
        ).encode()

    def refuse(self, part: str, code: int, reason: str) -> None:
        self.answers[part] = code, {"X-Error-Code": reason, "Content-Length": "0"}


@pytest.fixture
def server(empty_caches: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A hub that has every file, and lists none."""
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            code, headers = state.answer(self.path)
            self.send_response(code)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            state.posted.append((self.path, body))
            code, content = state.post_answer(self.path, body)
            self.send_response(code)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def do_GET(self) -> None:
            state.asked.append(self.path)
            time.sleep(state.delay)
            self.send_error(404)

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True).start()
        use_endpoint(monkeypatch, f"http://127.0.0.1:{http.server_port}")
        yield state
        http.shutdown()


def use_endpoint(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")


@pytest.fixture(autouse=True)
def empty_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that holds all caches, which are empty, and outputs. No network can be reached.

    However busy the machine is, its CPU counts as fast enough.
    """
    monkeypatch.setattr(machine, "_operations_per_second", lambda: 1e12)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    use_endpoint(monkeypatch, UNREACHABLE)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("LATENTMIX_CACHE", str(tmp_path / "latentmix"))
    monkeypatch.setattr(urllib.request, "urlopen", unreachable)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def replace_download(monkeypatch: pytest.MonkeyPatch, get: Callable[..., Any], sizes: Sequence[int] = ()) -> None:
    """Let `get` download repositories of the hub, whose missing files have these sizes. Caches are read as ever."""
    cached = huggingface_hub.snapshot_download
    files = [SimpleNamespace(file_size=size, will_download=True) for size in sizes]
    files.append(SimpleNamespace(file_size=1 << 40, will_download=False))  # is in the cache

    def snapshot_download(hub: str, local_files_only: bool = False, dry_run: bool = False, **options: Any) -> Any:
        if local_files_only or constants.HF_HUB_OFFLINE:
            return cached(hub, local_files_only=True, **options)
        return files if dry_run else get(hub, **options)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)


def unreachable(*_: object, **__: object) -> Any:
    raise urllib.error.URLError("no network")


def answer_urls(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Let every URL outside the hub be reached."""
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: (folder / "answer").open("wb"))


@pytest.fixture
def offline(empty_caches: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What asks for a network all the same, while HF_HUB_OFFLINE is set."""
    asked: list[str] = []
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", lambda url, **_: asked.append(url))
    monkeypatch.setattr(urllib.request, "urlopen", lambda url, **_: asked.append(url))
    return asked


@pytest.fixture
def snapshot(empty_caches: Path) -> Path:
    """The folder of Stable Diffusion 1.5 in the hub's cache, all of it there."""
    return in_cache(pipeline(empty_caches / "pipeline"), SD15, REVISION)


def pipeline(folder: Path) -> Path:
    """Write a pipeline folder whose files are whole: the embedded one's settings, with weights of zeros."""
    shutil.copytree(embedded_folder("tiny"), folder, ignore=shutil.ignore_patterns("*.safetensors"))
    for name, size in NETWORKS.items():
        save_file({"weight": torch.zeros(size * MIB // 4)}, folder / f"{name}.safetensors")
    return folder


def in_cache(files: Path, hub: str, revision: str = "1" * 40) -> Path:
    """Put files into the hub's cache as its library does: blobs, a snapshot of links to them, and a branch."""
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


def folder_of(folder: Path, *names: str) -> Path:
    """Write a folder of small files."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_text("{}")
    return folder


def set_free_disk(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(total=1 << 40, used=0, free=free))


def experiment(*overrides: str) -> Experiment:
    return Experiment(compose([*SMALL, *overrides]))


def sd15(*overrides: str) -> Experiment:
    """Return Stable Diffusion 1.5, measured by networks that come with latentmix."""
    return experiment("model=sd15", *EMBEDDED, "model.domain=shapes", *overrides)


def states(of: Experiment, stages: Sequence[StageType] = SWEEP) -> dict[str, str]:
    return {found.part: found.state for found in examine(of, stages)}


def finding(of: Experiment, part: str, stages: Sequence[StageType] = SWEEP) -> Finding:
    """Return the only finding about a part."""
    (found,) = (found for found in examine(of, stages) if found.part == part)
    return found


def text(of: Experiment, part: str) -> str:
    """Return what the checks of a sweep say about a part."""
    return finding(of, part).text
