"""What a run needs is checked before any work: device, memory, images and disk space. Dry runs need none of it."""

import io
import math
import os
import re
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import fake_hub
import pytest
import torch
from driver import invoke
from fake_hub import EMBEDDED, MIB, SD15, SMALL, Server, error_line, experiment, finding, sd15, set_free_disk, text
from huggingface_hub import constants
from PIL import Image

from latentmix import checks, mixing
from latentmix.checks import examine, machine, require, require_work
from latentmix.checks.downloads import INCEPTION_URL
from latentmix.checks.finding import readable_size
from latentmix.commands import generate, invert, mix, reconstruct, session
from latentmix.compose import compose
from latentmix.embedded import embedded_folder
from latentmix.errors import UserError
from latentmix.experiment import batch_size, disk_sizes
from latentmix.experiment.experiment import Experiment
from latentmix.experiment.probe import PAPER, probe_stage
from latentmix.experiment.stages import INVERT, MEASURE_REFERENCES, SYNTHESIZE, StageType
from latentmix.experiment.sweep import SWEEP
from latentmix.runner.tasks import Stage

empty_caches, offline = fake_hub.empty_caches, fake_hub.offline
server, snapshot = fake_hub.server, fake_hub.snapshot
NOTHING_HERE = ("model=sd15", "data=imagenet-hub", "data.classes=random:3")
PICTURES = ("data=hub", "data.hub=owner/pictures", "data.limit=5")
COMMANDS = ("invert", "diagnose", "probe", "reconstruct", "mix", "generate", "evaluate", "sweep")
PARTS = ("device", "model", "data", "features", "clip", "memory", "disk")


# The report


def test_the_embedded_experiment_has_all_that_it_needs(server: Server) -> None:
    result = invoke("doctor", *SMALL)
    lines = result.out.splitlines()
    assert [line.split()[:2] for line in lines] == [["ok", part] for part in ("versions", *PARTS)]
    assert f"torch {metadata.version('torch')}" in lines[0]
    assert (result.code, result.err, server.asked) == (0, "", [])


def test_the_report_says_how_to_get_what_is_missing(offline: list[str], empty_caches: Path) -> None:
    result = invoke("doctor", *SMALL, "model=sd15")
    missing = [line.split()[1] for line in result.out.splitlines() if line.startswith("missing")]
    assert (result.code, missing) == (1, ["model", "features", "clip"])
    for advice in (
        "On a machine that is online, run latentmix fetch with the same settings",
        f"then copy models--{SD15.replace('/', '--')} from its cache",
        f"to {empty_caches / 'hub'}, with its links",
        "model.path=FOLDER",
        f"{INCEPTION_URL}, to {empty_caches / 'torch' / 'hub' / 'checkpoints'}",
        f"copy models--{fake_hub.CLIP.replace('/', '--')} from its cache",
    ):
        assert advice in result.out
    assert not offline


def test_a_figure_needs_what_its_stages_read_for_each_of_its_models(offline: list[str]) -> None:
    result = invoke("doctor", "--figure", "fig10", "model=sd15", "data=shapes", "data.classes=[star]")
    missing = [line.split()[:3] for line in result.out.splitlines() if line.startswith("missing")]
    assert missing == [["missing", "model", name] for name in ("sd15", "sd35-medium")]
    assert result.code == 1 and "Inception" not in result.out  # as its images are not measured
    assert "cannot list nowhere" in invoke("doctor", "--figure", "fig6", "data=folder", "data.path=nowhere").out
    assert "there is no figure 'fig13'; there are fig1, " in error_line("doctor", "--figure", "fig13")
    assert [line.split()[1] for line in invoke("doctor", "--figure", "fig2").out.splitlines()] == ["versions"]
    assert not offline


# Device and memory


def on_gpu(monkeypatch: pytest.MonkeyPatch, of: Experiment) -> Experiment:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA X")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (20 << 30, 24 << 30))
    of.device = torch.device("cuda")
    return of


