"""Functions of `import latentmix as lm` that stand for commands and tables."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from latentmix.data.pictures import read_pictures
from latentmix.experiment.tables import number, read_rows
from latentmix.feature_networks import Network, load

NUMBERS: dict[str, Callable[[str], Any]] = {"n": int, "count": int, "value": number, "low": number, "high": number}


def features(name: str = "inception", device: str | torch.device | None = None) -> Network:
    """Return a feature network: images -> features, float32 [B, D].

    `name` is "inception", "dinov2", "embedded", "things", a folder of a DINOv2, or a CLIP as ARCHITECTURE/PRETRAINED,
    such as "ViT-L-14/openai". `device` is by default a GPU if there is one. The network takes uint8 tensors
    [B, 3, H, W], and also PIL images, paths, arrays and lists of them, of one size. Weights are read, or fetched, at
    the first call.

        x = lm.features("inception")(images)
        lm.metrics.frechet_distance(x, y)

    Raises: UserError where there is no such network.
    """
    network = load(name, device or ("cuda" if torch.cuda.is_available() else "cpu"))
    return replace(network, extract=lambda images: network.extract(read_pictures(images, None)[0]))


def augment(
    folder: str | Path,
    out: str | Path,
    *overrides: str,
    per_class: int = 500,
    of: str = "2-4",
    alpha: float = 1.0,
    method: str = "nin/chm",
    **options: Any,
) -> Path:
    """Write what `latentmix augment` writes to `out`, a training set with mixtures of each class of `folder`.

        lm.augment("photos", "photos500", "model=sd15", per_class=500, keep_originals=True)

    `overrides` are settings of runs. Further options are `min_similarity`, `copy_threshold` and `keep_originals`.
    Return `out`. Raises: UserError for what the command refuses.
    """
    from latentmix.commands import augment as command
    from latentmix.errors import optional_imports, retry_lost_rows
    from latentmix.experiment.training_set import Options

    def work() -> None:
        experiment = command.prepare(Path(folder), per_class, of, alpha, method, overrides)
        command.run(experiment, Options(**options), Path(out))

    with optional_imports():
        retry_lost_rows(work)
    return Path(out)


def sweep(*overrides: str) -> list[dict[str, Any]]:
    """Run what `latentmix sweep` runs with the same settings; return the rows of metrics.csv.

        rows = lm.sweep("experiment=demo", "draws=8")
        table = pandas.DataFrame(rows)

    A row has model, data, inversion, class, n, method, metric, value, low, high and count. Results are kept in
    `outputs=`, and a second call continues from what is there. With `launch=slurm` jobs are submitted, and the rows are
    those that are there already.
    Raises: UserError for settings that can't be used, and for whatever else the command refuses.
    """
    from latentmix.commands import sweep as command
    from latentmix.compose import compose
    from latentmix.errors import optional_imports, retry_lost_rows

    config = compose(overrides)
    with optional_imports():
        retry_lost_rows(lambda: command.run(config, ["sweep", *overrides], None, False, False))
    table = config.folder / "metrics.csv"
    rows = read_rows(table) if table.exists() else []
    return [{key: NUMBERS.get(key, str)(value) for key, value in row.items()} for row in rows]
