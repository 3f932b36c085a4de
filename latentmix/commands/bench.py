"""How fast images are generated, beside a plain loop of diffusers' own pipeline and what the device can do at most.

Both make the same batch from the same latents, in turn, so that both see the same machine; the best of several times
counts. The plain pipeline runs in a process of its own, as a script of a few lines would, without the settings that
`launch.prepare` makes. FLOPs are counted by torch, a multiplication and an addition being two.
"""

import multiprocessing
import resource
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from latentmix import sampling
from latentmix.cache import write_json
from latentmix.experiment.experiment import Experiment
from latentmix.models.linear import FLOPS, HERE, product
from latentmix.models.pipeline import DTYPES, NETWORKS, OPTIONAL, OTHERS, find, has, pipeline_class
from latentmix.models.protocol import predictor


@dataclass(frozen=True)
class Speed:
    """What one way of generating a batch takes; `memory` is the peak, of the device or of the process, in bytes."""

    images_per_second: float
    tflop_per_image: float
    tflops: float  # TFLOP/s
    share: float  # of the device's measured rate of matrix products
    memory: int


@dataclass(frozen=True)
class Batch:
    """What both make images of, and how."""

    folder: Path
    prompt: str
    latents: Tensor
    steps: int
    guidance: float
    spacing: str
    max_sequence_length: int
    precision: str
    device: str
    threads: int


def measure(experiment: Experiment, repeat: int) -> dict[str, Any]:
    """Both speeds, the device's rate and how far apart the images are; writes `bench.json`."""
    batch, ours = _batch(experiment), _ours(experiment)
    rate = matmul_rate(experiment.device, DTYPES[batch.precision])
    spawn = multiprocessing.get_context("spawn")
    if experiment.device.type == "cuda":
        torch.cuda.empty_cache()  # what finding the batch left behind is the other process's too
    with ProcessPoolExecutor(1, spawn, _load, (batch,)) as plain:
        works = {
            "latentmix": lambda how: _run(ours, experiment.device, how),
            "diffusers": lambda how: plain.submit(_run_plain, how).result(),
        }
        counted = {name: work("count") for name, work in works.items()}  # which warms up too
        if experiment.config.speed.compile:
            ours()  # which compiles
        timed = [{name: work("time") for name, work in works.items()} for _ in range(repeat)]
    speeds = {name: _speed(counted[name], [run[name] for run in timed], rate) for name in works}
    made, expected = (counted[name].images.int() for name in works)
    about = {
        "device": experiment.device_name,
        "model": experiment.config.model.name,
        "size": experiment.config.model.size,
        "batch": experiment.batch,
        "steps": batch.steps,
        "guidance": batch.guidance,
        "precision": batch.precision,
        "compiled": experiment.config.speed.compile,
        "threads": batch.threads,
        "torch": torch.__version__,
        "matmul TFLOP/s": rate / 1e12,
        "mean difference in levels": (made - expected).abs().float().mean().item(),
        "times as fast": speeds["latentmix"].images_per_second / speeds["diffusers"].images_per_second,
    }
    result = about | {name: asdict(speed) for name, speed in speeds.items()}
    write_json(experiment.config.folder / "bench.json", result)
    return result


def show(result: dict[str, Any]) -> None:
    """The table of what `measure` found."""
    names = ("device", "model", "size", "batch", "steps", "precision")
    table = Table("", "images/s", "TFLOP/image", "TFLOP/s", "of the matmul rate", "peak memory")
    table.title = ", ".join(f"{name} {result[name]}" for name in names)
    for name in ("latentmix", "diffusers"):
        of = result[name]
        numbers = (f"{of['images_per_second']:.2f}", f"{of['tflop_per_image']:.3g}", f"{of['tflops']:.3g}")
        table.add_row(name, *numbers, f"{of['share']:.0%}", f"{of['memory'] / 2**30:.2f} GiB")
    console = Console()
    console.print(table)
    console.print(
        f"{result['times as fast']:.2f} times as fast as diffusers' pipeline; images differ by "
        f"{result['mean difference in levels']:.2g} of 256 levels on average; matrix products run at "
        f"{result['matmul TFLOP/s']:.3g} TFLOP/s"
    )


