"""What a run needs is checked before any work: device, memory, images and disk space. Dry runs need none of it."""

import math
import os
import re
from importlib import metadata
from pathlib import Path
from typing import Any

import fake_hub
import pytest
import torch
from driver import invoke, refusal
from fake_hub import EMBEDDED, MIB, SD15, SMALL, Server, experiment, finding, sd15, set_free_disk, text
from huggingface_hub import constants
from PIL import Image

from latentmix import checks, mixing
from latentmix.checks import examine, machine, require, require_work
from latentmix.checks.downloads import INCEPTION_URL
from latentmix.commands import generate, invert, mix, reconstruct
from latentmix.commands.shared import session
from latentmix.embedded import embedded_folder
from latentmix.errors import UserError
from latentmix.experiment import disk_sizes
from latentmix.experiment.experiment import Experiment
from latentmix.experiment.probe import PAPER, probe_stage
from latentmix.experiment.stages import MEASURE_REFERENCES, StageType
from latentmix.experiment.sweep import SWEEP
from latentmix.experiment.synthesis import SYNTHESIZE
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
    assert (result.code, missing, offline) == (1, ["model", "features", "clip"], [])
    for advice in (
        "On a machine that is online, run latentmix fetch with the same settings",
        f"then copy models--{SD15.replace('/', '--')} from its cache",
        f"to {empty_caches / 'hub'}, with its links",
        "model.path=FOLDER",
        f"{INCEPTION_URL}, to {empty_caches / 'torch' / 'hub' / 'checkpoints'}",
    ):
        assert advice in result.out


def test_a_figure_needs_what_its_stages_read_for_each_of_its_models(offline: list[str]) -> None:
    result = invoke("doctor", "--figure", "fig10", "model=sd15", "data=shapes", "data.classes=[star]")
    missing = [line.split()[:3] for line in result.out.splitlines() if line.startswith("missing")]
    assert missing == [["missing", "model", name] for name in ("sd15", "sd35-medium")]
    assert result.code == 1 and "Inception" not in result.out  # as its images are not measured
    assert "there is no figure 'fig13'; there are fig1, " in refusal("doctor", "--figure", "fig13")
    assert [line.split()[1] for line in invoke("doctor", "--figure", "fig2").out.splitlines()] == ["versions"]


# Device and memory


def test_a_device_is_named_with_its_free_memory_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    on_gpu = experiment()
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA X")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (20 << 30, 24 << 30))
    on_gpu.device = torch.device("cuda")
    assert finding(on_gpu, "device", invert.STAGES).text == "NVIDIA X, 20 GiB of memory"
    found = finding(experiment("device=gpu"), "device")
    assert found.state == "missing" and "device=cuda can't be used here; give device=auto or cpu" in found.text
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: torch.device("xpu"))
    assert experiment().device == torch.device("xpu")


def test_a_gpu_that_torch_can_not_use_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'NVIDIA A100, 535.54.03'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: None)
    found, warned = machine.check_device(experiment())
    assert (found.state, warned.state) == ("ok", "warning") and found.text.startswith("cpu, ")
    assert f"this torch ({torch.__version__}) cannot use (NVIDIA A100, driver 535.54.03)" in warned.text
    assert "pytorch.org" in " ".join(warned.advice)
    assert len(machine.check_device(experiment("device=cpu"))) == 1
    tool.write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed, as there is no driver'\nexit 9\n")
    assert len(machine.check_device(experiment())) == 1


def test_a_large_model_on_a_cpu_is_warned_of_with_an_estimate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_operations_per_second", lambda: 1e11)
    few = ("device=cpu", "draws=50", "pool=12", "steps=10", "inversion.steps=10")
    (found,) = (f for f in examine(sd15(*few), SWEEP) if f.part == "device" and f.state == "warning")
    # 12 images are inverted in 10 evaluations each, and 50 generated in 20 each
    assert "sd15 is slow on a CPU: 1,120 network evaluations of about 8 s take some 2 h 29 min" in found.text
    assert not [f for f in examine(experiment(*few), SWEEP) if f.state == "warning"]
    monkeypatch.setattr(machine, "_operations_per_second", lambda: 8e9)
    (found,) = (f for f in examine(sd15(*few), SWEEP) if f.part == "device" and f.state == "warning")
    assert "1,120 network evaluations of about 1 min 40 s take" in found.text


def test_the_cpu_of_a_machine_that_only_submits_jobs_of_gpus_is_not_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_operations_per_second", lambda: 1e11)
    few = ("draws=50", "pool=12", "steps=10", "launch=slurm")
    for gpus, wanted in ((1, ["ok"]), (0, ["ok", "warning"])):
        found = [f for f in examine(sd15(*few, f"launch.gpus={gpus}"), SWEEP) if f.part == "device"]
        assert [f.state for f in found] == wanted
        assert ("each Slurm job asks for a GPU" in found[0].text) == bool(gpus)


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


