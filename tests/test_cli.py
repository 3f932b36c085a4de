"""The command line as a user meets it: what it prints, what it leaves on disk, that the numbers are those of the files
beside them, and that whatever is wrong is said in one line."""

import csv
import json
import math
import os
import resource
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib import metadata
from itertools import product
from pathlib import Path

import diffusers
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from driver import Said, invoke
from driver import rows as cached
from PIL import Image
from pipelines import FOLDER, SD, SIZE
from safetensors.torch import load_file
from scipy import stats

from latentmix.cli.shared import figure_name
from latentmix.commands.mix import _file
from latentmix.compose import compose, validate
from latentmix.data.shapes import Shapes
from latentmix.experiment.csv_files import three_digits
from latentmix.experiment.draws import NOISE, Cell, subset, uniform_weights
from latentmix.experiment.experiment import Experiment
from latentmix.experiment.generation import generate_plainly
from latentmix.experiment.stages import mix_cell
from latentmix.metrics import METRICS, mean, paired
from latentmix.mixing import Method, mix
from latentmix.models.unet import UNetModel

CLOTHING = Path(__file__).resolve().parents[2] / "shared" / "data" / "clothing"
CLASSES, NS, METHODS = ("star", "heart"), (2, 4), ("fix/0", "fix/chm")
POOL, DRAWS, REFERENCE = 9, 6, 20
STEPS = 4  # which divides 1000, as diffusers' scheduler wants it
SETTINGS = (
    "data.classes=[star,heart]",
    "n=[2,4]",
    "methods=[fix/0,fix/chm]",
    f"pool={POOL}",
    f"draws={DRAWS}",
    f"data.reference={REFERENCE}",
    f"steps={STEPS}",
    "launch.threads=1",
)
BASE = (*SD, *SETTINGS)
pytestmark = pytest.mark.usefixtures("random_pipelines")
COMMANDS = (
    *("invert", "mix", "generate", "evaluate", "sweep", "reconstruct", "diagnose", "probe", "figure", "status"),
    "morph",
    *("report", "compare", "bench", "doctor", "fetch", "cache", "check-inversion"),
)
IMAGES = len(CLASSES) * len(NS) * len(METHODS) * DRAWS


def done(*arguments: str) -> Said:
    said = invoke(*arguments)
    assert said.code == 0, said.err
    return said


def refusal(*arguments: str) -> str:
    """The one line with which a command refuses."""
    said = invoke(*arguments)
    assert said.code == 2, said
    (line,) = said.err.splitlines()
    assert line.startswith("latentmix: error: ")
    return line


