"""Fill the tables of docs/ with the results of the check, or with "not measured" and the estimates.

    python3 -m scripts.gpu_check.tables FILE    # results.jsonl of the check, or those of several runs
    python3 -m scripts.gpu_check.tables         # nothing is measured

A table stands between the lines `<!-- gpu NAME -->` and `<!-- end -->` in any page of docs/.
"""

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parents[2] / "docs"
Results = Mapping[str, Mapping[str, Any]]  # numbers by what was measured


@dataclass(frozen=True)
class Row:
    """A row of a table: `shown` has the numbers of the result `what`; `estimate` is of an H100."""

    label: str
    what: str
    shown: str
    estimate: str = ""


BENCH = "{images_s:.3g} images/s, {times:.2f} times diffusers', {share:.0%} of the matmul rate, {peak_gib:.1f} GiB"
STEP = "{image_steps_s:.4g}"
DECODE = "{ms_image:.3g} ms an image, {peak_gib:.2f} GiB"
CARD = "batch {batch}"
PEAK = "{peak_gib:.1f} GiB"
NULL = "{s_evaluation_image:.3g} s, {minutes_for_64_images_at_most:.2g} min for 64 images at most, {peak_gib:.1f} GiB"
TABLES: Mapping[str, Sequence[Row]] = {
    "generation": (
        Row("SD 1.5, 512 px, 20 steps, batch 16", "bench sd15", BENCH, "7 images/s, 25 % of the matmul rate"),
        Row(
            "the same, `speed.compile=true`",
            "bench sd15 compiled",
            BENCH + "; diffusers' compiled: {diffusers_compiled:.3g} images/s",
            "10 images/s, 40 %",
        ),
        Row("SD 3.5 medium, 1024 px, 6 steps, batch 4", "bench sd35-medium", BENCH, "2 images/s, 30 %"),
        Row("matrix products of 16 bits", "matmul float16", "{tflops:.4g} TFLOP/s", "700 TFLOP/s"),
    ),
    "steps": (
        Row("SD 1.5, batch 16, as it is", "U-Net batch 16 as it is", STEP, "170"),
        Row("without `channels_last`", "U-Net batch 16 without channels_last", STEP),
        Row("without `shared_prefix`", "U-Net batch 16 without shared_prefix", STEP, "165"),
        Row("`attention=flash`", "U-Net batch 16 attention flash", STEP, "155"),
        Row("`attention=cudnn`", "U-Net batch 16 attention cudnn", STEP, "170"),
        Row("`model.precision=tf32`", "U-Net batch 16 tf32", STEP, "80"),
        Row("`model.precision=float32`", "U-Net batch 16 float32", STEP, "30"),
        Row("`compile=true`", "U-Net batch 16 compiled", STEP, "240"),
        Row("SD 3.5 medium, batch 2, as it is", "MMDiT batch 2 as it is", STEP, "15"),
        Row("without `fused_norms`", "MMDiT batch 2 without fused_norms", STEP, "13"),
        Row("`attention=flash`", "MMDiT batch 2 attention flash", STEP, "13"),
        Row("`model.precision=tf32`", "MMDiT batch 2 tf32", STEP, "6"),
        Row("`compile=true`, block by block", "MMDiT batch 2 compiled", STEP, "20"),
        Row("compiled as a whole", "MMDiT batch 2 compiled as a whole", STEP, "20"),
    ),
    "decoder": (
        Row("`vae=ieee` (NCHW), 2 at once", "decode float32 ieee NCHW 2 at once", DECODE, "55 to 70 ms"),
        Row("`vae=tf32` (NHWC), 2 at once", "decode float32 tf32 NHWC 2 at once", DECODE, "10 ms, 1.5 GiB"),
        Row("the same, NCHW", "decode float32 tf32 NCHW 2 at once", DECODE),
        Row("`vae=tf32`, 8 at once", "decode float32 tf32 NHWC 8 at once", DECODE, "10 ms, 6 GiB"),
        Row(
            "`vae=tf32`, compiled", "decode float32 tf32 NHWC 2 at once compiled", "{ms_image:.3g} ms an image", "7 ms"
        ),
        Row("`vae=bfloat16`, 2 at once", "decode bfloat16 NHWC 2 at once", DECODE, "5 ms, 0.8 GiB"),
    ),
    "peaks": (  # estimates: scripts/benchmarks/memory_table.py, in GiB
        Row("SD 1.5, 512 px: the U-Net and one guided prediction", "U-Net batch 1", PEAK, "1.7 GiB"),
        Row("SD 3.5 medium, 1024 px: the transformer and one guided prediction", "MMDiT batch 1", PEAK, "4.6 GiB"),
        Row("SD 1.5, 16 images of 512 px at once, whole", "bench sd15", PEAK),
        Row("the same by diffusers' pipeline", "bench sd15", "{diffusers_peak_gib:.1f} GiB"),
        Row("SD 3.5 medium, 4 images of 1024 px at once, whole", "bench sd35-medium", PEAK),
        Row("the same by diffusers' pipeline", "bench sd35-medium", "{diffusers_peak_gib:.1f} GiB"),
    ),
    "memory": (
        Row("SD 1.5, `batch=auto`", "batch=auto on 24 GB, sd15", CARD, "64"),
        Row("SD 1.5 in float32, `batch=auto`", "batch=auto on 24 GB, sd15 model.precision=float32", CARD, "32"),
        Row("SD 3.5 medium, `batch=auto`", "batch=auto on 24 GB, sd35-medium", CARD, "8 to 16"),
        Row("null-text in TF32, 8 at once: an evaluation", "null-text tf32, 8 at once", NULL, "6 to 9 min, 15 GiB"),
        Row("null-text in float32, 4 at once", "null-text float32, 4 at once", NULL, "27 min, 9 GiB"),
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE", help="results.jsonl of the check")
    parser.add_argument("--docs", type=Path, default=DOCS)
    given = parser.parse_args()
    for path in fill(given.docs, read(*given.files)):
        print(path)


def read(*files: Path) -> Results:
    """Return the results in files, the last of each."""
    lines = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    return {line["what"]: line for line in lines}


def fill(docs: Path, results: Results) -> list[Path]:
    """Write the tables into the pages that have a place for them. Return the pages."""
    filled = []
    for page in sorted(docs.glob("*.md")):
        text = page.read_text()
        new = re.sub(r"<!-- gpu (\w+) -->\n.*?<!-- end -->", lambda place: table(place[1], results), text, flags=re.S)
        if "<!-- gpu " in text:
            page.write_text(new)
            filled.append(page)
    return filled


def table(name: str, results: Results) -> str:
    """Return a table with its marks, and the device and the date above it."""
    rows = [f"| {row.label} | {measured(row, results)} | {row.estimate or '–'} |" for row in TABLES[name]]
    head = ["| | measured | estimate for an H100 |", "|---|---|---|"]
    return "\n".join([f"<!-- gpu {name} -->", source(results), "", *head, *rows, "<!-- end -->"])


def source(results: Results) -> str:
    """Return on what the results were measured, and when."""
    if (device := results.get("device")) is None:
        return "Nothing in this table has been measured yet. The estimates are calculations."
    return f"Measured on one {device['name']}, torch {device['torch']}, {device['date']}, by `make gpu-check`."


def measured(row: Row, results: Results) -> str:
    """Return the numbers of a row, or that they were not measured."""
    if row.what in results:
        return row.shown.format(**results[row.what])
    return "failed" if f"FAIL {row.what}" in results else "not measured"


if __name__ == "__main__":
    main()
