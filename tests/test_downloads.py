"""Weights are found where their libraries look for them; what is not here is asked of the hub, and `fetch` gets it."""

import errno
import shutil
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import fake_hub
import pytest
import torch
from driver import invoke, refusal
from fake_hub import CLIP, REVISION, SD15, SMALL, Server, experiment, finding, folder_of, in_cache, sd15, text
from huggingface_hub import constants

import latentmix as lm
from latentmix.checks import require
from latentmix.checks.downloads import INCEPTION_URL
from latentmix.commands import invert
from latentmix.compose import compose
from latentmix.data import hub_errors
from latentmix.errors import UserError
from latentmix.experiment.sweep import SWEEP
from latentmix.models import pipeline
from latentmix.models.pipeline import wanted_files

empty_caches, offline = fake_hub.empty_caches, fake_hub.offline
server, snapshot = fake_hub.server, fake_hub.snapshot
IMAGE = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
UNET = "unet/diffusion_pytorch_model.safetensors"
DINOV2_FILES = ("config.json", "model.safetensors")


# A model


def test_a_model_in_the_hubs_cache_is_found_without_a_network(snapshot: Path, server: Server) -> None:
    assert set(fake_hub.states(sd15()).values()) == {"ok"}
    assert text(sd15(), "model") == f"sd15 ({SD15}) is in {snapshot}"
    assert "model.size=100" in text(sd15("model.size=100"), "model")
    assert "steps" in text(sd15("steps=2000"), "model")
    assert finding(sd15("model.revision=main"), "model").state == "ok"
    assert not server.asked
    assert finding(sd15(f"model.revision={'0' * 40}"), "model").state == "fetch"


@pytest.mark.parametrize(
    "harm",
    [
        lambda folder: (folder / UNET).resolve().unlink(),
        lambda folder: (folder / UNET).write_bytes((folder / UNET).read_bytes()[:-100]),
        lambda folder: (folder / f"{UNET}.index.json").write_text('{"weight_map": {"a": "other.safetensors"}}'),
    ],
    ids=["blob lost", "file cut short", "shard lost"],
)
def test_a_model_that_is_not_whole_is_missing(
    snapshot: Path, tmp_path: Path, offline: list[str], harm: Callable[[Path], Any]
) -> None:
    folder = shutil.copytree(snapshot, tmp_path / "mine")
    assert finding(sd15(f"model.path={folder}"), "model").state == "ok"
    for place in (snapshot, folder):
        harm(place)
    assert text(sd15(), "model") == f"sd15 ({SD15}) is not here, and HF_HUB_OFFLINE is set"
    found = finding(sd15(f"model.path={folder}"), "model")
    assert found.state == "missing" and str(folder) in found.text


def test_what_a_run_will_download_is_said_and_does_not_stop_it(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    require(sd15(), SWEEP)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"latentmix: sd15 ({SD15}) is not here yet; ")
    assert f"/{SD15}/resolve/{REVISION}/model_index.json" in server.asked


@pytest.mark.parametrize(
    ("code", "reason", "expected"),
    [
        (403, "GatedRepo", f"accept its terms at https://huggingface.co/{SD15}, and log in with `hf auth login`"),
        (401, "RepoNotFound", f"the hub has no {SD15}, or it is private"),
        (404, "RevisionNotFound", f"the hub has no revision {REVISION} of it"),
        (404, "EntryNotFound", f"{SD15} has no model_index.json, so it is no pipeline"),
        (500, "", "the Hugging Face hub can't be reached (HfHubHTTPError)"),
    ],
)
def test_why_the_hub_refuses_is_said(server: Server, code: int, reason: str, expected: str) -> None:
    server.refuse(SD15, code, reason)
    with pytest.raises(UserError, match="latentmix doctor says what to do") as caught:
        require(sd15(), invert.STAGES)
    assert expected in str(caught.value) and "\n" not in str(caught.value)


def test_a_hub_that_can_not_be_reached_is_given_up_soon(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "'a/b/c' is not OWNER/NAME" in text(sd15("model.hub=a/b/c"), "model")
    monkeypatch.setattr(hub_errors, "TIMEOUT", 0.1)
    server.delay = 1.0
    assert "can't be reached (ReadTimeout)" in text(sd15(), "model")


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (
            lambda: lm.Pipeline.from_pretrained("me/tuned"),
            "'me/tuned', and the Hugging Face hub can't be reached (Conn",
        ),
        (lambda: lm.Pipeline.from_pretrained("sd15"), f"{SD15} is not in the local cache and could not be fetched (C"),
        (lambda: lm.features("dinov2")(IMAGE), "are not here, and the Hugging Face hub can't be reached (ConnectError"),
        (lambda: lm.features("ViT-L-14/openai")(IMAGE), "openai are not here, and the Hugging Face hub can't be reac"),
    ],
)
def test_python_functions_do_not_ask_again_and_again(
    call: Callable[[], object], error: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited = list[float]()
    monkeypatch.setattr(time, "sleep", waited.append)
    with pytest.raises(UserError) as caught:
        call()
    assert error in str(caught.value) and "\n" not in str(caught.value)
    assert not waited
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"HF_HUB_OFFLINE is set|\(OfflineModeIsEnabled\)"):
        call()


