"""docs/extending.md: its package is built from the page as it stands, and runs to the end."""

import csv
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from pipelines import FOLDER, SD

ROOT = Path(__file__).parents[1]
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


def run(package: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join([str(package), str(ROOT), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "latentmix", "--config-dir", str(package / "configs"), *arguments]
    environment = os.environ | {"PYTHONPATH": paths}
    assert FOLDER in environment
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)


def test_the_pages_inversion_keeps_the_contract(package: Path, tmp_path: Path) -> None:
    said = run(package, "check-inversion", "heun", "steps=10", f"outputs={tmp_path}")
    assert said.returncode == 0, said.stdout + said.stderr
    assert said.stdout.count("ok") == 6 and "broken" not in said.stdout


def test_the_pages_package_runs_to_the_end(package: Path, tmp_path: Path) -> None:
    few = ("pool=6", "draws=4", "steps=2", "data.reference=6", "launch.threads=1", f"outputs={tmp_path}")
    said = run(package, "sweep", "experiment=stripes", *SD, *few, "keep=1")
    assert said.returncode == 0, said.stdout + said.stderr
    folder = tmp_path / "stripes-sd"
    with (folder / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["class"] for row in rows} == {"horizontal", "vertical", "all"}
    assert {(row["data"], row["inversion"]) for row in rows} == {("stripes", "heun")}
    assert {"fix/0", "fix/chm", "half/row"} <= {row["method"] for row in rows}
    assert any(row["metric"].startswith("feature_norm") for row in rows)
    assert (folder / "done.json").exists() and (folder / "fig7.png").exists()
    said = run(package, "report", str(folder))
    assert said.returncode == 0, said.stderr
    assert "its norm halfway to that of the inputs" in (folder / "report.html").read_text()


@pytest.mark.parametrize(
    ("group", "entry", "overrides", "message"),
    [
        ("norms", "lost = mylab.nothing:lost", ["methods=[lost/0]"], "norms entry point lost = mylab.nothing:lost of"),
        ("norms", "odd = mylab.mixing:row", ["methods=[odd/0]"], "is a Mean; it must be a Norm"),
        ("inversions", "lost = mylab.heun:LOST", ["inversion=heun", "inversion.kind=lost"], "can't be imported: "),
        ("metrics", "lost = mylab:LOST", ["metrics=[lost]"], "can't be imported: "),
    ],
)
def test_a_broken_entry_is_named_where_it_is_used(
    group: str, entry: str, overrides: list[str], message: str, package: Path
) -> None:
    broken = package / "broken-1.dist-info"
    broken.mkdir(exist_ok=True)
    (broken / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1\n")
    (broken / "entry_points.txt").write_text(f"[latentmix.{group}]\n{entry}\n")
    try:
        said = run(package, "sweep", "--dry-run", *SD, "pool=4", "n=[2]", *overrides)
    finally:
        (broken / "entry_points.txt").unlink()
    assert said.returncode == 2
    assert message in said.stderr and "Traceback" not in said.stderr, said.stderr
    assert len(said.stderr.strip().splitlines()) == 1
