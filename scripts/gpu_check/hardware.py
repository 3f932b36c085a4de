"""Stages `ceilings`, what the GPU can do at best, and `agree`, whether it computes what the CPU computes."""

import time
from typing import Any

import torch
from torch import Tensor

from .record import GIB, Check, relative

KINDS = (  # of products and convolutions: name, dtype (None is 16 bits), whether TF32
    ("float32 ieee", torch.float32, False),
    ("float32 tf32", torch.float32, True),
    ("bfloat16", torch.bfloat16, False),
    ("float16", None, False),
)
INVERSIONS = ("ddim", "negative_prompt", "fixed_point", "renoise", "midpoint", "exact", "forward", "null_text")
GUIDED = {"null_text": ("guidance=3", "inversion.iterations=2"), "exact": ("guidance=3",)}


def ceilings(check: Check) -> None:
    """Measure copying, matrix products and a convolution of the decoder, by precision and layout."""
    from latentmix.gpu import tf32

    if check.on_gpu:
        about: Any = torch.cuda.get_device_properties(0)
        numbers = {"gib": about.total_memory / GIB, "date": time.strftime("%Y-%m-%d")}
        check.say("device", name=about.name, torch=torch.__version__, cuda=torch.version.cuda, **numbers)
    size, n = (2**30, 8192) if check.on_gpu else (2**20, 128)
    with check.trying("copy"):
        a = torch.zeros(size, dtype=torch.uint8, device=check.device)
        b = torch.empty_like(a)
        check.say("copy, read and write", tb_s=2 * size / check.timed(lambda: b.copy_(a)) / 1e9)
        del a, b
    for name, dtype, allowed in KINDS:
        with check.trying(f"matmul {name}"), tf32(allowed):
            k = n if dtype != torch.float32 else n // 2
            a, b = (torch.randn(k, k, device=check.device).to(dtype or check.half) for _ in range(2))
            check.say(f"matmul {name}", tflops=2 * k**3 / check.timed(lambda: a @ b, 0.5) / 1e9)  # noqa: B023
    side = 256 if check.on_gpu else 16  # [4, 256, 256, 256], as in the decoder of 512 px
    for layout, shape in ((torch.contiguous_format, "NCHW"), (torch.channels_last, "NHWC")):
        for name, dtype, allowed in KINDS:
            with check.trying(f"conv {name} {shape}"), tf32(allowed), torch.no_grad():
                x = torch.randn(4, 256, side, side, device=check.device, dtype=dtype or check.half)
                w = torch.randn(256, 256, 3, 3, device=check.device, dtype=dtype or check.half)
                x, w = x.contiguous(memory_format=layout), w.contiguous(memory_format=layout)
                ms = check.timed(lambda: torch.nn.functional.conv2d(x, w, padding=1), 0.4)  # noqa: B023
                check.say(f"conv 3x3 {name} {shape}", tflops=2 * 4 * 256 * 256 * 9 * side * side / ms / 1e9)


def agree(check: Check) -> None:
    """Compare `tiny` and `tiny-sd3` on the GPU with the CPU in float32: every inversion, kernel, network and method."""
    later = []
    for name, half in (("tiny", "float16"), ("tiny-sd3", "bfloat16")):
        pair = _Pair(check, name, half if check.on_gpu else "float32")
        for inversion in INVERSIONS if check.on_gpu else ("ddim", "null_text"):
            pair.compare(f"{inversion} float32", inversion, "float32", 2e-3)
            if inversion in ("ddim", "midpoint", "exact") and check.on_gpu:
                pair.compare(f"{inversion} {half}", inversion, half, 0.1 if inversion == "ddim" else 0.4)
        for kernel in ("flash", "efficient", "cudnn", "math") if check.on_gpu else ("math",):
            pair.compare(f"attention {kernel}", "ddim", pair.half, 0.1, f"speed.attention={kernel}")
        for setting in ("channels_last", "shared_prefix", "fused_norms"):
            pair.compare(f"without {setting}", "ddim", "float32", 2e-3, f"speed.{setting}=false")
        for setting in ("ieee", "bfloat16"):
            pair.compare(f"decoder {setting}", "ddim", "float32", 2e-3, f"speed.vae={setting}")
        later.append(pair)
        check.free()
    with check.trying("networks that measure"):
        _networks(check)
    with check.trying("mixing, where the process allows TF32"):
        _mixing(check)
    with check.trying("both interfaces of TF32 can be read"):
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=False, allow_tf32=False):
            pass
        check.say("TF32", matmul=torch.backends.cuda.matmul.allow_tf32, conv=torch.backends.cudnn.allow_tf32)
    for pair in later if check.on_gpu else ():  # last, since it takes longest
        pair.compare("compiled", "ddim", pair.half, 0.1, "speed.compile=true")


