"""The round trip: images -> latents at t = T -> images, and the error of the last.

The reconstruction by the VAE alone is measured as well, since no inversion can do better.
"""

import math
from functools import partial

import torch
from torch import Tensor

from latentmix.experiment.experiment import Experiment
from latentmix.experiment.generation import Loaded, generate, loader, padded
from latentmix.experiment.stages import StageType
from latentmix.runner.tasks import Stage
from latentmix.settings import height_width

QUANTITIES = ("psnr", "psnr_vae", "rmse", "norm")


def _plan_reconstruction(experiment: Experiment, batch_size: int) -> Stage:
    """Plan inverted latents -> images, compared with the real images, for the pool of every class."""
    config = experiment.config
    stage = Stage("reconstruct", config.steps * experiment.inversion.nfe_generation(config.guidance))
    for class_id in experiment.classes:
        sources, finished = experiment.data.pool(class_id), experiment.layout.reconstructions(class_id).ids()
        missing = {source for source in sources if source.id not in finished}
        compute, each = partial(_reconstruct, experiment, class_id), 3 * 3 * math.prod(height_width(config.model.size))
        stage.add(class_id, sources, missing, batch_size, compute, loader(experiment), each)  # three images of each row
    return stage


@torch.no_grad()
def _reconstruct(experiment: Experiment, class_id: str, real: Loaded[str], size: int) -> None:
    ids, count = real.ids, len(real.ids)
    kept = experiment.layout.latents(class_id)
    state = {
        name: padded(kept.gather(ids, name), size).to(experiment.device)
        for name in ("clean", "latents", *experiment.inversion.extras)
    }
    clean = state.pop("clean")
    by_vae = experiment.model.decode(clean).cpu()[:count]
    experiment.finish_inverting()
    cond = experiment.texts.conditioning(class_id, experiment.config.guidance, experiment.model, ids, size)
    returned, images = generate(experiment, cond, state, f"the reconstruction of {class_id}")
    images = images.cpu()[:count]
    rows = {
        "psnr": psnr(images, real.pixels),
        "psnr_vae": psnr(by_vae, real.pixels),
        "rmse": _rms(returned - clean)[:count],
        "norm": _rms(state["latents"])[:count],
        "images": torch.stack([real.pixels, by_vae, images], 1),
    }
    experiment.layout.reconstructions(class_id).write(ids, rows)


RECONSTRUCT = StageType(_plan_reconstruction, frozenset({"pool"}))


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio [B] in dB of images uint8 [B, 3, H, W]; 100 for equal images."""
    error = ((a.double() - b.double()) / 255).square().mean((1, 2, 3))
    return -10 * error.clamp_min(1e-10).log10()


def _rms(x: Tensor) -> Tensor:
    """Return the root mean square [B] of each row."""
    return x.square().mean((1, 2, 3)).sqrt()
