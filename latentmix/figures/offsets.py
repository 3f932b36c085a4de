"""Fig. 6: what an offset in a part of the latent does, before diffusion and after it."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from latentmix.experiment.probe import TIMES, Probe
from latentmix.figures.grid import draw_grid


def draw_offsets(probe: Probe, images: Mapping[tuple[str, int, float], Tensor], stem: Path) -> list[Path]:
    """Draw a column for each offset and a pair of rows for each noise; `images` are by time, draw and b."""
    rows = [[images[t, draw, b] for b in probe.offsets] for draw in range(probe.draws) for t in TIMES]
    names = [f"t = {t}" for _ in range(probe.draws) for t in TIMES]
    return draw_grid(rows, names, [f"b = {b:g}" for b in probe.offsets], stem)
