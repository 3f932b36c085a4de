"""The packages, the environment and the end of processes on a GPU machine. Nothing here needs an installed package."""

import compileall
import os
import shutil
import signal
import subprocess
import zipfile
from contextlib import suppress
from pathlib import Path


def unpack(wheels: Path, site: Path) -> None:
    """Unpack the wheels of a folder into one that PYTHONPATH can name, without pip, and compile them to bytecode."""
    shutil.rmtree(site, ignore_errors=True)
    for wheel in sorted(wheels.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(site)
    if site.is_dir():
        compileall.compile_dir(site, quiet=2, workers=0)


def environment(work: Path) -> dict[str, str]:
    """Return the environment of the processes of a check, without a network and with bytecode, which saves seconds."""
    own = {
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "",
        "COLUMNS": "160",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    folders = {"TORCHINDUCTOR_CACHE_DIR": "inductor", "TRITON_CACHE_DIR": "triton", "XDG_CACHE_HOME": "cache"}
    own |= {name: str(work / folder) for name, folder in folders.items()}
    paths = [str(work / "site"), str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, **own, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def end(process: "subprocess.Popen[bytes]") -> None:
    """End a process, which began a session, with all that it started. A driver may keep a killed one for ever."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    with suppress(subprocess.TimeoutExpired):
        process.wait(10)