def files(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Contents and times of all files but those in which workers tell each other what they do."""
    there = sorted(path for path in folder.rglob("*") if path.is_file() and "work" not in path.parts)
    return {str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns) for path in there}


@dataclass(frozen=True)
class Run:
    """A finished sweep; tests read it and leave it as it is."""

    outputs: Path
    said: Said

    @property
    def folder(self) -> Path:
        return self.outputs / "sd-shapes"

    @property
    def arguments(self) -> tuple[str, ...]:
        return (*BASE, f"outputs={self.outputs}")

    @property
    def experiment(self) -> Experiment:
        return Experiment(compose(self.arguments))

    @property
    def rows(self) -> list[dict[str, str]]:
        with (self.folder / "metrics.csv").open(newline="") as file:
            return list(csv.DictReader(file))

    def row(self, class_id: str, n: int, method: str, metric: str) -> dict[str, str]:
        (row,) = (
            r for r in self.rows if (r["class"], r["n"], r["method"], r["metric"]) == (class_id, str(n), method, metric)
        )
        return row


def pipeline_folder() -> Path:
    """Return the folder of the pipeline that `BASE` runs."""
    return Path(os.environ[FOLDER]) / "sd"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    outputs = tmp_path_factory.mktemp("outputs")
    return Run(outputs, done("sweep", *BASE, f"outputs={outputs}"))


@pytest.fixture
def copy(run: Run, tmp_path: Path) -> Run:
    """The finished sweep, to change."""
    return Run(shutil.copytree(run.outputs, tmp_path / "outputs"), run.said)


# Help


def test_the_version_is_the_package_s() -> None:
    assert done("--version").out == f"latentmix {metadata.version('latentmix')}\n"


def test_help_answers_at_once_and_imports_nothing_heavy() -> None:
    script = (
        "import sys; sys.argv = ['latentmix', '--help']\n"
        "from latentmix import cli\n"
        "try: cli.main()\n"
        "except SystemExit as stop: assert not stop.code\n"
        "heavy = ['torch', 'hydra', 'omegaconf', 'diffusers', 'transformers', 'pydantic', 'numpy', 'matplotlib']\n"
        "print('imported:', *(name for name in heavy if name in sys.modules))"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert all(command in result.stdout for command in COMMANDS)
    assert result.stdout.splitlines()[-1].split() == ["imported:"]
    # Time of the processor, since the clock also counts whatever else the machine does.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_shows_its_examples_whole(command: str) -> None:
    for flag in ("--help", "-h"):
        text = done(command, flag).out
        assert "Examples:" in text
        shown = " ".join(text.split("Examples:")[1].split())
        assert f"latentmix {command} " in f"{shown} "
        assert "=' " not in f"{shown} "  # values in brackets, which rich could take for markup


def test_without_a_command_the_help_appears() -> None:
    assert "Usage" in invoke().out


# What a sweep leaves


def test_columns_of_the_table(run: Run) -> None:
    first = (run.folder / "metrics.csv").read_text().splitlines()[0]
    assert first == "model,data,inversion,class,n,method,metric,value,low,high,count,over"


def test_every_cell_and_average_stands_in_the_table_once(run: Run) -> None:
    metrics = (
        *("fd_embedded", "clip_distance_embedded", "clip_score_embedded", "kd_embedded", "cmmd_embedded"),
        *("precision_embedded", "recall_embedded", "density_embedded", "coverage_embedded"),
    )
    cells = [*product(map(str, NS), METHODS), ("0", "real")]
    wanted = sorted((c, *cell, metric) for c, cell, metric in product((*CLASSES, "all"), cells, metrics))
    assert sorted((r["class"], r["n"], r["method"], r["metric"]) for r in run.rows) == wanted
    assert {(r["model"], r["data"], r["inversion"]) for r in run.rows} == {("sd", "shapes", "ddim")}


def test_values_lie_in_their_intervals_and_counts_are_right(run: Run) -> None:
    for row in run.rows:
        assert float(row["low"]) <= float(row["value"]) <= float(row["high"])
        of_class = (REFERENCE // 2, "images") if row["method"] == "real" else (DRAWS, "draws")
        classes = len(CLASSES) if row["class"] == "all" else 1  # fewer than four, so the interval is over draws
        assert (int(row["count"]), row["over"]) == (classes * of_class[0], of_class[1])


def test_intervals_are_possible_values(run: Run) -> None:
    shares = {f"{name}_embedded" for name in ("precision", "recall", "coverage")}
    for row in run.rows:
        if row["metric"] not in ("kd_embedded", "cmmd_embedded"):  # unbiased, so these may be negative
            assert float(row["low"]) >= 0
        if row["metric"] in shares:
            assert float(row["high"]) <= 1
        if row["metric"].startswith("clip_distance"):
            assert float(row["high"]) <= 2
    for row in pairs_of(run):
        if row["metric"] in shares:
            assert -1 <= float(row["low"]) <= float(row["high"]) <= 1


def test_the_average_is_the_mean_of_the_classes(run: Run) -> None:
    for row in (r for r in run.rows if r["class"] == "all"):
        cells = [run.row(c, int(row["n"]), row["method"], row["metric"]) for c in CLASSES]
        values = [float(cell["value"]) for cell in cells]
        assert float(row["value"]) == pytest.approx(np.mean(values), rel=1e-14)
        ends = [[float(cell[end]) for cell in cells] for end in ("low", "high")]
        low, high = (
            np.mean(values) + sign * np.linalg.norm(np.subtract(end, values)) / len(values)
            for sign, end in zip((-1, 1), ends, strict=True)
        )
        assert (float(row["low"]), float(row["high"])) == pytest.approx((low, high), rel=1e-9, abs=1e-12)


def test_the_config_beside_the_results_is_that_of_the_run(run: Run) -> None:
    plain = yaml.safe_load((run.folder / "config.yaml").read_text())
    assert validate(plain) == compose(run.arguments)
    assert plain["methods"] == list(METHODS)


def test_the_note_that_a_run_is_done_says_what_was_run(run: Run) -> None:
    note = json.loads((run.folder / "done.json").read_text())
    assert validate(note["config"]) == compose(run.arguments)
    assert note["model"]["precision"] == "float32"
    assert note["versions"]["torch"] == metadata.version("torch")
    *_, done, report = sorted(run.folder.iterdir(), key=lambda path: path.stat().st_mtime_ns)
    assert (done.name, report.name) == ("done.json", "report.html")


@pytest.mark.parametrize("name", ["fig1", "fig7"])
def test_figures_are_there_and_show_something(run: Run, name: str) -> None:
    with Image.open(run.folder / f"{name}.png") as image:
        pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
        assert min(image.size) > 200
    assert len(np.unique(pixels, axis=0)) > 50
    pdf = (run.folder / f"{name}.pdf").read_bytes()
    assert pdf.startswith(b"%PDF-") and pdf.rstrip().endswith(b"%%EOF") and len(pdf) > 5000


def test_the_output_names_each_file_and_shows_the_averages(run: Run) -> None:
    for name in ("metrics.csv", "pairs.csv", "config.yaml", "fig1.png", "fig1.pdf", "fig7.png", "fig7.pdf"):
        assert str(run.folder / name) in run.said.out.splitlines()
    assert "fix/chm" in run.said.out and "N = 4" in run.said.out
    for method, n in product(METHODS, NS):
        assert three_digits(float(run.row("all", n, method, "fd_embedded")["value"])) in run.said.out


def test_distances_image_by_image_average_to_the_table(run: Run) -> None:
    images = pq.read_table(run.folder / "images.parquet").to_pylist()
    assert len(images) == IMAGES
    for class_id, n, method in product(CLASSES, NS, METHODS):
        cell = [i for i in images if (i["class"], i["n"], i["method"]) == (class_id, n, method)]
        assert [i["draw"] for i in cell] == list(range(DRAWS))
        mean = torch.tensor([i["clip_distance"] for i in cell], dtype=torch.float64).mean().item()
        assert repr(mean) == run.row(class_id, n, method, "clip_distance_embedded")["value"]


# The numbers by hand


def features(experiment: Experiment, cell: Cell, network: str) -> tuple[np.ndarray, np.ndarray]:
    """Of the generated and of the real images, in order."""
    made = cached(experiment.layout.features(cell, experiment.networks[network]).folder, "features")
    real = cached(experiment.layout.references(cell.class_id, experiment.networks[network]).folder, "features")
    assert (len(made), len(real)) == (DRAWS, REFERENCE)
    return np.stack([made[id_] for id_ in sorted(made)]), np.stack(list(real.values()))


def frechet(x: np.ndarray, y: np.ndarray) -> float:
    """With square roots of the covariances, which the package does without."""
    sigma_x, sigma_y = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    values, vectors = np.linalg.eigh(sigma_x)
    root = vectors * np.sqrt(values.clip(0)) @ vectors.T
    overlap = np.sqrt(np.linalg.eigvalsh(root @ sigma_y @ root).clip(0)).sum()
    shift = x.mean(0) - y.mean(0)
    return float(shift @ shift + np.trace(sigma_x) + np.trace(sigma_y) - 2 * overlap)


def cosine(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    x, y = (f / np.linalg.norm(f, axis=1, keepdims=True) for f in (x, y))
    return 1 - x @ y.mean(0) / np.linalg.norm(y.mean(0))


@pytest.mark.parametrize(("class_id", "n", "method"), [*product(CLASSES, NS, METHODS)])
def test_values_and_intervals_by_hand(run: Run, class_id: str, n: int, method: str) -> None:
    experiment, cell = run.experiment, Cell(class_id, n, Method.parse(method))
    made, real = features(experiment, cell, "frechet")
    row = run.row(class_id, n, method, "fd_embedded")
    assert float(row["value"]) == pytest.approx(frechet(made, real), rel=1e-6)
    groups = DRAWS // 2
    left_out = np.array([frechet(made[np.arange(DRAWS) % groups != g], real) for g in range(groups)])
    half = stats.t.ppf(0.975, groups - 1) * np.sqrt((groups - 1) / groups * ((left_out - left_out.mean()) ** 2).sum())
    assert float(row["high"]) - float(row["value"]) == pytest.approx(half, rel=1e-4)

    distances = cosine(*features(experiment, cell, "clip"))
    row = run.row(class_id, n, method, "clip_distance_embedded")
    assert float(row["value"]) == pytest.approx(distances.mean(), abs=1e-9)
    expected = mean(torch.from_numpy(distances), (None, 1.0)).interval()
    assert (float(row["low"]), float(row["high"])) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_other_metrics_by_their_functions(run: Run) -> None:
    """Which are held against other implementations elsewhere: here, that they get the right features."""
    experiment, cell = run.experiment, Cell("heart", 4, Method("fix", "chm"))
    for name in run.experiment.config.metrics:
        metric = METRICS[name]
        made, real = (torch.from_numpy(x) for x in features(experiment, cell, metric.network))
        if metric.of_prompt:
            real = experiment.texts.features("heart", experiment.networks["clip"])
        row = run.row("heart", 4, "fix/chm", metric.column(name, "embedded"))
        assert float(row["value"]) == pytest.approx(metric.sample(made, real).value, rel=1e-6, abs=1e-9)
        ids = [source.id for source in experiment.data.references("heart")]
        there = cached(experiment.layout.references("heart", experiment.networks[metric.network]).folder, "features")
        ordered = torch.from_numpy(np.stack([there[id_] for id_ in ids]))
        row = run.row("heart", 0, "real", metric.column(name, "embedded"))
        cfg_factor = metric.sample(ordered[::2], real if metric.of_prompt else ordered[1::2])
        assert float(row["value"]) == pytest.approx(cfg_factor.value, rel=1e-6, abs=1e-9)


def pairs_of(run: Run) -> list[dict[str, str]]:
    with (run.folder / "pairs.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_methods_are_paired_with_fix_0(run: Run) -> None:
    rows = pairs_of(run)
    assert list(rows[0]) == [
        *("model", "data", "inversion", "class", "n", "metric", "method", "reference"),
        *("difference", "low", "high", "won", "count", "over"),
    ]
    metrics = {row["metric"] for row in run.rows}
    wanted = sorted(product((*CLASSES, "all"), map(str, NS), metrics))
    assert sorted((row["class"], row["n"], row["metric"]) for row in rows) == wanted
    assert {(row["method"], row["reference"]) for row in rows} == {("fix/chm", "fix/0")}
    for row in rows:
        a, b = (run.row(row["class"], int(row["n"]), method, row["metric"]) for method in ("fix/chm", "fix/0"))
        assert float(row["difference"]) == pytest.approx(float(a["value"]) - float(b["value"]), abs=1e-12)
        assert float(row["low"]) <= float(row["difference"]) <= float(row["high"])
        assert row["count"] == a["count"]


@pytest.mark.usefixtures("no_figures")
@pytest.mark.parametrize(
    ("methods", "reference", "others"),
    [("fix/chm,fix/0", "fix/0", {"fix/chm"}), ("nin/0,fix/chm,fix/0", "fix/0", {"nin/0", "fix/chm"})],
)
def test_fix_0_is_the_reference_wherever_it_stands(methods: str, reference: str, others: set[str], copy: Run) -> None:
    few = ("metrics=[clip_distance]", "n=[2]", "keep=0", "overwrite=true")
    done("sweep", *copy.arguments, f"methods=[{methods}]", *few)
    rows = pairs_of(copy)
    assert {(row["method"], row["reference"]) for row in rows} == {(other, reference) for other in others}
    for row in rows:
        a, b = (copy.row(row["class"], int(row["n"]), method, row["metric"]) for method in (row["method"], reference))
        assert float(row["difference"]) == pytest.approx(float(a["value"]) - float(b["value"]), abs=1e-12)


def test_pairs_by_hand(run: Run) -> None:
    """The difference of the distances image by image, and the share of draws in which fix/chm is nearer."""
    images = pq.read_table(run.folder / "images.parquet").to_pylist()
    shares = {}
    for class_id in CLASSES:
        a, b = (
            np.array([i["clip_distance"] for i in images if (i["class"], i["n"], i["method"]) == (class_id, 4, method)])
            for method in ("fix/chm", "fix/0")
        )
        (row,) = (
            r for r in pairs_of(run) if (r["class"], r["n"], r["metric"]) == (class_id, "4", "clip_distance_embedded")
        )
        first, second = (mean(torch.from_numpy(x), (None, 1.0)) for x in (a, b))
        compared = paired(first, second).difference
        assert [float(row[name]) for name in ("difference", "low", "high")] == pytest.approx(
            [(a - b).mean(), compared.low, compared.high], rel=1e-6
        )
        assert float(row["won"]) == pytest.approx((a < b).mean())
        shares[class_id] = float(row["won"])
    (row,) = (r for r in pairs_of(run) if (r["class"], r["n"], r["metric"]) == ("all", "4", "clip_distance_embedded"))
    assert float(row["won"]) == pytest.approx(np.mean(list(shares.values())))
    assert {r["won"] for r in pairs_of(run) if r["metric"] == "fd_embedded"} == {""}


@pytest.mark.usefixtures("no_figures")
def test_gaussian_latents_are_mixed_by_the_same_draws_as_a_control(copy: Run) -> None:
    """Each method beside its control: the same subsets and weights, of latents that no image is behind."""
    done("sweep", *copy.arguments, "controls=[gauss]", "keep=2", "overwrite=true")
    methods = {f"gauss:{method}" for method in METHODS}
    assert {row["method"] for row in copy.rows} == {*METHODS, *methods}
    assert {(row["n"], row["class"]) for row in copy.rows if row["method"] in methods} == {
        (str(n), class_id) for n in NS for class_id in (*CLASSES, "all")
    }
    compared = {(row["method"], row["reference"]) for row in pairs_of(copy)}
    assert compared == {("fix/chm", "fix/0"), *((method, f"gauss:{method}") for method in METHODS)}

    experiment = Experiment(compose([*copy.arguments, "controls=[gauss]"]))
    pool = experiment.gaussian_latents.pool("star")
    assert pool.shape == (POOL, *experiment.model.latent_shape(SIZE))
    assert not torch.equal(pool, experiment.gaussian_latents.pool("heart"))
    cell = Cell("star", 2, Method.parse("fix/chm"), gaussian=True)
    mixed = mix_cell(experiment, cell, [3, 1])["latents"]
    torch.testing.assert_close(mixed, mix(pool, uniform_weights(0, "star", [3, 1], 2, POOL), "fix/chm"))
    clean = generate_plainly(experiment, "star", mixed, experiment.generation_schedule, "")
    images = experiment.model.decode(clean)
    with Image.open(experiment.layout.image_path(cell, 1)) as image:
        np.testing.assert_allclose(np.asarray(image), images[1].permute(1, 2, 0), atol=2)


@pytest.mark.usefixtures("no_figures")
def test_random_latents_are_a_control(copy: Run) -> None:
    """Generated under the class's prompt, from noise of their own; measured as all else, and paired with nothing."""
    before = files(copy.outputs / "cache" / "cells")
    done("sweep", *copy.arguments, "controls=[noise]", "keep=2", "overwrite=true")
    assert before.items() <= files(copy.outputs / "cache" / "cells").items()
    assert {row["n"] for row in copy.rows if row["method"] == "noise"} == {"0"}
    assert "real" not in {row["method"] for row in copy.rows}
    assert {row["method"] for row in pairs_of(copy)} == {"fix/chm"}
    experiment = Experiment(compose([*copy.arguments, "controls=[noise]"]))
    z = experiment.noise("star", range(64))
    assert abs(z.mean().item()) < 4 / z.numel() ** 0.5
    assert z.var().item() == pytest.approx(1, abs=6 / z.numel() ** 0.5)
    assert torch.equal(experiment.noise("star", [5])[0], z[5])
    assert not torch.equal(experiment.noise("heart", [5])[0], z[5])
    cell = Cell("star", 0, NOISE)
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(pipeline_folder(), dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = type(pipeline.scheduler).from_config(pipeline.scheduler.config, timestep_spacing="trailing")
    image = pipeline(
        experiment.data.prompt("star"),
        latents=z[:1],
        num_inference_steps=STEPS,
        guidance_scale=experiment.config.guidance,
    ).images[0]
    with Image.open(experiment.layout.image_path(cell, 0)) as kept:
        assert np.abs(np.asarray(kept).astype(int) - np.asarray(image).astype(int)).max() <= 2


def test_features_are_those_of_the_pictures_and_of_the_class(run: Run) -> None:
    experiment, cell = run.experiment, Cell("heart", 4, Method("fix", "chm"))
    with Image.open(experiment.layout.image_path(cell, 3)) as image:
        image_path = np.asarray(image)
    real = Shapes().images("heart", 2)[1].pixels(SIZE)
    for network in experiment.networks:
        made = cached(experiment.layout.features(cell, experiment.networks[network]).folder, "features")["000003"]
        of_real = cached(experiment.layout.references("heart", experiment.networks[network]).folder, "features")[
            "heart/1"
        ]
        pair = torch.from_numpy(np.stack([image_path, real])).permute(0, 3, 1, 2)
        extracted = experiment.networks[network].extract(pair).double().numpy()
        np.testing.assert_allclose(extracted, np.stack([made, of_real]), atol=1e-5)


def test_a_picture_is_what_diffusers_makes_of_the_same_latents(run: Run) -> None:
    """From the cached latents on: eq. 2 by hand, then diffusers' networks and scheduler with guidance."""
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    experiment, folder, draw = run.experiment, pipeline_folder(), 2
    latents = cached(experiment.layout.latents("star").folder, "latents")
    chosen = np.stack([latents[f"star/{i}"] for i in subset(0, "star", draw, POOL)[:4]])
    mean = chosen.mean(0)
    z = torch.from_numpy(mean / np.linalg.norm(mean) * math.sqrt(mean.size)).float()[None]

    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    encoder = CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=torch.float32)
    length = encoder.config.max_position_embeddings
    ids = tokenizer(["", "a photo of a star"], padding="max_length", max_length=length, return_tensors="pt").input_ids
    unet = UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=torch.float32)
    vae = AutoencoderKL.from_pretrained(folder / "vae", torch_dtype=torch.float32)
    scheduler = DDIMScheduler.from_pretrained(folder / "scheduler", timestep_spacing="trailing")
    scheduler.set_timesteps(STEPS)
    with torch.no_grad():
        text = encoder(ids).last_hidden_state
        for t in scheduler.timesteps:
            null, told = unet(torch.cat([z, z]), t, text).sample.chunk(2)
            z = scheduler.step(null + experiment.config.guidance * (told - null), t, z).prev_sample
        pixels = vae.decode(z / vae.config.scaling_factor).sample[0]
    wanted = ((pixels / 2 + 0.5).clamp(0, 1) * 255).permute(1, 2, 0).numpy()
    with Image.open(experiment.layout.image_path(Cell("star", 4, Method("fix", "0")), draw)) as image:
        assert np.abs(np.asarray(image).astype(float) - wanted).max() < 0.55  # half a grey level, and rounding


