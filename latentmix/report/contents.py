"""The contents of a page, read from the files of a run and from the cache beside it."""

import base64
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from PIL import Image

from latentmix.config import OF_A_MACHINE, Config
from latentmix.errors import UserError
from latentmix.experiment.comparison import Run
from latentmix.experiment.csv_files import read_rows
from latentmix.experiment.draws import subset
from latentmix.experiment.experiment import Experiment
from latentmix.images import encoded
from latentmix.runner.records import read_records
from latentmix.threads import on_all_threads

LOSSLESS_SIZE = 128  # pixels; larger images are reduced to `REDUCED_SIZE` and compressed with a small loss
REDUCED_SIZE = 256
INPUT_SIZE, INPUTS = 48, 64  # pixels of an input image, and how many of a draw are shown
MAX_BYTES = 16_000_000  # of images in a page

ImageKey = tuple[str, int, str, int]  # class, N, method, draw


@dataclass(frozen=True)
class Images:
    """Images as data URIs, a note about missing ones, and the inputs of each draw; the first N are mixed for N."""

    uris: Mapping[ImageKey, str]
    note: str = ""
    inputs: Mapping[tuple[str, int], Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Contents:
    """All that a page shows of one run."""

    run: Run
    titles: Mapping[str, str]  # of the classes in `results`
    images: Images
    pairs: Sequence[Mapping[str, str]]  # the rows of pairs.csv
    records: Sequence[Mapping[str, Any]] = ()  # of its workers; see runner/records.py
    files: Mapping[str, str] = field(default_factory=dict)  # tables to download

    @property
    def arguments(self) -> list[str]:
        """Return the command line that started the run, without settings that change no result, such as outputs."""
        arguments = self.run.about.get("arguments")
        if not isinstance(arguments, list):
            return []
        return [text for text in map(str, arguments) if not _of_a_machine(text)]


def _of_a_machine(argument: str) -> bool:
    name = argument.lstrip("+~").partition("=")[0]
    return "=" in argument and not {name, name.partition(".")[0]}.isdisjoint(OF_A_MACHINE)


def read_contents(run: Run) -> Contents:
    """Read all that a page shows of a run; raise UserError if its files are damaged."""
    folder, pairs = run.folder, run.folder / "pairs.csv"
    experiment = find_experiment(run.settings, folder, run.about.get("model", {}))
    return Contents(
        run=run,
        titles=_titles(experiment, dict.fromkeys(result.class_id for result in run.results)),
        images=_images(experiment),
        pairs=read_rows(pairs) if pairs.exists() else [],
        records=read_records(folder / "work"),
        files={path.name: path.read_text() for path in (folder / "metrics.csv", pairs) if path.exists()},
    )


def find_experiment(config: Config, folder: Path, identity: Mapping[str, str]) -> Experiment:
    """Return the run's experiment, with the cache beside `folder`, to which the run may have been moved.

    Paths in the cache depend on the model's precision, and precision=auto on the device. So the precision is taken from
    the model's identity, and no GPU is needed.
    """
    precision: Any = identity.get("precision", config.model.precision)
    model = replace(config.model, precision=precision)
    return Experiment(replace(config, model=model, device="cpu", outputs=folder.absolute().parent))


def _titles(experiment: Experiment, class_ids: Iterable[str]) -> dict[str, str]:
    """Return a name for each class: its title, with its id if another class has the same; its id without a data set."""
    try:
        titles = {class_id: experiment.data.title(class_id) for class_id in experiment.classes}
    except (UserError, OSError):
        titles = {}
    shared = {title for title, count in Counter(titles.values()).items() if count > 1}
    unique = {c: f"{title} ({c})" if title in shared else title for c, title in titles.items()}
    return {class_id: unique.get(class_id, class_id) for class_id in class_ids}


def _images(experiment: Experiment) -> Images:
    """Return as many images as a page can hold, draw by draw and class by class.

    Each draw of a class comes with all methods and N, and with a real image to compare them with.
    """
    uris: dict[ImageKey, str] = {}
    inputs: dict[tuple[str, int], list[str]] = {}
    note, size, config = "", 0, experiment.config
    shown = cache(partial(_input, experiment))  # draws share images
    draws = sorted({draw for cell in experiment.cells.generated for draw in experiment.cells.draws(cell, config.keep)})
    try:
        for draw, class_id in ((draw, class_id) for draw in draws for class_id in experiment.classes):
            images = _images_of_draw(experiment, class_id, draw)
            order = subset(config.seed, class_id, draw, config.pool)[: min(max(config.n), INPUTS)]
            mixed = on_all_threads(partial(shown, class_id), order) if any(n for _, n, _, _ in images) else []
            size += sum(map(len, (*images.values(), *mixed)))
            if uris and size > MAX_BYTES:
                note = f"{len(uris)} images fit in this page; the others are in the cache"
                break
            uris |= images
            inputs |= {(class_id, draw): mixed} if mixed else {}
    except (UserError, OSError) as error:
        note = f"some or all images are left out: {error}"
    if not uris and not note:
        note = "no images of this run are in the cache; latentmix sweep with keep=1 makes them"
    return Images(uris, note, inputs)


def _input(experiment: Experiment, class_id: str, index: int) -> str:
    pixels = experiment.data.pool(class_id)[index].pixels(experiment.config.model.size)
    return _data_uri(Image.fromarray(pixels), INPUT_SIZE, lossless=False)


def _images_of_draw(experiment: Experiment, class_id: str, draw: int) -> dict[ImageKey, str]:
    cells = [cell for cell in experiment.cells.generated if cell.class_id == class_id]
    paths = {(class_id, cell.n, cell.method_name, draw): experiment.layout.image_path(cell, draw) for cell in cells}
    existing = {where: path for where, path in paths.items() if path.exists()}
    uris = on_all_threads(lambda path: _data_uri(Image.open(path)), existing.values())
    images = dict(zip(existing, uris, strict=True))
    if images and draw < len(experiment.data.references(class_id)):
        pixels = experiment.data.references(class_id)[draw].pixels(experiment.config.model.size)
        images[class_id, 0, "real", draw] = _data_uri(Image.fromarray(pixels))
    return images


def _data_uri(opened: Image.Image, size: int = REDUCED_SIZE, lossless: bool = True) -> str:
    """Return an image as a WebP: reduced to `size`, or lossless if it is small and `lossless`."""
    with opened as image:
        lossless = lossless and max(image.size) <= LOSSLESS_SIZE
        image.thumbnail((size, size))
        content = encoded(image.convert("RGB"), "WEBP", lossless=lossless, quality=85, method=2)
    return f"data:image/webp;base64,{base64.b64encode(content).decode()}"
