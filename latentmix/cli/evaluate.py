"""`latentmix evaluate`: its arguments, options and help."""

import sys
from pathlib import Path
from typing import Annotated

from typer import Option

from latentmix.cli.shared import DryRun, Overrides, command, prepared, say_all
from latentmix.errors import UserError


@command(
    "latentmix evaluate experiment=demo",
    "latentmix evaluate --images generated --reference photos --metrics fid,kid,precision,recall,clip_distance",
    "latentmix evaluate --images generated --reference photos --features dinov2 -o table.csv",
)
def evaluate(
    overrides: Overrides = None,
    images: Annotated[Path | None, Option(help="Instead of a run, measure the images of this folder.")] = None,
    reference: Annotated[Path | None, Option(help="The folder of real images for --images.")] = None,
    metrics: Annotated[str, Option(help="Metrics of --images, with commas between.")] = "fid,kid,precision,recall",
    features: Annotated[str, Option(help="Network of FID, KID, precision...: inception, dinov2, ...")] = "inception",
    clip: Annotated[str, Option(help="CLIP of open_clip.")] = "ViT-L-14/openai",
    perceptual: Annotated[str, Option(help="Network of diversity.")] = "alex",
    out: Annotated[Path | None, Option("-o", "--out", help="Write the table of --images to this CSV file.")] = None,
    dry_run: DryRun = False,
) -> None:
    """Measure images that were generated before, and write metrics.csv; or measure any folder against another."""
    from latentmix.commands import evaluate

    if images is None and reference is None:
        evaluate.run(prepared(overrides), sys.argv[1:], dry_run)
        return
    if images is None or reference is None or overrides or dry_run:
        raise UserError("give both --images and --reference, and no KEY=VALUE and no --dry-run beside them")
    networks = {"features": features, "clip": clip, "perceptual": perceptual}
    say_all(evaluate.measure_folders(images, reference, metrics, networks, out))