# A second time, and in stages


def test_a_second_run_changes_nothing_and_says_so(copy: Run) -> None:
    cache, table = files(copy.outputs / "cache"), (copy.folder / "metrics.csv").read_bytes()
    said = done("sweep", *copy.arguments)
    assert files(copy.outputs / "cache") == cache
    assert (copy.folder / "metrics.csv").read_bytes() == table
    counts = {"real images": len(CLASSES) * REFERENCE, "invert": len(CLASSES) * POOL, "generate": IMAGES}
    assert said.err.splitlines() == [f"{name}: all {count} images are there already" for name, count in counts.items()]


def test_stage_by_stage_gives_what_a_sweep_gives(run: Run, tmp_path: Path) -> None:
    outputs = f"outputs={tmp_path}"
    for command in ("invert", "mix", "generate", "evaluate"):
        done(command, *BASE, outputs)
    for name in ("metrics.csv", "pairs.csv", "images.parquet"):
        assert (tmp_path / "sd-shapes" / name).read_bytes() == (run.folder / name).read_bytes()
    pictures = tmp_path / "sd-shapes" / "images"
    assert len(list(pictures.rglob("*.png"))) == IMAGES
    kept = run.experiment.layout.image_path(Cell("heart", 4, Method("fix", "chm")), 1)
    assert (pictures / "heart" / "fix-chm" / "N=004" / "000001.png").read_bytes() == kept.read_bytes()
    centroid = cached(
        Experiment(compose([*BASE, outputs])).layout.centroids(Cell("star", 2, Method("fix", "0"))).folder, "latents"
    )
    assert sorted(centroid) == [f"{draw:06d}" for draw in range(DRAWS)]
    norm = math.sqrt(centroid["000000"].size)
    assert np.linalg.norm(centroid["000000"]) == pytest.approx(norm, rel=1e-5)


