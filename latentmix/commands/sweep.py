"""A sweep as one of its workers does it: all stages, its own share first, and then the results, if nobody else makes
them. The config comes from overrides, or frozen from the run's folder, where whoever started the workers put it."""

import json
import time
from pathlib import Path

from rich.console import Console

from latentmix.cache import key, read_json, write_json
from latentmix.compose import validate
from latentmix.config import Config
from latentmix.errors import UserError
from latentmix.experiment import diversity
from latentmix.experiment import stages as sweep
from latentmix.experiment.experiment import Experiment
from latentmix.experiment.results import evaluate
from latentmix.experiment.stages import Plan
from latentmix.profiling import timed
from latentmix.runner import executor as launch
from latentmix.runner.claims import POLL, Claims, DoneLists, Shard

RESULTS = "results"  # how their name among workers begins
STAGES: tuple[Plan, ...] = (  # of a whole sweep
    sweep.synthesis,
    sweep.references,
    sweep.inversion,
    lambda experiment: sweep.measurement(experiment, required=False),
    lambda experiment: sweep.generation(experiment, experiment.pictures, measure=True),
    diversity.pairing,
)


def run(experiment: Experiment, shard: Shard | None = None, results: bool = True) -> None:
    """Do a shard's work and whatever others leave, until all is done; the first of several then writes the results."""
    with launch.joining(experiment, "sweep", shard) as claims:
        launch.work(experiment, STAGES, claims)
        if not results:
            return
        name = _results(experiment, claims)
        if claims.shard.count > 1 and not _falls_to(experiment, claims, name):
            Console(stderr=True).print("all is done; another worker wrote the results")
            return
        with claims.holding(name, RESULTS):
            finish(experiment)


def _results(experiment: Experiment, claims: Claims) -> str:
    """What the results of all that was done so far are called among workers; whatever more is done renames them."""
    batches = sorted(name for name in DoneLists(claims.done.folder).read_new() if not name.startswith(RESULTS))
    return f"{RESULTS}-{key([launch.settings(experiment.config.as_dict()), batches])}"


def _falls_to(experiment: Experiment, claims: Claims, name: str) -> bool:
    """Whether this worker is to write the results, once nobody is at it: they are not there as the settings have it."""
    while not claims.claim(name):
        time.sleep(POLL)
    config, folder = experiment.config.as_dict(), experiment.config.folder
    there = launch.settings(read_json(folder / "done.json").get("config", {})) == launch.settings(config)
    if name in DoneLists(claims.done.folder).read_new() and there and (folder / "metrics.csv").exists():
        claims.release(name)
        return False
    return True


def finish(experiment: Experiment) -> None:
    """Features -> tables and figures; seconds, where all features are there."""
    from latentmix.figures import draw_run

    with timed("evaluating"):
        results = evaluate(experiment)
    with timed("drawing"):
        pictures = draw_run(experiment)
    launch.conclude(experiment, results, pictures)


def freeze(config: Config) -> Path:
    """Put a config into the folder of its run, to be taken from there as it is."""
    plain = config.as_dict()
    path = config.work / f"config-{key(plain)}.json"  # another run's of this name may be waiting in a queue
    write_json(path, plain)
    return path


def work(frozen: Path, shard: Shard, results: bool = True) -> None:
    """Do a shard of a run whose config is frozen; UserError where it can't be read."""
    try:
        plain = json.loads(frozen.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{frozen} can't be read: {error}; give the command that started the run again") from error
    config = validate(plain)
    launch.prepare(config.launch)
    run(Experiment(config), shard, results)
