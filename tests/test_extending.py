"""docs/extending.md: its package is built from the page as it stands, and runs to the end."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

import pytest
from driver import Said
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


# All commands in one process, as starting one takes seconds.
RUN = """
import contextlib, io, json, sys
from latentmix import cli
said = []
for arguments in json.loads(sys.argv[1]):
    sys.argv, code = ["latentmix", *arguments], 0
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code or 0
    said.append([code, out.getvalue(), err.getvalue()])
print(json.dumps(said))
"""


def run(package: Path, *commands: Sequence[str]) -> list[Said]:
    """Return what each command says where the package is installed."""
    paths = os.pathsep.join([str(package), str(ROOT), os.environ.get("PYTHONPATH", "")])
    given = json.dumps([["--config-dir", str(package / "configs"), *command] for command in commands])
    environment = os.environ | {"PYTHONPATH": paths, "COLUMNS": "200"}
    assert FOLDER in environment
    done = subprocess.run(
        [sys.executable, "-c", RUN, given], capture_output=True, text=True, env=environment, timeout=600
    )
    assert done.returncode == 0, done.stderr
    return [Said(*said) for said in json.loads(done.stdout.splitlines()[-1])]


@pytest.mark.slow
def test_the_pages_package_runs_to_the_end(package: Path, tmp_path: Path) -> None:
    """And its inversion keeps the contract."""
    few = ("pool=6", "draws=4", "steps=2", "data.reference=6", "launch.threads=1", f"outputs={tmp_path}")
    folder = tmp_path / "stripes-sd"
    check, sweep, report = run(
        package,
        ["check-inversion", "heun", "steps=10", f"outputs={tmp_path}"],
        ["sweep", "experiment=stripes", *SD, *few, "keep=1"],
        ["report", str(folder)],
    )
    assert check.code == 0, check.out + check.err
    assert check.out.count("ok") == 6 and "broken" not in check.out
    assert sweep.code == 0, sweep.out + sweep.err
    with (folder / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["class"] for row in rows} == {"horizontal", "vertical", "all"}
    assert {(row["data"], row["inversion"]) for row in rows} == {("stripes", "heun")}
    assert {"fix/0", "fix/chm", "half/row"} <= {row["method"] for row in rows}
    assert any(row["metric"].startswith("feature_norm") for row in rows)
    assert (folder / "done.json").exists() and (folder / "fig7.png").exists()
    assert report.code == 0, report.err
    assert "its norm halfway to that of the inputs" in (folder / "report.html").read_text()


Broken = tuple[str, str, list[str], str]  # group, entry, what uses it, what is said
INVERSION: Broken = (
    "inversions",
    "lost = mylab.heun:LOST",
    ["inversion=heun", "inversion.kind=lost"],
    "can't be imported: ",
)
OTHERS: list[Broken] = [
    ("norms", "lost = mylab.nothing:lost", ["methods=[lost/0]"], "norms entry point lost = mylab.nothing:lost of"),
    ("norms", "odd = mylab.mixing:row", ["methods=[odd/0]"], "is a Mean; it must be a Norm"),
    ("metrics", "lost = mylab:LOST", ["metrics=[lost]"], "can't be imported: "),
]


@pytest.mark.parametrize("entries", [[INVERSION], OTHERS])  # each run reads the inversions
def test_a_broken_entry_is_named_where_it_is_used(entries: list[Broken], package: Path) -> None:
    for number, (group, entry, _, _) in enumerate(entries):
        broken = package / f"broken{number}-1.dist-info"
        broken.mkdir()
        (broken / "METADATA").write_text(f"Metadata-Version: 2.1\nName: broken{number}\nVersion: 1\n")
        (broken / "entry_points.txt").write_text(f"[latentmix.{group}]\n{entry}\n")
    try:
        everything = run(package, *(["sweep", "--dry-run", *SD, "pool=4", "n=[2]", *uses] for _, _, uses, _ in entries))
    finally:
        for folder in package.glob("broken*"):
            shutil.rmtree(folder)
    for said, (_, _, _, message) in zip(everything, entries, strict=True):
        assert said.code == 2
        assert message in said.err and "Traceback" not in said.err, said.err
        assert len(said.err.strip().splitlines()) == 1