# Dry runs


def table(out: str) -> dict[str, tuple[int, int, int]]:
    """stage -> images to do, images done before, network evaluations."""
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in out.splitlines() if line.startswith("│")]
    return {name: (int(to_do), int(before), int(evaluations)) for name, to_do, before, evaluations, _ in rows}


INVERT = {"invert": (len(CLASSES) * POOL, 0, len(CLASSES) * POOL * STEPS)}
REAL = {"real images": (len(CLASSES) * REFERENCE, 0, 0)}


@pytest.mark.parametrize(
    ("command", "planned"),
    [
        (["invert"], INVERT),
        (["mix"], INVERT | {"mix": (IMAGES, 0, 0)}),
        (["mix", "--weights", "0.5,0.5"], INVERT),
        (["generate"], INVERT | {"generate": (IMAGES, 0, IMAGES * STEPS * 2)}),
        (["generate", "guidance=1"], INVERT | {"generate": (IMAGES, 0, IMAGES * STEPS)}),
        (
            ["generate", "inversion.guidance=3"],
            {
                "invert": (len(CLASSES) * POOL, 0, len(CLASSES) * POOL * STEPS * 2),
                "generate": (IMAGES, 0, IMAGES * STEPS * 2),
            },
        ),
        (["sweep"], REAL | INVERT | {"generate": (IMAGES, 0, IMAGES * STEPS * 2)}),
        (
            ["sweep", "inversion.steps=5"],
            REAL
            | {
                "invert": (len(CLASSES) * POOL, 0, len(CLASSES) * POOL * 5),
                "generate": (IMAGES, 0, IMAGES * STEPS * 2),
            },
        ),
    ],
    ids=" ".join,
)
def test_a_dry_run_counts_and_writes_nothing(
    command: list[str], planned: dict[str, tuple[int, int, int]], tmp_path: Path
) -> None:
    outputs = tmp_path / "outputs"
    said = done(*command, *BASE, f"outputs={outputs}", "--dry-run")
    assert {stage: counts for stage, counts in table(said.out).items() if any(counts)} == planned
    assert "nothing was done" in said.out
    assert not outputs.exists()