def imagenet(folder: Path, *class_ids: str) -> tuple[str, ...]:
    """Write four images of each of these classes of ImageNet. Return settings that read all of them."""
    for class_id in class_ids:
        (folder / class_id).mkdir(parents=True)
        for number in range(4):
            Image.new("RGB", (8, 8), (number, 0, 0)).save(folder / class_id / f"{number}.png")
    return "data=imagenet", f"data.path={folder}", "data.reference=4", "data.classes=null"


def doubts(of: Experiment) -> list[str]:
    return [found.text for found in examine(of, SWEEP) if found.part == "meaning"]


def test_folders_and_images_that_are_not_there_are_missing_to_what_reads_them(tmp_path: Path) -> None:
    found = finding(experiment("data=folder", "data.path=/no/such/folder", "data.classes=null"), "data")
    assert found.state == "missing" and "/no/such/folder" in found.text
    few = experiment(*imagenet(tmp_path / "images", "n01443537"), "data.reference=5")
    assert finding(few, "data").state == "missing"
    assert finding(few, "data", invert.STAGES).state == "ok"


@pytest.mark.parametrize(
    ("settings", "warned"),
    [  # the embedded features have 64 numbers, and the smallest of ten parts must have as many draws
        (["metrics=[fid_infinity]", "draws=639"], "parts of 63 to 639 draws, and needs at least 64, .* take draws=640"),
        (["metrics=[fid_infinity]", "draws=640"], None),
        (["metrics=[fid]", "draws=20"], None),
        (["methods=[fix/0,nin/pool]", "n=[2,9]", "pool=16"], f"nin/pool: N = 9 of pool=16; {mixing.HALF_A_POOL}"),
        (["methods=[fix/0,nin/pool]", "n=[2,8]", "pool=16"], None),
        (["methods=[fix/0,fix/chm]", "n=[2,9]", "pool=16"], None),
    ],
)
def test_numbers_that_would_mislead_are_warned_of(settings: list[str], warned: str | None) -> None:
    found = doubts(experiment("pool=40", *settings))
    assert len(found) == (warned is not None) and (warned is None or re.search(warned, found[0]))
    if "draws=639" in settings:
        assert not [found for found in examine(experiment(*settings), invert.STAGES) if found.part == "meaning"]


def test_images_of_a_kind_that_the_model_does_not_know_are_warned_of(tmp_path: Path, snapshot: Path) -> None:
    photographs = imagenet(tmp_path / "images", "n01443537")
    assert doubts(experiment()) == []
    (doubt,) = doubts(experiment(*photographs))
    assert doubt == "tiny knows nothing but data=shapes; take model=sd15 for other images"
    said = invoke("invert", *SMALL, *photographs)
    assert said.code == 0 and f"latentmix: warning: {doubt}" in said.err.splitlines()
    assert doubts(sd15("model.domain=imagenet"))[0].startswith("sd15 knows photographs, not drawn images; ")
    for fitting in ((*photographs, "model.domain=imagenet"), ("data=synthetic", "data.reference=4")):
        assert doubts(sd15(*fitting)) == []
    assert doubts(experiment(*photographs, f"model.path={embedded_folder('tiny')}")) == []  # which may be any model


def test_a_prompt_without_a_name_is_warned_of(tmp_path: Path, snapshot: Path) -> None:
    folder = (*imagenet(tmp_path / "images", "n01443537"), "model.domain=imagenet", "data.classes=[n01443537]")
    nameless = ("data=folder", *folder[1:])
    (doubt,) = doubts(sd15(*nameless))
    assert doubt.startswith("a prompt is 'a photo of a n01443537'") and "take data=imagenet" in doubt
    assert doubts(sd15(*folder)) == doubts(sd15(*nameless, "data.titles={n01443537: goldfish}")) == []


def test_classes_that_share_a_name_are_warned_of_and_the_advice_parts_them(tmp_path: Path, snapshot: Path) -> None:
    cranes = ("n02012849", "n03126707")
    settings = (*imagenet(tmp_path / "images", *cranes, "n01443537"), "model.domain=imagenet")
    (doubt,) = doubts(sd15(*settings, f"data.classes=[{cranes[1]}]"))
    assert "n02012849 and n03126707 by the same name, 'crane'" in doubt
    assert doubts(sd15(*settings, "data.classes=[goldfish]")) == []
    (advice,) = re.findall("'(data.titles=.*)'", doubt)
    followed = sd15(*settings, advice)
    assert doubts(followed) == [] and len({followed.data.prompt(class_id) for class_id in cranes}) == 2


