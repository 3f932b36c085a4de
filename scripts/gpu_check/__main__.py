"""Check on one NVIDIA GPU, within nine minutes and without a network, all that latentmix does on a GPU.

    make gpu-check                                   # or: python3 -m scripts.gpu_check
    python3 -m scripts.gpu_check vae unet            # some of the stages
    make gpu-docs FILE=/tmp/gpu-check/results.jsonl  # fill the tables of docs/ with the numbers

Each stage runs in a process of its own, with a time limit; a stage that no longer fits is skipped, and can be run by
itself later: random weights and compiled kernels stay in --work. Results go to results.jsonl in --out as they come, and
log.txt beside it is written after each stage. Packages that the machine lacks are taken from the wheels of --wheels
(`make gpu-wheels` fetches them). Nothing here changes the settings of the GPU. Without one, the
stages do the same with `tiny` on the CPU, so that the check itself can be tested.
"""

import argparse
import importlib
import os
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .environment import end, environment, unpack

ROOT = Path(__file__).resolve().parents[2]
STAGES = {  # module, and seconds at most
    "ceilings": ("hardware", 60),
    "agree": ("hardware", 130),
    "demo": ("runs", 80),
    "tests": ("runs", 80),
    "shards": ("runs", 80),
    "vae": ("networks", 70),
    "unet": ("networks", 80),
    "bench_sd15": ("runs", 90),
    "mmdit": ("networks", 80),
    "unet_compiled": ("networks", 110),
    "memory": ("memory", 100),
    "bench_sd35": ("runs", 100),
    "frechet": ("memory", 30),
    "bench_compiled": ("runs", 120),
    "mmdit_compiled": ("networks", 150),
}
TOGETHER = ("agree", "demo", "tests", "shards")  # run side by side: they compare results, and time nothing
KEPT = ("random", "inductor", "triton", "cache")  # folders of --work that a later run goes on with
NEEDED = """torch torchvision diffusers transformers accelerate hydra omegaconf antlr4 pydantic typer rich jaxtyping
open_clip ftfy scipy pyarrow torchmetrics matplotlib requests pytest beartype hypothesis"""  # imported by name
MODELS = ("sd15", "sd35-medium")  # whose random weights other processes make at the start
SHORTEST = 0.4  # of a stage's limit; with less time left it is skipped


def main() -> int:
    given = arguments()
    if given.inside:
        return inside(given)
    given.out.mkdir(parents=True, exist_ok=True)
    given.work.mkdir(parents=True, exist_ok=True)
    for old in (path for path in given.work.iterdir() if path.name not in KEPT):
        shutil.rmtree(old) if old.is_dir() else old.unlink()
    if given.stages == list(STAGES):  # some stages add to the results of an earlier run
        (given.out / "results.jsonl").unlink(missing_ok=True)
    run = Run(given, time.monotonic())
    run.install()
    background = [run.start("random", name) for name in MODELS] if on_gpu(given) else []
    try:
        for stages in grouped(given.stages):
            run.run(stages)
    finally:
        for process in background:
            end(process)
        run.close()
    return 0


def grouped(stages: Sequence[str]) -> list[list[str]]:
    """Return the stages in their order, but those that run side by side as one group, where the first of them was."""
    once = list(dict.fromkeys(stages))
    together = [stage for stage in once if stage in TOGETHER]
    return [together if [stage] == together[:1] else [stage] for stage in once if stage not in together[1:]]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stages", nargs="*", default=list(STAGES), metavar="STAGE", help=f"of {', '.join(STAGES)}")
    parser.add_argument("--seconds", type=float, default=float(os.environ.get("GPU_CHECK_SECONDS", 520)))
    parser.add_argument("--slow", type=float, default=1, help="times as long for each stage, on a slow machine")
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", "/tmp/gpu-check")))
    parser.add_argument("--work", type=Path, default=Path("/tmp/gpu-check-work"))
    parser.add_argument("--wheels", type=Path, default=ROOT / ".whl")
    parser.add_argument("--cpu", action="store_true", help="do as if there were no GPU")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)  # a process of a stage
    given = parser.parse_args()
    if unknown := [stage for stage in given.stages if stage not in STAGES and not given.inside]:
        parser.error(f"there is no stage {unknown[0]!r}; there are {', '.join(STAGES)}")
    return given


def inside(given: argparse.Namespace) -> int:
    """Run a stage in this process, or make random weights."""
    first, *rest = given.stages
    if first == "random":
        from latentmix.models.architectures import random_folder

        try:
            print(random_folder(rest[0], given.work / "random"))
        except BaseException as error:
            (given.work / f"no {rest[0]}").write_text(f"{type(error).__name__}: {error}")  # so that no stage waits
            raise
        return 0
    from .record import Check

    check = Check(given.out, given.work, stage=first)
    module = importlib.import_module(f".{STAGES[first][0]}", __package__)
    with check.trying(first):
        getattr(module, first)(check)
    return 0