def test_a_dry_run_of_evaluate_says_what_is_missing_and_writes_nothing(tmp_path: Path) -> None:
    outputs = tmp_path / "outputs"
    assert "latentmix generate first" in refusal("evaluate", *BASE, f"outputs={outputs}", "--dry-run")
    assert not outputs.exists()


def test_a_dry_run_on_a_finished_run_finds_all_done(run: Run) -> None:
    before = files(run.outputs)
    for command in ("invert", "evaluate", "sweep"):
        counts = table(done(command, *run.arguments, "--dry-run").out)
        assert {(to_do, evaluations) for to_do, _, evaluations in counts.values()} == {(0, 0)}
        assert all(cached for _, cached, _ in counts.values())
    assert files(run.outputs) == before


def test_a_dry_run_knows_that_pictures_only_need_measuring(tmp_path: Path) -> None:
    few = (*BASE, "data.classes=[star]", "n=[2]", "methods=[fix/0]", f"outputs={tmp_path}")
    done("generate", *few)
    counts = table(done("sweep", *few, "--dry-run").out)
    assert counts["measure"] == (DRAWS, 0, 0)
    assert counts["generate"][::2] == (0, 0)


def test_a_dry_run_estimates_by_the_last_run(run: Run) -> None:
    said = done("sweep", *run.arguments, "seed=5", "--dry-run")
    (line,) = (line for line in said.out.splitlines() if "generate" in line)
    assert "min" in line and "not known" not in line


