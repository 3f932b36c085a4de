"""A base install mixes and generates; what needs an extra says which one, in a line."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from latentmix.errors import EXTRAS, UserError, optional_imports

PYPROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
IMPORT_NAMES = {"open_clip_torch": "open_clip", "torch-fidelity": "torch_fidelity"}
BASE_INSTALL = f"""
import sys
for name in {sorted([*EXTRAS, "timm"])}:
    sys.modules[name] = None
from latentmix.cli import main
main()
"""


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command line where no package of an extra can be imported."""
    return subprocess.run([sys.executable, "-c", BASE_INSTALL, *arguments], capture_output=True, text=True)


def test_packages_and_extras_are_those_of_the_project() -> None:
    declared = {}
    for extra in ("metrics", "data", "video", "slurm", "quantize"):
        for requirement in PYPROJECT["optional-dependencies"][extra]:
            name = requirement.partition(">")[0]
            declared[IMPORT_NAMES.get(name, name)] = extra
    assert declared == EXTRAS


def test_a_missing_package_names_its_extra() -> None:
    with pytest.raises(UserError, match=r"needs open_clip, .*pip install 'latentmix\[metrics\]'"), optional_imports():
        raise ModuleNotFoundError("No module named 'open_clip.factory'", name="open_clip.factory")
    with pytest.raises(ModuleNotFoundError), optional_imports():
        raise ModuleNotFoundError("No module named 'nothing'", name="nothing")


def test_a_base_install_mixes_and_generates(tmp_path: Path) -> None:
    mixture = ("mix", "--class", "star", "--weights", "0.5,0.5", "methods=[fix/chm]", "steps=2", "pool=2", "n=[2]")
    done = run(*mixture, "launch.threads=1", "device=cpu", f"outputs={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert any(tmp_path.rglob("*.png"))


def test_a_sweep_in_a_base_install_says_what_to_install(tmp_path: Path) -> None:
    done = run("sweep", "experiment=demo", "device=cpu", f"outputs={tmp_path}")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "pip install 'latentmix[metrics]'" in done.stderr.splitlines()[-1]
