"""A file imports only from its own floor and lower ones, and what should start quickly imports nothing heavy."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = "latentmix"

# The first entry that a module's name begins with says its floor; whatever is not here is on floor 3.
FLOORS = {
    "latentmix.errors": 0,
    "latentmix.rng": 0,
    "latentmix.config": 2,
    "latentmix.settings": 0,
    "latentmix.cache": 0,
    "latentmix.profiling": 0,
    "latentmix.sampling": 1,
    "latentmix.mixing": 1,
    "latentmix.mixing.iterative": 1,
    "latentmix.metrics": 1,
    "latentmix.metrics.distances": 1,
    "latentmix.metrics.intervals": 1,
    "latentmix.metrics.neighbours": 1,
    "latentmix.diagnosis": 1,
    "latentmix.models": 2,
    "latentmix.inversion": 2,
    "latentmix.data": 2,
    "latentmix.features": 2,
    "latentmix.cli": 4,
    "latentmix.__main__": 4,
}
MATHEMATICS = {name for name, floor in FLOORS.items() if floor == 1}
FOR_MATHEMATICS = {"torch", "jaxtyping", "scipy", *sys.stdlib_module_names}


def floor(module: str) -> int:
    if module == PACKAGE:
        return 1  # it offers `mix` to other people's code
    return next((level for name, level in FLOORS.items() if f"{module}.".startswith(f"{name}.")), 3)


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in sorted((ROOT / PACKAGE).rglob("*.py"))}


def imports(source: str, module: str, is_package: bool) -> set[str]:
    """The modules that a source imports, those inside functions included: `from latentmix import x` is latentmix.x
    where that is a module, and an attribute of latentmix elsewhere."""
    found = set[str]()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parents = module.split(".")[: len(module.split(".")) - node.level + is_package] if node.level else []
            origin = ".".join([*parents, *([node.module] if node.module else [])])
            for alias in node.names:
                found.add(name if (name := f"{origin}.{alias.name}") in MODULES else origin)
    return found


def imports_of(module: str) -> set[str]:
    path = MODULES[module]
    return imports(path.read_text(encoding="utf-8"), module, path.name == "__init__.py")


def ours(module: str) -> bool:
    return module.split(".")[0] == PACKAGE


def test_imports_are_found_wherever_they_stand() -> None:
    source = "\n".join(
        [
            "import torch.nn",
            "from latentmix import mixing, nothing",
            "from . import ladder",
            "from .metrics import Estimate",
            "from latentmix.data import shapes, Source",
            "def late():",
            "    import yaml",
        ]
    )
    below = {"latentmix.sampling", "latentmix.metrics"}
    others = {"torch.nn", "latentmix.mixing", "latentmix", "latentmix.data", "latentmix.data.shapes", "yaml"}
    assert imports(source, "latentmix.experiment.stages", is_package=False) == below | others
    assert imports("from . import ladder\nfrom .metrics import x", PACKAGE, is_package=True) == below
    assert imports("from .. import ladder\nfrom ..metrics import x", "latentmix.data.folder", is_package=False) == below
    assert imports("from .. import ladder\nfrom ..metrics import x", "latentmix.data", is_package=True) == below


def test_floors_are_found_by_name() -> None:
    floors = {"latentmix": 1, "latentmix.cache": 0, "latentmix.data": 2, "latentmix.data.shapes": 2, "latentmix.cli": 4}
    assert {module: floor(module) for module in floors} == floors
    assert floor("latentmix.experiment.stages") == floor("latentmix.figures.morph") == floor("latentmix.database") == 3


def test_the_package_was_found() -> None:
    assert {PACKAGE, *MATHEMATICS, "latentmix.errors", "latentmix.data.shapes"} <= set(MODULES)


@pytest.mark.parametrize("module", MODULES)
def test_nothing_is_imported_from_a_higher_floor(module: str) -> None:
    above = {name: floor(name) for name in imports_of(module) if ours(name) and floor(name) > floor(module)}
    assert not above, f"{module} is on floor {floor(module)}"


@pytest.mark.parametrize("module", MODULES)
def test_what_is_imported_exists(module: str) -> None:
    assert {name for name in imports_of(module) if ours(name)} <= set(MODULES)


@pytest.mark.parametrize("module", sorted(MATHEMATICS))
def test_the_mathematics_knows_only_itself_and_torch(module: str) -> None:
    imported = imports_of(module)
    assert {name for name in imported if ours(name)} <= MATHEMATICS | {"latentmix.errors"}
    assert {name.split(".")[0] for name in imported if not ours(name)} <= FOR_MATHEMATICS


def loaded_by(statement: str, suspects: set[str]) -> set[str]:
    """Which of the suspects are loaded in a fresh interpreter after a statement."""
    code = f"import sys\n{statement}\nprint(*({suspects!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_mixing_is_imported_without_what_experiments_need() -> None:
    heavy = {
        "diffusers",
        "transformers",
        "hydra",
        "omegaconf",
        "pydantic",
        "torchvision",
        "datasets",
        "PIL",
        "matplotlib",
    }
    expected = {"torch", "latentmix.mixing"}
    assert loaded_by("from latentmix import mix", heavy | expected) == expected


def test_the_package_alone_is_imported_without_torch() -> None:
    assert not loaded_by("import latentmix", {"torch", "numpy"})


def test_the_command_line_starts_without_anything_heavy() -> None:
    heavy = {"torch", "hydra", "omegaconf", "diffusers", "transformers", "numpy", "scipy", "pydantic", "matplotlib"}
    assert not loaded_by("import latentmix.cli", heavy)