# One mixture with chosen weights


def test_mix_with_weights(copy: Run) -> None:
    weights = [0.5, 0.3, 0.2, *[0.0] * (POOL - 3)]
    said = done("mix", *copy.arguments, "--class", "heart", "--weights", "0.5,0.3,0.2")
    written = [Path(line) for line in said.out.splitlines()]
    assert [path.suffix for path in written] == [".safetensors", ".png"] * len(METHODS)
    latents = cached(copy.experiment.layout.latents("heart").folder, "latents")
    z = torch.from_numpy(np.stack([latents[f"heart/{i}"] for i in range(POOL)])).float()
    pictures = []
    for method, (latent, image_path) in zip(METHODS, zip(written[::2], written[1::2], strict=True), strict=True):
        assert "heart" in latent.name and method.replace("/", "-") in latent.name
        mixed = mix(z, weights, method)
        torch.testing.assert_close(load_file(latent)["latents"], mixed, rtol=0, atol=0)
        with Image.open(image_path) as image:
            assert (image.mode, image.size) == ("RGB", (SIZE, SIZE))
            pictures.append(image.tobytes())
    assert pictures[0] != pictures[1]


def test_a_one_hot_mixture_is_the_first_image_regenerated(copy: Run) -> None:
    said = done("mix", *copy.arguments, "methods=[nin/chm]", "--class", "star", "--weights", "1.0")
    latent = load_file(Path(said.out.splitlines()[0]))["latents"].numpy()
    np.testing.assert_allclose(
        latent, cached(copy.experiment.layout.latents("star").folder, "latents")["star/0"], atol=1e-5
    )


def test_a_mean_of_the_pool_is_that_of_all_its_images(copy: Run) -> None:
    arguments = ("mix", *copy.arguments, "methods=[nin/pool]", "--class", "star")
    said = done(*arguments, "--weights", "0.5,0.3,0.2")
    latents = cached(copy.experiment.layout.latents("star").folder, "latents")
    z = torch.from_numpy(np.stack([latents[f"star/{i}"] for i in range(POOL)])).float()
    mixed = mix(z, [0.5, 0.3, 0.2, *[0.0] * (POOL - 3)], "nin/pool")
    torch.testing.assert_close(load_file(Path(said.out.splitlines()[0]))["latents"], mixed, rtol=0, atol=0)
    every = ",".join([str(1 / POOL)] * POOL)
    assert f"these weights mix all {POOL}; pass a larger pool" in invoke(*arguments, "--weights", every).err


@pytest.mark.parametrize("count", [2, 64])
def test_the_file_of_a_mixture_has_a_name_that_any_disk_takes(count: int) -> None:
    """A short list of weights is in the name; of a long one the first weights and a digest of all."""
    experiment = Experiment(compose(["pool=64", "n=[2]"]))
    weights = [(1 / count,) * count, (*(1 / count,) * (count - 1), 0.0)]
    one, other = (_file(experiment, "star", each, Method("fix", "chm")).name for each in weights)
    assert one != other and len(one) < 200
    assert one == "star-0.5-0.5-fix-chm.safetensors" or one.startswith("star-0.015625-0.015625-0.015625-")


@pytest.mark.parametrize(
    ("weights", "class_id", "reason"),
    [
        ("-0.5,1.5", "star", "none negative"),
        ("0.5,0.2", "star", "must sum to 1; they are off by 0.3"),
        ("nan,1", "star", "finite"),
        ("a,b", "star", "these are no numbers; write them with commas"),
        ("", "star", "these are no numbers"),
        (",".join(["0.1"] * 10), "star", f"10 weights are more than pool={POOL}"),
        ("0.5,0.5", "drop", "'drop' is not among the classes of this run: star, heart"),
        ("0.5,0.5", "stra", "is called 'stra'; try 'star'"),
    ],
)
def test_mix_refuses_weights(run: Run, weights: str, class_id: str, reason: str) -> None:
    before = files(run.outputs)
    said = invoke("mix", *run.arguments, "--class", class_id, f"--weights={weights}")
    assert said.code == 2
    last = said.err.splitlines()[-1]
    assert last.startswith("latentmix: error: ") and reason in last
    assert files(run.outputs) == before


@pytest.mark.parametrize("wrong", [["--weights", "0.5,0.2"], ["--weights", "1", "--class", "drop"]], ids=" ".join)
def test_mix_refuses_weights_before_it_works(tmp_path: Path, wrong: list[str]) -> None:
    refusal("mix", *BASE, f"outputs={tmp_path / 'outputs'}", *wrong)
    assert not (tmp_path / "outputs").exists()


# What is refused


