"""Run `experiment=findings` and its variants on one model, and print the tables of docs/findings.md.

    python scripts/findings.py --model tiny-128 > tiny-128.md
    python scripts/findings.py --model sd15 --dry-run data=imagenet data.path=DIR

The script resumes like the commands that it runs. `--runs main,light` limits it to some of the runs below.
"""

import argparse
import contextlib
import io
import math
import sys
from pathlib import Path

from latentmix import cli
from latentmix.checks.finding import readable_size
from latentmix.commands.shared import session
from latentmix.compose import compose
from latentmix.experiment.batch_size import determine
from latentmix.experiment.csv_files import read_rows
from latentmix.experiment.sweep import SWEEP

FEW = ("methods=[fix/chm,nin/0,nin/pool]", "controls=[]")
RUNS = {
    "main": (),
    "norms": ("methods=[fix/pool,nin/pool,lol/pool]", "n=[8,64]", "controls=[]"),
    "light": ("data.light=12", "n=[8,64]", *FEW),
    "weights1": ("weights=1", "n=[64]", *FEW),
    "weights0.3": ("weights=0.3", "n=[64]", *FEW),
    "pool128": ("pool=128", "n=[64]", *FEW),
    "pool96": ("pool=96", "n=[64]", *FEW),
    "ddim_cfg": ("inversion=ddim_cfg", "n=[64]", *FEW),
    "forward": ("inversion=forward", "n=[64]", *FEW),
    "null_text": ("inversion=null_text", "pool=32", "n=[8,16]", *FEW),
}
DRAWN = ("light",)  # runs of drawn images only
FIRST, METHOD = "fix/chm", "nin/pool"


def overrides(run: str, given: argparse.Namespace) -> list[str]:
    """Return the arguments of a run."""
    name = f"name=findings-{given.model}{'' if run == 'main' else f'-{run}'}"
    return [
        "experiment=findings",
        f"model={given.model}",
        f"outputs={given.outputs}",
        name,
        *RUNS[run],
        *given.overrides,
    ]


def sweep(arguments: list[str]) -> None:
    """Run a sweep without printing its tables. Exit if it fails."""
    sys.argv = ["latentmix", "sweep", *arguments]
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            cli.main()
        except SystemExit as stop:
            if stop.code:
                raise


def plan(arguments: list[str], rate: float) -> tuple[float, float, float]:
    """Return what a sweep would still take: evaluations of the diffusion network, seconds, and bytes on the disk.

    Seconds are by the rates of earlier runs; for stages that never ran, by `rate` evaluations per second.
    """
    experiment = session.prepare(compose(arguments)).planned()
    size, known = determine(experiment, measure=False), session.rates(experiment)
    stages = [plan(size) for plan in session.plans(experiment, SWEEP)]
    seconds = [known.estimate(stage, size) for stage in stages]
    guessed = [stage.nfe / rate if s is None else s for stage, s in zip(stages, seconds, strict=True)]
    return sum(stage.nfe for stage in stages), sum(guessed), sum(stage.bytes for stage in stages)


def show_plan(planned: dict[str, tuple[float, float, float]]) -> None:
    """Print a line for each run, and the sum: at most, as runs share what is in the cache."""
    total = tuple(map(sum, zip(*planned.values(), strict=True)))
    print(f"{'run':<12}{'evaluations':>12}{'time':>12}{'disk':>10}")
    for run, (nfe, seconds, size) in (planned | {"all, at most": total}).items():
        time = "not known" if math.isnan(seconds) else f"{seconds / 3600:.1f} h"
        print(f"{run:<12}{f'{nfe / 1e6:.2f} M':>12}{time:>12}{readable_size(size):>10}")


# Tables


def table(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)) + "\n"


def values(folder: Path, metric: str) -> dict[tuple[str, int], float]:
    """Return the averages over classes, by method and N."""
    rows = [row for row in read_rows(folder / "metrics.csv") if (row["class"], row["metric"]) == ("all", metric)]
    return {(row["method"], int(row["n"])): float(row["value"]) for row in rows}


