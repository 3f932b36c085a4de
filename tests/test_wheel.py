"""An installed latentmix has its configs and its embedded networks with it, wherever it is called from."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
UV = Path(sys.executable).with_name("uv")
PROBE = """
import latentmix
from latentmix.compose import compose
from latentmix.presets import config_folder
from latentmix.models.pipeline import find
made = compose(["experiment=demo"])
print(latentmix.__file__, config_folder(), find(made.model), sep="\\n")
"""


@pytest.mark.skipif(not UV.exists(), reason="uv builds the wheel, and is not beside this Python")
def test_wheel_works_outside_its_checkout(tmp_path: Path) -> None:
    build = [str(UV), "build", "--quiet", "--wheel", "--out-dir", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True, text=True, timeout=300)
    (wheel,) = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    environment = os.environ | {"PYTHONPATH": str(site)}
    probe = [sys.executable, "-c", PROBE]
    found = subprocess.run(
        probe, check=True, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=120
    )
    for line in found.stdout.splitlines():
        assert Path(line).is_relative_to(site), line
    assert (site / "latentmix" / "embedded" / "clip" / "open_clip_model.safetensors").stat().st_size > 100_000
    assert (site / "latentmix" / "embedded" / "architectures" / "sd15" / "model_index.json").is_file()
