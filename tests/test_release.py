"""What a release consists of fits together: versions, workflows, container, conda recipe, documentation."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
RENAMED = {"torch": "pytorch", "matplotlib": "matplotlib-base", "open_clip_torch": "open-clip-torch"}  # on conda-forge


def test_versions_agree() -> None:
    version = PROJECT["version"]
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == version
    assert f'set version = "{version}"' in (ROOT / "conda" / "meta.yaml").read_text()
    assert re.search(
        rf"^## {re.escape(version)} \(\d{{4}}-\d\d-\d\d\)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE
    )


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_call_what_exists(path: Path) -> None:
    workflow = yaml.safe_load(path.read_text())
    makefile = (ROOT / "Makefile").read_text()
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    for command in [step["run"] for step in steps if "run" in step]:
        for target in re.findall(r"^make ((?:[a-z-]+ ?)+)", command, re.MULTILINE):
            assert all(re.search(rf"^{name}:", makefile, re.MULTILINE) for name in target.split()), target
        for test in re.findall(r"tests/\w+\.py", command):
            assert (ROOT / test).is_file(), test
    assert all(("run" in step) != ("uses" in step) for step in steps)


def test_container_copies_what_exists() -> None:
    lines = [line.split() for line in (ROOT / "Dockerfile").read_text().splitlines() if line and line[0] != "#"]
    assert lines[0][0] == "FROM"
    copied = [source for line in lines if line[0] == "COPY" for source in line[1:-1]]
    assert copied
    assert all((ROOT / source).exists() for source in copied)


def test_conda_recipe_needs_what_the_package_needs() -> None:
    text = re.sub(r"\{%.*?%\}", "", (ROOT / "conda" / "meta.yaml").read_text())
    text = re.sub(r"\{\{.*?\}\}", "x", text)
    recipe = yaml.safe_load(text)
    spaced = [re.sub(r"^([\w-]+?)\s*(?=[<>=])", r"\1 ", needed) for needed in PROJECT["dependencies"]]
    spaced += [re.sub(r"^([\w-]+?)\s*(?=[<>=])", r"\1 ", n) for n in PROJECT["optional-dependencies"]["metrics"]]
    wanted = {f"python {PROJECT['requires-python']}"}
    for needed in spaced:
        name, versions = needed.split(" ")
        wanted.add(f"{RENAMED.get(name, name)} {versions}")
    assert set(recipe["requirements"]["run"]) == wanted


def test_documentation_is_built_without_a_broken_link(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "ignore", "-m", "mkdocs", "build", "--quiet", "--site-dir", str(tmp_path)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert built.returncode == 0, built.stderr
    page = (tmp_path / "api" / "index.html").read_text()
    assert "at least float32" in re.sub(r"<[^>]+>", "", page) or "float32 at least" in re.sub(r"<[^>]+>", "", page)


def test_every_page_is_in_the_navigation() -> None:
    text = (ROOT / "mkdocs.yml").read_text()
    assert all(re.search(rf"\b{re.escape(page.name)}$", text, re.MULTILINE) for page in (ROOT / "docs").glob("*.md"))
