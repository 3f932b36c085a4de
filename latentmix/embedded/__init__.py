"""What comes with latentmix: small trained networks, and the configs of published architectures."""

from pathlib import Path

NETWORK_FOLDERS = {"embedded": "", "things": "things"}  # name of a feature network -> its folder; "" is this one
DRAWN = {"shapes": "tiny", "things": "tiny-128"}  # kinds of drawn images (`model.domain`), and a model for each


def embedded_folder(name: str) -> Path:
    """Return the folder of an embedded network or architecture."""
    return Path(__file__).parent / name
