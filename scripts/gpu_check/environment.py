"""The environment of the processes of a check. Nothing here needs an installed package."""

import os
from pathlib import Path


def environment(work: Path) -> dict[str, str]:
    """Return the environment of the processes of a check."""
    own = {"PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1", "COLUMNS": "160", "HF_HUB_OFFLINE": "1"}
    own |= {"TOKENIZERS_PARALLELISM": "false", "TORCHINDUCTOR_CACHE_DIR": str(work / "inductor")}
    paths = [str(work / "site"), str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, **own, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
