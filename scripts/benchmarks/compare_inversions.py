"""Compare every inversion with every way of mixing, on an embedded model: the tables of docs/inversions.md.

    python scripts/benchmarks/compare_inversions.py --model tiny > tiny.md

For each preset, run `latentmix reconstruct`, `diagnose` and a `sweep` at one N, and collect numbers from their files
(reconstruction.csv, diagnosis.json, metrics.csv). The script resumes like these commands, and shares their cache.
"""

import argparse
import contextlib
import csv
import io
import json
import sys
from pathlib import Path

from latentmix import cli
from latentmix.compose import compose
from latentmix.inversion import INVERSIONS

PRESETS = ("ddim", "ddim_cfg", "negative_prompt", "null_text", "fixed_point", "renoise", "midpoint", "exact")
METHODS = ("fix/0", "fix/m", "fix/chm", "fix/lp", "nin/chm", "lol/chm", "slerp/0", "adain/0")


def command(name: str, *overrides: str) -> None:
    """Run a command of latentmix without printing its tables."""
    sys.argv = ["latentmix", name, *overrides]
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            cli.main()
        except SystemExit as stop:
            if stop.code:
                raise


def measured(preset: str, given: argparse.Namespace) -> tuple[list[str], dict[str, list[str]]]:
    """Return a row of the first table, and one of each metric's table."""
    name = f"inversions-{given.model}-{preset}"
    classes = f"data.classes=[{','.join(given.classes)}]"
    common = [f"model={given.model}", f"inversion={preset}", f"outputs={given.outputs}", f"name={name}", classes]
    common += [f"steps={given.steps}", f"pool={given.pool}", f"n=[{given.n}]", f"draws={given.draws}"]
    common += [f"methods=[{','.join(METHODS)}]", "data.reference=300", *given.overrides]
    for which in ("reconstruct", "diagnose", "sweep"):
        command(which, *common)
    config, folder = compose(common), given.outputs / name
    with (folder / "reconstruction.csv").open() as file:
        average = {r["quantity"]: float(r["value"]) for r in csv.DictReader(file) if r["class"] == "all"}
    diagnoses = json.loads((folder / "diagnosis.json").read_text())["classes"].values()

    def mean(what: str) -> float:
        return sum(d["bias"][what] for d in diagnoses) / len(diagnoses)

    inversion, settings = INVERSIONS[config.inversion.kind], config.inversion
    nfe = settings.steps * inversion.nfe(settings), config.steps * inversion.nfe_generation(config.guidance)
    first = [
        f"`{preset}`",
        *(f"{x:,}" for x in nfe),
        f"{average['psnr']:.2f}",
        f"{average['rmse']:.3f}",
        f"{average['norm']:.3f}",
        f"{1000 * mean('channels'):.1f}",
        f"{1000 * mean('space'):.1f}",
    ]
    rows: dict[str, list[str]] = {}
    with (folder / "metrics.csv").open() as file:
        for row in csv.DictReader(file):
            if row["class"] == "all" and row["method"] in METHODS and row["metric"] in given.metrics:
                interval = f"{float(row['value']):.3g} [{float(row['low']):.3g}, {float(row['high']):.3g}]"
                rows.setdefault(row["metric"], [f"`{preset}`"]).append(interval)
    return first, rows


def table(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--presets", nargs="+", default=PRESETS)
    parser.add_argument("--classes", nargs="+", default=["circle", "heart", "star"])
    parser.add_argument("--metrics", nargs="+", default=["fd_embedded", "clip_distance_embedded"])
    parser.add_argument("--n", type=int, default=64)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--pool", type=int, default=256)
    parser.add_argument("--draws", type=int, default=48)
    parser.add_argument("--outputs", type=Path, default=Path("outputs"))
    parser.add_argument("overrides", nargs="*", help="as of latentmix, KEY=VALUE")
    given = parser.parse_args()
    results = [measured(preset, given) for preset in given.presets]
    head = ["inversion", "NFE of inversion", "NFE of generation", "PSNR, dB", "latents' RMSE", "norm / √L"]
    print(table([*head, "channel bias² · 1000", "spatial bias² · 1000"], [first for first, _ in results]))
    for metric in given.metrics:
        print(f"`{metric}` at N = {given.n}:\n")
        print(table(["inversion", *(f"`{m}`" for m in METHODS)], [rows[metric] for _, rows in results]))


if __name__ == "__main__":
    main()
