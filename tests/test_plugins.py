"""Another package adds a norm, a mean, an inversion, a metric, a model family and a data set by entry points, and their
presets by LATENTMIX_CONFIGS. A sweep with all of them runs to the end, figures and report included."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

PACKAGE = Path(__file__).parent / "extension"
METADATA = "Metadata-Version: 2.1\nName: latentmix-toy\nVersion: 1.0\n"
METHODS = ("fix/0", "longest/rows")
SETTINGS = (
    *("model=flat", "data=stripes", "inversion=damped", "methods=[fix/0,longest/rows]", "metrics=[fid,spread]"),
    *("n=[2,4]", "pool=4", "draws=4", "steps=4", "keep=2", "launch.threads=1", "name=run"),
)
# All commands in one process, as starting one takes seconds.
RUN = """
import json, sys
from latentmix import cli
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["latentmix", *arguments]
    try:
        cli.main()
    except SystemExit as stop:
        if stop.code:
            raise
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Install the package in a folder of its own, as pip would."""
    site = tmp_path_factory.mktemp("site")
    shutil.copy(PACKAGE / "latentmix_toy.py", site)
    about = site / "latentmix_toy-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(METADATA)
    shutil.copy(PACKAGE / "entry_points.txt", about)
    paths = [str(site), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths), "LATENTMIX_CONFIGS": str(PACKAGE / "configs")}


@pytest.fixture(scope="module")
def flat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a pipeline of the package's family."""
    folder = tmp_path_factory.mktemp("pipeline") / "flat"
    (folder / "unet").mkdir(parents=True)
    index = {"_class_name": "FlatPipeline", "unet": ["diffusers", "UNet2DConditionModel"]}
    (folder / "model_index.json").write_text(json.dumps(index))
    (folder / "unet" / "config.json").write_text("{}")
    save_file({"gain": torch.tensor(0.3)}, folder / "unet" / "diffusion_pytorch_model.safetensors")
    return folder


@pytest.fixture(scope="module")
def outputs(environment: dict[str, str], flat: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    outputs = tmp_path_factory.mktemp("outputs")
    settings = [*SETTINGS, f"model.path={flat}", f"outputs={outputs}"]
    check = ["check-inversion", "damped", "model=flat", f"model.path={flat}"]
    commands = [check, ["sweep", *settings], ["report", str(outputs / "run")]]
    done = subprocess.run(
        [sys.executable, "-c", RUN, json.dumps(commands)], env=environment, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return outputs


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_sweep_measures_what_the_package_adds(outputs: Path) -> None:
    results = rows(outputs / "run" / "metrics.csv")
    assert {(row["model"], row["data"], row["inversion"]) for row in results} == {("flat", "stripes", "damped")}
    assert {row["class"] for row in results} == {"level_stripes", "upright_stripes", "all"}
    assert {row["method"] for row in results} == {*METHODS, "real"}
    assert {row["metric"] for row in results} == {"fd_embedded", "spread_embedded"}
    values = {row["method"]: float(row["value"]) for row in results if row["metric"] == "spread_embedded"}
    assert np.isfinite(list(values.values())).all() and values["fix/0"] != values["longest/rows"]


def test_figures_and_report_show_what_the_package_adds(outputs: Path) -> None:
    for name in ("fig1.png", "fig7.png"):
        with Image.open(outputs / "run" / name) as image:
            assert len(np.unique(np.asarray(image.convert("RGB")).reshape(-1, 3), axis=0)) > 10
    report = (outputs / "run" / "report.html").read_text()
    for label in ("longest/rows", "Distance from the mean", "its norm that of the longest input"):
        assert label in report


def test_versions_and_settings_of_the_package_are_in_the_keys(outputs: Path) -> None:
    latents = [json.loads(path.read_text()) for path in outputs.glob("cache/latents/*/identity.json")]
    assert len(latents) == 2  # one of each class
    for identity in latents:
        assert identity["inversion"] == {"kind": "damped", "version": 1, "guidance": 1.0, "damping": 0.1}
    cells = [json.loads(path.read_text())["cell"] for path in outputs.glob("cache/cells/*/*/identity.json")]
    methods = {(cell["method"]["method"], tuple(cell["method"]["versions"])) for cell in cells}
    assert methods == {(method, (1, 1)) for method in METHODS}