def test_a_device_is_named_with_its_free_memory_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert finding(on_gpu(monkeypatch, experiment()), "device", invert.STAGES).text == "NVIDIA X, 20 GiB of memory"
    found = finding(experiment("device=gpu"), "device")
    assert found.state == "missing" and "device=gpu can't be used" in found.text


@pytest.mark.parametrize(
    ("settings", "said", "warned"),
    [
        ((), "echo 'NVIDIA A100, 535.54.03'", True),
        (("device=cpu",), "echo 'NVIDIA A100, 535.54.03'", False),
        ((), "exit 9", False),  # what nvidia-smi does without a driver
    ],
)
def test_a_gpu_that_torch_can_not_use_is_named(
    settings: tuple[str, ...], said: str, warned: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\n{said}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: None)
    found, *more = machine.check_device(experiment(*settings))
    assert found.state == "ok" and found.text.startswith("cpu, ")
    assert [(each.state, each.part) for each in more] == [("warning", "device")] * warned
    if warned:
        assert f"this torch ({torch.__version__}) cannot use (NVIDIA A100, driver 535.54.03)" in more[0].text
        assert "pytorch.org" in " ".join(more[0].advice)


@pytest.mark.parametrize("kind", ["cuda", "xpu", "mps"])
def test_any_accelerator_is_taken(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: torch.device(kind))
    assert experiment().device == torch.device(kind)


def test_a_large_model_on_a_cpu_is_warned_of_with_an_estimate(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machine, "_operations_per_second", lambda: 1e11)
    few = sd15("device=cpu", f"outputs={tmp_path}", "draws=50", "pool=12", "steps=10", "inversion.steps=10")
    (found,) = (f for f in examine(few, SWEEP) if f.part == "device" and f.state == "warning")
    # 12 images are inverted in 10 evaluations each, and 50 generated in 20 each
    assert "sd15 is slow on a CPU: 1,120 network evaluations of about 8 s take some 2 h 29 min" in found.text
    assert not [f for f in examine(experiment("draws=50", "pool=12"), SWEEP) if f.state == "warning"]


@pytest.mark.parametrize(("precision", "size"), [("float32", 3), ("float16", 1.5)])
def test_a_network_that_does_not_fit_into_memory_is_warned_of(
    snapshot: Path, monkeypatch: pytest.MonkeyPatch, precision: str, size: float
) -> None:
    large = sd15(f"model.precision={precision}")
    monkeypatch.setattr(machine, "free_memory", lambda _: int(size * MIB) + 1)
    assert finding(large, "memory").state == "ok"
    monkeypatch.setattr(machine, "free_memory", lambda _: int(size * MIB))
    with pytest.warns(UserWarning, match=f"network takes {size:.1f} MiB, and this machine has {size:.1f} MiB"):
        require(large, invert.STAGES)
    assert ("model.precision=bfloat16" in text(large, "memory")) == (size == 3)


# The images


def test_classes_and_folders_that_do_not_exist_are_missing() -> None:
    assert "is called 'staar'" in text(experiment("data.classes=[staar]"), "data")
    found = finding(experiment("data=folder", "data.path=/no/such/folder", "data.classes=null"), "data")
    assert found.state == "missing" and "/no/such/folder" in found.text


def imagenet(folder: Path, *class_ids: str) -> tuple[str, ...]:
    """Write four images of each of these classes of ImageNet. Return settings that read all of them."""
    for class_id in class_ids:
        (folder / class_id).mkdir(parents=True)
        for number in range(4):
            Image.new("RGB", (8, 8), (number, 0, 0)).save(folder / class_id / f"{number}.png")
    return "data=imagenet", f"data.path={folder}", "data.reference=4", "data.classes=null"


def doubts(of: Experiment) -> list[str]:
    return [found.text for found in examine(of, SWEEP) if found.part == "meaning"]


