"""The diagnosis of a class's inverted latents, from the cache."""

import numpy as np
import torch

from latentmix.diagnosis import DRAWS, Diagnosis, diagnose
from latentmix.errors import UserError
from latentmix.experiment.draws import subset
from latentmix.experiment.experiment import Experiment


def diagnose_class(experiment: Experiment, class_id: str) -> Diagnosis:
    """Return what the inverted latents of a class have in common; raise UserError for a missing latent or pool=1."""
    pool, seed = experiment.config.pool, experiment.config.seed
    if pool < 2:
        raise UserError(f"pool={pool} is too small to see what latents share; use at least 2 images, better 100")
    z = experiment.latents.pool(class_id).cpu()
    clean = experiment.layout.latents(class_id).gather(experiment.layout.pool_ids(class_id), "clean")
    orders = torch.from_numpy(np.stack([subset(seed, class_id, draw, pool) for draw in range(DRAWS)]))
    return diagnose(z, clean, experiment.inversion_schedule[-1].noisy.alpha, orders=orders)
