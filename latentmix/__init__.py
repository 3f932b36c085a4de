"""latentmix: invert images into the latent space of Stable Diffusion, mix N of them at once, generate, and measure.

from latentmix import mix
z = mix(latents, weights, method="fix/chm")
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from latentmix import metrics
    from latentmix.mixing import Method, mix, mixtures

    __version__: str

__all__ = ["Method", "__version__", "metrics", "mix", "mixtures"]


def __getattr__(name: str) -> Any:
    """Import public names when they are first used: torch takes seconds, and `latentmix --help` should not."""
    if name == "__version__":
        from importlib.metadata import version

        return version("latentmix")
    if name == "metrics":
        from importlib import import_module

        return import_module("latentmix.metrics")
    if name in __all__:
        from latentmix import mixing

        return getattr(mixing, name)
    raise AttributeError(f"module 'latentmix' has no attribute {name!r}")
