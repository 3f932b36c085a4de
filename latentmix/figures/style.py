"""Labels, colours, line styles and markers of everything that figures, captions and reports show.

Each mean has a colour, and each norm a line style and a marker. The colours are Okabe & Ito's, which colour-blind
readers can tell apart. Norms and means that are not in these tables, such as those of plugins, get spare styles in the
order in which they appear. Labels are those that norms, means and metrics declare; the default is their name.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar

import matplotlib
from matplotlib.figure import Figure

from latentmix.embedded import NETWORK_FOLDERS
from latentmix.errors import UserError
from latentmix.experiment.draws import GAUSS
from latentmix.metrics import METRICS, Metric
from latentmix.mixing.means import find_mean
from latentmix.mixing.norms import NORMS
from latentmix.storage import write_atomic

T = TypeVar("T")
Line = str | tuple[int, tuple[float, ...]]  # a line style of matplotlib

GREY = "#7f7f7f"

# Colours of means.
COLOURS = {"0": "#D55E00", "m": "#E69F00", "chm": "#0072B2", "lp": "#009E73", "pool": "#CC79A7", "pchm": "#56B4E9"}
SPARE_COLOURS = ("#CC79A7", "#56B4E9", "#000000", "#999933", "#882255", "#44AA99", "#AA4499", "#117733", "#661100")

LINES: dict[str, tuple[Line, str]] = {  # line style and marker of norms
    "lin": (":", "x"),
    "fix": ("-", "o"),
    "nin": ("--", "s"),
    "slerp": ("-.", "^"),
    "lol": ((0, (3, 1, 1, 1, 1, 1)), "D"),
    "adain": ((0, (5, 1)), "v"),
    "nao": ((0, (1, 1)), "P"),
}
SPARE_LINES: tuple[tuple[Line, str], ...] = (
    ((0, (6, 2, 2, 2)), "*"),
    ((0, (2, 3)), "<"),
    ((0, (9, 3)), ">"),
    ((0, (6, 2, 1, 2, 1, 2, 1, 2)), "p"),
    ((0, (4, 4, 1, 4)), "h"),
)

CONTROLS: dict[str, tuple[str, Line]] = {  # descriptions and line styles of the controls, with which methods compare
    "real": ("real images: one half of them measured against the other", "-"),
    "noise": ("images generated from random latents", "--"),
    "gauss": ("dotted: Gaussian latents mixed by the same draws", ":"),
}
SPARE_CONTROL_LINES: tuple[Line, ...] = (":", "-.")

# Colours and markers of up to eight classes.
HUES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
SHAPES = ("o", "s", "^", "v", "D", "x", "+", "*")

NETWORKS = dict.fromkeys(NETWORK_FOLDERS, "embedded classifier") | {"inception": "Inception"}

SETTINGS: dict[Any, Any] = {
    "font.size": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "pdf.fonttype": 42,
    "text.parse_math": False,  # a class may have any name
    "savefig.dpi": 200,
}


@dataclass(frozen=True)
class MethodStyle:
    """The look of one method or control in all plots, and what it does in words."""

    name: str
    description: str
    colour: str
    line: Line
    marker: str
    control: bool


def method_styles(names: Iterable[str]) -> dict[str, MethodStyle]:
    """Return a style for each of the methods and controls of a figure, distinct as long as there are spare styles."""
    names = list(dict.fromkeys(names))
    gaussian = {name for name in names if name.startswith(GAUSS)}
    names = list(dict.fromkeys(name.removeprefix(GAUSS) for name in names))
    parts = {name: (name.partition("/")[0], name.partition("/")[2]) for name in names if "/" in name}
    lines = _assign({norm: LINES.get(norm) for norm, _ in parts.values()}, SPARE_LINES)
    colours = mean_colours([mean for _, mean in parts.values()])
    controls = {name: CONTROLS.get(name, ("", None)) for name in names if name not in parts}
    control_lines = _assign({name: line for name, (_, line) in controls.items()}, SPARE_CONTROL_LINES)
    styles = {}
    for name in names:
        if name in parts:
            norm, mean = parts[name]
            styles[name] = MethodStyle(name, _description(norm, mean), colours[mean], *lines[norm], control=False)
        else:
            styles[name] = MethodStyle(name, controls[name][0], GREY, control_lines[name], "D", control=True)
    for name in sorted(gaussian):
        own = styles[name.removeprefix(GAUSS)]
        description = f"{own.name} of Gaussian latents in place of inverted ones, by the same draws"
        styles[name] = replace(own, name=name, description=description, line=":", marker="", control=True)
    return styles


def mean_colours(means: Iterable[str]) -> dict[str, str]:
    """Return a colour for each mean. `lp0.5` has that of `lp`; a second cut-off in the same figure has a spare one."""
    ordered = sorted(dict.fromkeys(means), key=lambda mean: mean not in COLOURS)
    return _assign(
        {mean: COLOURS.get(mean) or COLOURS.get(mean.rstrip("0123456789.")) for mean in ordered}, SPARE_COLOURS
    )


def _assign(own: Mapping[str, T | None], spare: Sequence[T]) -> dict[str, T]:
    """Return each name's own style, or a spare one if it has none or an earlier name took it."""
    found: dict[str, T] = {}
    for name, style in own.items():
        free = [style] if style is not None and style not in found.values() else []
        free += [other for other in spare if other not in found.values()]
        found[name] = free[0] if free else spare[len(found) % len(spare)]
    return found


