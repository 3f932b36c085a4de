"""A sweep as one of its workers does it: all stages, its own share first, and then the results, if nobody else makes
them. The config comes from overrides, or frozen from the run's folder, where whoever started the workers put it."""

import json
import time
from pathlib import Path

from rich.console import Console

from latentmix import diversity, launch, sweep
from latentmix.bench import Bench
from latentmix.config import Config, validate
from latentmix.crew import POLL, Crew, Lists, Shard
from latentmix.errors import UserError
from latentmix.evaluate import evaluate
from latentmix.spent import spent
from latentmix.store import key, read_json, write_json
from latentmix.sweep import Plan

RESULTS = "results"  # how their name among workers begins
STAGES: tuple[Plan, ...] = (  # of a whole sweep
    sweep.synthesis,
    sweep.references,
    sweep.inversion,
    lambda bench: sweep.measurement(bench, required=False),
    lambda bench: sweep.generation(bench, bench.pictures, measure=True),
    diversity.pairing,
)


def run(bench: Bench, shard: Shard | None = None, results: bool = True) -> None:
    """Do a shard's work and whatever others leave, until all is done; the first of several then writes the results."""
    with launch.joining(bench, "sweep", shard) as crew:
        launch.work(bench, STAGES, crew)
        if not results:
            return
        name = _results(bench, crew)
        if crew.shard.count > 1 and not _falls_to(bench, crew, name):
            Console(stderr=True).print("all is done; another worker wrote the results")
            return
        with crew.at(name, RESULTS):
            finish(bench)


def _results(bench: Bench, crew: Crew) -> str:
    """What the results of all that was done so far are called among workers; whatever more is done renames them."""
    batches = sorted(name for name in Lists(crew.lists.folder).news() if not name.startswith(RESULTS))
    return f"{RESULTS}-{key([launch.settings(bench.config.as_dict()), batches])}"


def _falls_to(bench: Bench, crew: Crew, name: str) -> bool:
    """Whether this worker is to write the results, once nobody is at it: they are not there as the settings have it."""
    while not crew.claim(name):
        time.sleep(POLL)
    config, folder = bench.config.as_dict(), bench.config.folder
    there = launch.settings(read_json(folder / "done.json").get("config", {})) == launch.settings(config)
    if name in Lists(crew.lists.folder).news() and there and (folder / "metrics.csv").exists():
        crew.release(name)
        return False
    return True


def finish(bench: Bench) -> None:
    """Features -> tables and figures; seconds, where all features are there."""
    from latentmix.figures import draw_run

    with spent("evaluating"):
        results = evaluate(bench)
    with spent("drawing"):
        pictures = draw_run(bench)
    launch.conclude(bench, results, pictures)


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
    run(Bench(config), shard, results)