def test_images_of_the_hub_are_fetched_and_then_found_without_it(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    def load_dataset(*_: Any, **__: Any) -> Any:
        if constants.HF_HUB_OFFLINE:
            raise ConnectionError("offline")
        features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["star"])})
        rows = {"image": [Image.new("L", (8, 8), level) for level in range(6)], "label": [0] * 6}
        return datasets.Dataset.from_dict(rows, features).to_iterable_dataset()

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert finding(experiment(*PICTURES), "data").state == "fetch"
    server.refuse("owner/pictures", 403, "GatedRepo")
    assert "accept its terms at https://huggingface.co/datasets/owner/pictures," in text(experiment(*PICTURES), "data")
    server.answers.clear()
    with monkeypatch.context() as patch:
        patch.setattr(constants, "HF_HUB_OFFLINE", True)
        found = finding(experiment(*PICTURES), "data")
    assert (found.state, "latentmix fetch" in found.advice[0]) == ("missing", True) and "is set" in found.text
    assert invoke("fetch", *SMALL, *PICTURES).out.splitlines()[-1].startswith("new      data      4 images of 1 class ")
    server.asked.clear()
    assert finding(experiment(*PICTURES), "data").state == "ok" and not server.asked


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
    latents = 8 * 2 * latent
    needed = latents + 4 * features + draws * features + 6 * 4 * image  # keep=4 in each of six cells
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
    with pytest.raises(UserError, match=r"the disk is too small: about .* will be written to not/here/yet.*outputs="):
        require_work(small, [stage.plan(small, 8) for stage in SWEEP])


def test_what_is_written_already_is_not_counted_again(monkeypatch: pytest.MonkeyPatch) -> None:
    small = experiment()
    assert invoke("invert", *SMALL).code == 0
    written = sum(file.stat().st_size for file in (small.config.cache / "latents").rglob("*.safetensors"))
    assert 1 <= written / (4 * disk_sizes.inverted(small)) < 1.2
    set_free_disk(monkeypatch, 100)
    assert finding(small, "disk", invert.STAGES).state == "ok"
    assert finding(experiment("pool=5"), "disk", invert.STAGES).state == "missing"


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
    assert refusal(command, *SMALL) == f"latentmix: error: {command} is run"
    monkeypatch.setattr(Experiment, "check", refuse)  # with images=...
    assert refusal(command, *SMALL, "--dry-run") == f"latentmix: error: {command} is planned"


def test_one_line_names_all_that_is_missing_and_nothing_else(offline: list[str]) -> None:
    settings = ("model=sd15", "data.classes=[staar]")
    line = refusal("sweep", *SMALL, *settings)
    for part in (f"sd15 ({SD15})", "is called 'staar'", "Inception-v3", "ViT-L-14/openai", "latentmix doctor"):
        assert part in line
    with pytest.raises(UserError, match="sd15") as caught:
        require(experiment(*settings), generate.STAGES)  # which measures nothing
    assert not re.search("Inception|ViT", str(caught.value)) and not offline


# Dry runs


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
    server: Server, empty_caches: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_hub.answer_urls(monkeypatch, empty_caches)
    fake_hub.replace_download(monkeypatch, pytest.fail, sizes=[2 << 20])
    few = ("pool=4", "n=[2]", "methods=[fix/0]", "draws=4", "steps=3", "inversion.steps=5")
    counts, lines = planned("sweep", *NOTHING_HERE, *few)
    assert counts == {"real images": [3900, 0, 0], "invert": [12, 0, 12 * 5], "generate": [12, 0, 12 * 3 * 2]}
    assert [line.split()[:2] for line in lines[1:]] == [["fetch", part] for part in PARTS[1:5]]
    assert f"sd15 ({SD15}), 2.0 MiB, is not here yet" in lines[1]
    assert "all of about 150 GB, as all images of a class are wanted (data.limit=N stops" in lines[2]
    assert planned("sweep", *NOTHING_HERE, "data.limit=200", *EMBEDDED)[0]["real images"] == [600, 0, 0]
    assert not (empty_caches / "outputs").exists() and not (empty_caches / "latentmix").exists()


def test_a_dry_run_offline_counts_the_same_and_finds_mistakes(offline: list[str]) -> None:
    counts, lines = planned("generate", *NOTHING_HERE, "pool=4", "n=[2]", "methods=[fix/0]", "draws=4")
    assert counts == {"invert": [12, 0, 12 * 50], "generate": [12, 0, 12 * 50 * 2]}
    assert [line.split()[:2] for line in lines[1:3]] == [["missing", "model"], ["missing", "data"]]
    assert lines[3] == "latentmix doctor says what to do about it"
    counts, _ = planned("reconstruct", *SMALL, "model=sd35-medium", "guidance=1")  # whose images are here
    assert counts == {"invert": [4, 0, 4], "reconstruct": [4, 0, 4]}
    counts, _ = planned("invert", *SMALL, "model=sd15", "data=synthetic", "data.classes=[tree frog]")
    assert counts == {"synthesize": [4, 0, 8], "invert": [4, 0, 4]}
    for setting, reason in (
        ("model.size=500", "model.size=500: must be a multiple of 8"),
        ("steps=2000", "steps must be between 1 and 1000"),
        ("data.classes=[tree fog]", "no class of ImageNet is called 'tree fog'"),
    ):
        assert reason in refusal("sweep", *NOTHING_HERE, setting, "--dry-run")
    assert not offline
