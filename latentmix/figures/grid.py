"""Pictures in a grid, such as Figs. 1 and 6."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from torch import Tensor

from latentmix.figures.style import save, styled


def draw_grid(rows: Sequence[Sequence[Tensor]], names: Sequence[str], titles: Sequence[str], stem: Path) -> list[Path]:
    """Pictures, uint8 [3, H, W], in a grid with a name for each row and a title for each column."""
    side = 0.9 if len(titles) <= 8 else 0.62  # inches
    with styled():
        figure = Figure(figsize=(side * len(titles) + 0.5, side * len(rows) + 0.3))
        grid = figure.subplots(len(rows), len(titles), squeeze=False)
        for axes, pictures, name in zip(grid, rows, names, strict=True):
            for cell, image_path in zip(axes, pictures, strict=True):
                small = image_path.shape[-1] < 200 * side  # dots; larger ones are reduced
                how = "nearest" if small else "antialiased"
                cell.imshow(image_path.permute(1, 2, 0).numpy(), interpolation=how)
                cell.set(xticks=[], yticks=[])
                cell.spines[:].set_visible(False)
            axes[0].set_ylabel(name, rotation=0, ha="right", va="center")
        for cell, title in zip(grid[0], titles, strict=True):
            cell.set_title(title, fontsize=8 if side > 0.8 else 7, loc="center" if side > 0.8 else "left")
        figure.subplots_adjust(wspace=0.04, hspace=0.04)
        return save(figure, stem)
