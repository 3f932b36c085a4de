"""`latentmix bench`: the speed of generation, compared with diffusers' own pipeline and the device's matrix products.

With `speed.compile=true` diffusers' pipeline is also measured compiled, with channels-last memory. All generate one
batch from the same latents, in turn, so that load on the machine affects all; the best of several times counts. Each
pipeline of diffusers runs in a process of its own, without the settings of `set_up_process`. FLOPs are counted by
torch; a multiplication and an addition are two.
"""

import math
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from latentmix.config import Config
from latentmix.errors import UserError
from latentmix.experiment.batch_size import determine
from latentmix.experiment.experiment import Experiment
from latentmix.experiment.generation import generate_plainly
from latentmix.gpu import is_out_of_memory
from latentmix.models.linear import AVAILABLE, FLOPS, product
from latentmix.models.loading import dtype_of
from latentmix.models.pipeline import diffusers_options, find
from latentmix.models.registry import family_of
from latentmix.runner.console import say
from latentmix.settings import height_width
from latentmix.storage import write_json

USUAL_PIXELS = 16 * 512**2  # of a batch; diffusers' pipeline decodes all at once
COMPILED = "diffusers, compiled"


@dataclass(frozen=True)
class Batch:
    """The inputs and settings with which latentmix and diffusers generate a batch."""

    config: Config
    folder: Path
    prompt: str
    latents: Tensor
    precision: str
    device: str
    threads: int


def run(experiment: Experiment, repeat: int) -> Path:
    """Measure all speeds `repeat` times, show them, and write `bench.json`. Return its path."""
    result = measure(experiment, repeat)
    path = experiment.config.folder / "bench.json"
    write_json(path, result)
    _show(result)
    return path


