"""Fig. 2: the paths of methods between two latents in a plane (L = 2)."""

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from latentmix.figures.style import LINES, save, styled
from latentmix.mixing import mix

ENDS = torch.tensor([[1.8, 0.1], [-0.7, 0.9]])  # one longer, one shorter than √L, at more than a right angle
PANELS = (("lin", "fix", "nin", "slerp (eq. 3)"), ("lin", "slerp", "lol", "nao"))  # the paper's, and others
# Colours of norms; in other figures colours show the mean.
COLOURS = {"lin": "#999999", "fix": "#D55E00", "nin": "#0072B2", "slerp": "#CC79A7", "lol": "#009E73", "nao": "#E69F00"}


def draw_paths(stem: Path) -> list[Path]:
    """Draw the paper's methods on the left; `slerp` of directions, `lol` and `nao` on the right."""
    with styled():
        figure = Figure(figsize=(6.8, 3.5), layout="constrained")
        for axes, names in zip(figure.subplots(1, 2), PANELS, strict=True):
            _panel(axes, names)
        return save(figure, stem)


def _panel(axes: Axes, names: Sequence[str]) -> None:
    turn = torch.linspace(0, 2 * math.pi, 200)
    circle = math.sqrt(2) * torch.stack([turn.cos(), turn.sin()])
    axes.plot(*circle.tolist(), color="0.8", linewidth=3, zorder=0, label="norm √L")
    axes.set(aspect="equal", xlim=(-1.6, 2.2), ylim=(-1.5, 1.6), xticks=[], yticks=[])
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.plot(0, 0, "+", color="0.5")
    for name in names:
        x, y = path(name).T.tolist()
        norm = name.split()[0]
        axes.plot(x, y, label=name, color=COLOURS[norm], linestyle=LINES[norm][0], linewidth=1.5)
    axes.plot(*ENDS.T.tolist(), "ko", markersize=4, zorder=3)
    for label, (x, y) in zip(("z₁", "z₂"), ENDS.tolist(), strict=True):
        axes.annotate(label, (x, y), xytext=(5, 5) if x > 0 else (-15, 2), textcoords="offset points")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 0.02), ncols=3, handlelength=3, columnspacing=1)


def path(name: str, points: int = 101) -> Tensor:
    """Return the path [points, 2] of a norm, or of the paper's eq. 3, from the first end to the second."""
    w = torch.linspace(0, 1, points)
    if name == "slerp (eq. 3)":
        return shoemake(w)
    return mix(ENDS.view(2, 1, 1, 2), torch.stack([1 - w, w], dim=1), f"{name}/0").flatten(1)


def shoemake(w: Tensor) -> Tensor:
    """Return the paper's eq. 3, with the angle between the inputs after normalisation, as usual implementations do."""
    p, q = ENDS
    theta = torch.arccos(p @ q / (p.norm() * q.norm()))
    return (torch.outer(torch.sin((1 - w) * theta), p) + torch.outer(torch.sin(w * theta), q)) / torch.sin(theta)