def difference(folder: Path, metric: str, n: int, method: str, reference: str) -> str:
    """Return a paired difference with two 95 % intervals: ± over draws, in brackets over classes."""
    wanted = (str(n), metric, method, reference)
    rows = [r for r in read_rows(folder / "pairs.csv") if (r["n"], r["metric"], r["method"], r["reference"]) == wanted]
    halves = {r["class"]: (float(r["high"] or "nan") - float(r["low"] or "nan")) / 2 for r in rows}
    (average,) = (float(r["difference"]) for r in rows if r["class"] == "all")
    over_classes, known = halves.pop("all"), all(r["over"] == "classes" for r in rows if r["class"] == "all")
    over_draws = math.hypot(*halves.values()) / len(halves)
    return f"{average:+.3g} ±{over_draws:.2g}{f' [{over_classes:.2g}]' if known else ''}"


def metrics_of(folder: Path) -> list[str]:
    return list(dict.fromkeys(row["metric"] for row in read_rows(folder / "metrics.csv")))


def tables(folder: Path) -> None:
    """Print each metric's values by method and N, then how the methods differ from the first and from their control."""
    for metric in metrics_of(folder):
        found = values(folder, metric)
        ns = sorted({n for _, n in found if n})
        methods = [m for m in dict.fromkeys(m for m, _ in found) if (m, ns[0]) in found]
        plain = [method for method in methods if not method.startswith("gauss:")]
        controls = "; ".join(f"`{method}` {value:.3g}" for (method, n), value in found.items() if not n)
        rows = [[f"`{m}`", *(f"{found[m, n]:.3g}" for n in ns)] for m in methods]
        compared = [(method, plain[0]) for method in plain[1:]]
        compared += [(method, f"gauss:{method}") for method in plain if f"gauss:{method}" in methods]
        for method, reference in compared:
            row = [difference(folder, metric, n, method, reference) for n in ns]
            rows.append([f"`{method}` − `{reference}`", *row])
        print(f"`{metric}`{f' of {controls}' if controls else ''}:\n")
        print(table(["", *(f"N = {n}" for n in ns)], rows))


def variants_table(folders: dict[str, Path]) -> None:
    """Print how the method differs from the first in each run, at each of its N."""
    metrics, rows = metrics_of(next(iter(folders.values()))), []
    for run, folder in folders.items():
        found = values(folder, metrics[0])
        for n in sorted({n for _, n in found if n}):
            row = [f"{found[m, n]:.3g}" for m in (FIRST, "nin/0", METHOD)]
            row += [difference(folder, metric, n, METHOD, FIRST) for metric in metrics]
            rows.append([run, str(n), *row])
    print(f"`{METHOD}` − `{FIRST}` in every run; the first columns are `{metrics[0]}`:\n")
    print(table(["run", "N", f"`{FIRST}`", "`nin/0`", f"`{METHOD}`", *(f"`{metric}`" for metric in metrics)], rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny-128")
    parser.add_argument("--runs", default=",".join(RUNS), help="some of %(default)s")
    parser.add_argument("--outputs", type=Path, default=Path("outputs"))
    parser.add_argument("--dry-run", action="store_true", help="print what the runs would take")
    parser.add_argument("--rate", type=float, default=math.nan, help="evaluations per second, where none was measured")
    parser.add_argument("overrides", nargs="*", help="as of latentmix, KEY=VALUE")
    given = parser.parse_intermixed_args()
    drawn = compose([f"model={given.model}"]).model.domain != "imagenet"
    runs = {run: overrides(run, given) for run in given.runs.split(",") if drawn or run not in DRAWN}
    if given.dry_run:
        show_plan({run: plan(arguments, given.rate) for run, arguments in runs.items()})
        return
    for arguments in runs.values():
        sweep(arguments)
    folders = {run: compose(arguments).folder for run, arguments in runs.items()}
    for run in ("main", "norms"):
        if run in folders:
            tables(folders[run])
    if variants := {run: folder for run, folder in folders.items() if run != "norms"}:
        variants_table(variants)


if __name__ == "__main__":
    main()