def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of large matrix products, the best of several; on a CPU by whichever library is the faster."""
    n = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    ways = [lambda: a @ b]
    if HERE and (device.type, dtype) == ("cpu", torch.float32):
        ways.append(lambda: product(a, b))
    return 2 * n**3 / min(_seconds(way, device) for _ in range(10) for way in ways)


# --- the two ways ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Run:
    images: Tensor  # uint8 [B, 3, H, W] on the CPU
    seconds: float
    flop: int  # 0 where they were not counted
    memory: int


def _batch(experiment: Experiment) -> Batch:
    config = experiment.config
    return Batch(
        folder=find(config.model),
        prompt=experiment.prompt(experiment.classes[0]),
        latents=experiment.noise(experiment.classes[0], range(experiment.batch)).cpu(),
        steps=config.steps,
        guidance=config.guidance,
        spacing=config.spacing,
        max_sequence_length=config.model.max_sequence_length,
        precision=experiment.model.identity["precision"],
        device=str(experiment.device),
        threads=torch.get_num_threads(),
    )


def _ours(experiment: Experiment) -> Callable[[], Tensor]:
    z, config = experiment.noise(experiment.classes[0], range(experiment.batch)), experiment.config

    @torch.no_grad()
    def generate() -> Tensor:
        told = experiment.conditioning(experiment.classes[0], config.guidance)
        return experiment.model.decode(
            sampling.generate(predictor(experiment.model, told), z, experiment.generation_schedule)
        )

    return generate


_plain: Callable[[], Tensor]  # in the process of the plain pipeline
_plain_device: torch.device


def _load(batch: Batch) -> None:
    global _plain, _plain_device
    torch.set_num_threads(batch.threads)
    _plain, _plain_device = plain(batch), torch.device(batch.device)


def _run_plain(how: str) -> _Run:
    return _run(_plain, _plain_device, how)


def plain(batch: Batch) -> Callable[[], Tensor]:
    """A few lines of diffusers, as its documentation has them."""
    import diffusers

    name = pipeline_class(batch.folder)
    parts = (*NETWORKS[name], *OTHERS[name])
    without: dict[str, Any] = {part: None for part in OPTIONAL if part in parts and not has(batch.folder, part)}
    if name == "StableDiffusionPipeline":  # neither is fetched, nor a part of what is compared
        without |= {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    how_read: dict[str, Any] = {"dtype": DTYPES[batch.precision], "local_files_only": True}
    pipeline = getattr(diffusers, name).from_pretrained(batch.folder, **how_read, **without)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.to(batch.device)
    if hasattr(pipeline, "unet"):  # the same steps as ours; many folders name other schedulers
        settings = pipeline.scheduler.config
        pipeline.scheduler = diffusers.DDIMScheduler.from_config(settings, timestep_spacing=batch.spacing)
    z = batch.latents.to(batch.device, DTYPES[batch.precision])
    how: dict[str, Any] = {"num_inference_steps": batch.steps, "guidance_scale": batch.guidance, "output_type": "pt"}
    if not hasattr(pipeline, "unet"):
        how["max_sequence_length"] = batch.max_sequence_length
        if batch.spacing == "trailing":  # its scheduler's own is linspace
            how["sigmas"] = [1 - step / batch.steps for step in range(batch.steps)]
    size = {"height": batch.latents.shape[2] * pipeline.vae_scale_factor}
    size["width"] = batch.latents.shape[3] * pipeline.vae_scale_factor

    def generate() -> Tensor:
        images = pipeline([batch.prompt] * len(z), latents=z.clone(), **how, **size).images
        return (images * 255).round().to(torch.uint8)

    return generate


# --- the clock ------------------------------------------------------------------------------------------------------


def _run(work: Callable[[], Tensor], device: torch.device, how: str) -> _Run:
    """Once, for its FLOPs or for its time, which counting them would spoil."""
    made: list[Tensor] = []
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    flop = 0
    if how == "count":
        # What is compiled is counted as it was before: fused kernels do not say what they compute.
        with torch.compiler.set_stance("force_eager"), FlopCounterMode(display=False, custom_mapping=FLOPS) as counter:
            seconds = _seconds(lambda: made.append(work()), device)
        flop = counter.get_total_flops()
    else:
        seconds = _seconds(lambda: made.append(work()), device)
    return _Run(made[0].cpu(), seconds, flop, _peak_memory(device))


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    def settled() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    start = settled()
    work()
    return settled() - start


def _speed(counted: _Run, timed: list[_Run], rate: float) -> Speed:
    count, seconds = len(counted.images), min(run.seconds for run in timed)
    flops = counted.flop / seconds
    return Speed(
        count / seconds, counted.flop / count / 1e12, flops / 1e12, flops / rate, max(run.memory for run in timed)
    )


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
