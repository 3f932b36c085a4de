"""A sweep as one of its workers does it: all stages, its own share first, and then the results, if nobody else makes
them. The config comes from overrides, or frozen from the run's folder, where whoever started the workers put it."""

import json
from pathlib import Path

from rich.console import Console

from latentmix import launch, sweep
from latentmix.bench import Bench
from latentmix.config import Config, validate
from latentmix.crew import Shard
from latentmix.errors import UserError
from latentmix.evaluate import evaluate
from latentmix.store import write_json
from latentmix.sweep import Stage

RESULTS = "results"  # what they are called among workers


def _measurement(bench: Bench) -> Stage:
    return sweep.measurement(bench, required=False)


def _generation(bench: Bench) -> Stage:
    return sweep.generation(bench, bench.config.keep, measure=True)


STAGES: tuple[launch.Plan, ...] = (sweep.synthesis, sweep.references, sweep.inversion, _measurement, _generation)


def run(bench: Bench, shard: Shard | None = None, results: bool = True) -> None:
    """Do a shard's work and whatever others leave, until all is done; the first of several then writes the results."""
    with launch.joining(bench, "sweep", shard) as crew:
        launch.work(bench, STAGES, crew)
        if not results:
            return
        if crew.shard.count > 1 and not crew.claim(RESULTS):
            Console(stderr=True).print("all is done; another worker writes the results")
            return
        with crew.at(RESULTS, RESULTS):
            finish(bench)


def finish(bench: Bench) -> None:
    """Features -> tables and figures; seconds, where all features are there."""
    from latentmix.figures import FIGURES

    results = evaluate(bench)
    unfit = {"fig4"} if bench.config.keep > 0 else {"fig1", "fig4"}  # fig4 shows no results, but latents: diagnose does
    names = [name for name in FIGURES if name not in unfit]
    pictures = [path for name in names for path in FIGURES[name](bench, bench.config.folder / name)]
    launch.conclude(bench, results, pictures)


def freeze(config: Config) -> Path:
    """Put a config into the folder of its run, to be taken from there as it is."""
    path = config.work / "config.json"
    write_json(path, config.as_dict())
    return path


def work(frozen: Path, shard: Shard, results: bool = True) -> None:
    """Do a shard of a run whose config is frozen; UserError where it can't be read."""
    try:
        plain = json.loads(frozen.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{frozen} can't be read: {error}; give the command that started the run again") from error
    config = validate(plain)
    launch.prepare(config.launch)
    run(Bench(config), shard, results)
