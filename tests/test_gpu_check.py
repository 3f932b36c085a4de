"""`make gpu-check`: stages run on the CPU, their parts for a GPU on a pretended one; they fill the docs."""

import contextlib
import importlib
import json
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pipelines import SD, SD3, SIZE

from latentmix.experiment import batch_size

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.usefixtures("random_pipelines")


@pytest.fixture(autouse=True)
def scripts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(ROOT))
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    yield
    matmul.allow_tf32, cudnn.allow_tf32 = before


def part(name: str) -> Any:
    return importlib.import_module(f"scripts.gpu_check.{name}")


def results(out: Path) -> dict[str, dict[str, Any]]:
    return dict(part("tables").read(out / "results.jsonl"))


def failed(found: dict[str, Any]) -> list[str]:
    return [what for what in found if what.startswith("FAIL")]


def small(_: object, name: str) -> list[str]:
    """Return the settings of pipelines that run in milliseconds, in place of `Check.full_size`."""
    return [*(SD if name == "sd15" else SD3)]


def test_the_stages_run_on_a_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(part("record").Check, "full_size", small)
    monkeypatch.setattr(part("record").Check, "free", lambda _: None)  # collecting garbage takes longer than all else
    for stage in ("ceilings", "vae", "unet", "mmdit", "memory", "frechet"):
        check = part("record").Check(tmp_path, tmp_path / "work", torch.device("cpu"), stage)
        with check.trying(stage):
            getattr(part(part("__main__").STAGES[stage][0]), stage)(check)
    found = results(tmp_path)
    assert not failed(found)
    assert found["decode float32 ieee NHWC"]["levels"] == 0
    assert found["null-text tf32, 2 at once"]["apart_when_repeated"] == 0
    assert found["U-Net batch 2 as it is"]["image_steps_s"] > 0


def test_a_model_is_compared_with_itself_on_the_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hardware = part("hardware")
    check = part("record").Check(tmp_path, tmp_path / "work", torch.device("cpu"), "agree")
    pair = hardware._Pair(check, "tiny", "float32")
    pair.compare("ddim float32", "ddim", "float32", 1e-4)
    pair.expected["ddim"]["latents"] = pair.expected["ddim"]["latents"] + 1
    pair.compare("another ddim", "ddim", "float32", 1e-4)
    found = results(tmp_path)
    assert found["tiny ddim float32"]["latents"] == 0
    assert failed(found) == ["FAIL tiny another ddim"]


@pytest.fixture
def pretended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Any]]:
    """Return checks that take the CPU for a GPU. They time nothing, so networks run only where results need them."""
    runs, check_class = part("runs"), part("record").Check

    class Pretended(check_class):  # type: ignore[misc, valid-type]
        on_gpu = True
        half = torch.float32

        def timed(self, work: Any, *_: Any) -> float:
            return 2.0

        once = queued = timed

        def free(self) -> None: ...
        def wait(self) -> None: ...
        def show_kernels(self, *_: Any, **__: Any) -> None: ...
        def peak(self) -> float:
            return 1.0

        reserved = peak

        full_size = small

        def experiment(self, *overrides: str) -> Any:
            return super().experiment(*overrides, f"model.size={SIZE}")

    def start(_: Any, command: str, *arguments: str) -> Any:
        folder = Path(next(a.removeprefix("outputs=") for a in arguments if a.startswith("outputs="))) / "bench"
        folder.mkdir(parents=True, exist_ok=True)
        speed = {"images_per_second": 7.0, "tflops": 300.0, "share": 0.4, "memory": 2**33}
        names = ["latentmix", "diffusers", *(["diffusers, compiled"] if "speed.compile=true" in arguments else [])]
        about = {"batch": 16, "steps": 20, "size": 512, "times as fast": 1.6, "compiled": len(names) == 3}
        (folder / "bench.json").write_text(json.dumps(about | dict.fromkeys(names, speed)))
        return SimpleNamespace(wait=lambda: 0)

    monkeypatch.setattr(runs, "_start", start)
    monkeypatch.setattr(torch.nn.Module, "compile", lambda *_, **__: None)
    monkeypatch.setattr("latentmix.models.compile.check", lambda _: None)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda _: None)
    about = SimpleNamespace(name="NVIDIA H100", total_memory=80 * 2**30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: about)
    monkeypatch.setattr(batch_size, "_measure", lambda _: 64)
    monkeypatch.setattr(batch_size, "_heaviest_steps", lambda *_: None)
    monkeypatch.setattr(part("memory"), "_run_out", lambda _: None)
    monkeypatch.setattr(part("networks"), "_measuring", lambda _: None)
    real = torch.randn
    monkeypatch.setattr(torch, "randn", lambda *size, **more: real(*(min(n, 8) for n in size), **more))
    yield lambda stage: Pretended(tmp_path, tmp_path / "work", torch.device("cpu"), stage)


