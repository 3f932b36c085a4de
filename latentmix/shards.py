"""A sweep as one of its workers does it: all stages, its own share first, and then the results, if nobody else makes
them. The config comes from overrides, or frozen from the run's folder, where whoever started the workers put it."""

import json
import time
from pathlib import Path

from rich.console import Console

from latentmix import diversity, launch, sweep
from latentmix.bench import Bench
from latentmix.config import Config, validate
from latentmix.crew import POLL, Crew, Shard
from latentmix.errors import UserError
from latentmix.evaluate import evaluate
from latentmix.spent import spent
from latentmix.store import key, write_json
from latentmix.sweep import Plan

RESULTS = "results"  # what they are called among workers
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
        if crew.shard.count > 1 and not _falls_to(crew):
            Console(stderr=True).print("all is done; another worker wrote the results")
            return
        with crew.at(RESULTS, RESULTS):
            finish(bench)


def _falls_to(crew: Crew) -> bool:
    """Whether this worker is to write the results: nobody has since the images were done, or whoever was at it died."""
    while True:
        claimed = crew.claim(RESULTS)
        if RESULTS in crew.lists.news():
            if claimed:
                crew.release(RESULTS)
            return False
        if claimed:
            return True
        time.sleep(POLL)


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
