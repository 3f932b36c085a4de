"""`track=`: send a finished run's settings and averages to an experiment tracker, through accelerate's classes."""

import math
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from latentmix.config import Config, flat_settings
from latentmix.errors import UserError
from latentmix.experiment.results_table import AVERAGE, Result
from latentmix.images import read_image

PROJECT = "latentmix"
LAUNCHER = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")


def require(config: Config) -> None:
    """Raise UserError if the run is to be tracked and the tracker is not installed."""
    if config.track is None:
        return
    packages = ("tensorboard", "tensorboardX") if config.track == "tensorboard" else (config.track,)
    if not any(find_spec(package) for package in packages):
        raise UserError(f"track={config.track} needs {packages[0]}, which is not installed: pip install {packages[0]}")
    _tracker_class(config.track)


def send(config: Config, results: Sequence[Result], figures: Sequence[Path]) -> None:
    """Send the settings, the averages over classes (N is the step) and the figures.

    Warn if the tracker fails, as the results are on disk already.
    """
    if config.track is None:
        return
    try:
        _send(config, results, [path for path in figures if path.suffix == ".png"])
    except Exception as error:  # trackers raise errors of any type
        reason = " ".join(str(error).split()) or type(error).__name__
        warnings.warn(f"track={config.track} failed: {reason}; the results are in {config.folder}", stacklevel=2)


def _send(config: Config, results: Sequence[Result], figures: Sequence[Path]) -> None:
    with _no_launcher():
        from accelerate import PartialState

        PartialState(cpu=True)  # accelerate's trackers need it
    tracker = _tracker_class(config.track)(**_names(config))
    tracker.main_process_only = False  # this is the only process that sends the results
    tracker.start()
    settings = flat_settings(config.as_dict()).items()
    tracker.store_init_configuration({k: v if isinstance(v, int | float | str) else str(v) for k, v in settings})
    averages = [result for result in results if result.class_id == AVERAGE and not math.isnan(result.estimate.value)]
    for n in sorted({result.n for result in averages}):
        tracker.log({f"{r.metric}/{r.method}": r.estimate.value for r in averages if r.n == n}, step=n)
    for path in figures:
        if hasattr(tracker, "log_images"):
            layout = {"dataformats": "NHWC"} if config.track == "tensorboard" else {}
            tracker.log_images({path.stem: read_image(path).permute(1, 2, 0).numpy()[None]}, **layout)
        elif hasattr(tracker, "log_artifact"):  # MLflow; Trackio's class takes no images
            tracker.log_artifact(str(path))
    tracker.finish()


@contextmanager
def _no_launcher() -> Iterator[None]:
    """Hide the variables of torchrun and MPI, or accelerate would wait for other processes to form a group."""
    hidden = {name: os.environ.pop(name) for name in LAUNCHER if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(hidden)


def _names(config: Config) -> dict[str, Any]:
    """Return the arguments of a tracker's class that give the run its name."""
    if config.track == "tensorboard":
        return {"run_name": config.name, "logging_dir": config.outputs / "tensorboard"}
    if config.track == "mlflow":
        return {"experiment_name": PROJECT, "run_name": config.name}
    return {"run_name": PROJECT, "name": config.name}


def _tracker_class(name: str | None) -> Any:
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    if name not in LOGGER_TYPE_TO_CLASS:
        raise UserError(f"track={name} needs a newer accelerate: pip install --upgrade accelerate")
    return LOGGER_TYPE_TO_CLASS[name]
