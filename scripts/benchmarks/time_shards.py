"""Time the same sweep by one worker and by several on this machine: the table of docs/scaling.md.

python scripts/benchmarks/time_shards.py [WORKERSxTHREADS]... [-- KEY=VALUE...]
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

SWEEP = [
    "experiment=demo",
    "model=tiny",
    "data.classes=[star,heart]",
    "n=[2,8,32]",
    "methods=[fix/0,fix/chm]",
    "pool=64",
    "draws=32",
]


def main() -> None:
    arguments = sys.argv[1:]
    split = arguments.index("--") if "--" in arguments else len(arguments)
    settings, more = arguments[:split] or ["1x1", "1x2", "2x1"], arguments[split + 1 :]
    print("| workers | threads of each | wall time |\n|---|---|---|")
    for setting in settings:
        workers, _, threads = setting.partition("x")
        print(f"| {workers} | {threads} | {seconds(workers, threads, more):.0f} s |", flush=True)


def seconds(workers: str, threads: str, more: list[str]) -> float:
    """Return the time of the whole command, in a folder where nothing is done yet."""
    with tempfile.TemporaryDirectory() as outputs:
        where = [f"launch.workers={workers}", f"launch.threads={threads}", f"outputs={outputs}"]
        start = time.monotonic()
        command = [sys.executable, "-m", "latentmix", "sweep", *SWEEP, "device=cpu", "batch=8", *where, *more]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode or not (Path(outputs) / "demo" / "metrics.csv").exists():
            sys.exit(done.stderr)
        return time.monotonic() - start


if __name__ == "__main__":
    main()
