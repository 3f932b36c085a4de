"""A file imports only from its own floor and lower ones, and what should start quickly imports nothing heavy."""

import ast
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = "latentmix"

# Every file's floor, from the ground up. `models` is models/__init__.py, `models.*` the other files of models.
FLOORS = (
    "errors embedded",
    "arrays gpu isolation rng settings profiling storage threads",
    "octaves plugins weight_files images runner.tasks runner.claims runner.rates runner.records runner.progress",
    "mixing.* metrics.*",
    "morphing morphing.*",
    "mixing metrics sampling runner.prefetch runner.batch_agreement runner.console runner.status runner.process",
    "runner.job_schedulers",
    "diagnosis models.protocol models.settings data.settings runner.executor",
    "inversion.base feature_networks.base",
    "models.attention models.compile models.family models.linear models.shared_prefix",
    "models.lora models.single_file",
    "data.protocol data.odd_image_files data.decode data.decoded_images data.hub_errors models.loading",
    "feature_networks.*",
    "data.drawn data.drawn.objects data.drawn.scenes",
    "data.* feature_networks",
    "data inversion.* models.vae models.fitness models.text_encoders",
    "models.denoiser",
    "models.base",
    "inversion latents models.unet models.mmdit",
    "models.sdxl models.flux",
    "models.registry",
    "models.architectures models.from_diffusers",
    "models.assembly",
    "models.pipeline",
    "models",
    "arguments config",
    "overrides presets",
    "setting_errors",
    "compose",
    "run_folders model_names",
    "experiment experiment.draws experiment.random_mixtures experiment.cached_method runner.local runner.slurm runner",
    "experiment.cache_keys experiment.data",
    "experiment.latents experiment.cells experiment.texts",
    "experiment.experiment",
    "experiment.augmentation",
    "experiment.generation experiment.batch_size experiment.disk_sizes experiment.diagnosis experiment.csv_files",
    "experiment.stages experiment.pseudo_values evaluation pipeline",
    "experiment.morph experiment.diversity experiment.probe experiment.reconstruction experiment.synthesis",
    "experiment.sweep experiment.results_table experiment.training_set",
    "experiment.comparison",
    "figures.style figures.grid figures.toy figures.diagnosis figures.metric_curves",
    "figures figures.registry report report.* checks.finding",
    "checks.downloads",
    "checks.data checks.machine",
    "checks",
    "commands commands.cache commands.shared",
    "commands.shared.session",
    "commands.shared.rounds commands.shared.push commands.compare commands.shared.tracking",
    "commands.sweep commands.shared.grid",
    "commands.*",
    "api cli.shared",
    "cli.*",
    "cli __main__",
)
MATHEMATICS = {"arrays", "mixing", "mixing.*", "metrics", "metrics.*", "sampling", "diagnosis", "octaves"}
FOR_MATHEMATICS = {"torch", "jaxtyping", "scipy", *sys.stdlib_module_names}


def entry(module: str) -> str:
    """Return what a module is called in FLOORS: by its own name, or as one of the others in its folder."""
    name = module.removeprefix(f"{PACKAGE}.")
    return name if any(name in floor.split() for floor in FLOORS) else f"{name.rpartition('.')[0]}.*"


def floor(module: str) -> int:
    """Return the floor of a module; the package itself only offers names of others, which it imports when used."""
    if module == PACKAGE:
        return len(FLOORS)
    floors = [number for number, names in enumerate(FLOORS) if entry(module) in names.split()]
    assert len(floors) == 1, f"{module} has {len(floors)} floors in FLOORS; give each file one"
    return floors[0]


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
            "from latentmix import rng, nothing",
            "from . import sampling",
            "from .metrics import Estimate",
            "from latentmix.data import shapes, Source",
            "def late():",
            "    import yaml",
        ]
    )
    below = {"latentmix.sampling", "latentmix.metrics"}
    others = {"torch.nn", "latentmix.rng", "latentmix", "latentmix.data", "latentmix.data.shapes", "yaml"}
    assert imports(source, "latentmix.cli", is_package=False) == below | others
    assert imports("from . import sampling\nfrom .metrics import x", PACKAGE, is_package=True) == below
    up = "from .. import sampling\nfrom ..metrics import x"
    assert imports(up, "latentmix.data.folder", is_package=False) == below
    assert imports(up, "latentmix.data", is_package=True) == below


def test_every_file_has_one_floor_and_every_entry_a_file() -> None:
    for module in MODULES:
        floor(module)
    entries = [name for names in FLOORS for name in names.split()]
    assert len(entries) == len(set(entries))
    assert set(entries) == {entry(module) for module in MODULES if module != PACKAGE}


def test_no_imports_run_in_a_circle() -> None:
    """Python's own order of a graph; it raises CycleError with the modules of a circle."""
    graph = {module: {name for name in imports_of(module) if ours(name)} - {PACKAGE} for module in MODULES}
    assert set(TopologicalSorter(graph).static_order()) == set(MODULES)


@pytest.mark.parametrize("module", MODULES)
def test_nothing_is_imported_from_a_higher_floor(module: str) -> None:
    imported = {name for name in imports_of(module) if ours(name) and name != PACKAGE}
    above = {name: floor(name) for name in imported if floor(name) > floor(module)}
    assert not above, f"{module} is on floor {floor(module)}"


@pytest.mark.parametrize("module", MODULES)
def test_what_is_imported_exists(module: str) -> None:
    assert {name for name in imports_of(module) if ours(name)} <= set(MODULES)


@pytest.mark.parametrize("module", [module for module in MODULES if entry(module) in MATHEMATICS])
def test_the_mathematics_knows_only_itself_and_torch(module: str) -> None:
    imported = imports_of(module)
    assert {entry(name) for name in imported if ours(name) and name != PACKAGE} <= MATHEMATICS | {"errors", "plugins"}
    assert {name.split(".")[0] for name in imported if not ours(name)} <= FOR_MATHEMATICS


def test_what_one_reads_to_trust_figure_7_is_short() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    section = page.partition("## What to read to trust Figure 7\n")[2].partition("\n## ")[0]
    files = re.findall(r"`([\w/]+\.py)`", section.partition("|---|---|")[2])
    assert len(files) > 20
    assert sum(len((ROOT / PACKAGE / file).read_text().splitlines()) for file in files) < 3000


def test_the_functions_that_the_page_names_are_in_the_files_that_it_names() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    named = re.findall(r"`([\w/]+\.py)`: (?:a line in )?`(\w+)`", page)
    named += [(file, name) for name, file in re.findall(r"`(\w+)` in `([\w/]+\.py)`", page)]
    assert len(named) > 8
    for file, name in named:
        text = (ROOT / PACKAGE / file).read_text()
        assert re.search(rf"^ *(?:def |class ){name}\b|^{name}\b.*=", text, re.MULTILINE), (file, name)


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