def test_figures_that_do_not_exist(tmp_path: Path) -> None:
    arguments = (*BASE, f"outputs={tmp_path / 'outputs'}")
    assert "there is no figure 'fig13'; there are fig1, fig2" in refusal("figure", "fig13", *arguments)
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (("methods=[fix/0,fix/chn]",), "there is no method 'fix/chn'; did you mean 'fix/chm'?"),
        (("methods=[fx/0]",), "did you mean 'fix/0'?"),
        (("methods=[]",), "at least one"),
        (("drawz=3",), "there is no key 'drawz'; did you mean 'draws'?"),
        (("data.clases=[star]",), "there is no key 'data.clases'; did you mean 'data.classes'?"),
        (("+seeed=3",), "there is no key 'seeed'; did you mean 'seed'?"),
        (("+model.pth=x",), "there is no key 'model.pth'"),
        (("data.classes=[staar]",), "is called 'staar'; try 'star'; there are circle,"),
        (("n=[2,10]",), f"n=10 is more than pool={POOL} images"),
        (("n=[0]",), "greater than 0"),
        (("draws=many",), "draws='many'"),
        (("draws=1",), "draws must be at least 2"),
        (("n=[2",), "n=[2: the value cannot be read; write 'n=[VALUE,VALUE]'"),
        (("star",), "'star'"),
        (("data=folder",), "data.path is needed"),
        (("data=folder", "data.path=/no/such/folder"), "/no/such/folder: No such file or directory"),
        (
            ("model=sd16",),
            "there is no model=sd16; there are flux-dev, flux-schnell, sd14, sd15, sd21",
        ),
        (("launch=slrum",), "there is no launch=slrum"),
        (("spacing=trialing",), "spacing must be one of trailing"),
        (("device=gpus",), "device=gpus can't be used"),
        (("device=meta",), "device=meta can't be used"),
        (("data.reference=null",), "say how many"),
        (("model.precision=float64",), "model.precision='float64': should be 'auto'"),
        (("name=a/b",), "plain folder name"),
        (("model.path=/no/such/model",), "/no/such/model"),
        (("steps=2000",), "steps"),
        (("seed=-1",), "seed"),
        (("data.classes=[]",), "classes"),
        (("data.reference=1",), "reference"),
        (("n=[2,2]",), "n="),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_mistakes_are_refused_in_one_line_before_any_work(wrong: tuple[str, ...], reason: str, tmp_path: Path) -> None:
    outputs = tmp_path / "outputs"
    assert reason in refusal("sweep", *SETTINGS, f"outputs={outputs}", *wrong)
    assert not outputs.exists()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("sweep", "--seed", "3"), "--seed is a setting, which is written without dashes: seed=VALUE"),
        (("morph", "a.png", "--model.size=512"), "--model.size is a setting"),
        (("sweep", "--config-dir", "x"), "--config-dir comes before the command"),
        (("check-inversion", "ddim", "inversion=exact"), "ddim is checked, and inversion=exact is another one"),
    ],
)
def test_what_is_no_option_of_a_command_is_told_as_what_it_is(arguments: tuple[str, ...], reason: str) -> None:
    assert reason in refusal(*arguments)


URL = "https://example.org/a.png?b=1"


@pytest.mark.parametrize(
    "arguments",
    [
        ("mix", URL, URL),
        ("morph", URL, URL),
        ("augment", "gs://a/b", "-o", "c"),
        ("evaluate", "--images", "s3://a", "--reference", "s3://b"),
        ("status", "s3://a/b"),
        ("sweep", "data=s3://a/b"),
        ("sweep", "data=folder", "data.path=s3://a/b"),
        ("sweep", f"model.vae={URL}", "model=sd15"),
        ("sweep", "outputs=s3://a/b"),
    ],
)
def test_urls_in_the_place_of_paths_are_refused(arguments: tuple[str, ...]) -> None:
    assert "is a URL, and only files of this machine are read and written: download it" in refusal(*arguments)


def test_a_url_of_the_hub_is_answered_with_what_to_write() -> None:
    for setting in ("data=hub data.hub=https://huggingface.co/datasets/a/b", "model.hub=https://huggingface.co/a/b"):
        assert "by OWNER/NAME as model.hub or data.hub" in refusal("sweep", *setting.split())


@pytest.mark.parametrize("name", ["7", "Fig7", "fig. 7", "figure 7", "fig7"])
def test_a_figure_may_be_named_as_people_do(name: str) -> None:
    assert figure_name(name) == "fig7"


def test_a_setting_in_quotes_is_read(tmp_path: Path) -> None:
    """As shells that know no single quotes leave them."""
    said = invoke("sweep", "'n=[2]'", " draws = 3", "pool=4", f"outputs={tmp_path}", "--dry-run")
    assert said.code == 0, said.err


def test_outputs_that_are_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    said = invoke("invert", *BASE, f"outputs={tmp_path / 'file'}")
    assert said.code == 2 and "choose another place" in said.err


@pytest.mark.usefixtures("no_figures")
def test_a_run_may_keep_no_pictures(tmp_path: Path) -> None:
    done("sweep", *BASE, "data.classes=[star]", "n=[2]", "keep=0", f"outputs={tmp_path}")


