"""`-m`: a run for each combination of several values, such as `inversion=ddim,null_text seed=0,1`, and one table.

If a run fails, the others go on. The same command continues the grid: finished runs are left as they are.
"""

import gc
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from latentmix.commands import compare
from latentmix.commands.shared import rounds, session
from latentmix.compose import NAMED_BY_SOURCE, compose, plain_name
from latentmix.config import Config
from latentmix.errors import Interrupted, UserError, retry_lost_rows
from latentmix.overrides import grid
from latentmix.presets import GROUPS
from latentmix.storage import write_atomic


@dataclass(frozen=True)
class Combination:
    """One run of a grid: its config, and the arguments of a command for this run alone."""

    config: Config
    arguments: list[str]


def run(command: str, overrides: Sequence[str], each: Callable[[Combination], object], dry_run: bool = False) -> None:
    """Call `each` with every combination; then compare the finished sweeps, unless it is a dry run.

    Raises: UserError for overrides that can't be composed, before any run; and at the end, if runs failed.
    """
    planned, failed = combinations(command, overrides), list[str]()
    for number, combination in enumerate(planned, 1):
        name = combination.config.name
        session.say(f"run {number} of {len(planned)}: {name}")
        if command == "sweep" and not dry_run:
            rounds.forget_changed(combination.config)
        if command == "sweep" and rounds.finished_draws(combination.config) == combination.config.draws:
            session.say(f"{name} is finished")
            continue
        try:
            retry_lost_rows(partial(each, combination))
            (combination.config.folder / "error.txt").unlink(missing_ok=True)
        except (Interrupted, KeyboardInterrupt):
            raise
        except Exception as error:
            failed.append(_note(combination.config, error))
        gc.collect()  # the memory of the run's networks
    if command == "sweep" and not dry_run:
        table = _given_name(overrides) or f"grid-{'-'.join(grid(overrides)[0])}"
        _compare([combination.config for combination in planned], planned[0].config.outputs / table)
    if failed:
        many = f"{len(failed)} of {len(planned)} runs failed"
        raise UserError(f"{many}; the same command tries them again. {'; '.join(failed)}")


def combinations(command: str, overrides: Sequence[str]) -> list[Combination]:
    """Return all runs. The name of each is the grid's name, followed by the values in which runs differ.

    Without `name=`, the grid's name contains model and data already, so these values are not added.
    """
    found, named = list[Combination](), _given_name(overrides) is not None
    for values in grid(overrides):
        single = [o if (key := o.partition("=")[0]) not in values else f"{key}={values[key]}" for o in overrides]
        shown = {key: value for key, value in values.items() if key != "name" and (named or key not in NAMED_BY_SOURCE)}
        name = "-".join([compose(single).name, *(_part(key, value) for key, value in shown.items())])
        arguments = [*(override for override in single if not override.startswith("name=")), f"name={name}"]
        found.append(Combination(compose(arguments), [command, *arguments]))
    names = [combination.config.name for combination in found]
    if twice := {name for name in names if names.count(name) > 1}:
        raise UserError(f"several runs of the grid would be named {', '.join(twice)}; leave out values that are alike")
    return found


def _given_name(overrides: Sequence[str]) -> str | None:
    return next((override.partition("=")[2] for override in overrides if override.startswith("name=")), None)


def _part(key: str, value: str) -> str:
    """Return the part of a run's name for a value: `null_text` for a group, `seed1` for any other setting."""
    text = plain_name(value.replace("/", "-").strip("[]'\""))
    return text if key in GROUPS else f"{key.split('.')[-1]}{text}"


def _note(config: Config, error: Exception) -> str:
    """Print why a run failed, keep the traceback of an unexpected error, and return the reason in one line."""
    reason = " ".join(str(error).split()) or type(error).__name__
    if not isinstance(error, UserError):
        reason = f"{type(error).__name__}: {reason}"
        with suppress(UserError):  # the disk may be full
            write_atomic(config.folder / "error.txt", "".join(traceback.format_exception(error)).encode())
            reason = f"{reason} (see {config.folder / 'error.txt'})"
    session.say(f"{config.name} failed: {reason}")
    return f"{config.name}: {reason}"


def _compare(configs: Sequence[Config], folder: Path) -> None:
    finished = [str(config.folder) for config in configs if rounds.finished_draws(config)]
    if finished:
        for path in compare.run(finished, folder):
            session.say(str(path))
        session.say(f"All of them on one page: latentmix report {' '.join(finished)}")
