"""A base install mixes and generates; what needs an extra says which one, in a line."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from latentmix.errors import EXTRAS, UserError, optional_imports

PYPROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
IMPORT_NAMES = {"open_clip_torch": "open_clip", "torch-fidelity": "torch_fidelity"}
# All commands in one process, as starting one takes seconds.
BASE_INSTALL = f"""
import json, sys
for name in {sorted([*EXTRAS, "timm"])}:
    sys.modules[name] = None
from latentmix.cli import main
codes = []
for arguments in json.loads(sys.argv[1]):
    sys.argv, code = ["latentmix", *arguments], 0
    try:
        main()
    except SystemExit as stop:
        code = stop.code or 0
    codes.append(code)
print(json.dumps(codes))
"""


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


def test_a_base_install_mixes_and_says_what_a_sweep_needs(tmp_path: Path) -> None:
    mixture = ["mix", "--class", "star", "--weights", "0.5,0.5", "methods=[fix/chm]", "steps=2", "pool=2", "n=[2]"]
    mixture += ["launch.threads=1", "device=cpu", f"outputs={tmp_path}"]
    sweep = ["sweep", "experiment=demo", "device=cpu", f"outputs={tmp_path / 'sweep'}"]
    command = [sys.executable, "-c", BASE_INSTALL, json.dumps([mixture, sweep])]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1:] == ["[0, 2]"], done.stderr
    assert any(tmp_path.rglob("*.png"))
    assert "Traceback" not in done.stderr
    assert "pip install 'latentmix[metrics]'" in done.stderr.splitlines()[-1]