def test_python_functions_do_not_wait_for_a_hub_that_is_silent(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (hub_errors, pipeline):
        monkeypatch.setattr(module, "TIMEOUT", 0.1)
    server.delay = 30.0
    for name in ("me/tuned", "sd15"):
        with pytest.raises(UserError, match="ReadTimeout"):
            lm.Pipeline.from_pretrained(name)


def test_a_folder_in_place_of_a_repository_is_named_without_a_network(offline: list[str]) -> None:
    expected = "'./tuned' is not OWNER/NAME, as the hub names things; give a folder as model.path=./tuned"
    assert expected in text(sd15("model.hub=./tuned"), "model")


def test_another_repository_is_not_asked_for_the_presets_revision(server: Server) -> None:
    assert "me/tuned) is not here yet" in text(sd15("model.hub=me/tuned"), "model")
    assert "/me/tuned/resolve/main/model_index.json" in server.asked
    assert compose(["model=sd15", "model.hub=me/tuned", "model.revision=abc"]).model.revision == "abc"


def test_a_model_that_does_not_fit_into_the_cache_is_missing(
    server: Server, empty_caches: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_hub.replace_download(monkeypatch, fake_hub.unreachable, sizes=[3 << 30, 3 << 30])
    fake_hub.set_free_disk(monkeypatch, 7 << 30)
    assert "6.0 GiB, is not here yet; latentmix fetch gets it" in text(sd15(), "model")
    fake_hub.set_free_disk(monkeypatch, 5 << 30)
    assert f"{empty_caches / 'hub'} has 5.0 GiB for its 6.0 GiB" in refusal(
        "fetch", *SMALL, "model=sd15", *fake_hub.EMBEDDED
    )


# The networks that measure


def test_inception_is_torch_fidelitys_and_its_server_is_asked(
    empty_caches: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (source,) = (f for f in metadata.files("torch-fidelity") or () if f.name == "feature_extractor_inceptionv3.py")
    assert f'"{INCEPTION_URL}"' in source.read_text()
    measured = experiment("model.features=inception")
    assert f"{INCEPTION_URL} can't be reached (URLError)" in text(measured, "features")
    fake_hub.answer_urls(monkeypatch, empty_caches)
    assert finding(measured, "features").state == "fetch"


def test_clip_is_found_where_open_clip_looks_also_as_a_pickle(empty_caches: Path, offline: list[str]) -> None:
    import open_clip

    name = "open_clip_pytorch_model.bin"
    path = in_cache(folder_of(empty_caches / "files", name), CLIP) / name
    assert text(experiment("model.clip=ViT-L-14/openai"), "clip").endswith(f" ({CLIP}) is in {path}")
    assert open_clip.download_pretrained(open_clip.get_pretrained_cfg("ViT-L-14", "openai")) == str(path)


# latentmix fetch


@pytest.fixture
def fetched(server: Server, empty_caches: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was fetched from a hub that has everything, in order."""
    import open_clip

    started: list[str] = []

    def get(hub: str, **options: Any) -> str:
        started.append(hub)
        if hub == SD15:
            assert options == {"revision": REVISION, **wanted_files(compose(["model=sd15"]).model)}
            return str(in_cache(fake_hub.pipeline(empty_caches / "pipeline"), hub, REVISION))
        assert options == {"allow_patterns": [*DINOV2_FILES]}
        return str(in_cache(folder_of(empty_caches / "dinov2", *DINOV2_FILES), hub))

    def download_pretrained(about: dict[str, Any]) -> None:
        started.append(about["hf_hub"])
        in_cache(folder_of(empty_caches / "clip", "open_clip_model.safetensors"), CLIP)

    def download_url_to_file(url: str, path: str) -> None:
        started.append(url.rpartition("/")[2])
        Path(path).write_bytes(b"weights")

    fake_hub.replace_download(monkeypatch, get)
    monkeypatch.setattr(open_clip, "download_pretrained", download_pretrained)
    monkeypatch.setattr(torch.hub, "download_url_to_file", download_url_to_file)
    fake_hub.answer_urls(monkeypatch, empty_caches)
    return started


OTHER_NETWORKS = ("model.features=dinov2-vits14", "model.perceptual=alex", "metrics=[fid,diversity]")


@pytest.mark.parametrize(
    ("settings", "expected", "new"),
    [
        ((), [], []),
        (("model=sd15",), [SD15, INCEPTION_URL.rpartition("/")[2], f"{CLIP}/"], ["model", "features", "clip"]),
        (OTHER_NETWORKS, ["facebook/dinov2-small", "alexnet-owt-7be5be79.pth"], ["features", "pairs"]),
    ],
)
def test_what_is_missing_is_fetched_once_and_then_found(
    fetched: list[str], server: Server, settings: tuple[str, ...], expected: list[str], new: list[str]
) -> None:
    first, second = (invoke("fetch", *SMALL, *settings).out.splitlines() for _ in range(2))
    assert fetched == expected and (new or not server.asked)
    assert [line.split()[1] for line in first if line.startswith("new")] == new
    assert {line.split()[0] for line in second} == {"there"}
    assert [line.split()[1:] for line in first] == [line.split()[1:] for line in second]
    assert invoke("doctor", *SMALL, *settings).code == 0


def test_a_download_that_fails_ends_in_one_line(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise errors[0]

    errors: list[Exception] = [RuntimeError("of another library")]
    fake_hub.replace_download(monkeypatch, fail)
    assert "could not be fetched: of another library; try again" in refusal("fetch", *SMALL, "model=sd15")
    errors[0] = OSError(errno.ENOSPC, "No space left on device")
    assert "the disk is full: sd15" in refusal("fetch", *SMALL, "model=sd15", code=1)
    server.refuse(SD15, 403, "GatedRepo")
    assert "is gated" in refusal("fetch", *SMALL, "model=sd15")