def measure(experiment: Experiment, repeat: int) -> dict[str, Any]:
    """Return the speeds, the device's rate of matrix products and the difference of the images.

    Unless the config sets the batch, it has at most `USUAL_PIXELS`. It is halved where memory runs out.
    """
    size, pixels = determine(experiment), math.prod(height_width(experiment.config.model.size))
    if experiment.config.batch == "auto":
        size = min(size, max(1, USUAL_PIXELS // pixels))
    while True:
        try:
            return _measured(experiment, size, repeat)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            if size == 1:
                raise UserError("not even one image fits into memory; lower model.size") from error
        size //= 2
        say(f"memory ran out; going on with {size} images at once")


def _measured(experiment: Experiment, size: int, repeat: int) -> dict[str, Any]:
    config, device, batch = experiment.config, experiment.device, _batch(experiment, size)
    ours, rate = _ours(experiment, batch), matmul_rate(device, dtype_of(batch.precision))
    if device.type == "cuda":
        torch.cuda.empty_cache()  # memory left over from finding the batch size is for the other processes too
    with ExitStack() as stack:
        ways: dict[str, Callable[[bool], _Run]] = {"latentmix": lambda count: _run(ours, device, count)}
        ways["diffusers"] = _in_process(stack, batch, False)
        if config.speed.compile is True:
            ways[COMPILED] = _in_process(stack, batch, True)
        counted = {name: way(True) for name, way in ways.items()}  # also warms up
        if config.speed.compile is True:
            for name in ("latentmix", COMPILED):
                ways[name](False)  # compiles
        runs = [{name: way(False) for name, way in ways.items()} for _ in range(repeat)]
    speeds = {name: _speed(counted[name], [run[name] for run in runs], rate) for name in ways}
    difference = counted["latentmix"].images.int() - counted["diffusers"].images.int()
    about = {
        "device": experiment.device_name,
        "model": config.model.name,
        "size": config.model.size,
        "batch": len(batch.latents),
        "steps": config.steps,
        "guidance": config.guidance,
        "precision": batch.precision,
        "compiled": config.speed.compile is True,
        "threads": batch.threads,
        "torch": torch.__version__,
        "matmul TFLOP/s": rate / 1e12,
        "mean difference in levels": difference.abs().float().mean().item(),
    }
    own = speeds["latentmix"]["images_per_second"]
    about["times as fast"] = own / speeds["diffusers"]["images_per_second"]
    if COMPILED in speeds:
        about[f"times as fast as {COMPILED}"] = own / speeds[COMPILED]["images_per_second"]
    return about | speeds


def _in_process(stack: ExitStack, batch: Batch, compiled: bool) -> "Callable[[bool], _Run]":
    """Return a function that runs diffusers' pipeline once, in a process that ends with `stack`."""
    spawn = multiprocessing.get_context("spawn")
    process = stack.enter_context(ProcessPoolExecutor(1, spawn, _load, (batch, compiled)))
    return lambda count: process.submit(_run_plain, count).result()


def _show(result: dict[str, Any]) -> None:
    """Print the table of both speeds."""
    names = ("device", "model", "size", "batch", "steps", "precision")
    table = Table("", "images/s", "TFLOP/image", "TFLOP/s", "of the matmul rate", "peak memory")
    table.title = ", ".join(f"{name} {result[name]}" for name in names)
    for name in (name for name in ("latentmix", "diffusers", COMPILED) if name in result):
        speed = result[name]
        numbers = (f"{speed['images_per_second']:.2f}", f"{speed['tflop_per_image']:.3g}", f"{speed['tflops']:.3g}")
        table.add_row(name, *numbers, f"{speed['share']:.0%}", f"{speed['memory'] / 2**30:.2f} GiB")
    console = Console()
    console.print(table)
    if (ratio := result.get(f"times as fast as {COMPILED}")) is not None:
        console.print(f"{ratio:.2f} times as fast as that pipeline compiled, with channels-last memory")
    console.print(
        f"{result['times as fast']:.2f} times as fast as diffusers' pipeline; images differ by "
        f"{result['mean difference in levels']:.2g} of 256 levels on average; matrix products run at "
        f"{result['matmul TFLOP/s']:.3g} TFLOP/s"
    )


def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Return FLOP/s of large matrix products: the best of several and, on a CPU, of two libraries."""
    n = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    ways = [lambda: a @ b]
    if AVAILABLE and (device.type, dtype) == ("cpu", torch.float32):
        ways.append(lambda: product(a, b))
    return 2 * n**3 / min(_seconds(way, device) for _ in range(10) for way in ways)


@dataclass(frozen=True)
class _Run:
    images: Tensor  # uint8 [B, 3, H, W] on the CPU
    seconds: float
    flop: int  # 0 where they were not counted
    memory: int


def _batch(experiment: Experiment, size: int) -> Batch:
    folder = find(experiment.config.model)
    diffusers_options(folder)  # raises here, as an error in the other process would not be shown
    return Batch(
        config=experiment.config,
        folder=folder,
        prompt=experiment.data.prompt(experiment.classes[0]),
        latents=experiment.noise(experiment.classes[0], range(size)).cpu(),
        precision=experiment.model.identity["precision"],
        device=str(experiment.device),
        threads=torch.get_num_threads(),
    )


def _ours(experiment: Experiment, batch: Batch) -> Callable[[], Tensor]:
    z, class_id = batch.latents.to(experiment.device), experiment.classes[0]

    @torch.no_grad()
    def generate() -> Tensor:
        clean = generate_plainly(experiment, class_id, z, experiment.plain_schedule, "the benchmark")
        return experiment.model.decode(clean)

    return generate


_plain: Callable[[bool], _Run]  # in the process of diffusers' pipeline


def _load(batch: Batch, compiled: bool) -> None:
    global _plain
    torch.set_num_threads(batch.threads)
    _plain = partial(_run, plain(batch, compiled), torch.device(batch.device))


def _run_plain(count: bool) -> _Run:
    return _plain(count)


def plain(batch: Batch, compiled: bool = False) -> Callable[[], Tensor]:
    """Return a function that generates the batch with diffusers' own pipeline, used as in its documentation."""
    import diffusers

    family, config = family_of(batch.folder), batch.config
    options: dict[str, Any] = {"dtype": dtype_of(batch.precision), "local_files_only": True}
    options |= diffusers_options(batch.folder)  # without the parts that latentmix does not run either
    pipeline = getattr(diffusers, family.pipeline).from_pretrained(batch.folder, **options)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.to(batch.device)
    if compiled:
        for network in (getattr(pipeline, family.denoiser), pipeline.vae.decoder):
            network.to(memory_format=torch.channels_last).compile(dynamic=False)
    if not family.flow:  # the same steps as ours; many folders name other schedulers
        settings = pipeline.scheduler.config
        pipeline.scheduler = diffusers.DDIMScheduler.from_config(settings, timestep_spacing=config.spacing)
    z = batch.latents.to(batch.device, dtype_of(batch.precision))
    arguments: dict[str, Any] = {"num_inference_steps": config.steps}
    if family.flow:
        arguments["max_sequence_length"] = config.model.max_sequence_length
        if config.spacing == "trailing":  # its scheduler's own is linspace
            arguments["sigmas"] = [1 - step / config.steps for step in range(config.steps)]
    size = {"height": batch.latents.shape[2] * pipeline.vae_scale_factor}
    size["width"] = batch.latents.shape[3] * pipeline.vae_scale_factor

    def generate() -> Tensor:
        given = arguments | size | family.call(z.clone(), config.guidance, config.model)
        images = pipeline([batch.prompt] * len(z), output_type="pt", **given).images
        return (images * 255).round().to(torch.uint8)

    return generate


def _run(work: Callable[[], Tensor], device: torch.device, count: bool) -> _Run:
    """Run once, to count the FLOPs or to measure the time; counting slows it down."""
    images: list[Tensor] = []
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    counter = FlopCounterMode(display=False, custom_mapping=FLOPS)
    with ExitStack() as stack:
        if count:  # uncompiled, since fused kernels do not say what they compute
            stack.enter_context(torch.compiler.set_stance("force_eager"))
            stack.enter_context(counter)
        seconds = _seconds(lambda: images.append(work()), device)
    return _Run(images[0].cpu(), seconds, counter.get_total_flops() if count else 0, _peak_memory(device))


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    def settled() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    start = settled()
    work()
    return settled() - start


def _speed(counted: _Run, runs: list[_Run], rate: float) -> dict[str, float]:
    """Return the entries of `bench.json` for one way of generating the batch."""
    count, seconds = len(counted.images), min(run.seconds for run in runs)
    flops = counted.flop / seconds
    return {
        "images_per_second": count / seconds,
        "tflop_per_image": counted.flop / count / 1e12,
        "tflops": flops / 1e12,
        "share": flops / rate,  # of the device's measured rate of matrix products
        "memory": max(run.memory for run in runs),  # the peak, of the device or of the process, in bytes
    }


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
