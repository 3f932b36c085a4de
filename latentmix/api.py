"""`lm.features`, and `lm.augment` and `lm.sweep`, which run the commands of these names."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from latentmix.data.pictures import read_pictures
from latentmix.experiment.tables import number, read_rows
from latentmix.feature_networks import Network, load
from latentmix.gpu import find_device
from latentmix.isolation import isolated
from latentmix.settings import expand_home

NUMBERS: dict[str, Callable[[str], Any]] = {"n": int, "count": int, "value": number, "low": number, "high": number}


@isolated()
def features(name: str | Path = "inception", device: str | torch.device | None = None) -> Network:
    """Return a feature network: images -> features, float32 [B, D].

    `name` is "inception", "dinov2", "embedded", "things", a folder of a DINOv2, or a CLIP as ARCHITECTURE/PRETRAINED,
    such as "ViT-L-14/openai". `device` is by default a GPU if there is one. The network takes uint8 tensors
    [B, 3, H, W], and also PIL images, paths, arrays and lists of them, of one size. Weights are read, or fetched, at
    the first call.

        x = lm.features("inception")(images)
        lm.metrics.frechet_distance(x, y)

    Raises: UserError where there is no such network.
    """
    network = load(str(name), find_device(str(device or ("cuda" if torch.cuda.is_available() else "cpu"))))
    return replace(network, extract=isolated()(lambda images: network.extract(read_pictures(images, None)[0])))


@isolated()
def augment(
    folder: str | Path,
    out: str | Path,
    *overrides: str | Sequence[str],
    per_class: int = 500,
    of: str | int | Sequence[int] = "2-4",
    alpha: float = 1.0,
    method: str = "nin/chm",
    **options: Any,
) -> Path:
    """Write what `latentmix augment` writes to `out`, a training set with mixtures of each class of `folder`.

        lm.augment("photos", "photos500", "model=sd15", per_class=500, keep_originals=True)

    `of` is how many images are mixed: 3, (2, 4) or "2-4". `overrides` are settings of runs. Further options are
    `min_similarity`, `copy_threshold` and `keep_originals`.
    Return the path of `out`. Raises: UserError for what the command refuses.
    """
    from latentmix.commands import augment as command
    from latentmix.compose import in_one_list
    from latentmix.errors import optional_imports, retry_lost_rows
    from latentmix.experiment.training_set import Options

    source, target = (Path(expand_home(str(path))) for path in (folder, out))
    number = str(of) if isinstance(of, str) or not isinstance(of, Sequence) else "-".join(map(str, of))

    def work() -> None:
        experiment = command.prepare(source, per_class, number, alpha, method, in_one_list(overrides))
        command.run(experiment, Options(**options), target)

    with optional_imports():
        retry_lost_rows(work)
    return target


@isolated()
def sweep(*overrides: str | Sequence[str]) -> list[dict[str, Any]]:
    """Run what `latentmix sweep` runs with the same settings; return the rows of metrics.csv.

        rows = lm.sweep("experiment=demo", "draws=8")
        table = pandas.DataFrame(rows)

    Settings can also be given as a list. A row has model, data, inversion, class, n, method, metric, value, low, high,
    count and over. Results are kept in `outputs=`, and a second call continues from what is there. With `launch=slurm`
    jobs are submitted, and the rows are those that are there already.
    Raises: UserError for settings that can't be used, and for whatever else the command refuses.
    """
    from latentmix.commands import sweep as command
    from latentmix.compose import compose, in_one_list
    from latentmix.errors import optional_imports, retry_lost_rows

    settings = in_one_list(overrides)
    config = compose(settings)
    with optional_imports():
        retry_lost_rows(lambda: command.run(config, ["sweep", *settings], None, False, False))
    table = config.folder / "metrics.csv"
    rows = read_rows(table) if table.exists() else []
    return [{key: NUMBERS.get(key, str)(value) for key, value in row.items()} for row in rows]
