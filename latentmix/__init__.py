"""latentmix: invert images into the latent space of diffusion models, mix N of them at once, generate, and measure.

import latentmix as lm

pipe = lm.Pipeline.from_pretrained("sd15")
z = pipe.invert(["cat.jpg", "fox.jpg"], prompts=["a cat", "a fox"])
image = pipe.generate(lm.mix(z, [0.5, 0.5], "nin/chm"), prompt="an animal")
frames = pipe.morph(["cat.jpg", "fox.jpg"], frames=24)

z = lm.mix(latents, weights, method="fix/chm")      # [N, C, H, W] -> [C, H, W]
lm.diagnose(latents)                                # what they share, and which method to take
rows = lm.sweep("experiment=demo", "draws=8")       # what `latentmix sweep` does
lm.augment("photos", "photos500", per_class=500)    # what `latentmix augment` does
lm.evaluate("generated", "photos", ["fid"])         # any images against any others
lm.metrics.frechet_distance(x, y)                   # of lm.features("inception")(images)
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from latentmix import metrics
    from latentmix.api import augment, diagnose, features, sweep
    from latentmix.errors import UserError
    from latentmix.evaluation import evaluate
    from latentmix.latents import Latents
    from latentmix.mixing import Method, mix, mixtures
    from latentmix.pipeline import Pipeline

    __version__: str

# Public name -> the module that has it.
_HOMES = {"Latents": "latents", "Pipeline": "pipeline", "UserError": "errors", "evaluate": "evaluation"}
_HOMES |= dict.fromkeys(("augment", "diagnose", "features", "sweep"), "api")
_HOMES |= dict.fromkeys(("Method", "mix", "mixtures"), "mixing")
__all__ = ["Latents", "Method", "Pipeline", "UserError", "__version__", "augment", "diagnose", "evaluate", "features"]
__all__ += ["metrics", "mix", "mixtures", "sweep"]


def __getattr__(name: str) -> Any:
    """Import public names when they are first used: torch takes seconds, and `latentmix --help` should not."""
    from importlib import import_module, metadata

    if name == "__version__":
        return metadata.version("latentmix")
    if name == "metrics":
        return import_module("latentmix.metrics")
    if name in _HOMES:
        return getattr(import_module(f"latentmix.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'latentmix' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
