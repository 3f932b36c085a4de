"""Stages `vae`, `unet` and `mmdit`: a step of each network with each technique on and off."""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from .hardware import KINDS
from .record import Check

ATTENTION = "speed.attention="


def vae(check: Check) -> None:
    """Time decoding by precision, layout and number of images at once; also the networks that measure."""
    from latentmix.gpu import tf32

    size, counts = (512, (1, 2, 8)) if check.on_gpu else (64, (1, 2))
    model = check.experiment(*check.full_size("sd15"), "model.precision=float32", "speed.vae=ieee").model
    plain = model.vae._network
    z = torch.randn(counts[-1], 4, size // 8, size // 8, device=check.device)
    with torch.no_grad(), tf32(False):
        expected = plain.decode(z).sample
    for layout, shape in ((torch.channels_last, "NHWC"), (torch.contiguous_format, "NCHW")):
        for name, dtype, allowed in KINDS:
            with check.trying(f"decode {name} {shape}"), torch.no_grad(), tf32(allowed):
                network: Any = copy.deepcopy(plain).to(dtype or check.half).to(memory_format=layout)
                for count in counts:
                    check.free()
                    part = z[:count].to(dtype or check.half).contiguous(memory_format=layout)
                    ms = check.timed(lambda: network.decode(part).sample, 0.5, 8, 1)  # noqa: B023
                    memory = {"peak_gib": check.peak(), "reserved_gib": check.reserved()}
                    check.say(f"decode {name} {shape} {count} at once", ms_image=ms / count, **memory)
                found = network.decode(z.to(dtype or check.half)).sample.float()
                check.say(f"decode {name} {shape}", levels=127.5 * (found - expected).abs().mean().item())
                x = torch.randn(counts[-1], 3, size, size, device=check.device, dtype=dtype or check.half)
                x = x.contiguous(memory_format=layout)
                ms = check.timed(lambda: network.encode(x), 0.3, 4, 1)  # noqa: B023
                check.say(f"encode {name} {shape}", ms_image=ms / len(x))
                del network
    if check.on_gpu:
        with check.trying("networks that measure"), torch.no_grad():
            _measuring(check)
        with check.trying("decode compiled"), torch.no_grad(), tf32():
            network = copy.deepcopy(plain).to(memory_format=torch.channels_last)
            network.decoder.compile(dynamic=False)
            took = check.once(lambda: network.decode(z[:2]).sample)
            ms = check.timed(lambda: network.decode(z[:2]).sample, 0.5, 8, 1)
            check.say("decode float32 tf32 NHWC 2 at once compiled", ms_image=ms / 2, compiling_s=took / 1e3)


def _measuring(check: Check) -> None:
    import open_clip
    import torchvision

    networks: dict[str, tuple[Callable[[Any], Any], int]] = {
        "CLIP ViT-L/14": (open_clip.create_model("ViT-L-14").to(check.device).eval().encode_image, 224),
        "Inception-v3": (
            torchvision.models.inception_v3(weights=None, init_weights=False).to(check.device).eval(),
            299,
        ),
    }
    for name, (network, size) in networks.items():
        x = torch.randn(32, 3, size, size, device=check.device)
        check.say(name, ms_image=check.timed(lambda: network(x), 0.5, 8, 1) / 32)  # noqa: B023


class _Steps:
    """Steps of generation under guidance, by a model of random weights."""

    def __init__(self, check: Check, what: str, name: str, *overrides: str) -> None:
        self.check, self.what, self.overrides = check, what, (*check.full_size(name), "steps=50", *overrides)
        self.loaded: tuple[tuple[str, ...], Any] | None = None  # settings, and the experiment of them

    def step(self, batch: int, *more: str) -> tuple[Callable[[], Any], Any]:
        """Return a function that evaluates the network once, and its model, which is loaded again for new settings."""
        attention = [setting.removeprefix(ATTENTION) for setting in more if setting.startswith(ATTENTION)]
        others = tuple(setting for setting in more if not setting.startswith(ATTENTION))
        if self.loaded is None or self.loaded[0] != others:
            self.loaded = None
            self.check.free()
            self.loaded = others, self.check.experiment(*self.overrides, *others)
        experiment = self.loaded[1]
        config, model, interval = experiment.config, experiment.model, experiment.generation_schedule[-1]
        model.speed = replace(model.speed, attention=attention[0] if attention else "auto")
        cond = experiment.texts.conditioning(experiment.classes[0], config.guidance, experiment.model)
        z = torch.randn(batch, *model.latent_shape(config.model.size), device=self.check.device)
        return torch.no_grad()(lambda: model.predict(z, interval.noisy, interval.timestep, cond)), model

    def batches(self, sizes: tuple[int, ...]) -> None:
        for batch in sizes:
            with self.check.trying(f"{self.what} batch {batch}"):
                step, _ = self.step(batch)
                self.check.free()  # the peak is not that of loading
                ms = self.check.timed(step)
                numbers = {"queue_ms": self.check.queued(step), "peak_gib": self.check.peak()}
                self.check.say(f"{self.what} batch {batch}", ms=ms, image_steps_s=1e3 * batch / ms, **numbers)

    def techniques(self, batch: int, settings: dict[str, tuple[str, ...]], kernels: bool = False) -> None:
        """Time a step by name of what is set."""
        for name, more in settings.items():
            with self.check.trying(f"{self.what} batch {batch} {name}"):
                step, _ = self.step(batch, *more)
                first = self.check.once(step)  # compiles, where that is set
                ms = self.check.timed(step)
                numbers = {"image_steps_s": 1e3 * batch / ms, "first_s": first / 1e3, "peak_gib": self.check.peak()}
                self.check.say(f"{self.what} batch {batch} {name}", ms=ms, **numbers)
                if kernels:
                    self.check.show_kernels(f"{self.what} batch {batch} {name}", step)


def unet(check: Check) -> None:
    """Time steps of Stable Diffusion 1.5."""
    steps = _Steps(check, "U-Net", "sd15")
    steps.batches((1, 4, 16, 32, 64) if check.on_gpu else (1, 2))
    batch = 16 if check.on_gpu else 2
    off = {f"without {name}": (f"speed.{name}=false",) for name in ("channels_last", "shared_prefix")}
    kernels = {f"attention {name}": (f"speed.attention={name}",) for name in ("flash", "efficient", "cudnn")}
    steps.techniques(batch, {**off, **(kernels if check.on_gpu else {})})
    steps.techniques(batch, {"as it is": ()}, kernels=True)
    if check.on_gpu:
        steps.techniques(batch, {"tf32": ("model.precision=tf32",), "float32": ("model.precision=float32",)})


def unet_compiled(check: Check) -> None:
    """Time a compiled step of Stable Diffusion 1.5. `bench_compiled` finds the same kernels in the cache."""
    if check.on_gpu:
        _Steps(check, "U-Net", "sd15").techniques(16, {"compiled": ("speed.compile=true",)}, kernels=True)


def mmdit(check: Check) -> None:
    """Time steps of Stable Diffusion 3.5 medium."""
    steps = _Steps(check, "MMDiT", "sd35-medium")
    steps.batches((1, 2, 4, 8) if check.on_gpu else (1, 2))
    settings: dict[str, tuple[str, ...]] = {"without fused_norms": ("speed.fused_norms=false",)}
    if check.on_gpu:
        settings |= {f"attention {name}": (f"speed.attention={name}",) for name in ("flash", "cudnn")}
        settings["tf32"] = ("model.precision=tf32",)
    steps.techniques(2, settings)
    steps.techniques(2, {"as it is": ()}, kernels=True)
    if check.on_gpu:
        _Steps(check, "MMDiT 512 px", "sd35-medium", "model.size=512").batches((4,))


def mmdit_compiled(check: Check) -> None:
    """Time a step of Stable Diffusion 3.5 medium, compiled block by block and as a whole."""
    if not check.on_gpu:
        return
    steps = _Steps(check, "MMDiT", "sd35-medium")
    steps.techniques(2, {"compiled": ("speed.compile=true",)})
    with check.trying("MMDiT compiled as a whole"):
        step, model = steps.step(2)
        model.denoiser.compile(dynamic=False)
        took = check.once(step)
        ms = check.timed(step)
        check.say("MMDiT batch 2 compiled as a whole", ms=ms, image_steps_s=2e3 / ms, first_s=took / 1e3)
