"""Train classifiers on few images of each class, with and without augmentation: table and figure of docs/augment.md.

    python scripts/benchmarks/measure_augmentation.py --outputs outputs

For each seed and number of shots, write the few images of each drawn class into a folder and run what `latentmix
augment` runs, with `experiment=augment`, for each method. Then train a small network from nothing and measure it on
held-out images. The script resumes like the command, and shares its cache; trainings are remembered in accuracies.json.
"""

import argparse
import contextlib
import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from latentmix.commands import augment
from latentmix.commands.shared import session
from latentmix.data.shapes import SHAPES, draw
from latentmix.errors import UserError
from latentmix.experiment.augmentation import Augmentation
from latentmix.experiment.csv_files import write_table
from latentmix.experiment.training_set import Options
from latentmix.figures.style import method_styles, save, styled
from latentmix.metrics import mean_interval
from latentmix.models.protocol import Model
from latentmix.storage import read_json, write_json

SHOTS = (2, 4, 8, 16)
SEEDS = range(5)
METHODS = ("lin/0", "fix/0", "fix/chm", "nin/chm", "nin/pool")
CONDITIONS = ("none", "classical", "noise", *METHODS)
PER_CLASS = 20  # mixtures of each class, 200 in all
HELD_OUT, FIRST_HELD_OUT = 100, 500_000  # images of each class, and the index of the first
PIXELS = 32  # at which the classifier sees the images
UPDATES, BATCH = 200, 50
CLASSES = tuple(sorted(SHAPES))
EXTRA_COLOURS = {"none": "#000000", "classical": "#009E73"}
COLUMNS = (
    "shots",
    "augmentation",
    "accuracy",
    "low",
    "high",
    "difference",
    "difference_low",
    "difference_high",
    "seeds",
)

Labelled = tuple[Tensor, Tensor]  # images [N, 3, 32, 32] in [-1, 1], and the numbers of their classes [N]


class Maker:
    """Makes the images of each condition by the command's own functions. One model serves all."""

    def __init__(self, outputs: Path) -> None:
        self.folder, self.outputs = outputs / "augment", outputs
        self.model: Model | None = None

    def real(self, seed: int, shots: int) -> Path:
        """Return a folder of the few images of each class; those of few shots are among those of many."""
        folder = self.folder / "photos" / f"seed{seed}" / str(shots)
        for class_id in CLASSES:
            (folder / class_id).mkdir(parents=True, exist_ok=True)
            for index in range(shots):
                Image.fromarray(draw(class_id, 1000 * seed + index)).save(folder / class_id / f"{index:02}.png")
        return folder

    def mixtures(self, seed: int, shots: int, method: str) -> Labelled:
        """Return the training set that `latentmix augment` writes, without the originals."""
        out = self.folder / "sets" / f"seed{seed}-{shots}-{method.replace('/', '-')}"
        experiment = self._experiment(seed, shots, method)
        with contextlib.redirect_stdout(io.StringIO()):
            augment.run(experiment, Options(), out)
        return read(out / "train")

    def noise(self, seed: int) -> Labelled:
        """Return images from random latents, which depend on no image."""
        experiment = self._experiment(seed, SHOTS[0], "fix/chm", "controls=[noise]")
        with contextlib.redirect_stdout(io.StringIO()):
            session.run_stages(experiment, augment.STAGES, "augment")
        cells = {cell.class_id: cell for cell in experiment.cells.generated if cell.method_name == "noise"}
        paths = {c: [experiment.layout.image_path(cells[c], k) for k in range(PER_CLASS)] for c in CLASSES}
        return labelled({c: [np.asarray(Image.open(path)) for path in of_class] for c, of_class in paths.items()})

    def _experiment(self, seed: int, shots: int, method: str, *more: str) -> Augmentation:
        settings = ["experiment=augment", f"seed={seed}", f"outputs={self.outputs}", *more]
        experiment = augment.prepare(self.real(seed, shots), PER_CLASS, "2-4", 1.0, method, settings)
        if self.model is None:
            self.model = experiment.model
        experiment.model = self.model
        return experiment


def read(folder: Path) -> Labelled:
    """Return the images in the class folders of a folder."""
    files = {c: sorted(p for p in (folder / c).glob("*") if p.suffix in (".jpg", ".png")) for c in CLASSES}
    return labelled({c: [np.asarray(Image.open(path)) for path in of_class] for c, of_class in files.items()})


def labelled(images: Mapping[str, list[np.ndarray]]) -> Labelled:
    """Return images of classes, uint8 [H, W, 3], as a classifier takes them."""
    stacked = torch.from_numpy(np.stack([image for of_class in images.values() for image in of_class]))
    small = functional.interpolate(stacked.permute(0, 3, 1, 2).float() / 127.5 - 1, (PIXELS, PIXELS), mode="area")
    return small, torch.tensor([CLASSES.index(c) for c, of_class in images.items() for _ in of_class])


def classical(x: Tensor, rng: torch.Generator) -> Tensor:
    """Return images after random flips, shifts by up to 4 pixels, and changes of brightness and contrast by 40 %."""
    rows = []
    for image in functional.pad(x, (4, 4, 4, 4), mode="reflect"):
        top, left, flip = (int(torch.randint(most, (), generator=rng)) for most in (9, 9, 2))
        crop = image[:, top : top + PIXELS, left : left + PIXELS]
        rows.append(crop.flip(2) if flip else crop)
    cropped = torch.stack(rows)
    bright, contrast = 1 + 0.4 * (2 * torch.rand(2, len(x), 1, 1, 1, generator=rng) - 1)
    bright_images = (cropped + 1) * bright - 1
    mean = bright_images.mean((1, 2, 3), keepdim=True)
    return ((bright_images - mean) * contrast + mean).clamp(-1, 1)


