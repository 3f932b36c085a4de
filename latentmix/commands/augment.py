"""`latentmix augment`: write a training set of random mixtures of the images in class folders."""

import math
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import yaml

from latentmix.commands.shared import session
from latentmix.compose import compose
from latentmix.config import differences
from latentmix.errors import UserError
from latentmix.experiment.augmentation import Augmentation
from latentmix.experiment.stages import GENERATE, INVERT, MEASURE_IF_COMPLETE, MEASURE_REFERENCES, generation
from latentmix.experiment.training_set import CARD, TABLE, Counts, Options, similarities, write_training_set
from latentmix.mixing import Method
from latentmix.storage import check_writable, key

STAGES = (INVERT, generation(copies=2))  # in the cache, and in the training set
STAGES_WITH_CLIP = (MEASURE_REFERENCES, INVERT, MEASURE_IF_COMPLETE, GENERATE)
CONFIG = "config.yaml"
ELSEWHERE = "give a new folder with -o"
# Settings that options and arguments of the command set.
OWN = {"n": "--of", "weights": "--alpha", "draws": "--per-class", "methods": "--method"}
OWN |= dict.fromkeys(("data", "data.path", "pool"), "its folder")
WITHOUT_MEANING = ("n", "pool", "draws", "methods", "metrics", "controls", "keep")


def run(experiment: Augmentation, options: Options, out: Path, dry_run: bool = False) -> list[Path]:
    """Write the training set of an experiment to `out`. Return its table, card and config."""
    folder = Path(str(experiment.config.data.path))
    if out.resolve().is_relative_to(folder.resolve()):
        raise UserError(f"{out} is in {folder}, where it would be taken for one of the classes; {ELSEWHERE}")
    settings = _settings(experiment, options)
    if not dry_run:
        _refuse_to_overwrite(out, settings)
    stages = STAGES if options.min_similarity is None else STAGES_WITH_CLIP
    if not session.run_stages(experiment, stages, "augment", dry_run):
        session.say(f"The training set would be in {out}.")
        return []
    session.write_config(out, settings)
    counts = write_training_set(experiment, options, folder, out)
    _say_counts(experiment, options, counts, out)
    return [out / TABLE, out / CARD, out / CONFIG]


def prepare(
    folder: Path, per_class: int, of: str, alpha: float, method: str, overrides: Sequence[str] = ()
) -> Augmentation:
    """Return the experiment that mixes the images of each class of a folder. Raises: UserError for wrong options."""
    sizes = _sizes(of)
    if not alpha >= 0.01:
        raise UserError(f"--alpha {alpha:g} must be at least 0.01; inf gives all images of a mixture equal weights")
    try:
        Method.parse(method)
    except ValueError as error:
        raise UserError(f"--method {method}: {error}") from error
    weights = "uniform" if math.isinf(alpha) else alpha
    for override in overrides:
        if (name := override.split("=")[0].lstrip("+~")) in OWN:
            raise UserError(f"leave out {override}; latentmix augment takes this from {OWN[name]}")
    path = re.sub(r"(['\\])", r"\\\1", str(folder))
    own = ["data=folder", f"data.path='{path}'", f"draws={per_class}", f"n={sizes}", f"pool={2 * max(sizes)}"]
    own += [f"methods=['{method}']", f"weights={weights}", "controls=[]", "metrics=[clip_distance]"]
    config = compose([*own, *overrides])
    session.prepare(config)
    return Augmentation(config)


def _sizes(of: str) -> list[int]:
    """Return the numbers of images that "2-4" or "3" stands for."""
    low, dash, high = of.partition("-")
    if re.fullmatch(r"\d+(-\d+)?", of) and 2 <= int(low) <= int(high if dash else low) <= 100:
        return list(range(int(low), int(high if dash else low) + 1))
    raise UserError(f"--of {of} must be a number of images from 2 to 100, such as 3, or a range such as 2-4")


def _settings(experiment: Augmentation, options: Options) -> dict[str, Any]:
    """Return what a training set depends on, for its config.yaml."""
    config = experiment.config
    images = {class_id: [source.id for source in experiment.data.pool(class_id)] for class_id in experiment.classes}
    own = {"per_class": config.draws, "of": list(config.n), "method": str(config.methods[0])}
    own |= {**asdict(options), "images": key(images)}
    return {"augment": own} | {name: x for name, x in config.as_dict().items() if name not in WITHOUT_MEANING}


def _refuse_to_overwrite(out: Path, settings: dict[str, Any]) -> None:
    """Raise UserError if `out` holds anything but a training set of these settings and no more mixtures."""
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file; {ELSEWHERE}")
    check_writable(out, "-o")
    if not out.is_dir() or not any(out.iterdir()):
        return
    try:
        existing = yaml.safe_load((out / CONFIG).read_text())
        old = existing["augment"]
        old["per_class"] = max(old["per_class"], settings["augment"]["per_class"])
    except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError):
        raise UserError(f"{out} is not empty, and no training set of latentmix augment; {ELSEWHERE}") from None
    if different := differences(existing, settings):
        raise UserError(f"{out} was made with other settings ({'; '.join(different[:2])}); {ELSEWHERE}")


def _say_counts(experiment: Augmentation, options: Options, counts: dict[str, Counts], out: Path) -> None:
    each = counts.values()
    copied = f" and {sum(c.copied for c in each)} originals" if options.keep_originals else ""
    unlike = f", {sum(c.unlike for c in each)} unlike their class" if options.min_similarity is not None else ""
    session.say(
        f"{sum(c.written for c in each)} mixtures{copied} of {len(counts)} classes are in {out}; dropped: "
        f"{sum(c.near_copies for c in each)} near copies of an input{unlike}"
    )
    if options.min_similarity is not None:
        mixtures, inputs = (torch.cat(x) for x in zip(*(similarities(experiment, c) for c in counts), strict=True))
        low, middle = mixtures.quantile(0.05), mixtures.median()
        session.say(
            f"CLIP similarity to the class: median {middle:.3f}, 5 % are below {low:.3f}; of the inputs themselves: "
            f"median {inputs.median():.3f}, lowest {inputs.min():.3f}"
        )
