"""Which folders of the cache the stages use, so that `latentmix cache` knows what belongs to a run."""

from pathlib import Path

from latentmix.data.synthetic import Synthetic
from latentmix.experiment.experiment import Experiment
from latentmix.features import Network, Perceptual


def synthetic_images(experiment: Experiment) -> list[Path]:
    """Return the folder of images that the model generates in place of real ones."""
    return [experiment.data.folder] if isinstance(experiment.data, Synthetic) else []


def latents(experiment: Experiment) -> list[Path]:
    """Return the folders of inverted latents and embedded prompts."""
    layout = experiment.layout
    return [layout.prompts({"model": layout.model}).folder, *(layout.latents(c).folder for c in experiment.classes)]


def references(experiment: Experiment) -> list[Path]:
    """Return the folders of what is measured of real images, and of their prompts."""
    networks = list(experiment.networks.values())
    measures: list[Network | Perceptual] = [*networks]
    if experiment.measures_diversity:
        measures.append(experiment.perceptual)
    folders = [experiment.layout.references(c, network).folder for c in experiment.classes for network in measures]
    return [*folders, *(experiment.layout.prompts(network.identity).folder for network in networks)]


def cells(experiment: Experiment) -> list[Path]:
    """Return the folders of everything generated, and of what it is generated from."""
    return [*latents(experiment), *(experiment.layout.cell_folder(cell) for cell in experiment.generated_cells)]


def reconstructions(experiment: Experiment) -> list[Path]:
    """Return the folders of the round trips, and of the latents that they start from."""
    trips = [experiment.layout.reconstructions(class_id).folder for class_id in experiment.classes]
    return [*latents(experiment), *trips]