def test_too_few_images_to_compare_with_stop_only_what_compares(tmp_path: Path) -> None:
    few = experiment(*imagenet(tmp_path / "images", "n01443537"), "data.reference=5")
    assert finding(few, "data").state == "missing"
    assert finding(few, "data", invert.STAGES).state == "ok"


@pytest.mark.parametrize(
    ("metrics", "draws", "warned"),
    [("fid_infinity", 639, True), ("fid_infinity", 640, False), ("fid", 20, False)],
)
def test_fid_infinity_of_too_few_draws_is_warned_of(metrics: str, draws: int, warned: bool) -> None:
    """The embedded features have 64 numbers, and the smallest of ten parts must have as many draws."""
    asked = experiment(f"metrics=[{metrics}]", f"draws={draws}", "pool=40")
    found = doubts(asked)
    assert len(found) == warned
    if warned:
        assert "parts of 63 to 639 draws" in found[0] and "take draws=640" in found[0]
    assert not [found for found in examine(asked, invert.STAGES) if found.part == "meaning"]


@pytest.mark.parametrize(
    ("method", "n", "warned"), [("nin/pool", 9, True), ("nin/pool", 8, False), ("fix/chm", 9, False)]
)
def test_a_mixture_of_more_than_half_of_its_pool_is_warned_of(method: str, n: int, warned: bool) -> None:
    found = examine(experiment(*SMALL, f"methods=[fix/0,{method}]", f"n=[2,{n}]", "pool=16"), SWEEP)
    warnings = [line.text for line in found if line.state == "warning"]
    assert warnings == [f"nin/pool: N = 9 of pool=16; {mixing.HALF_A_POOL}"] * warned


def test_images_of_a_kind_that_the_model_does_not_know_are_warned_of(tmp_path: Path, snapshot: Path) -> None:
    photographs = imagenet(tmp_path / "images", "n01443537")
    assert doubts(experiment()) == []
    (doubt,) = doubts(experiment(*photographs))
    assert doubt == "tiny knows nothing but drawn shapes; take model=sd15 for other images, or data=shapes"
    said = invoke("invert", *SMALL, *photographs)
    assert said.code == 0 and f"latentmix: warning: {doubt}" in said.err.splitlines()
    (doubt,) = doubts(sd15("model.world=imagenet"))
    assert doubt.startswith("sd15 knows photographs, not drawn shapes; ")
    for fitting in ((*photographs, "model.world=imagenet"), ("data=synthetic", "data.reference=4")):
        assert doubts(sd15(*fitting)) == []
    assert doubts(experiment(*photographs, f"model.path={embedded_folder('tiny')}")) == []  # which may be any model


def test_classes_that_share_a_name_are_warned_of_and_the_advice_parts_them(tmp_path: Path, snapshot: Path) -> None:
    cranes = ("n02012849", "n03126707")
    settings = (*imagenet(tmp_path / "images", *cranes, "n01443537"), "model.world=imagenet")
    (doubt,) = doubts(sd15(*settings, f"data.classes=[{cranes[1]}]"))
    assert "n02012849 and n03126707 by the same name, 'crane'" in doubt
    assert doubts(sd15(*settings, "data.classes=[goldfish]")) == []
    (advice,) = re.findall("'(data.titles=.*)'", doubt)
    followed = sd15(*settings, advice)
    assert doubts(followed) == []
    assert len({followed.prompt(class_id) for class_id in cranes}) == 2


@pytest.fixture
def pictures(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Experiment]:
    """An experiment on images of the hub, which can be streamed unless HF_HUB_OFFLINE is set."""
    import datasets

    def load_dataset(*_: Any, **__: Any) -> Any:
        if constants.HF_HUB_OFFLINE:
            raise ConnectionError("offline")
        features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["star"])})
        rows = {"image": [{"bytes": png(level), "path": None} for level in range(6)], "label": [0] * 6}
        return datasets.Dataset.from_dict(rows, features=features).to_iterable_dataset()

    def png(level: int) -> bytes:
        Image.new("L", (8, 8), level).save(file := io.BytesIO(), "PNG")
        return file.getvalue()

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return lambda *more: experiment(*PICTURES, *more)


