"""Watch the memory and open files of a long run: a `latentmix sweep` that generates from 100,000 mixed latents.

    python scripts/benchmarks/measure_day.py

The run takes one step of `tiny` without guidance, so it takes minutes instead of a day. Each batch still goes through
all stages of a real run. Prints a row for each tenth of the images, and one for evaluating and drawing.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from latentmix.runner.status import progress

SETTINGS = (
    "data.classes=[star]",
    "n=[16]",
    "methods=[fix/0,fix/chm]",
    "metrics=[fid,clip_distance]",
    "pool=64",
    "data.reference=64",
    "inversion.steps=1",
    "steps=1",
    "guidance=1",
    "batch=64",
    "keep=0",
    "name=day",
)


def generated(work: Path) -> int:
    return next((stage.finished for stage in progress(work) if stage.stage == "generate"), 0)


def resident(process: int) -> float:
    """Return the resident memory of a process, in MiB."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS")), 0.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100_000)
    images = parser.parse_args().images
    with tempfile.TemporaryDirectory() as outputs:
        command = [sys.executable, "-m", "latentmix", "sweep", *SETTINGS, f"draws={images // 2}"]
        start, said = time.monotonic(), Path(outputs) / "said"
        with said.open("wb") as file:
            process = subprocess.Popen([*command, f"outputs={outputs}"], stdout=file, stderr=file)
        print("   images   seconds   MiB   open files", flush=True)
        tenth, memory, files = 1, 0.0, 0
        while process.poll() is None:
            time.sleep(2)
            done = generated(Path(outputs) / "day" / "work")
            try:
                memory = max(memory, resident(process.pid))
                files = max(files, len(list(Path(f"/proc/{process.pid}/fd").iterdir())))
            except OSError:
                continue  # it has just ended
            if done >= tenth * images / 10:
                print(f"{done:9,} {time.monotonic() - start:9.0f} {memory:5.0f} {files:12}", flush=True)
                tenth, memory, files = done * 10 // images + 1, 0.0, 0
        print(f"    after {time.monotonic() - start:9.0f} {memory:5.0f} {files:12}")
        if process.returncode:
            sys.exit(said.read_text())


if __name__ == "__main__":
    main()