def train(real: Labelled, extra: Labelled | None, jitter: bool, seed: int) -> nn.Module:
    """Return a small network, trained from nothing. Half of each batch is `extra`, if there is any."""
    torch.manual_seed(seed)
    rng, layers, width = torch.Generator().manual_seed(seed), list[nn.Module](), 3
    for out in (24, 48, 96):
        layers += [nn.Conv2d(width, out, 3, 2, 1), nn.BatchNorm2d(out), nn.ReLU()]
        width = out
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, len(CLASSES)))
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, UPDATES)
    parts = [real] if extra is None else [real, extra]
    for _ in range(UPDATES):
        batches = [_sample(part, BATCH // len(parts), rng) for part in parts]
        x, y = (torch.cat(column) for column in zip(*batches, strict=True))
        loss = functional.cross_entropy(network(classical(x, rng) if jitter else x), y, label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return network.eval()


def _sample(images: Labelled, count: int, rng: torch.Generator) -> Labelled:
    rows = torch.randint(len(images[0]), (count,), generator=rng)
    return images[0][rows], images[1][rows]


@torch.no_grad()
def accuracy(network: nn.Module, test: Labelled) -> float:
    return (network(test[0]).argmax(1) == test[1]).double().mean().item()


def measure(maker: Maker, seed: int, shots: int, condition: str, test: Labelled) -> float | None:
    """Return the accuracy under one condition; None if the method can't mix so few images."""
    extra = None
    try:
        if condition in METHODS:
            extra = maker.mixtures(seed, shots, condition)
        elif condition == "noise":
            extra = maker.noise(seed)
    except UserError:
        if condition == "nin/pool" and shots < 4:
            return None  # it needs images that are not mixed
        raise
    return accuracy(train(read(maker.real(seed, shots)), extra, condition == "classical", seed), test)


def table(found: Mapping[str, float | None]) -> list[tuple[object, ...]]:
    """Return a row for each number of shots and condition: means over seeds, 95 % intervals, differences to none."""
    rows = list[tuple[object, ...]]()
    for shots in SHOTS:
        plain = torch.tensor([found[f"{seed} {shots} none"] for seed in SEEDS], dtype=torch.float64)
        for condition in CONDITIONS:
            values = [found[f"{seed} {shots} {condition}"] for seed in SEEDS]
            if None in values:
                continue
            accuracies = torch.tensor(values, dtype=torch.float64)
            own, gain = mean_interval(accuracies), mean_interval(accuracies - plain)
            rows.append(
                (shots, condition, *(f"{x:.4f}" for e in (own, gain) for x in (e.value, e.low, e.high)), own.count)
            )
    return rows


def markdown(rows: list[tuple[object, ...]]) -> str:
    """Return the accuracies as the table of docs/augment.md."""
    cells = {(row[0], row[1]): "{} [{}, {}]".format(*(f"{float(str(x)):.3f}" for x in row[2:5])) for row in rows}
    lines = [f"| accuracy, {len(CLASSES)} classes | {' | '.join(map(str, SHOTS))} |", "|---" * (1 + len(SHOTS)) + "|"]
    lines += [f"| {c} | {' | '.join(cells.get((shots, c), '') for shots in SHOTS)} |" for c in CONDITIONS]
    return "\n".join(lines)


def draw_figure(rows: list[tuple[object, ...]], stem: Path) -> list[Path]:
    """Draw accuracy against the number of images of each class, and the difference to the same images alone."""
    styles = method_styles(CONDITIONS)
    with styled():
        figure = Figure(figsize=(7, 3.2), layout="constrained")
        for axes, first, label in zip(
            figure.subplots(1, 2), (2, 5), ("accuracy", "difference to real alone"), strict=True
        ):
            for position, condition in enumerate(CONDITIONS):
                points = [row for row in rows if row[1] == condition and not (first == 5 and condition == "none")]
                if not points:
                    continue
                x = [float(str(row[0])) * 1.03 ** (position - len(CONDITIONS) / 2) for row in points]
                y, low, high = (np.array([float(str(row[first + k])) for row in points]) for k in range(3))
                style = styles[condition]
                colour = EXTRA_COLOURS.get(condition, style.colour)
                axes.errorbar(
                    x,
                    y,
                    (y - low, high - y),
                    label=condition,
                    color=colour,
                    linestyle=style.line,
                    marker=style.marker,
                    markersize=3,
                    linewidth=1,
                    elinewidth=0.6,
                )
            axes.set_xscale("log")
            axes.set_xticks(SHOTS, labels=[str(shots) for shots in SHOTS])
            axes.minorticks_off()
            axes.set(xlabel="real images of each class", ylabel=label)
        figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
        return save(figure, stem)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--outputs", type=Path, default=Path("outputs"))
    maker = Maker(parser.parse_args().outputs)
    test = labelled({c: [draw(c, FIRST_HELD_OUT + k) for k in range(HELD_OUT)] for c in CLASSES})
    notes = maker.folder / "accuracies.json"
    found = read_json(notes)
    for seed in SEEDS:
        for shots in SHOTS:
            for condition in CONDITIONS:
                if (name := f"{seed} {shots} {condition}") not in found:
                    found[name] = measure(maker, seed, shots, condition, test)
                    write_json(notes, found)
                    print(name, found[name], flush=True)
    write_table(maker.folder / "augment.csv", COLUMNS, rows := table(found))
    print(markdown(rows))
    for count, augmentation, *_, gain, low, high, _ in rows:
        print(f"{count} {augmentation}: {gain} [{low}, {high}] more than the real images alone")
    print(*draw_figure(rows, maker.folder / "augment"))


if __name__ == "__main__":
    main()
