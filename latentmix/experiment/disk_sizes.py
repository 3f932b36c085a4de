"""How many bytes one item takes on the disk, roughly, so that plans can say how much their stages write."""

import math

from latentmix.experiment.experiment import Experiment
from latentmix.feature_networks import clip_width, frechet_width, network_width
from latentmix.settings import height_width

PNG_BYTES = 2  # per pixel of a photograph
FLOAT_BYTES = 4


def image(experiment: Experiment) -> int:
    """Return the size of a PNG file."""
    return PNG_BYTES * math.prod(height_width(experiment.config.model.size))


def latent(experiment: Experiment) -> int:
    """Return the size of one latent."""
    return FLOAT_BYTES * math.prod(experiment.model.latent_shape(experiment.config.model.size))


def inverted(experiment: Experiment) -> int:
    """Return the size of what is kept of an inverted image: latents, clean and at t = T, and the inversion's extras."""
    numbers, text = latent(experiment) // FLOAT_BYTES, math.prod(experiment.model.text_shape)
    extras = experiment.inversion.extra_numbers(experiment.config.inversion, numbers, text)
    return FLOAT_BYTES * (2 * numbers + extras)


def features(experiment: Experiment) -> int:
    """Return the size of the features of an image."""
    config = experiment.config
    own = sum(map(network_width, experiment.own_networks))
    return FLOAT_BYTES * (frechet_width(config.model.features) + clip_width(config.model.clip) + own)
