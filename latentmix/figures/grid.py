"""Images in a grid, as in Figs. 1 and 6."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure
from torch import Tensor

from latentmix.experiment.probe import TIMES, Probe
from latentmix.figures.style import save, styled

DOTS = 200  # per inch


def draw_grid(rows: Sequence[Sequence[Tensor]], names: Sequence[str], titles: Sequence[str], stem: Path) -> list[Path]:
    """Draw images, uint8 [3, H, W], in a grid with a name for each row and a title for each column."""
    wide = len(titles) <= 8
    side = 0.9 if wide else 0.62  # inches
    with styled():
        height, width = rows[0][0].shape[1:]
        figure = Figure(figsize=(side * len(titles) + 0.5, side * height / width * len(rows) + 0.3))
        grid = figure.subplots(len(rows), len(titles), squeeze=False)
        for row_of_axes, images, name in zip(grid, rows, names, strict=True):
            for axes, image in zip(row_of_axes, images, strict=True):
                enlarged = image.shape[-1] < DOTS * side
                interpolation = "nearest" if enlarged else "antialiased"
                axes.imshow(image.permute(1, 2, 0).numpy(), interpolation=interpolation)
                axes.set(xticks=[], yticks=[])
                axes.spines[:].set_visible(False)
            row_of_axes[0].set_ylabel(name, rotation=0, ha="right", va="center")
        for axes, title in zip(grid[0], titles, strict=True):
            axes.set_title(title, fontsize=8 if wide else 7, loc="center" if wide else "left")
        figure.subplots_adjust(wspace=0.04, hspace=0.04)
        return save(figure, stem)


def draw_offsets(probe: Probe, images: Mapping[tuple[str, int, float], Tensor], stem: Path) -> list[Path]:
    """Draw Fig. 6: a column for each offset and a pair of rows for each noise; `images` are by time, draw and b."""
    rows = [[images[t, draw, b] for b in probe.offsets] for draw in range(probe.draws) for t in TIMES]
    names = [f"t = {t}" for _ in range(probe.draws) for t in TIMES]
    return draw_grid(rows, names, [f"b = {b:g}" for b in probe.offsets], stem)
