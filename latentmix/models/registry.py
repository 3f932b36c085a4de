"""The families of models that latentmix can read, by the diffusers class of their pipelines."""

import re
from pathlib import Path

from latentmix.models import flux, mmdit, sdxl, unet
from latentmix.models.family import Family
from latentmix.models.loading import read_index
from latentmix.plugins import Table

OWN = (unet.FAMILY, sdxl.FAMILY, mmdit.FAMILY, flux.FAMILY)
FAMILIES = Table("models", {family.pipeline: family for family in OWN}, Family)
TASKS = re.compile(r"Img2Img|Inpaint(ing)?|ControlNet(Union)?|PAG")  # in names of pipelines with the same networks


def pipeline_class(name: str) -> str:
    """Return the class of the text-to-image pipeline that has the parts of the class `name`."""
    return name if name in FAMILIES else TASKS.sub("", name)


def family_of(folder: Path) -> Family:
    """Return the family of the pipeline in a folder. Raises: KeyError where no family has its class."""
    return FAMILIES[pipeline_class(str(read_index(folder)["_class_name"]))]
