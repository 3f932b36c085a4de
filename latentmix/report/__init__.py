"""A finished run -> report.html: one page that needs nothing beside it, to look at and to send."""

import base64
import csv
import io
import json
import warnings
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from latentmix.cache import write_atomic
from latentmix.config import Config, compose, find, validate
from latentmix.errors import UserError
from latentmix.experiment.experiment import Experiment
from latentmix.experiment.results import read_table
from latentmix.report.command import command
from latentmix.report.page import Pictures, Report, render

EXACT = 128  # pixels; larger pictures are shown at `SHOWN`, and with a little loss
SHOWN = 256
MOST = 16_000_000  # bytes of pictures in a page


def write_report(run: str) -> Path:
    """`report.html` in the folder of a run; UserError where it is not there or not finished."""
    folder = find(run)
    report = gather(folder)
    if report.pictures.note:
        warnings.warn(report.pictures.note, stacklevel=2)
    path = folder / "report.html"
    write_atomic(path, render(report).encode())
    return path


def gather(folder: Path) -> Report:
    """All that a page says, from the files of a run and the cache beside it."""
    for name in ("metrics.csv", "done.json"):  # the latter is what a run writes last
        if not (folder / name).exists():
            raise UserError(f"the run in {folder} is not finished, as {name} is not there; run latentmix sweep again")
    about = _read_json(folder / "done.json")
    try:
        config = validate(compose([]).as_dict() | about["config"])  # an older run lacks keys that came later
        results = read_table(folder / "metrics.csv")
    except (UserError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"the run in {folder} can't be read: {error}") from error
    if not results:
        raise UserError(f"{folder / 'metrics.csv'} is empty; run latentmix evaluate again")
    experiment = _experiment(config, folder, about.get("model", {}))
    diagnosis = folder / "diagnosis.json"
    return Report(
        config=config,
        about=about,
        results=results,
        titles=_titles(experiment, dict.fromkeys(result.class_id for result in results)),
        pictures=_pictures(experiment),
        diagnosis=_read_json(diagnosis).get("classes", {}) if diagnosis.exists() else {},
        pairs=_pairs(folder / "pairs.csv"),
        command=command(config),
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
        if not isinstance(content, dict):
            raise ValueError("it holds no object")
        return content
    except (OSError, ValueError) as error:
        raise UserError(f"{path} can't be read: {error}") from error


def _pairs(path: Path) -> list[dict[str, str]]:
    """Comparisons of methods, in whatever columns they are."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _experiment(config: Config, folder: Path, identity: dict[str, str]) -> Experiment:
    """The run's bench where its folder is now. Pictures are found by what they were computed from, which a GPU has a
    part in only by the precision that it led to, so the page is made without one."""
    precision: Any = identity.get("precision", config.model.precision)
    model = replace(config.model, precision=precision)
    return Experiment(replace(config, model=model, device="cpu", outputs=folder.absolute().parent))


def _titles(experiment: Experiment, class_ids: dict[str, None]) -> dict[str, str]:
    """Names for classes; their identifiers where the images are no longer there, or two have one name."""
    try:
        titles = {class_id: experiment.title(class_id) for class_id in experiment.classes}
    except (UserError, OSError):
        titles = {}
    shared = {title for title, count in Counter(titles.values()).items() if count > 1}
    named = {c: f"{title} ({c})" if title in shared else title for c, title in titles.items()}
    return {class_id: named.get(class_id, class_id) for class_id in class_ids}


def _pictures(experiment: Experiment) -> Pictures:
    """Draw by draw and class by class, as many as a page can hold; always all methods and N of a draw, and a real image
    to see them beside."""
    found: dict[tuple[str, int, str, int], str] = {}
    note, size, limit = "", 0, min(experiment.config.keep, experiment.config.draws)
    try:
        for draw, class_id in ((draw, class_id) for draw in range(limit) for class_id in experiment.classes):
            block = _block(experiment, class_id, draw)
            size += sum(map(len, block.values()))
            if found and size > MOST:
                note = f"{len(found)} pictures fit in this page; the others are in the cache"
                break
            found |= block
    except (UserError, OSError) as error:
        note = f"some or all pictures are left out: {error}"
    if not found and not note:
        note = "no pictures of this run are in the cache; latentmix sweep with keep=1 makes them"
    return Pictures(found, note)


def _block(experiment: Experiment, class_id: str, draw: int) -> dict[tuple[str, int, str, int], str]:
    """The pictures of one draw; none where none was kept."""
    cells = [cell for cell in experiment.generated if cell.class_id == class_id]
    paths = {(class_id, cell.n, cell.name, draw): experiment.image_path(cell, draw) for cell in cells}
    block = {where: _data_uri(Image.open(path)) for where, path in paths.items() if path.exists()}
    if block and draw < len(experiment.references(class_id)):
        pixels = experiment.references(class_id)[draw].pixels(experiment.config.model.size)
        block[class_id, 0, "real", draw] = _data_uri(Image.fromarray(pixels))
    return block


def _data_uri(image_path: Image.Image) -> str:
    """As WebP: exactly where it is small, and otherwise as large as a page needs it."""
    buffer = io.BytesIO()
    with image_path as image:
        exact = max(image.size) <= EXACT
        image.thumbnail((SHOWN, SHOWN))
        image.convert("RGB").save(buffer, "WEBP", lossless=exact, quality=85)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
