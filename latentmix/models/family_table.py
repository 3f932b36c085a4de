"""The families of models that latentmix can read, by the diffusers class of their pipelines."""

from latentmix import plugins
from latentmix.models import mmdit, unet
from latentmix.models.family import Family

FAMILIES = plugins.table("models", {family.pipeline: family for family in (unet.FAMILY, mmdit.FAMILY)}, Family)