def test_images_of_the_hub_are_fetched_and_then_found_without_it(
    server: Server, pictures: Callable[..., Experiment]
) -> None:
    assert finding(pictures(), "data").state == "fetch"
    assert any(path.startswith("/datasets/owner/pictures/resolve/main/") for path in server.asked)
    server.refuse("owner/pictures", 403, "GatedRepo")
    assert "accept its terms at https://huggingface.co/datasets/owner/pictures," in text(pictures(), "data")
    server.answers.clear()
    line = invoke("fetch", *SMALL, *PICTURES).out.splitlines()[-1]
    assert line.startswith("new      data      4 images of 1 class ")
    server.asked.clear()
    assert finding(pictures(), "data").state == "ok"
    assert "'staar'" in text(pictures("data.classes=[staar]"), "data")  # a mistake, with or without a network
    assert not server.asked


def test_images_of_the_hub_are_missing_offline(offline: list[str], pictures: Callable[..., Experiment]) -> None:
    found = finding(pictures(), "data")
    assert found.state == "missing" and "HF_HUB_OFFLINE is set" in found.text and "latentmix fetch" in found.advice[0]
    assert not offline


def test_images_that_the_model_generates_wait_for_it(offline: list[str], empty_caches: Path) -> None:
    settings = ("data=synthetic", "data.reference=6")
    expected = {"device": "ok", "model": "missing", "data": "fetch", "disk": "ok"}
    assert fake_hub.states(sd15(*settings), invert.STAGES) == expected
    fake_hub.in_cache(fake_hub.pipeline(empty_caches / "pipeline"), SD15, fake_hub.REVISION)
    assert finding(sd15(*settings), "data").state == "ok"
    assert SYNTHESIZE.plan(sd15(*settings), 4).bytes == 6 * 2 * 512**2


# Disk space


def test_the_disk_space_that_is_needed_is_that_of_what_the_stages_write(monkeypatch: pytest.MonkeyPatch) -> None:
    small = experiment("outputs=not/here/yet", "draws=10", "pool=8", "n=[2,4]", "methods=[fix/0,nin/0,lin/0]")
    latent, draws, features, image = 4 * math.prod(small.model.latent_shape(64)), 10 * 2 * 3, 4 * (64 + 64), 2 * 64**2
    latents, measured = 8 * 2 * latent, 4 * features + draws * features
    needed = latents + measured + 6 * 4 * image  # keep=4 in each of six cells
    for stages, size in (
        (invert.STAGES, latents),
        (mix.STAGES, latents + draws * latent),
        (reconstruct.STAGES, latents + 8 * 3 * 3 * 64**2),
        (generate.STAGES, latents + 2 * draws * image),
        ([MEASURE_REFERENCES], 4 * features),
        ([probe_stage(PAPER)], 5 * latent + 10 * image),
        (SWEEP, needed),
    ):
        assert sum(stage.plan(small, 4).bytes for stage in stages) == size
    set_free_disk(monkeypatch, needed)
    assert finding(small, "disk").state == "ok"
    set_free_disk(monkeypatch, needed - 1)
    assert finding(small, "disk", invert.STAGES).state == "ok"
    with pytest.raises(UserError, match=r"the disk is too small: about .* will be written to not/here/yet.*outputs="):
        require_work(small, [stage.plan(small, 8) for stage in SWEEP])


def test_what_is_written_already_is_not_counted_again(monkeypatch: pytest.MonkeyPatch) -> None:
    small = experiment()
    set_free_disk(monkeypatch, 100)
    assert finding(small, "disk", invert.STAGES).state == "missing"
    for task in INVERT.plan(small, 4).tasks:
        if write := task.compute(task.read()):
            write()
    written = sum(file.stat().st_size for file in (small.config.cache / "latents").rglob("*.safetensors"))
    assert 1 <= written / (4 * disk_sizes.inverted(small)) < 1.2
    assert finding(small, "disk", invert.STAGES).state == "ok"


