"""The training set that `latentmix augment` writes: images in folders of classes, a table, and a data card."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from PIL import Image
from torch import Tensor

from latentmix.experiment.augmentation import Augmentation
from latentmix.experiment.csv_files import write_table
from latentmix.experiment.draws import Cell, draw_id
from latentmix.images import encoded
from latentmix.metrics import cosine_distances
from latentmix.storage import write_atomic
from latentmix.threads import on_all_threads

SUFFIXES = {".jfif": ".jpg", ".jpe": ".jpg"}  # JPEG suffixes that torchvision's ImageFolder does not read
SPLIT = "train"
TABLE = Path(SPLIT, "metadata.csv")  # where the Hugging Face hub's `imagefolder` looks for it
CARD = "README.md"
COLUMNS = ("file_name", "label", "sources", "weights", "method", "inversion", "seed")
COPY_SIZE = 32  # pixels at which images are compared to find copies
SIZES = {1000: "n<1K", 10**4: "1K<n<10K", 10**5: "10K<n<100K", 10**6: "100K<n<1M", 10**9: "1M<n<1B"}  # the hub's names

Row = tuple[object, ...]


@dataclass(frozen=True)
class Options:
    """Which mixtures are dropped, and whether the input images are copied, too.

    An image is a near copy if it differs from an image of its class by less than `copy_threshold` levels of 255, root
    mean square at 32 × 32 pixels. It is unlike its class if the cosine of its CLIP embedding and the mean embedding of
    the class is less than `min_similarity`.
    """

    copy_threshold: float = 8.0
    min_similarity: float | None = None
    keep_originals: bool = False


@dataclass(frozen=True)
class Counts:
    """The numbers of a class's input images, of its mixtures that were written or dropped, and of copied inputs."""

    inputs: int
    written: int
    copied: int
    near_copies: int
    unlike: int


def write_training_set(experiment: Augmentation, options: Options, folder: Path, out: Path) -> dict[str, Counts]:
    """Write images, table and card of all classes of `folder` to `out`. Return the counts of each class."""
    rows, counts = list[Row](), dict[str, Counts]()
    for class_id in experiment.classes:
        sources = experiment.data.pool(class_id)
        names = [Path(source.name).relative_to(folder).as_posix() for source in sources]
        reasons = _reasons_to_drop(experiment, options, class_id)
        mixed = _write_mixtures(experiment, class_id, names, out, set(reasons))
        copied = _copy_originals(experiment, class_id, names, out) if options.keep_originals else []
        rows += [*mixed, *copied]
        why = Counter(reasons.values())
        counts[class_id] = Counts(len(sources), len(mixed), len(copied), why["near copy"], why["unlike"])
    write_table(out / TABLE, COLUMNS, rows)
    write_atomic(out / CARD, _card(experiment, options, counts, folder.resolve().name).encode())
    return counts


def similarities(experiment: Augmentation, class_id: str) -> tuple[Tensor, Tensor]:
    """Return the cosines of CLIP embeddings with the class's mean embedding: of each mixture, and of each input."""
    (cell,), network = experiment.cells.of(class_id), experiment.networks["clip"]
    real = experiment.layout.references(class_id, network).gather(experiment.layout.pool_ids(class_id), "features")
    generated = experiment.layout.features(cell, network).gather(map(draw_id, experiment.cells.draws(cell)), "features")
    return 1 - cosine_distances(generated, real), 1 - cosine_distances(real, real)


def _write_mixtures(
    experiment: Augmentation, class_id: str, names: Sequence[str], out: Path, dropped: set[int]
) -> list[Row]:
    """Write the mixtures of a class, under the numbers of their draws. Return their rows of the table."""
    (cell,), config = experiment.cells.of(class_id), experiment.config
    used = [draw for draw in experiment.cells.draws(cell) if draw not in dropped]
    files = [f"{class_id}/{draw_id(draw)}.jpg" for draw in used]

    def write(item: tuple[int, str]) -> None:
        path = out / SPLIT / item[1]
        if not path.exists():  # an existing file is complete, and made with the same settings
            with Image.open(experiment.layout.image_path(cell, item[0])) as image:
                write_atomic(path, encoded(image.convert("RGB"), "JPEG", quality=95, subsampling=0))

    on_all_threads(write, list(zip(used, files, strict=True)))
    rows = list[Row]()
    for draw, file in zip(used, files, strict=True):
        mixture = experiment.cells.mixtures(class_id)[draw]
        mixed, weights = [names[index] for index in mixture.indices], [round(w, 4) for w in mixture.weights]
        run = (str(cell.method), config.inversion.name, config.seed)
        rows.append((file, class_id, json.dumps(mixed, ensure_ascii=False), json.dumps(weights), *run))
    return rows


