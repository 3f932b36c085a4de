"""What comes with latentmix: small trained networks, and the configs of published architectures."""

from pathlib import Path

WORLDS = {"embedded": "", "things": "things"}  # name of a feature network -> folder of its world's networks
DRAWN = {"shapes": "tiny", "things": "tiny-128"}  # worlds of drawn images, and a model that knows each


def embedded_folder(name: str) -> Path:
    """Return the folder of an embedded network or architecture."""
    return Path(__file__).parent / name
