"""The data sets by `data.kind`. A new one is a file beside this one and a line below, or an entry point elsewhere.

Its preset is in configs/data/, and `settings.py` says which settings it reads.
"""

from collections.abc import Callable, Mapping

from latentmix.data import folder, hub, imagenet, shapes, synthetic, things
from latentmix.data.protocol import Dataset
from latentmix.data.settings import DataConfig
from latentmix.plugins import Table

# data.kind -> the function that makes a data set of its settings.
DATASETS: Mapping[str, Callable[[DataConfig], Dataset]] = Table(
    "datasets",
    {
        "shapes": lambda config: shapes.Shapes(config.light),
        "things": lambda config: things.Things(config.light),
        "folder": folder.load,
        "imagenet": imagenet.load,
        "hub": hub.load,
        "synthetic": synthetic.load,
    },
)


def load_dataset(config: DataConfig) -> Dataset:
    """Return the data set that settings describe. Raises UserError if a setting that its kind needs is missing."""
    return DATASETS[config.kind](config)
