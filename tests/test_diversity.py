"""The CLIP score and the diversity in a run: added to a finished one, from what it kept, whatever the batch."""

import csv
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from driver import invoke
from PIL import Image
from pipelines import SD, SIZE
from safetensors.torch import load_file

from latentmix.compose import compose
from latentmix.data.shapes import Shapes
from latentmix.experiment import diversity
from latentmix.experiment.cells import MAX_PAIRS
from latentmix.experiment.experiment import Experiment
from latentmix.metrics import mean_interval

DRAWS = 5
pytestmark = pytest.mark.usefixtures("random_pipelines")
BASE = (
    *SD,
    "name=run",
    *("data.classes=[star]", "n=[2]", "methods=[fix/0,fix/chm]", "pool=7", f"draws={DRAWS}", "data.reference=7"),
    *("steps=2", "keep=1", "launch.threads=1", "metrics=[clip_distance]"),
)


@dataclass(frozen=True)
class Run:
    outputs: Path

    def experiment(self, *more: str) -> Experiment:
        return Experiment(compose([*BASE, f"outputs={self.outputs}", *more]))

    def do(self, command: str, *more: str) -> None:
        said = invoke(command, *BASE, f"outputs={self.outputs}", *more)
        assert said.code == 0, said.err

    def refusal(self, command: str, *more: str) -> str:
        said = invoke(command, *BASE, f"outputs={self.outputs}", *more)
        assert said.code == 2, said
        return said.err.splitlines()[-1]  # those before it are of the progress

    def row(self, method: str, metric: str) -> dict[str, str]:
        with (self.outputs / "run" / "metrics.csv").open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["class"] == "star"]
        (row,) = (row for row in rows if (row["method"], row["metric"]) == (method, metric))
        return row

    def column(self, method: str, name: str) -> list[float | None]:
        images = pq.read_table(self.outputs / "run" / "images.parquet").to_pylist()
        return [image[name] for image in images if image["method"] == method]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = Run(tmp_path_factory.mktemp("outputs"))
    run.do("sweep")
    return run


@pytest.fixture(scope="module")
def diverse(finished: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The same with more measures, from a sweep that goes on from there."""
    run = Run(shutil.copytree(finished.outputs, tmp_path_factory.mktemp("diverse"), dirs_exist_ok=True))
    run.do("sweep", "metrics=[diversity,clip_distance]")
    return run


@pytest.fixture
def copy(finished: Run, tmp_path: Path) -> Run:
    return Run(shutil.copytree(finished.outputs, tmp_path / "outputs"))


def test_a_clip_score_is_added_without_generating_again(copy: Run) -> None:
    """And by hand from the features that were kept, and the text's."""
    shutil.rmtree(copy.outputs / "cache" / "latents")
    copy.do("evaluate", "metrics=[clip_distance,clip_score]")
    experiment = copy.experiment()
    kept = map(load_file, (copy.outputs / "cache" / "prompts").glob("*/*.safetensors"))
    (prompt,) = (row["features"] for row in kept if "features" in row)  # others are the diffusion model's
    cell = experiment.cells.mixed[1]
    ids = [f"{draw:06d}" for draw in range(DRAWS)]
    made = experiment.layout.features(cell, experiment.networks["clip"]).gather(ids, "features")
    expected = 100 * torch.nn.functional.cosine_similarity(made, prompt)
    assert copy.column("fix/chm", "clip_score") == pytest.approx(expected.tolist(), abs=1e-3)
    row = copy.row("fix/chm", "clip_score_embedded")
    assert float(row["value"]) == pytest.approx(expected.mean().item(), abs=1e-3)
    assert int(row["count"]) == DRAWS


def test_a_diversity_needs_pictures(copy: Run) -> None:
    assert "latentmix sweep makes them" in copy.refusal("evaluate", "metrics=[diversity]", "overwrite=true")


def pictures(experiment: Experiment, place: int) -> torch.Tensor:
    paths = [experiment.layout.image_path(experiment.cells.mixed[place], draw) for draw in range(DRAWS)]
    return torch.from_numpy(np.stack([np.asarray(Image.open(path)) for path in paths])).permute(0, 3, 1, 2)


@pytest.mark.parametrize(("place", "method"), [(0, "fix/0"), (1, "fix/chm")])
def test_a_diversity_is_the_mean_distance_of_draws_two_by_two(diverse: Run, place: int, method: str) -> None:
    """The fifth draw is in no pair."""
    experiment = diverse.experiment()
    images = pictures(experiment, place)
    expected = experiment.perceptual.between(images[[0, 2]], images[[1, 3]])
    assert expected.min() > 0.1
    row, estimate = diverse.row(method, "diversity_embedded"), mean_interval(expected)
    values = [float(row[name]) for name in ("value", "low", "high")]
    assert values == pytest.approx([estimate.value, max(estimate.low, 0), estimate.high], rel=1e-4)
    assert int(row["count"]) == 2
    a, b = expected.tolist()
    column = diverse.column(method, "diversity")
    assert column[:4] == pytest.approx([a, a, b, b], rel=1e-4) and column[4] is None


def test_real_images_have_a_diversity_too(diverse: Run) -> None:
    sources = Shapes().images("star", 7)
    images = torch.from_numpy(np.stack([source.pixels(SIZE) for source in sources])).permute(0, 3, 1, 2)
    expected = diverse.experiment().perceptual.between(images[0:6:2], images[1:6:2])
    row = diverse.row("real", "diversity_embedded")
    assert float(row["value"]) == pytest.approx(expected.mean().item(), rel=1e-4)
    assert int(row["count"]) == 3


def test_what_was_measured_before_stays(finished: Run, diverse: Run) -> None:
    assert finished.row("fix/0", "clip_distance_embedded") == diverse.row("fix/0", "clip_distance_embedded")


@pytest.mark.parametrize("batch", [1, 7])
def test_no_distance_depends_on_the_batch(diverse: Run, tmp_path: Path, batch: int) -> None:
    run = Run(shutil.copytree(diverse.outputs, tmp_path / "outputs"))
    usual, other = (run.experiment("metrics=[diversity]", f"batch={size}") for size in (32, batch))
    cell = usual.cells.mixed[0]
    before = diversity.draw_pairs(usual, cell).distances
    shutil.rmtree(usual.layout.distances(cell, usual.perceptual).folder)
    tasks = diversity.COMPARE_PAIRS.plan(other, batch).tasks
    assert len(tasks) == (2 if batch == 1 else 1)
    for task in tasks:
        task.compute(task.read())
    assert (diversity.draw_pairs(other, cell).distances - before).abs().max() < 1e-4
    assert not diversity.COMPARE_PAIRS.plan(other, batch).tasks


@pytest.mark.filterwarnings("ignore:draws=1000 is more")
def test_few_pictures_are_kept_for_pairs(finished: Run) -> None:
    assert finished.experiment().cells.images_kept == 1
    assert finished.experiment("metrics=[diversity]").cells.images_kept == 2 * MAX_PAIRS
    assert finished.experiment("metrics=[diversity]", "keep=400").cells.images_kept == 400
    experiment = finished.experiment("metrics=[diversity]", "draws=1000", "pool=20")
    assert len(diversity.draw_pairs(experiment, experiment.cells.mixed[0]).pairs) == MAX_PAIRS