def test_outputs_that_can_not_be_written_to_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    found = finding(experiment(f"outputs={tmp_path / 'file' / 'below'}"), "disk")
    assert found.state == "missing" and "choose another place with outputs=" in found.text


# Before a run


def test_work_is_planned_once(tmp_path: Path) -> None:
    planned = list[int]()

    def plan(_: Experiment, size: int) -> Stage:
        planned.append(size)
        return Stage("nothing to do")

    session.run_stages(experiment(f"outputs={tmp_path}", "batch=4"), [StageType(plan)] * 2, "test")
    assert planned == [4, 4]  # once for each stage


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_check_before_they_work_and_dry_runs_do_not(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **called: Any) -> None:
        raise UserError(f"{command} is {'planned' if called else 'run'}")

    monkeypatch.setattr(checks, "require", refuse)
    assert error_line(command, *SMALL) == f"latentmix: error: {command} is run"
    monkeypatch.setattr(Experiment, "check", refuse)  # with images=...
    assert error_line(command, *SMALL, "--dry-run") == f"latentmix: error: {command} is planned"


def test_one_line_names_all_that_is_missing_and_nothing_else(offline: list[str]) -> None:
    settings = ("model=sd15", "data.classes=[staar]")
    line = error_line("sweep", *SMALL, *settings)
    for part in (f"sd15 ({SD15})", "is called 'staar'", "Inception-v3", "ViT-L-14/openai", "latentmix doctor"):
        assert part in line
    with pytest.raises(UserError, match="sd15") as caught:
        require(experiment(*settings), generate.STAGES)  # which measures nothing
    assert not re.search("Inception|ViT", str(caught.value))
    assert not offline


# Dry runs