class _Pair:
    """An embedded model on the device, beside itself on the CPU in float32."""

    few = ("pool=4", "draws=2", "data.reference=4", "n=[2]", "steps=4", "batch=4")

    def __init__(self, check: Check, name: str, half: str) -> None:
        self.check, self.name, self.half = check, name, half
        self.expected: dict[str, dict[str, Tensor]] = {}

    def compare(self, what: str, inversion: str, precision: str, most: float, *more: str) -> None:
        with self.check.trying(f"{self.name} {what}"):
            if inversion not in self.expected:
                self.expected[inversion] = self.made(inversion, "model.precision=float32", "device=cpu")
            expected, found = self.expected[inversion], self.made(inversion, f"model.precision={precision}", *more)
            apart = {key: relative(found[key], expected[key]) for key in ("clean", "latents", "back")}
            levels = (found["images"].cpu().int() - expected["images"].int()).abs().float().mean().item()
            bad = max(apart["latents"], apart["back"]) > most or found["images"].device.type != self.check.device.type
            self.check.say(f"{'FAIL ' if bad else ''}{self.name} {what}", **apart, levels=levels)

    def made(self, inversion: str, *more: str) -> dict[str, Tensor]:
        """Return clean latents, inverted ones, those that generation returns, and its images."""
        from latentmix.experiment.generation import pixels
        from latentmix.inversion.base import image_names

        settings = (f"model={self.name}", f"inversion={inversion}", *GUIDED.get(inversion, ()))
        experiment = self.check.experiment(*settings, *self.few, *more)
        config, model, class_id = experiment.config, experiment.model, experiment.classes[0]
        images = pixels(experiment.data.pool(class_id), config.model.size)
        clean = model.encode(images)
        cond = experiment.texts.conditioning(class_id, config.inversion.guidance, experiment.inverter)
        levels, kind = experiment.inversion_schedule, experiment.inversion
        state = kind.run(experiment.inverter, clean, levels, cond, config.inversion, image_names(images))
        cond = experiment.texts.conditioning(class_id, config.guidance, experiment.model)
        back = kind.generate(model, state, experiment.generation_schedule, cond, config.inversion)
        return {"clean": clean, "latents": state["latents"], "back": back, "images": model.decode(back)}


def _networks(check: Check) -> None:
    from latentmix.experiment.generation import pixels

    few = (*_Pair.few, "metrics=[fid,clip_distance,clip_score,diversity]")
    cpu, gpu = check.experiment(*few, "device=cpu"), check.experiment(*few)
    images = pixels(cpu.pool(cpu.classes[0]), cpu.config.model.size)
    for name in ("frechet", "clip"):
        apart = relative(gpu.networks[name].extract(images), cpu.networks[name].extract(images))
        check.say(f"features {name}", apart=apart)
    texts = [e.networks["clip"].embed_text("a star") for e in (gpu, cpu)]
    check.say("CLIP's text", apart=relative(*texts))
    check.say("perceptual", apart=relative(*(e.perceptual.between(images, images.flip(0)) for e in (gpu, cpu))))


def _mixing(check: Check) -> None:
    from latentmix.mixing import mixtures

    torch.set_float32_matmul_precision("high")
    z, w = torch.randn(64, 4, 64, 64), torch.softmax(torch.randn(32, 64), 1)
    methods = ["lin/0", "fix/0", "nin/m", "fix/chm", "lol/lp", "slerp/0", "adain/0"]
    found = mixtures(z.to(check.device), w.to(check.device), methods)
    for method, a, b in zip(methods, found, mixtures(z, w, methods), strict=True):
        apart = relative(a, b)
        check.say(f"{'FAIL ' if apart > 1e-5 else ''}mixing {method}", apart=apart)
    torch.set_float32_matmul_precision("highest")
