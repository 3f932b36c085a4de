"""Every command in a help text, in README and in docs/ can be typed as it stands: options exist, settings compose."""

import ast
import importlib
import re
import shlex
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import typer
import yaml
from typer.testing import CliRunner

from latentmix import cli
from latentmix.commands.shared.grid import combinations
from latentmix.compose import compose

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
GROUP = typer.main.get_command(cli.app)


def shell_lines(markdown: str) -> Iterator[str]:
    """Yield the lines of all code blocks for a shell, with continued lines joined and comments left out."""
    for block in re.findall(r"^```(?:sh|bash|console)\n(.*?)^```", markdown, re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            yield re.sub(r"\s#.*$", "", line).strip()


def commands(lines: Iterator[str] | list[str]) -> Iterator[str]:
    """Yield what calls latentmix. "..." stands for settings of the reader's own, so it is left out."""
    for line in lines:
        line = re.sub(r"^\$ ", "", line).removesuffix("&").removesuffix("...").replace(" ... ", " ").strip()
        line = re.sub(r"^([A-Z_]+=\S+ )+", "", line)
        if re.match(r"latentmix(?= |$)", line):
            yield line


def of_pages() -> list[tuple[str, str]]:
    return [(page.name, command) for page in PAGES for command in commands(shell_lines(page.read_text()))]


def of_helps() -> list[tuple[str, str]]:
    found = []
    for name in GROUP.commands:  # type: ignore[attr-defined]
        printed = CliRunner().invoke(cli.app, [name, "--help"], terminal_width=200, env={"COLUMNS": "200"}).output
        found += [(f"{name} --help", line) for line in commands([line.strip() for line in printed.splitlines()])]
    return found


def check(command: str) -> None:
    """Parse a command as the command line does, and compose its settings. Raise what the user would be told."""
    arguments = shlex.split(command)[1:]
    for stop in (">", "|", "2>&1", "&&", ";"):
        if stop in arguments:
            arguments = arguments[: arguments.index(stop)]
    context = GROUP.make_context("latentmix", arguments or ["--help"], resilient_parsing=not arguments)
    rest = [*getattr(context, "_protected_args", []), *context.args]
    if not rest:
        return
    name, subcommand, rest = GROUP.resolve_command(context, rest)  # type: ignore[attr-defined]
    assert subcommand is not None
    parsed = subcommand.make_context(name, rest, parent=context)
    overrides = list(parsed.params.get("overrides") or [])
    if name == "check-inversion":
        overrides.insert(0, f"inversion={parsed.params['name']}")
    if parsed.params.get("multirun"):
        combinations(str(name), overrides)
    else:
        compose(overrides)


@pytest.mark.parametrize(("source", "command"), [*of_helps(), *of_pages()], ids=lambda text: text)
def test_command_can_be_typed(source: str, command: str) -> None:
    check(command)


def test_help_of_every_command_has_an_example() -> None:
    shown = {source.removesuffix(" --help") for source, _ in of_helps()}
    assert shown == {name for name, command in GROUP.commands.items() if not command.hidden}  # type: ignore[attr-defined]


def test_wrong_commands_are_noticed() -> None:
    for wrong in ("latentmix sweep --nothing", "latentmix sweep nothing=1", "latentmix nothing"):
        with pytest.raises(Exception):  # noqa: B017
            check(wrong)


def targets() -> set[str]:
    """Return the targets of the Makefile."""
    return set(re.findall(r"^([a-z][a-z0-9-]*)(?=[ :])", (ROOT / "Makefile").read_text(), re.MULTILINE)) | {
        f"fig{i}" for i in range(1, 13)
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_make_targets_exist(page: Path) -> None:
    lines = [line for line in shell_lines(page.read_text()) if line.startswith("make ")]
    named = [word for line in lines for word in shlex.split(line)[1:] if re.fullmatch(r"[a-z][a-z0-9-]*", word)]
    assert set(named) <= targets()


def blocks(language: str) -> list[tuple[str, str]]:
    pattern = re.compile(rf"^```{language}\n(.*?)^```", re.MULTILINE | re.DOTALL)
    return [(page.name, block) for page in PAGES for block in pattern.findall(page.read_text())]


@pytest.mark.parametrize(("page", "block"), blocks("python"), ids=lambda text: text[:60])
def test_python_is_python_and_its_imports_exist(page: str, block: str) -> None:
    for node in ast.walk(ast.parse(block)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "latentmix":
            exec(ast.unparse(node), {})
        if (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id in ("lm", "latentmix")
        ):
            assert hasattr(importlib.import_module("latentmix"), node.attr), node.attr


@pytest.mark.parametrize(
    ("language", "parse"), [("yaml", yaml.safe_load), ("toml", tomllib.loads)], ids=["yaml", "toml"]
)
def test_other_blocks_can_be_read(language: str, parse: Callable[[str], object]) -> None:
    for _, block in blocks(language):
        if not block.startswith("--8<--"):  # a file that the site includes
            parse(block)