@pytest.fixture
def downloaded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What any of the libraries would download; nothing is."""
    import datasets
    import open_clip

    def refuse(source: str, *_: Any, **__: Any) -> None:
        if not constants.HF_HUB_OFFLINE:
            started.append(source)
        raise ConnectionError("no network")

    started: list[str] = []
    fake_hub.replace_download(monkeypatch, refuse, sizes=[2 << 20])
    for library, name in (
        *((datasets, "load_dataset"), (open_clip, "create_model")),
        *((torch.hub, "load_state_dict_from_url"), (torch.hub, "download_url_to_file")),
    ):
        monkeypatch.setattr(library, name, refuse)
    return started


def planned(*arguments: str) -> tuple[dict[str, list[int]], list[str]]:
    """Return, for each stage of a dry run, what is to do, what is done and evaluations; and the lines that follow.

    Without the warning of a CPU.
    """
    result = invoke(*arguments, "--dry-run")
    assert result.code == 0, result.err
    rows = [line.strip("│").split("│") for line in result.out.splitlines() if line.startswith("│")]
    counts = {name.strip(): [int(cell.replace(",", "")) for cell in cells[:3]] for name, *cells in rows}
    lines = result.out.partition("nothing was done. ")[2].splitlines()
    return counts, [line for line in lines if not line.startswith("warning  device")]


def test_a_dry_run_downloads_nothing_and_says_what_a_run_would(
    server: Server, downloaded: list[str], empty_caches: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_hub.answer_urls(monkeypatch, empty_caches)
    few = ("pool=4", "n=[2]", "methods=[fix/0]", "draws=4", "steps=3", "inversion.steps=5")
    counts, lines = planned("sweep", *NOTHING_HERE, *few)
    assert counts == {"real images": [3900, 0, 0], "invert": [12, 0, 12 * 5], "generate": [12, 0, 12 * 3 * 2]}
    assert [line.split()[:2] for line in lines[1:]] == [["fetch", part] for part in PARTS[1:5]]
    assert f"sd15 ({SD15}), 2.0 MiB, is not here yet" in lines[1]
    assert "all of about 150 GB streams by, as all images of a class are taken (data.limit=N ends it" in lines[2]
    counts, lines = planned("sweep", *NOTHING_HERE, "data.limit=200", *EMBEDDED)
    assert counts["real images"] == [600, 0, 0]
    assert lines[2].endswith("of about 150 GB, as much streams by as it takes to find 200 images of each class")
    counts, lines = planned("probe", *NOTHING_HERE)
    assert counts == {"probe": [5, 0, 5 * 50 * 2]}
    assert lines[2].startswith("fetch    data") and lines[2].endswith(": the names of its classes")
    assert downloaded == [] and not (empty_caches / "outputs").exists() and not (empty_caches / "latentmix").exists()


def test_a_dry_run_offline_counts_the_same(offline: list[str], downloaded: list[str]) -> None:
    counts, lines = planned("generate", *NOTHING_HERE, "pool=4", "n=[2]", "methods=[fix/0]", "draws=4")
    assert counts == {"invert": [12, 0, 12 * 50], "generate": [12, 0, 12 * 50 * 2]}
    assert [line.split()[:2] for line in lines[1:3]] == [["missing", "model"], ["missing", "data"]]
    assert lines[3] == "latentmix doctor says what to do about it"
    goldfish = ("--class", "goldfish", "data.classes=[goldfish]", "--weights", "0.5,0.5")
    assert planned("mix", *NOTHING_HERE, *goldfish)[0] == {"invert": [128, 0, 128 * 50]}
    counts, _ = planned("reconstruct", *SMALL, "model=sd35-medium", "guidance=1")  # whose images are here
    assert counts == {"invert": [4, 0, 4], "reconstruct": [4, 0, 4]}
    counts, _ = planned("invert", *SMALL, "model=sd15", "data=synthetic", "data.classes=[tree frog]")
    assert counts == {"synthesize": [4, 0, 8], "invert": [4, 0, 4]}
    assert offline == downloaded == []


@pytest.mark.parametrize(
    ("settings", "size"),
    [
        (("model=sd15",), 2 * 4 * 4 * 64**2),
        (("model=sd35-medium", "inversion=null_text"), 2 * 4 * 16 * 128**2 + 4 * 50 * (77 + 256) * 4096),
    ],
)
def test_disk_space_is_estimated_for_a_model_that_is_not_here(
    server: Server, downloaded: list[str], monkeypatch: pytest.MonkeyPatch, settings: tuple[str, ...], size: int
) -> None:
    wanted = Experiment(compose([*settings, *NOTHING_HERE[1:], *EMBEDDED, "pool=64", "n=[2]"]))
    needed = 3 * 64 * size
    set_free_disk(monkeypatch, needed)
    assert f"about {readable_size(needed)} will be written" in finding(wanted, "disk", invert.STAGES).text
    set_free_disk(monkeypatch, needed - 1)
    assert finding(wanted, "disk", invert.STAGES).state == "missing"
    assert downloaded == []


def test_a_dry_run_without_model_and_images_finds_mistakes(offline: list[str]) -> None:
    for setting, reason in (
        ("model.size=500", "model.size=500: must be a multiple of 8"),
        ("steps=2000", "steps must be between 1 and 1000"),
        ("data.classes=[tree fog]", "no class of ImageNet is called 'tree fog'"),
        ("model.features=incepton", "no feature network 'incepton'"),
    ):
        assert reason in error_line("sweep", *NOTHING_HERE, setting, "--dry-run")


def test_a_dry_run_takes_the_batch_size_that_was_measured_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    first = on_gpu(monkeypatch, experiment())
    assert batch_size.estimate(first) == batch_size.GPU_GUESS
    batch_size._remember(first, 128)
    assert batch_size.estimate(on_gpu(monkeypatch, experiment())) == 128
    assert batch_size.estimate(on_gpu(monkeypatch, experiment("batch=7"))) == 7