def _description(norm: str, mean: str) -> str:
    """Return the labels of a norm and a mean, or the names of those that have none or are not installed."""
    with suppress(KeyError, UserError):
        norm = NORMS[norm].label or norm
    with suppress(KeyError, UserError):
        mean = find_mean(mean).label or mean
    return f"{norm}; {mean}"


@dataclass(frozen=True)
class MetricLabel:
    """The label of a metric's column. `better` is "lower", "higher", or "" if neither; `direction` says it in words."""

    title: str
    network: str = ""  # in words; empty if the title implies it
    better: str = ""
    plotted: bool = True
    note: str = ""
    direction: str = ""
    down_to_real: bool = False

    @property
    def text(self) -> str:
        """Return the label in one line."""
        return f"{self.title} ({self.network})" if self.network else self.title

    @property
    def axis(self) -> str:
        """Return the label in two lines, for an axis."""
        return f"{self.title}\n({self.network})" if self.network else self.title


def metric_label(column: str) -> MetricLabel:
    """Return the label of a metric's column, such as `fd_embedded`. An unknown column is labelled by its name."""
    titles = _titles()
    known = [name for name in titles if column == name or column.startswith(f"{name}_")]
    if not known:
        return MetricLabel(column)
    name = max(known, key=len)
    metric, network = titles[name], column[len(name) + 1 :]
    words = NETWORKS.get(network, network)
    if metric.network == "clip" and network in NETWORK_FOLDERS:
        words = "embedded CLIP"
    elif network and metric.network == "clip" and "CLIP" not in metric.label:
        words = f"CLIP {words}"
    better = "" if metric.better == "nearer" else metric.better
    said = metric.plotted, metric.note, metric.direction, metric.down_to_real
    return MetricLabel(metric.label, words, better, *said)


def _titles() -> dict[str, Metric]:
    """Return each metric by each beginning that its columns may have. Skip plugins that can't be loaded."""
    found = {}
    for name in METRICS:
        with suppress(UserError):
            found[name] = metric = METRICS[name]
            if metric.other_networks:
                prefix, label = metric.other_networks
                found[prefix] = replace(metric, label=label)
    return found


@contextmanager
def styled() -> Iterator[None]:
    """Draw with the settings that all figures share."""
    with matplotlib.rc_context(SETTINGS):
        yield


def save(figure: Figure, stem: Path) -> list[Path]:
    """Write a figure to `stem`.png and `stem`.pdf. Return both paths."""
    paths = []
    for ending in ("png", "pdf"):
        buffer, metadata = BytesIO(), {"CreationDate": None} if ending == "pdf" else {}
        figure.savefig(buffer, format=ending, bbox_inches="tight", metadata=metadata)
        path = stem.with_suffix(f".{ending}")
        write_atomic(path, buffer.getvalue())
        paths.append(path)
    return paths
