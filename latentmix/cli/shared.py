"""The application, and arguments, options and functions that its commands share."""

import os
import re
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option
from typer.core import TyperGroup

from latentmix.errors import STOPPED, Interrupted, UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from latentmix.config import Config
    from latentmix.experiment.experiment import Experiment
    from latentmix.experiment.stages import StageType


class Group(TyperGroup):
    """The commands. Ctrl-C ends any of them with one line."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stop:
            raise Interrupted(STOPPED, stop) from None
        except Exception as error:
            if type(error).__name__ == "NoSuchOption":  # of click, or of the copy that typer has of it
                _explain_option(str(getattr(error, "option_name", "")))
            raise


def _explain_option(option: str) -> None:
    """Raise UserError if an unknown option of a command is the name of a setting, or comes before the command."""
    from dataclasses import fields

    from latentmix.config import Config

    name = option.lstrip("-")
    if name == "config-dir":
        raise UserError("--config-dir comes before the command: latentmix --config-dir DIR sweep ...")
    if name.replace("-", "_") in (field.name for field in fields(Config)) or "." in name:
        raise UserError(f"{option} is a setting, which is written without dashes: {name.replace('-', '_')}=VALUE")


app = typer.Typer(
    name="latentmix",
    cls=Group,
    help="Invert images into the latent space of Stable Diffusion, mix N of them at once, generate, and measure.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Overrides = Annotated[
    list[str] | None,
    Argument(
        metavar="[KEY=VALUE]...", help="Settings to change, in Hydra's syntax; quote those with brackets. See configs/."
    ),
]
OfFigure = Annotated[
    str | None, Option("--figure", help="Do it for a figure (fig1 to fig12) with all its models, not for a sweep.")
]
Multirun = Annotated[
    bool, Option("-m", "--multirun", help="Make a run for each combination of several values: seed=0,1,2.")
]
PushToHub = Annotated[
    str | None, Option(metavar="OWNER/NAME", help="Also upload tables, figures and page as a data set of the hub.")
]
DryRun = Annotated[bool, Option("--dry-run", help="Show what would be done, and do nothing.")]
Runs = Annotated[
    list[str], Argument(metavar="RUN...", help="Runs: their folders, or their names. outputs=DIR says where they are.")
]
Outputs = Annotated[str | None, Option("--outputs", help="The folder of all runs; the same as outputs=DIR.")]
ClassName = Annotated[str | None, Option("--class", help="The class; by default the run's first one.")]


def command(*examples: str, name: str | None = None) -> "Callable[[Callable[..., None]], Callable[..., None]]":
    """Return a decorator that declares a command, with these lines as examples at the end of its help.

    The command gets paths with `~` expanded, which shells do not expand if it is quoted or follows `=`.
    """
    escaped = [re.sub(r"\[(?=[a-z])", r"\\[", line) for line in examples]  # rich takes [star] for markup, and drops it
    declare = app.command(name, epilog="Examples:\n\n" + "\n\n".join(f"    {line}" for line in escaped))

    def declared(function: "Callable[..., None]") -> "Callable[..., None]":
        @wraps(function)
        def expanded(**given: Any) -> None:
            from latentmix.settings import expand_home, refusal_of_url

            for value in given.values():
                for text in value if isinstance(value, list) else [value] if isinstance(value, Path) else []:
                    if reason := refusal_of_url(text):
                        raise UserError(f"{text} {reason}")
            paths = {key: Path(expand_home(value)) for key, value in given.items() if isinstance(value, Path)}
            settings = {key: list(map(_unwrapped, given[key])) for key in ("overrides", "pictures") if given.get(key)}
            function(**(given | paths | settings))

        return declare(expanded)

    return declared


def _unwrapped(text: str) -> str:
    from latentmix.overrides import unwrapped

    return text if Path(text).exists() else unwrapped(text)


def _version(wanted: bool) -> None:
    if wanted:
        from latentmix import __version__

        say(f"latentmix {__version__}")
        raise typer.Exit


@app.callback()
def options(
    config_dir: Annotated[
        list[str] | None,
        Option(metavar="DIR", help="Also find configs in DIR/model, DIR/experiment, ...; may be repeated."),
    ] = None,
    version: Annotated[
        bool, Option("--version", help="Print the version and exit.", is_eager=True, callback=_version)
    ] = False,
) -> None:
    """Take the options of all commands."""
    if config_dir:  # a variable, so that processes that this one starts find them, too
        known = os.environ.get("LATENTMIX_CONFIGS")
        os.environ["LATENTMIX_CONFIGS"] = os.pathsep.join([*config_dir, *([known] if known else [])])


def composed(overrides: list[str] | None) -> "Config":
    from latentmix.compose import compose

    return compose(overrides or [])


def prepared(overrides: list[str] | None) -> "Experiment":
    from latentmix.commands.shared.session import prepare

    return prepare(composed(overrides))


def named_runs(names: list[str], outputs: str | None) -> list[str]:
    """Return the names of runs, without `outputs=DIR` among them, which is where to look them up."""
    runs = [name for name in names if not name.startswith("outputs=")]
    use_outputs(outputs, *(name for name in names if name not in runs))
    if not runs:
        raise UserError("name a run, such as demo, or give its folder")
    return runs


def use_outputs(*given: str | None) -> None:
    """Set the folder of runs, given as DIR or as outputs=DIR; the last one counts."""
    from latentmix.settings import expand_home

    for folder in filter(None, given):
        os.environ["LATENTMIX_OUTPUTS"] = expand_home(folder.removeprefix("outputs="))


def each_run(command: str, overrides: list[str] | None, multirun: bool, run: "Callable[[Experiment], object]") -> None:
    """Run a command on one experiment, or on each of a grid."""
    if multirun:
        from latentmix.commands.shared import grid, session

        grid.run(command, overrides or [], lambda one: run(session.prepare(one.config)))
    else:
        run(prepared(overrides))


def figure_name(text: str) -> str:
    """Return fig7 for 7, Fig7, "Fig. 7" or figure 7; anything else as it is."""
    found = re.fullmatch(r"(?:fig(?:ure)?)?[\s._-]*0*(\d+)", text.strip(), re.IGNORECASE)
    return f"fig{found[1]}" if found else text


def needed(overrides: list[str] | None, figure: str | None) -> "tuple[list[Experiment], Sequence[StageType]]":
    """Return the experiments of a sweep or a figure, and the stages that each runs."""
    if figure is None:
        from latentmix.experiment.sweep import SWEEP

        return [prepared(overrides)], SWEEP
    from latentmix.commands.figure import needs

    return needs(figure_name(figure), overrides or [])


say = typer.echo


def say_all(paths: list[Path]) -> None:
    for path in paths:
        say(str(path))
