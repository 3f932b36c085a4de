"""How many bytes the stages write, for the estimate of the disk space that a run needs."""

import math

from latentmix.experiment.experiment import Experiment
from latentmix.features import clip_width, frechet_width

PNG_BYTES = 2  # per pixel of a photograph
FLOAT_BYTES = 4


def synthetic_images(experiment: Experiment) -> int:
    """Return the size of the images that the model generates in place of real ones."""
    config = experiment.config
    if not experiment.data.from_model:
        return 0
    return len(experiment.classes) * max(config.pool, config.data.reference or 0) * image(experiment)


def latents(experiment: Experiment) -> int:
    """Return the size of all inverted latents: clean, at t = T, and the inversion's extras."""
    config = experiment.config
    latent, text = _latent_numbers(experiment), _text_numbers(experiment)
    per_image = FLOAT_BYTES * (2 * latent + experiment.inversion.extra_numbers(config.inversion, latent, text))
    return len(experiment.classes) * config.pool * per_image


def centroids(experiment: Experiment) -> int:
    """Return the size of all mixed latents."""
    return _draws(experiment) * FLOAT_BYTES * _latent_numbers(experiment)


def reconstructions(experiment: Experiment) -> int:
    """Return the size of what a round trip keeps: three images for each image of the pools."""
    config = experiment.config
    return len(experiment.classes) * config.pool * 3 * 3 * config.model.size**2


def reference_features(experiment: Experiment) -> int:
    """Return the size of the features of all real images."""
    return sum(len(experiment.references(c)) for c in experiment.classes) * _features_per_image(experiment)


def features(experiment: Experiment) -> int:
    """Return the size of the features of all generated images."""
    return _draws(experiment) * _features_per_image(experiment)


def images(experiment: Experiment, per_cell: int) -> int:
    """Return the size of the first `per_cell` images of each cell."""
    return len(experiment.generated_cells) * min(per_cell, experiment.config.draws) * image(experiment)


def image(experiment: Experiment) -> int:
    """Return the size of one PNG file, roughly."""
    return PNG_BYTES * experiment.config.model.size**2


def probe(experiment: Experiment, count: int) -> int:
    """Return the size of `count` latents with offsets and of the images before and after."""
    return count * (FLOAT_BYTES * _latent_numbers(experiment) + 2 * image(experiment))


def _draws(experiment: Experiment) -> int:
    return len(experiment.generated_cells) * experiment.config.draws


def _latent_numbers(experiment: Experiment) -> int:
    return math.prod(experiment.model.latent_shape(experiment.config.model.size))


def _text_numbers(experiment: Experiment) -> int:
    return math.prod(experiment.model.text_shape)


def _features_per_image(experiment: Experiment) -> int:
    model = experiment.config.model
    return FLOAT_BYTES * (frechet_width(model.features) + clip_width(model.clip))