def _copy_originals(experiment: Augmentation, class_id: str, names: Sequence[str], out: Path) -> list[Row]:
    """Copy the files of a class as they are. Return their rows of the table."""
    rows = list[Row]()
    for index, (source, name) in enumerate(zip(experiment.data.pool(class_id), names, strict=True)):
        suffix = Path(source.name).suffix.lower()
        file = f"{class_id}/original-{draw_id(index)}{SUFFIXES.get(suffix, suffix)}"
        if not (out / SPLIT / file).exists():
            write_atomic(out / SPLIT / file, Path(source.name).read_bytes())
        rows.append((file, class_id, json.dumps([name], ensure_ascii=False), "[1.0]", "original", "", ""))
    return rows


def _reasons_to_drop(experiment: Augmentation, options: Options, class_id: str) -> dict[int, str]:
    """Return the draws of a class that are not used, and why."""
    (cell,), reasons = experiment.cells.of(class_id), dict[int, str]()
    if options.min_similarity is not None:
        similar, _ = similarities(experiment, class_id)
        reasons = {draw: "unlike" for draw in experiment.cells.draws(cell) if similar[draw] < options.min_similarity}
    copies = {draw: "near copy" for draw, d in _distances(experiment, cell).items() if d < options.copy_threshold}
    return reasons | copies


def _distances(experiment: Augmentation, cell: Cell) -> dict[int, float]:
    """Return how much each draw differs from the nearest image of its class: levels of 255, root mean square."""
    size = experiment.config.model.size
    inputs = np.stack([_small(Image.fromarray(source.pixels(size))) for source in experiment.data.pool(cell.class_id)])

    def distance(draw: int) -> float:
        with Image.open(experiment.layout.image_path(cell, draw)) as image:
            return float(np.sqrt(np.square(inputs - _small(image)).mean((1, 2, 3))).min())

    draws = experiment.cells.draws(cell)
    return dict(zip(draws, on_all_threads(distance, draws), strict=True))


def _small(image: Image.Image) -> np.ndarray:
    resized = image.convert("RGB").resize((COPY_SIZE, COPY_SIZE), Image.Resampling.BICUBIC)
    return np.asarray(resized, dtype=np.float32)


def _card(experiment: Augmentation, options: Options, counts: dict[str, Counts], name: str) -> str:
    """Return the data card, in Markdown with the header that the Hugging Face hub reads."""
    config, total = experiment.config, sum(count.written + count.copied for count in counts.values())
    alpha = experiment.cells.alpha
    size = next(label for most, label in SIZES.items() if total < most)
    header = {"task_categories": ["image-classification"], "size_categories": [size], "tags": ["synthetic"]}
    lines = [
        f"| {class_id} | {c.inputs} | {c.written} | {c.copied} | {c.near_copies} | {c.unlike} |"
        for class_id, c in counts.items()
    ]
    return TEXT.format(
        header=yaml.safe_dump(header, sort_keys=False).strip(),
        name=name,
        model=config.model.hub or config.model.name,
        prompt=config.model.prompt.format("[class]"),
        config=config,
        method=config.methods[0],
        sizes=f"{min(config.n)} to {max(config.n)}" if len(config.n) > 1 else config.n[0],
        weights="equal" if np.isinf(alpha) else f"Dirichlet, α = {alpha:g}, in whole percents",
        rows="\n".join(lines),
        threshold=options.copy_threshold,
        copy_size=COPY_SIZE,
        similarity="Similarity to the class was not measured, as no lowest similarity was given."
        if options.min_similarity is None
        else f"An image unlike its class has a CLIP cosine below {options.min_similarity:g} with its mean.",
    )


TEXT = """---
{header}
---

# {name}, augmented

Images that latentmix generated from mixtures of the images of each class of `{name}`. They are synthetic. Train on
them, but measure on real images.

| | |
|---|---|
| model | {model}, prompt "{prompt}" |
| inversion | {config.inversion.name}, {config.inversion.steps} steps, guidance {config.inversion.guidance:g} |
| mixing | {sizes} images of one class, method {method}, weights: {weights} |
| generation | {config.steps} steps, guidance {config.guidance:g}, seed {config.seed} |

`train/metadata.csv` has the label of each image, and the sources and weights of its mixture. Numbers of images that
were dropped are missing among the file names.

| class | images | generated | originals copied | dropped as near copies | dropped as unlike the class |
|---|---|---|---|---|---|
{rows}

A near copy differs from an image of its class by less than {threshold:g} levels of 255 (root mean square at
{copy_size} × {copy_size} pixels). {similarity}

```python
from datasets import load_dataset
from torchvision.datasets import ImageFolder

data = load_dataset("imagefolder", data_dir="DIR")["train"].class_encode_column("label")
data = ImageFolder("DIR/train")
```
"""
