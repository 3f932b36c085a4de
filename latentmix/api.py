"""`lm.features` and `lm.diagnose`, and `lm.augment` and `lm.sweep`, which run the commands of these names."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from numbers import Real
from pathlib import Path
from typing import Any

import torch

from latentmix import diagnosis
from latentmix.arguments import count_of
from latentmix.data.caller_images import read_pictures
from latentmix.diagnosis import Diagnosis
from latentmix.errors import UserError, naming_arguments, optional_imports, retry_lost_rows
from latentmix.experiment.csv_files import number, read_rows
from latentmix.feature_networks import Network, load
from latentmix.gpu import find_device
from latentmix.isolation import isolated
from latentmix.latents import Latents, joined
from latentmix.mixing.inputs import read
from latentmix.runner.progress import Progress, shown
from latentmix.settings import expand_home

NUMBERS: dict[str, Callable[[str], Any]] = {"n": int, "count": int, "value": number, "low": number, "high": number}


@naming_arguments
@isolated()
def features(name: str | Path = "inception", device: str | torch.device | None = None) -> Network:
    """Return a feature network: images -> features, float32 [B, D].

    `name` is "inception", "dinov2", "embedded", "things", a folder of a DINOv2, a network of another package, or a CLIP
    as ARCHITECTURE/PRETRAINED, such as "ViT-L-14/openai". `device` is by default a GPU if there is one. The network
    takes uint8 tensors [B, 3, H, W], and also PIL images, paths, arrays and lists of them, of one size. Weights are
    read, or fetched, at the first call.

        x = lm.features("inception")(images)
        lm.metrics.frechet_distance(x, y)

    Raises: UserError where there is no such network.
    """
    network = load(str(name), find_device(str(device or ("cuda" if torch.cuda.is_available() else "cpu"))))
    return replace(network, extract=isolated()(lambda images: network.extract(read_pictures(images, None)[0])))


@isolated()
def diagnose(latents: Any) -> Diagnosis:
    """Return what latents at t = T have in common, by frequency, and up to which N they can be mixed by which method.

    `latents` is what `Pipeline.invert` returned, or a tensor, an array or a list [N, C, h, w], of one model and one
    kind of images, as for `lm.mix`. A bias d, which all of them share, is amplified by √N where a norm is restored
    (Landolsi & Kahl, Sections 4.2, 4.3). White noise has no bias, and variance 1 in each octave. With 100 latents,
    a bias is found whose square is a hundredth of the variance; with few, only a larger one.

        found = lm.diagnose(pipe.invert(images))  # its text is a table of octaves, and the method to take for each N
        lm.mix(z, weights, found.recommended(8))  # for mixtures of 8; not of more latents than were diagnosed
        found.safe, found.octaves, found.autocorrelation

    `terminal`, the share of the bias that the images themselves explain, is NaN here; `latentmix diagnose` has it.
    Raises: ValueError for fewer than two latents, for another shape, and for NaN or infinity.
    """
    given = joined(latents)
    z, _ = read(given.rows if isinstance(given, Latents) else given, spatial=True)
    with optional_imports():
        return diagnosis.diagnose(z.detach().cpu())


@naming_arguments
@isolated()
def augment(
    folder: str | Path,
    out: str | Path,
    *overrides: str | Sequence[str],
    per_class: int = 500,
    of: str | int | Sequence[int] = "2-4",
    alpha: float = 1.0,
    method: str = "nin/chm",
    copy_threshold: float = 8.0,
    min_similarity: float | None = None,
    keep_originals: bool = False,
    progress: Progress = True,
) -> Path:
    """Write what `latentmix augment` writes to `out`, a training set with mixtures of each class of `folder`.

        lm.augment("photos", "photos500", "model=sd15", per_class=500, keep_originals=True)

    `of` is how many images are mixed: 3, (2, 4) or "2-4", and `alpha` the parameter of the Dirichlet distribution of
    their weights. `overrides` are settings of runs. A mixture is left out if it differs from an image of its class by
    less than `copy_threshold` levels of 255 (root mean square at 32 × 32 pixels), or if the cosine of its CLIP
    embedding and the mean embedding of its class is less than `min_similarity`. `progress` is that of `lm.sweep`.
    Return the path of `out`: `out/train` is for torchvision's ImageFolder. Raises: UserError for what the command
    refuses.
    """
    from latentmix.commands import augment as command
    from latentmix.compose import in_one_list
    from latentmix.experiment.training_set import Options

    for name, value in {"alpha": alpha, "copy_threshold": copy_threshold, "min_similarity": min_similarity}.items():
        if not isinstance(value, Real) and (value is not None or name != "min_similarity"):
            raise UserError(f"{name}={value!r} must be a number")
    per_class = count_of("per_class", per_class, least=2)
    source, target = (Path(expand_home(str(path))) for path in (folder, out))
    number = str(of) if isinstance(of, str) or not isinstance(of, Sequence) else "-".join(map(str, of))

    def work() -> None:
        experiment = command.prepare(source, per_class, number, alpha, method, in_one_list(overrides))
        command.run(experiment, Options(copy_threshold, min_similarity, keep_originals), target)

    with optional_imports(), shown(progress):
        retry_lost_rows(work)
    return target


@isolated()
def sweep(*overrides: str | Sequence[str], progress: Progress = True) -> list[dict[str, Any]]:
    """Run what `latentmix sweep` runs with the same settings; return the rows of metrics.csv.

        rows = lm.sweep("experiment=demo", "draws=8")
        table = pandas.DataFrame(rows)

    Settings can also be given as a list. A row has model, data, inversion, class, n, method, metric, value, low, high,
    count and over. Results are kept in `outputs=`, and a second call continues from what is there. With `launch=slurm`
    jobs are submitted, and the rows are those that are there already.

    `progress=False` hides bars and printed lines; warnings remain. A function is called in place of both, at each batch
    or twice a second, as `progress(stage, done, total)` in images. An exception that it raises stops the run, and a
    second call continues.
    Raises: UserError for settings that can't be used, and for whatever else the command refuses.
    """
    from latentmix.commands import sweep as command
    from latentmix.compose import compose, in_one_list

    settings = in_one_list(overrides)
    config = compose(settings)
    with optional_imports(), shown(progress):
        retry_lost_rows(lambda: command.run(config, ["sweep", *settings], None, False, False))
    table = config.folder / "metrics.csv"
    rows = read_rows(table) if table.exists() else []
    return [{key: NUMBERS.get(key, str)(value) for key, value in row.items()} for row in rows]
