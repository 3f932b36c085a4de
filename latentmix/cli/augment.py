"""`latentmix augment`: its arguments, options and help."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from latentmix.cli.shared import DryRun, Overrides, command, say_all


@command(
    "latentmix augment photos --per-class 500 -o photos500",
    "latentmix augment photos --per-class 500 --of 2-4 --method fix/chm --keep-originals -o photos500 model=sd15",
    "latentmix augment photos --alpha inf --of 3 --min-similarity 0.8 -o equal model=sd15 inversion=null_text",
)
def augment(
    folder: Annotated[Path, Argument(metavar="DIR", help="Images by class: DIR/CLASS/*.jpg, png or webp.")],
    out: Annotated[Path, Option("-o", "--out", help="The folder of the training set; new, empty, or to continue.")],
    overrides: Overrides = None,
    per_class: Annotated[int, Option(help="Mixtures of each class.", min=2)] = 500,
    of: Annotated[str, Option(help="How many images are mixed: a number, or a range to draw from.")] = "2-4",
    alpha: Annotated[
        float, Option(help="Concentration of the weights' Dirichlet distribution: small for one large, inf for equal.")
    ] = 1,
    method: Annotated[str, Option(help="The method of mixing, NORM/MEAN.")] = "nin/chm",
    min_similarity: Annotated[
        float | None, Option(help="Drop images whose CLIP cosine with the mean of their class is lower.")
    ] = None,
    copy_threshold: Annotated[
        float, Option(help="Drop images that differ from an input by less, in levels of 255 (RMS at 32 px).")
    ] = 8,
    keep_originals: Annotated[bool, Option("--keep-originals", help="Also copy the input images.")] = False,
    dry_run: DryRun = False,
) -> None:
    """Make a training set: random mixtures of the images of each class, with labels, for ImageFolder and datasets."""
    from latentmix.commands import augment
    from latentmix.experiment.training_set import Options

    experiment = augment.prepare(folder, per_class, of, alpha, method, overrides or [])
    options = Options(copy_threshold, min_similarity, keep_originals)
    say_all(augment.run(experiment, options, out, dry_run))
