"""latentmix: invert images into the latent space of Stable Diffusion, mix N of them at once, generate, and measure.

from latentmix import mix
z = mix(latents, weights, method="fix/chm")
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from latentmix.mixing import Method, mix, mixtures

__all__ = ["Method", "mix", "mixtures"]


def __getattr__(name: str) -> Any:
    """Imported when used, since torch takes seconds and `latentmix --help` should not."""
    if name in __all__:
        from latentmix import mixing

        return getattr(mixing, name)
    raise AttributeError(f"module 'latentmix' has no attribute {name!r}")