def on_gpu(given: argparse.Namespace) -> bool:
    """Return whether there is a GPU, without loading torch."""
    signs = ("/dev/nvidiactl", "/dev/nvidia0", "/proc/driver/nvidia/version")
    return not given.cpu and (shutil.which("nvidia-smi") is not None or any(Path(sign).exists() for sign in signs))


@dataclass
class Run:
    """The processes of a check."""

    given: argparse.Namespace
    began: float
    summary: list[str] = field(default_factory=list)

    def install(self) -> None:
        """Unpack the wheels, and say which packages are missing all the same."""
        try:
            unpack(self.given.wheels, self.given.work / "site")
        except (OSError, zipfile.BadZipFile) as error:
            self.tell(f"FAIL wheels: {error}")
        code = f"from importlib.util import find_spec; print(*(n for n in {NEEDED.split()} if find_spec(n) is None))"
        command, environ = [sys.executable, "-c", code], environment(self.given.work)
        done = subprocess.run(command, env=environ, capture_output=True, text=True)
        if missing := (done.stdout + done.stderr).strip():
            self.tell(f"FAIL packages: {sys.executable} lacks {missing}")

    def tell(self, line: str) -> None:
        print(line, flush=True)
        self.summary.append(line)

    def start(self, *stages: str, threads: int | None = None) -> "subprocess.Popen[bytes]":
        """Start a process inside, whose output goes to a log of its own; its environment hides the GPU under --cpu."""
        given, log = self.given, self.given.work / f"{'-'.join(stages)}.log"
        command = [sys.executable, "-m", "scripts.gpu_check", "--inside", *stages]
        command += ["--out", str(given.out), "--work", str(given.work)]
        own = {"CUDA_VISIBLE_DEVICES": ""} if given.cpu else {}
        own |= {"OMP_NUM_THREADS": str(threads)} if threads else {}
        if stages[0] == "random":
            own |= {"OMP_NUM_THREADS": "2", "CUDA_VISIBLE_DEVICES": ""}
        with log.open("wb") as file:
            environ = environment(given.work) | own
            return subprocess.Popen(
                command, cwd=ROOT, env=environ, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
            )

    def run(self, names: Sequence[str]) -> None:
        """Run stages side by side, each within its limit and what is left, or skip them."""
        limits = {name: STAGES[name][1] * self.given.slow for name in names}
        left = self.given.seconds - (time.monotonic() - self.began)
        if left < SHORTEST * max(limits.values()):
            for name in names:
                self.tell(f"SKIPPED {name}: {left:.0f} s are left")
            return
        threads = max(1, (os.cpu_count() or 1) // len(names)) if len(names) > 1 else None
        start, running = time.monotonic(), {name: self.start(name, threads=threads) for name in names}
        try:
            while running:
                time.sleep(0.1)
                for name, process in list(running.items()):
                    code, took = process.poll(), time.monotonic() - start
                    if code is not None or took >= min(limits[name], left):
                        end(running.pop(name))
                        ended = "FAIL, out of time" if code is None else f"FAIL, code {code}" if code else "0"
                        self.report(name, f"ended with {ended} after {took:.0f} s", failed=code != 0)
        finally:
            for process in running.values():
                end(process)
        self.write_log()

    def report(self, name: str, ended: str, failed: bool) -> None:
        """Tell what a stage found and how it ended, and show the end of its log if it failed."""
        lines = (self.given.work / f"{name}.log").read_text(errors="replace").splitlines()
        for line in lines:
            if line.startswith("RESULT"):
                self.tell(line)
        self.tell(f"STAGE {name}: {ended}")
        if failed:
            print("\n".join(lines[-8:]), flush=True)

    def write_log(self) -> None:
        """Write the log of all stages so far."""
        logs = sorted(self.given.work.glob("*.log"), key=lambda path: path.stat().st_mtime)
        texts = [f"===== {log.stem}\n{log.read_text(errors='replace')[-60_000:]}" for log in logs]
        (self.given.out / "log.txt").write_text("\n".join(["\n".join(self.summary), *texts]))

    def close(self) -> None:
        """Write the log, and say what failed."""
        self.write_log()
        bad = [line for line in self.summary if "FAIL" in line or line.startswith("SKIPPED")]
        print("\n".join(["", "what failed or was skipped:", *(bad or ["nothing"])]))
        took = time.monotonic() - self.began
        print(f"{took:.0f} s in all; numbers are in {self.given.out / 'results.jsonl'}, and log.txt is beside it")


if __name__ == "__main__":
    sys.exit(main())
