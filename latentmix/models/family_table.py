"""The families of models that latentmix can read, by the diffusers class of their pipelines."""

from latentmix import plugins
from latentmix.models import flux, mmdit, sdxl, unet
from latentmix.models.family import Family

OWN = (unet.FAMILY, sdxl.FAMILY, mmdit.FAMILY, flux.FAMILY)
FAMILIES = plugins.table("models", {family.pipeline: family for family in OWN}, Family)
