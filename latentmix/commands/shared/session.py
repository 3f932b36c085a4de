"""Functions of all commands that run stages: prepare, check, run, and report the plan."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import typer
import yaml
from rich.console import Console

from latentmix import checks
from latentmix.checks.finding import readable_size
from latentmix.commands.cache import record_references
from latentmix.config import Config, differences, result_settings
from latentmix.data.settings import DataConfig
from latentmix.errors import UserError
from latentmix.experiment.batch_size import determine, shared_batch_size
from latentmix.experiment.experiment import Experiment
from latentmix.experiment.stages import StageType, finish_images, reads
from latentmix.models.settings import ModelConfig
from latentmix.profiling import timed
from latentmix.run_folders import remember_outputs
from latentmix.runner.claims import Claims, Shard, StaticClaims
from latentmix.runner.console import show_plan
from latentmix.runner.executor import Executor
from latentmix.runner.process import set_up_process
from latentmix.runner.progress import is_shown
from latentmix.runner.rates import Rates
from latentmix.runner.tasks import Plan, Stage
from latentmix.storage import key, read_checked_json, remove_partial_files, write_atomic, write_checked_json


@timed("starting")
def prepare(config: Config) -> Experiment:
    """Return the experiment of a config, once this process is set up for it."""
    set_up_process(config.launch.threads)
    return Experiment(config)


@contextmanager
def joined(
    experiment: Experiment, stages: Sequence[StageType], command: str, shard: Shard | None = None
) -> Iterator[Executor]:
    """Be a worker of a run in this context. Raise UserError first if something that the stages need is missing.

    `command` is the name in the run's record of the cache folders that it uses; see `note_folders`.
    """
    config = experiment.config
    with timed("starting"):
        checks.require(experiment, stages)
        experiment.check(images="pool" in reads(stages))
        for folder in (config.cache, config.folder):
            remove_partial_files(folder)
    remember_outputs(config.outputs)
    with (StaticClaims if shard is not None and shard.static else Claims)(config.work, shard) as claims:
        experiment.lock = claims.lock
        batch_size, settings = shared_batch_size(experiment, claims), result_settings(config.as_dict())

        def begin(planned: Sequence[Stage]) -> None:
            checks.require_work(experiment, planned)
            note_folders(experiment, command, results_exist=False)
            experiment.settle_compiling(sum(s.nfe_per_item * (s.items + s.finished) for s in planned))

        known, finish = partial(rates, experiment), partial(finish_images, experiment)
        yield Executor(claims, batch_size, known, settings, finish, begin)


def inputs(experiment: Experiment) -> dict[str, str]:
    """Return keys of the contents of the images and weights that a run reads."""
    read = experiment.data.pool, experiment.data.references
    images = {c: [[source.id for source in images(c)] for images in read] for c in experiment.classes}
    return {"images": key(images), "weights": experiment.model.identity.get("weights", "")}


def note_folders(experiment: Experiment, command: str, results_exist: bool = True) -> None:
    """Record for `latentmix cache` which of its folders the plans and the work so far have used.

    Until the results exist, the folders of the command's earlier results stay recorded, as the work may fail.
    """
    layout = experiment.layout
    for identity in (layout.model, layout.inverter):
        layout.prompts({"model": identity})  # plans do not use them
    record_references(experiment.config.folder, command, {*layout.used, *experiment.data.own_folders}, results_exist)


def run_stages(experiment: Experiment, stages: Sequence[StageType], command: str, dry_run: bool = False) -> bool:
    """Run all stages, together with other workers of the run, if there are any. Return True.

    With `dry_run`, report the plan instead, and return False.
    """
    if dry_run:
        report_plan(experiment, stages)
        return False
    with joined(experiment, stages, command) as executor:
        executor.run(plans(experiment, stages))
    note_folders(experiment, command)
    return True


def plans(experiment: Experiment, stages: Sequence[StageType]) -> list[Plan]:
    """Return the plans of stages, for an executor."""
    return [partial(stage.plan, experiment) for stage in stages]


def report_plan(experiment: Experiment, stages: Sequence[StageType]) -> None:
    """Print what running these stages would do. Nothing is computed or downloaded."""
    findings = [found for found in checks.examine(experiment, stages) if found.state != "ok"]
    experiment = experiment.planned()
    experiment.check(images="pool" in reads(stages))
    batch_size = determine(experiment, measure=False)
    planned = [plan(batch_size) for plan in plans(experiment, stages)]
    known = rates(experiment)
    show_plan(planned, [known.estimate(stage, batch_size) for stage in planned])
    Console().print(
        f"Numbers are images; nothing was done. Results would go to {experiment.config.folder}; about "
        f"{readable_size(sum(stage.bytes for stage in planned))} would be written there and to the cache.",
        soft_wrap=True,
        markup=False,
    )
    for finding in findings:
        say(finding.lines()[0])
    if any(finding.advice for finding in findings):
        say("latentmix doctor says what to do about it")


def rates(experiment: Experiment) -> Rates:
    """Return the rates of stages that were measured with this model on this device."""
    config = experiment.config
    context = [experiment.model.identity, config.model.size, experiment.device_name]
    context += ["compiled"] if config.speed.compile is True else []
    return Rates(config.cache / "rates.json", context)


# The settings that images and a model's latents do not depend on. Each class has latents of its own.
NOT_OF_IMAGES = ("name", "reference", "classes", "limit", "titles")
NOT_OF_MODEL = ("name", "guidance", "spacing", "features", "clip", "domain", "perceptual", "counterpart")
# Beginnings of the settings that inverted latents depend on
OF_LATENTS = (
    *("inversion.", "seed=", "pool="),
    *(f"data.{field.name}=" for field in fields(DataConfig) if field.name not in NOT_OF_IMAGES),
    *(f"model.{field.name}=" for field in fields(ModelConfig) if field.name not in NOT_OF_MODEL),
)
# Commands -> where they note their settings, and what they write, in a run's folder.
WRITTEN = {
    "sweep": ("done.json", ("metrics.csv", "pairs.csv", "*.parquet", "fig1.*", "fig7.*", "config.yaml", "report.html")),
    "diagnose": ("work/diagnose.json", ("diagnosis.json", "fig4.*", "octaves.*")),
    "reconstruct": ("work/reconstruct.json", ("reconstruction.*",)),
}


def refuse_to_overwrite(config: Config, folder: str = "", analysis: str = "") -> None:
    """Raise UserError if the run's folder holds results of other settings, unless `overwrite=true`.

    `folder` is a part of the run's folder that has results and a config of its own. Otherwise all that is in the folder
    must be of the same latents, as the report shows it as one run's. An `analysis` (`diagnose` or `reconstruct`) may
    replace an earlier one of its own.
    """
    if config.overwrite:
        return
    results = config.folder / folder
    notes: dict[Path, tuple[str, ...]] = {} if analysis else {results / "done.json": ("",)}
    notes |= {} if folder else dict.fromkeys(_of_others(config, analysis or "sweep"), OF_LATENTS)
    if different := next(filter(None, (_different(config, note, only) for note, only in notes.items())), None):
        more = f" and {len(different) - 2} more" if len(different) > 2 else ""
        raise UserError(
            f"{results} holds results of other settings ({'; '.join(different[:2])}{more}); choose another name=..., "
            "or replace them with overwrite=true"
        )


def _of_others(config: Config, command: str) -> dict[Path, tuple[str, ...]]:
    """Return the notes of the commands other than `command` in a run's folder, and patterns of what these write."""
    return {config.folder / note: written for other, (note, written) in WRITTEN.items() if other != command}


