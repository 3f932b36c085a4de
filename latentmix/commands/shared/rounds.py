"""`budget=` and `until=`: a sweep in rounds of 50, 100, 200, ... draws, until time is up or intervals are narrow.

Draws are nested, so a round only adds to the one before it. The results of each complete round are written before the
next one begins. Work of an incomplete round stays in the cache, and the same command continues it.
"""

import math
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from latentmix.commands.shared import session
from latentmix.config import Config, result_settings
from latentmix.errors import OutOfTime, UserError, retry_lost_rows
from latentmix.experiment.draws import in_rounds
from latentmix.experiment.results_table import AVERAGE, read_table
from latentmix.storage import read_checked_json


def run(config: Config, once: Callable[[Config, float], None], spent: float = 0.0) -> None:
    """Call `once` with the config of each round, and the time (of `time.monotonic`) at which it must raise OutOfTime.

    Stop before the next round if all intervals are narrower than `until`. A config with neither `budget` nor `until` is
    one round. `spent` is how many seconds of the budget have passed already.
    """
    if config.budget is None and config.until is None:
        once(config, math.inf)
        return
    forget_changed(config)
    deadline = math.inf if config.budget is None else time.monotonic() + config.budget - spent
    for draws in (part.stop for part in in_rounds(config.draws)):
        left = None if config.budget is None else max(deadline - time.monotonic(), 1e-3)
        one = replace(config, draws=draws, budget=left)
        try:
            if finished_draws(one) < draws:
                retry_lost_rows(partial(once, one, deadline))
        except OutOfTime:
            known, results = finished_draws(config), "no round is whole, so there are no results"
            if known:
                results = f"the results are those of {known} draws"
            session.say(f"the time is up in the round of {draws} draws; {results}; the same command continues")
            return
        known = finished_draws(one)
        if known and config.until is not None and (widest := widest_interval(one)) <= config.until:
            session.say(f"all intervals are within {widest:.1%} of their values, by {known} draws")
            return


def finished_draws(config: Config) -> int:
    """Return the number of draws of the results in the run's folder; 0 if other settings differ."""
    done = read_checked_json(config.folder / "done.json").get("config", {})
    draws = done.get("draws", 0)
    same = result_settings(done | {"draws": 0}) == result_settings(config.as_dict() | {"draws": 0})
    return draws if same and (config.folder / "metrics.csv").exists() else 0


def forget_changed(config: Config) -> None:
    """Remove done.json of a finished run if its images or weights have changed since, so that it is made again.

    Images of the hub don't change once fetched. If images or weights can't be read, nothing is removed.
    """
    noted = read_checked_json(config.folder / "done.json").get("inputs")
    if noted is None or not finished_draws(config):
        return
    try:
        experiment = session.prepare(config)
        if experiment.data.dataset.repository() is not None or session.inputs(experiment) == noted:
            return
    except UserError:
        return
    session.say(f"the images or weights of {config.name} have changed since its results were written; it is made again")
    (config.folder / "done.json").unlink(missing_ok=True)


def widest_interval(config: Config) -> float:
    """Return half the width of the widest interval of the first metric in any class, relative to its value."""
    rows = [row for row in read_table(config.folder / "metrics.csv") if row.class_id != AVERAGE and row.n]
    estimates = [row.estimate for row in rows if row.metric == rows[0].metric]
    widths = [(e.high - e.low) / 2 / abs(e.value) if e.value else math.inf for e in estimates]
    return math.inf if any(map(math.isnan, widths)) else max(widths, default=math.inf)
