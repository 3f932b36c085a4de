"""Inversions: from clean latents to latents at t = T, and the generation that leads back. `registry.py` lists them."""

from latentmix.inversion.registry import INVERSIONS

__all__ = ["INVERSIONS"]
