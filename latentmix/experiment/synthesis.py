"""The stage that makes the images of `data=synthetic`, by the model itself (see data/synthetic.py)."""

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from latentmix.data.synthetic import Synthetic
from latentmix.experiment import disk_sizes
from latentmix.experiment.experiment import Experiment
from latentmix.experiment.generation import generate_plainly, padded
from latentmix.experiment.stages import StageType
from latentmix.images import is_image, save_images
from latentmix.inversion.base import cfg_factor
from latentmix.runner.tasks import Stage, WriteBack


def _plan_synthesis(experiment: Experiment, batch_size: int) -> Stage:
    """Plan noise -> images that stand for real ones, where the data are `synthetic`."""
    stage = Stage("synthesize", len(experiment.plain_schedule) * cfg_factor(experiment.config.guidance))
    data = experiment.data.dataset
    if isinstance(data, Synthetic):
        for class_id in experiment.classes:
            indices = range(max(len(experiment.data.pool(class_id)), len(experiment.data.references(class_id))))
            missing = {index for index in indices if not is_image(data.path(class_id, index))}
            compute, each = partial(_synthesize, experiment, data, class_id), disk_sizes.image(experiment)
            stage.add(class_id, indices, missing, batch_size, compute, bytes_each=each)
    return stage


@torch.no_grad()
def _synthesize(experiment: Experiment, data: Synthetic, class_id: str, indices: Sequence[int], size: int) -> WriteBack:
    config = experiment.config

    def noise(purpose: str, shape: tuple[int, ...]) -> Tensor:
        return torch.from_numpy(np.stack([data.noise(class_id, index, purpose, shape) for index in indices]))

    z = padded(noise("latent", experiment.model.latent_shape(config.model.size)).to(experiment.device), size)
    clean = generate_plainly(experiment, class_id, z, experiment.plain_schedule, f"images of {class_id}")
    images = experiment.model.decode(clean)[: len(indices)].cpu()
    perturbed = images + 255 * config.data.noise * noise("pixels", tuple(images.shape[1:]))
    images = perturbed.round().clamp(0, 255).to(torch.uint8)
    return save_images(data.folder, [data.path(class_id, index) for index in indices], images)


SYNTHESIZE = StageType(_plan_synthesis)