def _different(config: Config, note: Path, only: tuple[str, ...]) -> list[str]:
    """Return the differences of a config from that in a note which begin with one of `only`; none without a note."""
    if note.exists() and not os.access(note, os.R_OK):
        raise UserError(
            f"{note} can't be read, so what it is of is not known; make it readable, or choose another name=..."
        )
    existing = read_checked_json(note).get("config")
    if not isinstance(existing, dict):
        return []
    if config.budget or config.until:
        existing = existing | {"draws": config.draws}  # those of another round, which this one never replaces by fewer
    return [each for each in differences(existing, config.as_dict()) if each.startswith(only)]


def note_analysis(config: Config, command: str) -> None:
    """Note the settings of an analysis, before it is written; see `remove_other_latents`."""
    remove_other_latents(config, command)
    write_checked_json(config.work / f"{command}.json", {"config": config.as_dict()})


def remove_other_latents(config: Config, command: str) -> None:
    """Remove what the other commands wrote of other latents, from a folder that is written with `overwrite=true`."""
    for note, patterns in _of_others(config, command).items():
        if _different(config, note, OF_LATENTS):
            for path in (note, *(path for pattern in patterns for path in config.folder.glob(pattern))):
                path.unlink(missing_ok=True)


def write_config(folder: Path, settings: Mapping[str, Any]) -> None:
    """Write the settings of a result beside it, as config.yaml."""
    write_atomic(folder / "config.yaml", yaml.safe_dump(settings, sort_keys=False).encode())


def say(text: str) -> None:
    """Print a line of a command's answer."""
    if is_shown():
        typer.echo(text)
