"""Stages `memory`, a card of 24 GB as far as a larger one can play it, and `frechet`, the distance on GPU and CPU."""

import contextlib
import io
import sys
import time
from unittest import mock

import torch

from .record import GIB, Check, relative

ROOM = 23.5 * GIB


def memory(check: Check) -> None:
    """Find the batches that fit into 24 GB, run out of memory, and measure null-text inversion."""
    whole = torch.cuda.get_device_properties(0).total_memory if check.on_gpu else int(ROOM)
    few = ("steps=2", "pool=2", "draws=2", "data.reference=2", "n=[2]")
    with _card(check, ROOM / whole):
        for name, more in (("sd15", ()), ("sd15", ("model.precision=float32",)), ("sd35-medium", ())):
            with check.trying(f"batch=auto {name} {' '.join(more)}"):
                _batch(check, f"{name} {' '.join(more)}".strip(), [*check.full_size(name), *few, *more])
    with check.trying("running out of memory"), _card(check, 8 * GIB / whole):
        _run_out(check)
    with _card(check, ROOM / whole):
        for size in (1, 4, 8, 12) if check.on_gpu else (2,):
            with check.trying(f"null-text, {size} at once"):
                _null_text(check, size, "tf32")
        with check.trying("null-text in float32"):
            _null_text(check, 4 if check.on_gpu else 1, "float32")


@contextlib.contextmanager
def _card(check: Check, share: float):  # type: ignore[no-untyped-def]
    """Give this process a share of the GPU's memory."""
    if check.on_gpu:
        torch.cuda.set_per_process_memory_fraction(min(1.0, share))
    yield
    if check.on_gpu:
        torch.cuda.set_per_process_memory_fraction(1.0)


def _batch(check: Check, what: str, overrides: list[str]) -> None:
    """Say what batch=auto finds, and which larger batches would fit, too."""
    from latentmix.experiment import batch_size
    from latentmix.gpu import is_out_of_memory

    experiment = check.experiment(*overrides)
    start = time.perf_counter()
    if not check.on_gpu:
        check.say(f"batch=auto, {what}", batch=batch_size.determine(experiment))
        return
    with mock.patch.object(batch_size, "_free_memory", lambda _: int(ROOM)):
        found = batch_size._measure(experiment)
    check.say(f"batch=auto on 24 GB, {what}", batch=found, seconds=time.perf_counter() - start)
    fits, size = [], 2 * found
    while size <= 128:
        check.free()
        try:
            batch_size._heaviest_steps(experiment, size)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            break
        fits.append((size, round(check.reserved(), 1)))
        size *= 2
    check.say(f"fits into 24 GB beyond, {what}", fits=str(fits))


def _run_out(check: Check) -> None:
    """Run `latentmix invert` with a batch that is too large for 8 GB."""
    from latentmix import cli

    given = ["data.classes=[star]", "pool=64", "n=[2]", "draws=2", "data.reference=2", "steps=1", "batch=64"]
    sys.argv = ["latentmix", "invert", *check.full_size("sd15"), f"device={check.device}", *given]
    sys.argv += ["inversion.guidance=3", "model.precision=float32", f"outputs={check.work / 'short'}"]
    said, start, code = io.StringIO(), time.perf_counter(), 0
    with contextlib.redirect_stderr(said):
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 0
    lines = [line for line in said.getvalue().splitlines() if "memory ran out" in line or "error" in line]
    print(said.getvalue()[-1500:])
    good = code == 0 and (lines or not check.on_gpu)
    check.say(
        f"{'' if good else 'FAIL '}8 GB, batch=64", code=code, said="; ".join(lines), s=time.perf_counter() - start
    )


def _null_text(check: Check, size: int, precision: str) -> None:
    """Time an iteration of the optimisation, and compare the gradients' bits of two runs."""
    from latentmix.inversion import null_text

    few = (
        "inversion=null_text",
        "inversion.iterations=2",
        "steps=50",
        "pool=2",
        "draws=2",
        "data.reference=2",
        "n=[2]",
    )
    experiment = check.experiment(*check.full_size("sd15"), *few, f"model.precision={precision}", "batch=1")
    config, model = experiment.config, experiment.inverter
    cond, step = experiment.texts.conditioning(experiment.classes[0], 7.5, model), experiment.inversion_schedule[-1:]
    z = torch.randn(size, *model.latent_shape(config.model.size), device=check.device)

    def invert() -> torch.Tensor:
        nulls: torch.Tensor = null_text.invert(model, z, step, cond, config.inversion)["nulls"]
        return nulls

    first = invert()
    ms = check.once(invert)
    evaluations = 3 + 3 * config.inversion.iterations  # a gradient is two; the settings have two iterations
    about = {"s_evaluation_image": ms / 1e3 / evaluations / size, "peak_gib": check.peak()}
    minutes = 64 * 50 * (3 + 3 * 10) * about["s_evaluation_image"] / 60
    apart = relative(invert(), first)
    about |= {"minutes_for_64_images_at_most": minutes, "reserved_gib": check.reserved(), "apart_when_repeated": apart}
    check.say(f"{'FAIL ' if apart else ''}null-text {precision}, {size} at once", **about)


def frechet(check: Check) -> None:
    """Time a Fréchet distance with its jackknife, as a cell of Fig. 7 has, on the CPU and on the device."""
    from latentmix.metrics import METRICS

    n, m, width = (1000, 1300, 2048) if check.on_gpu else (40, 50, 64)
    x, y = torch.randn(n, width), torch.randn(m, width) + 0.1
    sample = METRICS["fid"].sample
    with check.trying("Fréchet distance"):
        found = sample(x.to(check.device), y.to(check.device))
        ms = check.once(lambda: sample(x.to(check.device), y.to(check.device)))
        start = time.perf_counter()
        expected, slow = sample(x, y), time.perf_counter() - start
        apart = abs(found.value - expected.value) / expected.value
        check.say(f"{'FAIL ' if apart > 1e-6 else ''}Fréchet distance", device_s=ms / 1e3, cpu_s=slow, apart=apart)
