"""Fig. 1: what comes out as N grows, a row for each method."""

from pathlib import Path

from matplotlib.figure import Figure

from latentmix.bench import Bench, Cell
from latentmix.errors import UserError
from latentmix.figures.style import save, styled
from latentmix.sweep import read_picture


def fig1(bench: Bench, stem: Path) -> list[Path]:
    """The first draw of each class, N and method; draws are nested in N, so a column adds images to the one before."""
    config = bench.config
    methods = list(dict.fromkeys(config.methods))
    columns = [(class_id, n) for class_id in bench.classes[:3] for n in config.n]
    with styled():
        figure = Figure(figsize=(0.62 * len(columns) + 0.6, 0.62 * len(methods) + 0.5))
        grid = figure.subplots(len(methods), len(columns), squeeze=False)
        for axes, method in zip(grid, methods, strict=True):
            for cell_axes, (class_id, n) in zip(axes, columns, strict=True):
                picture = bench.picture(Cell(class_id, n, method), 0)
                if not picture.exists():
                    raise UserError(
                        f"no picture of {class_id}, N = {n}, {method} is kept; run latentmix sweep with keep=1"
                    )
                cell_axes.imshow(read_picture(picture).permute(1, 2, 0).numpy(), interpolation="nearest")
                cell_axes.set(xticks=[], yticks=[])
                cell_axes.spines[:].set_visible(False)
            axes[0].set_ylabel(str(method), rotation=0, ha="right", va="center")
        for place, (class_id, n) in enumerate(columns):
            title = f"{bench.data.title(class_id)}\n" if place % len(config.n) == 0 else "\n"
            grid[0][place].set_title(f"{title}N = {n}", fontsize=7, loc="left")
        figure.subplots_adjust(wspace=0.04, hspace=0.04)
        return save(figure, stem)