def test_an_interruption_says_that_nothing_is_lost(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(UNetModel, "predict", interrupt)
    said = invoke("invert", *run.arguments, "steps=5")
    assert said.code == 130
    assert "the same command continues" in said.err.splitlines()[-1]


# Networks that fail


def break_down(monkeypatch: pytest.MonkeyPatch) -> None:
    predict = UNetModel.predict

    def broken(*arguments: object) -> tuple[torch.Tensor, torch.Tensor]:
        x0, eps = predict(*arguments)  # type: ignore[arg-type]
        x0[-1, 0, 0, 0] = math.nan  # in one image of the batch
        return x0, eps

    monkeypatch.setattr(UNetModel, "predict", broken)


def test_nan_in_an_inversion_is_refused_and_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    break_down(monkeypatch)
    said = invoke("invert", *BASE, f"outputs={tmp_path / 'outputs'}")
    assert said.code == 2
    assert "NaN or infinity came up in inverting star" in said.err.splitlines()[-1]
    assert not list(tmp_path.rglob("latents"))


def test_nan_in_a_generation_is_refused_and_not_kept(copy: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    before = files(copy.outputs / "cache") | files(copy.folder)
    break_down(monkeypatch)
    said = invoke("sweep", *copy.arguments, "n=[3]", "methods=[nin/m]", "overwrite=true")
    assert said.code == 2
    assert "NaN or infinity came up in generating star, N = 3, nin/m" in said.err.splitlines()[-1]
    after = files(copy.outputs / "cache") | files(copy.folder)
    assert after.keys() == before.keys()
    assert {name for name in before if after[name] != before[name]} <= {"cache.json"}  # the folders that a run uses


@pytest.mark.parametrize("command", ["reconstruct", "diagnose"])
def test_latents_of_other_settings_are_not_described_beside_a_runs_results(copy: Run, command: str) -> None:
    """The report and `compare` show a run's diagnosis and round trip as those of its latents."""
    said = refusal(command, *copy.arguments, "inversion.steps=3")
    assert "holds results of other settings (inversion.steps=4 there, 3 here); choose another name" in said
    done(command, *copy.arguments, "inversion.steps=3", "--dry-run")
    done(command, *copy.arguments, "inversion.steps=3", "name=another")
    done(command, *copy.arguments, "guidance=1", "data.classes=[star]")  # the same latents


def test_a_run_is_not_written_beside_analyses_of_other_latents(tmp_path: Path) -> None:
    run = (*BASE, f"outputs={tmp_path}", "name=run")
    analyses = [tmp_path / "run" / name for name in ("diagnosis.json", "reconstruction.csv")]
    for command in ("diagnose", "reconstruct"):
        done(command, *run, "inversion.steps=3")
    assert "other settings (inversion.steps=3 there, 4 here); choose another name" in refusal("sweep", *run)
    done("sweep", *run, "--dry-run")
    assert all(path.exists() for path in analyses)
    done("sweep", *run, "overwrite=true")
    assert not any(path.exists() for path in analyses)
    for command in ("reconstruct", "diagnose"):
        done(command, *run)
    done("sweep", *run, "n=[2,3]", "overwrite=true")
    assert all(path.exists() for path in analyses)


@pytest.mark.parametrize(("command", "other"), [("reconstruct", "diagnose"), ("diagnose", "reconstruct")])
def test_an_analysis_is_not_written_beside_results_of_other_latents(copy: Run, command: str, other: str) -> None:
    """With overwrite=true, the results of other latents go, and the sweep's own command makes them again."""
    done(other, *copy.arguments)
    before = files(copy.folder)
    assert "holds results of other settings" in refusal(command, *copy.arguments, "inversion.steps=3")
    assert files(copy.folder) == before
    done(command, *copy.arguments, "seed=0", "guidance=1", "model.clip=things", "overwrite=true")  # the same latents
    assert before.keys() <= files(copy.folder).keys()
    done(command, *copy.arguments, "inversion.steps=3", "overwrite=true")
    left = {name.partition(".")[0] for name in files(copy.folder) if "/" not in name}
    assert (
        left - {"cache"} == {"diagnose": {"diagnosis", "fig4", "octaves"}, "reconstruct": {"reconstruction"}}[command]
    )
    assert "holds results of other settings" in refusal(other, *copy.arguments)
    assert "holds results of other settings" in refusal("sweep", *copy.arguments)
    done("sweep", *copy.arguments, "overwrite=true")
    assert files(copy.folder)["metrics.csv"][0] == before["metrics.csv"][0]


def test_results_of_unknown_settings_are_not_overwritten(copy: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """As those of another user; root may read all, so the answer of the system is made here."""
    before, access = files(copy.folder), os.access
    unreadable = copy.folder / "done.json"
    monkeypatch.setattr(os, "access", lambda path, mode: path != unreadable and access(path, mode))
    assert f"{unreadable} can't be read" in refusal("sweep", *copy.arguments, "inversion.steps=3")
    assert files(copy.folder) == before


# Folders of images


def sweep_of_folder(folder: Path, outputs: Path, *arguments: str) -> Said:
    few = ("n=[2]", "methods=[fix/0]", "pool=4", "draws=4", "steps=2", "launch.threads=1")
    return done("sweep", "data=folder", f"data.path={folder}", *few, *arguments, f"outputs={outputs}")


def test_a_folder_of_images_from_end_to_end(tmp_path: Path) -> None:
    for class_id in ("drop", "ring", "star"):
        (tmp_path / "shapes" / class_id).mkdir(parents=True)
        for index, source in enumerate(Shapes().images(class_id, 10)):
            Image.fromarray(source.pixels(80)[:, 4:]).save(tmp_path / "shapes" / class_id / f"{index}.png")
    sweep_of_folder(tmp_path / "shapes", tmp_path / "outputs")
    with (tmp_path / "outputs" / "tiny-shapes" / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["class"] for row in rows} == {"drop", "ring", "star", "all"}
    assert {row["data"] for row in rows} == {"shapes"}
    counts = {(row["class"] == "all", row["count"], row["over"]) for row in rows}
    of_class = {(False, "4", "draws"), (False, "5", "images")}  # half of the real images
    assert counts == of_class | {(True, "12", "draws"), (True, "15", "images")}
    references = [cached(folder, "features") for folder in tmp_path.glob("outputs/cache/references/*/*")]
    assert [len(rows) for rows in references] == [10] * 6  # all there are, in two networks
    assert (tmp_path / "outputs" / "tiny-shapes" / "fig1.png").exists()


@pytest.mark.skipif(not CLOTHING.is_dir(), reason=f"needs the photographs in {CLOTHING}")
def test_photographs(tmp_path: Path) -> None:
    few = ("data.reference=12", "metrics=[fid,clip_distance]", "controls=[]")
    sweep_of_folder(CLOTHING, tmp_path, "data.classes=[t-shirt,hat]", *few)
    with (tmp_path / "tiny-clothing" / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == ["t-shirt"] * 2 + ["hat"] * 2 + ["all"] * 2
    assert all(math.isfinite(float(row["value"])) and float(row["value"]) > 0 for row in rows)
