"""Train the embedded networks on drawn objects.

    python -m scripts.training                        # all stages on this machine; resumes where it was stopped
    python -m scripts.training vae classifier         # some stages
    python -m scripts.training --minutes 8            # all stages within eight minutes, on a GPU

README.md beside this file says what each stage makes, how to go on from stored weights, and what was measured.
"""

import argparse
import importlib
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

from scripts.gpu_check.environment import end, environment, unpack

ROOT = Path(__file__).resolve().parent.parent.parent
WEIGHTS = ROOT / "latentmix" / "embedded" / "things"
STAGES = {  # in the order in which they need each other, and the function of each
    "images": "data.images",
    "vae": "vae.vae",
    "vae_sd3": "vae.vae_sd3",
    "spectrum": "spectrum.spectrum",
    "clip": "clip.clip",
    "classifier": "classifier.classifier",
    "unet": "unet.unet",
    "transformer": "mmdit.transformer",
    "gates_tiny": "gates.gates_tiny",
    "gates_sd3": "gates.gates_sd3",
}
GRACE = 15.0  # seconds after its deadline at which a stage is ended


def main() -> int:
    given, began = arguments(), time.time()
    given.work.mkdir(parents=True, exist_ok=True)
    if given.wheels is not None:
        unpack(given.wheels, given.work / "site")
        sys.path.insert(0, str(given.work / "site"))
    if given.start is not None and given.start.resolve() != given.to.resolve():
        shutil.copytree(given.start, given.to, dirs_exist_ok=True)
    given.to.mkdir(parents=True, exist_ok=True)
    if given.minutes is not None:
        return run_in_time(given, began + 60 * given.minutes)
    for stage in given.stages:
        run_stage(given, stage)
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stages", nargs="*", default=list(STAGES), metavar="STAGE", help=f"of {', '.join(STAGES)}")
    parser.add_argument("--minutes", type=float, help="time limit for all stages together, which run side by side")
    parser.add_argument("--work", type=Path, default=ROOT / "outputs" / "train", help="drawn images and checkpoints")
    parser.add_argument("--to", type=Path, default=WEIGHTS, help="where weights are written, and go on from")
    parser.add_argument("--from", dest="start", type=Path, help="weights to go on from, copied to --to first")
    parser.add_argument("--wheels", type=Path, help="a folder of wheels of packages that this machine lacks")
    parser.add_argument("--settings", help="a column of settings.py: cpu, cuda or smoke; default: by the device")
    parser.add_argument("--device", help="default: cuda if there is a GPU")
    parser.add_argument("--half", action="store_true", help="bfloat16 autocast, which a GPU has anyway")
    parser.add_argument("--compile", action="store_true", help="compile the diffusion networks; pays for long runs")
    parser.add_argument("--deadline", type=float, help=argparse.SUPPRESS)  # of one stage, set by --minutes
    given = parser.parse_args()
    if unknown := [stage for stage in given.stages if stage not in STAGES]:
        parser.error(f"there is no stage {unknown[0]!r}; there are {', '.join(STAGES)}")
    if given.wheels is not None and not list(given.wheels.glob("*.whl")):
        parser.error(f"--wheels {given.wheels} has no wheels; `make gpu-wheels` fetches them where there is a network")
    if given.start is not None and not given.start.is_dir():
        parser.error(f"--from {given.start} is no folder")
    given.work, given.to = given.work.resolve(), given.to.resolve()
    return given


def run_stage(given: argparse.Namespace, stage: str) -> None:
    """Run one stage in this process."""
    import torch

    from .device import prepare
    from .settings import TABLE, Run

    device = torch.device(given.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    settings = TABLE[given.settings or device.type]
    exact = stage.startswith(("gates", "spectrum"))
    settings = replace(settings, half=(settings.half or given.half) and not exact)
    prepare(device, exact)
    module, function = STAGES[stage].split(".")
    run = Run(settings, device, given.work, given.to, given.deadline, given.compile)
    getattr(importlib.import_module(f".{module}", __package__), function)(run)


@dataclass(frozen=True)
class Child:
    """A stage that runs in a process of its own."""

    stage: str
    process: subprocess.Popen[bytes]


def run_in_time(given: argparse.Namespace, until: float) -> int:
    """Run the stages phase by phase until a time. Return 1 if one of them failed; the others go on all the same."""
    from .settings import PHASES

    failed = list[str]()
    phases = [(share, [stage for stage in stages if stage in given.stages]) for share, stages in PHASES]
    phases = [(share, stages) for share, stages in phases if stages]
    for number, (share, stages) in enumerate(phases):
        left, shares = until - time.time(), sum(each for each, _ in phases[number:])
        deadline = time.time() + left * share / shares
        print(f"{' and '.join(stages)}: {deadline - time.time():.0f} s", flush=True)
        late = until if stages == ["images"] else deadline + GRACE
        failed += wait([start(given, stage, deadline) for stage in stages], late)
    print(
        f"{given.minutes - (until - time.time()) / 60:.1f} minutes; failed: {', '.join(failed) or 'none'}", flush=True
    )
    return int(bool(failed))


def start(given: argparse.Namespace, stage: str, deadline: float) -> Child:
    """Start a stage with the arguments of this process."""
    flags = [f"--{name}" for name in ("half", "compile") if getattr(given, name)]
    named = {"--work": given.work, "--to": given.to, "--settings": given.settings, "--device": given.device}
    named["--deadline"] = deadline
    options = [*flags, *(str(part) for pair in named.items() if pair[1] is not None for part in pair)]
    command = [sys.executable, "-m", "scripts.training", stage, *options]
    return Child(stage, subprocess.Popen(command, cwd=ROOT, env=environment(given.work), start_new_session=True))


def wait(children: list[Child], late: float) -> list[str]:
    """Wait for the stages of a phase, end those that are `late`, and return the names of those that failed."""
    failed = list[str]()
    try:
        for child in children:
            try:
                code = child.process.wait(max(1.0, late - time.time()))
                reason = f"code {code}" if code else ""
            except subprocess.TimeoutExpired:
                reason = "out of time"
            if reason:
                print(f"{child.stage}: FAILED, {reason}", flush=True)
                failed.append(child.stage)
    finally:
        for child in children:
            end(child.process)
    return failed


if __name__ == "__main__":
    sys.exit(main())
