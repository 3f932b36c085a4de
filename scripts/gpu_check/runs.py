"""Stages that run the command line: `demo`, `shards` and the benchmarks; each in processes of its own."""

import csv
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

from .environment import environment
from .record import Check

STAR = ("experiment=demo", "model=tiny", "data.classes=[star]", "metrics=[fid,clip_distance,clip_score]")
FEW = ("n=[2,32]", "pool=64", "data.reference=100")


def _start(check: Check, *arguments: str) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "latentmix", *arguments]
    return subprocess.Popen(command, env=environment(check.work))


def _sweep(check: Check, outputs: Path, *more: str) -> "subprocess.Popen[bytes]":
    return _start(check, "sweep", *STAR, *FEW, f"outputs={outputs}", *more)


def _succeed(*processes: "subprocess.Popen[bytes]") -> None:
    codes = [process.wait() for process in processes]
    if any(codes):
        raise RuntimeError(f"a command ended with {max(codes)}")


def demo(check: Check) -> None:
    """Run the demo's star on the device as device=auto has it, and beside it on the CPU, and compare the metrics."""
    with check.trying("demo"):
        start = time.perf_counter()
        other = _sweep(check, check.work / "cpu", "device=cpu", "launch.threads=4")
        try:
            _succeed(_sweep(check, check.work / "gpu", f"device={check.device}", "--profile"))
        except RuntimeError:
            other.kill()
            raise
        took = time.perf_counter() - start
        profile = json.loads((check.work / "gpu" / "demo" / "profile.json").read_text())
        check.say("demo", seconds=took, in_networks=profile["in networks"])
        _succeed(other)
        found, expected = (_metrics(check.work / name / "demo" / "metrics.csv") for name in ("gpu", "cpu"))
        for metric in sorted({key[-1] for key in expected}):
            pairs = [(found[key], value) for key, value in expected.items() if key[-1] == metric]
            worst = max(abs(a - b) / max(abs(b), 1e-9) for a, b in pairs)
            means = {"device": statistics.mean(a for a, _ in pairs), "cpu": statistics.mean(b for _, b in pairs)}
            check.say(f"demo, {metric}", count=len(pairs), **means, worst_relative=worst)


def _metrics(path: Path) -> dict[tuple[str, ...], float]:
    with path.open() as file:
        rows = list(csv.DictReader(file))
    return {tuple(row[key] for key in ("class", "n", "method", "metric")): float(row["value"]) for row in rows}


def shards(check: Check) -> None:
    """Compare the bytes that two workers on one GPU leave with those that one leaves."""
    few = ("draws=8", "steps=4", "batch=16", f"device={check.device}", "launch.threads=1")
    with check.trying("two workers"):
        workers = [_sweep(check, check.work / "two", *few, "--shard", f"{index}/2") for index in (0, 1)]
        _succeed(_sweep(check, check.work / "one", *few), *workers)
        one, two = (_tensors(check.work / name / "cache") for name in ("one", "two"))
        unlike = sorted(name for name in one.keys() | two.keys() if one.get(name) != two.get(name))
        first = {"first": unlike[0]} if unlike else {}
        check.say(f"{'FAIL ' if unlike else ''}two workers, files", count=len(one), unlike=len(unlike), **first)


def _tensors(cache: Path) -> dict[str, bytes]:
    return {path.relative_to(cache).as_posix(): path.read_bytes() for path in cache.rglob("*.safetensors")}


def bench_sd15(check: Check) -> None:
    """Compare with diffusers' pipeline: Stable Diffusion 1.5."""
    _bench(check, "sd15", "batch=16", "steps=20", "speed.compile=false")


def bench_compiled(check: Check) -> None:
    """Compare with diffusers' pipeline, eager and compiled: Stable Diffusion 1.5."""
    _bench(check, "sd15", "batch=16", "steps=20", "speed.compile=true")


def bench_sd35(check: Check) -> None:
    """Compare with diffusers' pipeline: Stable Diffusion 3.5 medium."""
    _bench(check, "sd35-medium", "batch=4", "steps=6", "speed.compile=false")


def _bench(check: Check, name: str, *more: str) -> None:
    with check.trying(f"bench {name}"):
        settings = check.full_size(name)
        small = ["batch=2", "steps=2"] if not check.on_gpu else []
        outputs = check.work / "bench"
        common = ("data.classes=[star]", f"device={check.device}", f"outputs={outputs}", "name=bench")
        _succeed(_start(check, "bench", "--repeat", "2", *settings, *common, *more, *small))
        result = json.loads((outputs / "bench" / "bench.json").read_text())
        own, other = result["latentmix"], result["diffusers"]
        numbers = {"images_s": own["images_per_second"], "diffusers": other["images_per_second"]}
        numbers |= {"times": result["times as fast"], "tflops": own["tflops"], "share": own["share"]}
        numbers |= {"peak_gib": own["memory"] / 2**30, "diffusers_peak_gib": other["memory"] / 2**30}
        if "diffusers, compiled" in result:
            numbers["diffusers_compiled"] = result["diffusers, compiled"]["images_per_second"]
        about = {key: result[key] for key in ("batch", "steps", "size")}
        check.say(f"bench {name}{' compiled' if result['compiled'] else ''}", **about, **numbers)


def tests(check: Check) -> None:
    """Run the tests that need a GPU."""
    with check.trying("tests"):
        if check.on_gpu:
            command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", "tests/test_gpu.py"]
            command += ["-W", "default"]  # another version of torch warns of other things
            last, environ = "nothing was said", environment(check.work)
            with subprocess.Popen(
                command, env=environ, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
            ) as process:
                for line in process.stdout or ():
                    print(line, end="", flush=True)
                    last = line.strip() or last
            check.say(f"{'FAIL ' if process.returncode else ''}tests", said=last)