def test_the_parts_for_a_gpu_measure_all_that_the_docs_show(
    tmp_path: Path, pretended: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(torch, "zeros", lambda *_, **more: torch.empty(8, **more))
        check = pretended("ceilings")
        part("hardware").ceilings(check)
    for stage in (
        "vae",
        "unet",
        "mmdit",
        "memory",
        "unet_compiled",
        "mmdit_compiled",
        "bench_sd15",
        "bench_sd35",
        "bench_compiled",
    ):
        check = pretended(stage)
        with check.trying(stage):
            getattr(part(part("__main__").STAGES[stage][0]), stage)(check)
    tables, found = part("tables"), results(tmp_path)
    assert not failed(found)
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "page.md").write_text("".join(f"<!-- gpu {name} -->\n<!-- end -->\n\n" for name in tables.TABLES))
    assert tables.fill(docs, found) == [docs / "page.md"]
    text = (docs / "page.md").read_text()
    assert "not measured" not in text and "failed" not in text
    assert "Measured on one NVIDIA H100, torch" in text
    assert "| 7 images/s, 1.60 times diffusers', 40% of the matmul rate, 8.0 GiB |" in text
    before = text
    tables.fill(docs, found)
    assert (docs / "page.md").read_text() == before  # so it can be filled again


def test_the_docs_say_what_was_not_measured() -> None:
    tables = part("tables")
    for page in tables.DOCS.glob("*.md"):
        for name, _, content in (piece.partition(" -->") for piece in page.read_text().split("<!-- gpu ")[1:]):
            assert name in tables.TABLES
            assert "Measured on one" in content or "not measured" in content
    row = tables.TABLES["steps"][0]
    assert tables.measured(row, {f"FAIL {row.what}": {}}) == "failed"


def test_wheels_are_unpacked_without_pip_and_compiled(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "some-1-py3-none-any.whl", "w") as wheel:
        wheel.writestr("some/__init__.py", "value = 3")
    part("environment").unpack(tmp_path, tmp_path / "site")
    code = "import some; print(some.value)"
    env = {"PYTHONPATH": str(tmp_path / "site")}
    assert subprocess.run([sys.executable, "-c", code], env=env, capture_output=True).stdout == b"3\n"
    assert list((tmp_path / "site").rglob("*.pyc"))


def test_a_stage_does_not_wait_for_weights_that_could_not_be_made(tmp_path: Path) -> None:
    check = part("record").Check(tmp_path, tmp_path, torch.device("cuda"), patience=60)
    (tmp_path / "no sd15").write_text("no space left")
    with pytest.raises(RuntimeError, match="no random weights of sd15: no space left"):
        check.full_size("sd15")


def test_a_stage_is_run_within_its_time_and_skipped_without(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "scripts.gpu_check", "--cpu", "--out", str(tmp_path / "out")]
    command += ["--work", str(tmp_path / "work"), "--wheels", str(tmp_path)]
    done = subprocess.run([*command, "ceilings", "--seconds", "5", "--slow", "0.02"], cwd=ROOT, capture_output=True)
    said = done.stdout.decode()
    assert done.returncode == 0 and "STAGE ceilings: ended with FAIL, out of time" in said
    assert "STAGE ceilings" in (tmp_path / "out" / "log.txt").read_text()
    kept = tmp_path / "work" / "random" / "sd15"
    kept.mkdir(parents=True)
    done = subprocess.run([*command, "ceilings", "--seconds", "5"], cwd=ROOT, capture_output=True)
    assert kept.is_dir()
    assert "SKIPPED ceilings" in done.stdout.decode()
    with contextlib.suppress(FileNotFoundError):
        assert not (tmp_path / "out" / "results.jsonl").read_text()


def test_stages_that_time_nothing_run_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    main, started = part("__main__"), list[str]()
    assert main.grouped(["vae", "tests", "unet", "agree"]) == [["vae"], ["tests", "agree"], ["unet"]]
    assert main.grouped(["vae", "vae"]) == [["vae"]]
    assert main.grouped(["demo", "demo"]) == [["demo"]]

    def start(run: Any, name: str, **_: object) -> Any:
        started.append(name)
        (tmp_path / f"{name}.log").write_text(f"RESULT {name}: found")
        code = "raise SystemExit(3)" if name == "agree" else "import time; time.sleep(60)"
        return subprocess.Popen([sys.executable, "-c", code], start_new_session=True)

    monkeypatch.setattr(main.Run, "start", start)
    run = main.Run(SimpleNamespace(slow=0.05, seconds=60, work=tmp_path, out=tmp_path), main.time.monotonic())
    run.run(["agree", "tests"])
    assert started == ["agree", "tests"]  # both at once, and one that fails or takes too long costs no other
    assert "STAGE agree: ended with FAIL, code 3" in " ".join(run.summary)
    assert "STAGE tests: ended with FAIL, out of time" in " ".join(run.summary)
    assert "RESULT agree: found" in run.summary and (tmp_path / "log.txt").exists()
