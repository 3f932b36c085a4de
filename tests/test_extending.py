"""docs/extending.md: its package is built from the page as it stands, and runs to the end."""

import csv
import re
import shutil
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from driver import Said, invoke
from PIL import Image
from pipelines import SD

from latentmix.data import DATASETS
from latentmix.feature_networks import FRECHET, Network, network_width, registry
from latentmix.inversion import INVERSIONS
from latentmix.metrics import METRICS
from latentmix.mixing import MEANS, NORMS
from latentmix.models.registry import FAMILIES
from latentmix.plugins import Table

ROOT = Path(__file__).parents[1]
TABLES = (NORMS, MEANS, INVERSIONS, METRICS, FRECHET, DATASETS, FAMILIES)
FILES = re.compile(r"^`([\w./-]+)`\n\n```\w+\n(.*?)^```$", re.MULTILINE | re.DOTALL)

pytestmark = pytest.mark.usefixtures("random_pipelines")


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the page's files and, as an installation would leave it, what its entry points are."""
    folder = tmp_path_factory.mktemp("package")
    for name, text in FILES.findall((ROOT / "docs" / "extending.md").read_text()):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    (folder / "mylab" / "__init__.py").touch()
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    about = folder / f"{project['name']}-{project['version']}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    groups = (
        "\n".join([f"[{group}]", *(f"{name} = {value}" for name, value in entries.items())])
        for group, entries in project["entry-points"].items()
    )
    (about / "entry_points.txt").write_text("\n\n".join(groups))
    return folder


@contextmanager
def installed(package: Path) -> Iterator[None]:
    """Let latentmix find the package in this context, as it finds an installed one."""
    known = {*sys.modules}
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(package)
        for table in TABLES:
            patch.setitem(vars(table), "_loaded", {})
            patch.setitem(vars(table), "_entry_points", vars(Table)["_entry_points"].func(table))
        try:
            yield
        finally:
            for name in {*sys.modules} - known:
                if name.partition(".")[0] == "mylab":
                    del sys.modules[name]


def run(package: Path, *command: str) -> Said:
    """Return what a command says where the package is installed."""
    with installed(package):
        return invoke("--config-dir", str(package / "configs"), *command)


@pytest.mark.slow
def test_the_pages_package_runs_to_the_end(package: Path, tmp_path: Path) -> None:
    """And its inversion keeps the contract."""
    few = ("pool=6", "draws=4", "steps=2", "data.reference=6", "launch.threads=1", f"outputs={tmp_path}")
    folder = tmp_path / "stripes-sd"
    check = run(package, "check-inversion", "heun", "steps=10", f"outputs={tmp_path}")
    sweep = run(package, "sweep", "experiment=stripes", *SD, *few, "keep=1")
    report = run(package, "report", str(folder))
    assert check.code == 0, check.out + check.err
    assert check.out.count("ok") == 6 and "broken" not in check.out
    assert sweep.code == 0, sweep.out + sweep.err
    with (folder / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["class"] for row in rows} == {"horizontal", "vertical", "all"}
    assert {(row["data"], row["inversion"]) for row in rows} == {("stripes", "heun")}
    assert {"fix/0", "fix/chm", "half/row"} <= {row["method"] for row in rows}
    assert any(row["metric"].startswith("feature_norm") for row in rows)
    assert all(0 < float(row["value"]) < 1 for row in rows if row["metric"] == "colour_shift_colours")
    assert {row["method"] for row in rows if row["metric"] == "colour_shift_colours"} >= {"fix/0", "half/row"}
    assert (folder / "done.json").exists() and (folder / "fig7.png").exists()
    assert report.code == 0, report.err
    assert "its norm halfway to that of the inputs" in (folder / "report.html").read_text()


def test_metrics_in_networks_of_their_own_work_everywhere(package: Path, tmp_path: Path) -> None:
    """They are looked for, planned and measured, in runs and between any two folders of images."""
    sides = tmp_path / "a", tmp_path / "b"
    for number, side in enumerate(sides):
        side.mkdir()
        for index in range(3):
            Image.fromarray(np.full((16, 16, 3), 40 * index + number, np.uint8)).save(side / f"{index}.png")
    own = (*SD, "data=stripes", "pool=4", "n=[2]", "data.reference=4", f"outputs={tmp_path}")
    doctor = run(package, "doctor", *own, "metrics=[colour_shift]")
    assert doctor.code == 0 and re.search(r"ok +colours +colours is in .*others.py", doctor.out), doctor.out
    assert run(package, "sweep", "--dry-run", *own, "metrics=[colour_shift]").code == 0
    folders = ("--images", str(sides[0]), "--reference", str(sides[1]))
    measured = run(package, "evaluate", *folders, "--metrics", "colour_shift,fid", "--features", "colours")
    assert measured.code == 0 and {"colour_shift_colours", "fd_colours"} <= set(measured.out.split()), measured.err
    lost = run(package, "sweep", "--dry-run", *own, "metrics=[fid]", "model.features=colors")
    assert lost.code == 2 and "there is no feature network 'colors'" in lost.err and "colours" in lost.err


def test_a_network_of_another_package_is_asked_once_for_its_width(package: Path) -> None:
    asked = 0

    def counted(device: torch.device) -> Network:
        nonlocal asked
        asked += 1
        return Network("counted", {}, lambda images: images.float().flatten(1), width=6)

    registry._width_elsewhere.cache_clear()
    with installed(package), pytest.MonkeyPatch.context() as patch:
        patch.setitem(vars(FRECHET)["_loaded"], "colours", counted)
        assert [network_width("colours") for _ in range(3)] == [6, 6, 6] and asked == 1


Broken = tuple[str, str, list[str], str]  # group, entry, what uses it, what is said
BROKEN: list[Broken] = [
    ("inversions", "lost = mylab.heun:LOST", ["inversion=heun", "inversion.kind=lost"], "can't be imported: "),
    ("norms", "lost = mylab.nothing:lost", ["methods=[lost/0]"], "norms entry point lost = mylab.nothing:lost of"),
    ("norms", "odd = mylab.mixing:row", ["methods=[odd/0]"], "is a Mean; it must be a Norm"),
    ("metrics", "lost = mylab:LOST", ["metrics=[lost]"], "can't be imported: "),
]


@pytest.mark.parametrize(("group", "entry", "uses", "message"), BROKEN)
def test_a_broken_entry_is_named_where_it_is_used(
    group: str, entry: str, uses: list[str], message: str, package: Path, tmp_path: Path
) -> None:
    broken = shutil.copytree(package, tmp_path / "package") / "broken-1.dist-info"
    broken.mkdir()
    (broken / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1\n")
    (broken / "entry_points.txt").write_text(f"[latentmix.{group}]\n{entry}\n")
    said = run(broken.parent, "sweep", "--dry-run", *SD, "pool=4", "n=[2]", *uses)
    assert said.code == 2
    assert message in said.err and len(said.err.splitlines()) == 1, said.err
