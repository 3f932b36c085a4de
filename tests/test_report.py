"""The page of a run: it has the run's numbers and images, needs no other file, and works in a browser."""

import base64
import csv
import io
import json
import math
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from browser import CHROMIUM, Browser, browser
from driver import Said, invoke
from PIL import Image

from latentmix.compose import compose, find_run
from latentmix.experiment.comparison import Run
from latentmix.experiment.draws import Cell, subset
from latentmix.experiment.experiment import Experiment
from latentmix.experiment.results import AVERAGE, Result
from latentmix.metrics import METRICS, Estimate, Metric, mean
from latentmix.mixing import MEANS, NORMS, Mean, Method, Norm
from latentmix.report.contents import Contents, Images, find_experiment
from latentmix.report.data import page_data
from latentmix.report.page import render
from latentmix.report.wording import answers, notes

NASTY = """</script><script>document.title='x'</script><img src=x onerror="document.title='x'">'&amp;"""
CLASSES, NS, METHODS = ("star",), (2, 4), ("fix/0", "fix/chm")
PAIR = {"class": "star", "n": "16", "metric": "fd_embedded", "method": "fix/chm", "reference": "fix/0"}
PAIR |= {"difference": "-1.5", "low": "-2", "high": "-1", "won": "0.75", "count": "3", "over": "draws"}
BASE = (
    "data.classes=[star]",
    "n=[2,4]",
    "methods=[fix/0,fix/chm]",
    "pool=7",
    "draws=2",
    "steps=2",
    "keep=2",
    "data.reference=8",
    "launch.threads=1",
    "name=small",
)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on PATH to look at the page with")


# A run's page


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the outputs folder of a finished sweep with its page."""
    folder = tmp_path_factory.mktemp("report")
    for arguments in (("sweep", *BASE, f"outputs={folder}"), ("report", str(folder / "small"))):
        said = invoke(*arguments)
        assert said.code == 0, said.err
    assert said.out.split() == [str(folder / "small" / "report.html")]
    assert not said.err
    return folder


@pytest.fixture
def run(outputs: Path, tmp_path: Path) -> Path:
    """Return the folder of a copy of the sweep, which a test may change."""
    return shutil.copytree(outputs, tmp_path / "outputs") / "small"


def embedded_data(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found
    (run,) = json.loads(found[1])["runs"]
    return run


def test_the_numbers_are_those_of_the_table(outputs: Path) -> None:
    shown = embedded_data((outputs / "small" / "report.html").read_text())
    with (outputs / "small" / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(shown["rows"]) == len(rows) > 0
    for mine, theirs in zip(shown["rows"], rows, strict=True):
        assert [mine[name] for name in ("class", "method", "metric")] == [
            theirs[n] for n in ("class", "method", "metric")
        ]
        assert (mine["n"], mine["count"]) == (int(theirs["n"]), int(theirs["count"]))
        for name in ("value", "low", "high"):
            assert mine[name] == (float(theirs[name]) if theirs[name] else None)
    assert {m["name"] for m in shown["metrics"]} == {row["metric"] for row in rows}
    assert {m["name"] for m in shown["methods"]} >= set(METHODS)


def test_small_images_are_those_of_the_cache_exactly(outputs: Path) -> None:
    shown = embedded_data((outputs / "small" / "report.html").read_text())["images"]
    experiment = Experiment(compose([*BASE, f"outputs={outputs}"]))
    mixed = {(p["class"], p["n"], p["method"], p["draw"]): p["src"] for p in shown if p["n"]}
    assert set(mixed) == {(c, n, m, draw) for c in CLASSES for n in NS for m in METHODS for draw in range(2)}
    for (class_id, n, method, draw), uri in mixed.items():
        with Image.open(experiment.layout.image_path(Cell(class_id, n, Method.parse(method)), draw)) as image:
            np.testing.assert_array_equal(decoded(uri), np.asarray(image))
    pool = experiment.pool("star")
    order = subset(experiment.config.seed, "star", 1, experiment.config.pool)
    for one in embedded_data((outputs / "small" / "report.html").read_text())["inputs"]:
        assert (one["class"], len(one["src"])) == ("star", 4)
        if one["draw"] == 1:
            expected = np.asarray(Image.fromarray(pool[order[0]].pixels(64)).resize((48, 48))).astype(int)
            assert np.abs(decoded(one["src"][0]).astype(int) - expected).mean() < 12
    real = [p["src"] for p in shown if p["method"] == "real"]
    assert len(real) == 2
    np.testing.assert_array_equal(decoded(real[1]), experiment.references("star")[1].pixels(64))


def decoded(uri: str) -> np.ndarray:
    head, _, body = uri.partition(",")
    assert head == "data:image/webp;base64"
    with Image.open(io.BytesIO(base64.b64decode(body))) as image:
        return np.asarray(image.convert("RGB"))


def test_runs_are_named_with_the_folder_they_are_in(
    outputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # where used folders are remembered
    monkeypatch.setenv("LATENTMIX_OUTPUTS", str(tmp_path))
    monkeypatch.setenv("HOME", str(outputs.parent))
    for command in ("status", "report"):
        said = invoke(command, "small", f"outputs=~/{outputs.name}")
        assert said.code == 0 and str(outputs / "small") in said.out, said.err
    refused = invoke("report", f"outputs={outputs}")
    assert refused.code == 2 and "name a run" in refused.err


def test_a_run_is_read_that_has_a_technique_which_went(run: Path) -> None:
    done = json.loads((run / "done.json").read_text())
    done["config"]["speed"]["prompts_twice"] = True
    (run / "done.json").write_text(json.dumps(done))
    assert invoke("report", str(run)).code == 0


def test_the_page_asks_for_nothing_from_elsewhere(outputs: Path) -> None:
    page = (outputs / "small" / "report.html").read_text()
    assert "default-src 'none'" in page
    assert set(re.findall(r"https?://[^\"'\s]*", page)) == {"http://www.w3.org/2000/svg"}  # a name, and no place
    assert all(place.startswith("data:") for place in re.findall(r"""(?:src|href)=["']?([^"'\s>]*)""", page))
    assert "@import" not in page and not re.search(r"url\((?!#)", page)


def test_the_page_says_what_was_run_and_with_what(outputs: Path) -> None:
    page = (outputs / "small" / "report.html").read_text()
    about = json.loads((outputs / "small" / "done.json").read_text())
    for text in ("7 images of each", "2 draws", "8 real ones", "a photo of a [class]", *about["model"].values()):
        assert text in page
    for name, version in about["versions"].items():
        assert f"<dt>{name}</dt><dd>{version}</dd>" in page
    for term in ("Finished", "Duration", "Device", "Speed, generate"):
        assert f"<dt>{term}</dt>" in page
    assert "<code>latentmix sweep &#x27;data.classes=[star]&#x27;" in page
    assert str(outputs) not in page  # where it ran is private


def test_the_command_is_shown_as_typed_without_settings_of_the_machine(run: Path) -> None:
    about = json.loads((run / "done.json").read_text())
    typed = ["sweep", "model.prompt=a <b> {}", "n=[2,4]", f"outputs={run.parent}", "launch.threads=1", "device=cpu"]
    (run / "done.json").write_text(json.dumps(about | {"arguments": typed}))
    assert invoke("report", str(run)).code == 0
    page = (run / "report.html").read_text()
    assert "<code>latentmix sweep &#x27;model.prompt=a &lt;b&gt; {}&#x27; &#x27;n=[2,4]&#x27;</code>" in page
    assert str(run.parent) not in page


@pytest.mark.parametrize("arguments", [None, "sweep", {}, []])
def test_a_run_without_its_arguments_shows_no_command(arguments: object) -> None:
    contents = invented()
    page = render(replace(contents, about={**contents.about, "arguments": arguments}))
    assert "latentmix sweep" not in page and "<code>config.yaml</code>" in page


def test_once_more_gives_the_same_bytes(run: Path) -> None:
    before = (run / "report.html").read_bytes()
    assert invoke("report", str(run)).code == 0
    assert (run / "report.html").read_bytes() == before


def test_a_diagnosis_and_pairs_are_shown_if_they_exist(run: Path) -> None:
    assert invoke("diagnose", *BASE, f"outputs={run.parent}").code == 0
    header = "model,data,inversion,class,n,metric,method,reference,difference,low,high,won,count"
    (run / "pairs.csv").write_text(f"{header}\ntiny,shapes,ddim,star,2,fid,fix/chm,fix/0,-1.5,-2,-1,,2\n")
    assert invoke("report", str(run)).code == 0
    shown = embedded_data((run / "report.html").read_text())
    found = json.loads((run / "diagnosis.json").read_text())["classes"]["star"]
    assert shown["diagnosis"]["verdicts"] == [{"title": "star", "verdict": found["verdict"]}]
    (growth, *_) = shown["diagnosis"]["growth"]
    channel = int(growth["title"].removeprefix("Channel "))
    assert [n for n, _ in growth["series"][0]["points"]] == found["growth"]["sizes"]
    assert [value for _, value in growth["series"][0]["points"]] == [row[channel] for row in found["growth"]["means"]]
    (pair,) = shown["pairs"]
    assert (pair["n"], pair["method"], pair["difference"], pair["high"], pair["won"]) == (2, "fix/chm", -1.5, -1, None)


def test_a_run_without_images_says_so(run: Path) -> None:
    shutil.rmtree(run.parent / "cache")
    said = invoke("report", str(run))
    (line,) = said.err.splitlines()
    assert said.code == 0 and line.startswith("latentmix: warning: no images of this run are in the cache")
    page = (run / "report.html").read_text()
    assert line.removeprefix("latentmix: warning: ") in page
    assert embedded_data(page)["images"] == []


def test_a_run_by_its_name_and_one_of_an_older_latentmix(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run.parent.parent)
    about = json.loads((run / "done.json").read_text())
    for name in {"metrics", "controls", "keep"} & about["config"].keys():
        del about["config"][name]  # as if the key had not been there yet
    (run / "done.json").write_text(json.dumps(about))
    assert invoke("report", "small").out.split() == ["outputs/small/report.html"]


# Norms, means and metrics of other packages


def test_what_another_package_adds_is_drawn_and_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    brightness = Metric("Brightness", "higher", "frechet", lambda x, _: mean(x[:, 0]))
    for table, name, entry in (
        (NORMS, "half", Norm(lambda lengths: torch.full_like(lengths.m, 0.5), label="half the mean")),
        (MEANS, "median", Mean(lambda z: z.flatten(2).median(2).values[..., None, None])),
        (METRICS, "brightness", brightness),
    ):
        monkeypatch.setitem(vars(table)["_builtin"], name, entry)
    methods = ("fix/0", "half/median", "fix/median")
    more = (f"methods=[{','.join(methods)}]", "metrics=[brightness,fid]", "name=others", f"outputs={tmp_path}")
    for arguments in (("sweep", *BASE, *more), ("report", str(tmp_path / "others"))):
        said = invoke(*arguments)
        assert said.code == 0, said.err
    folder = tmp_path / "others"
    with Image.open(folder / "fig7.png") as image:
        assert image.width > 1000  # two panels
    assert (folder / "done.json").exists()
    shown = embedded_data((folder / "report.html").read_text())
    assert [metric["label"] for metric in shown["metrics"]] == [
        "Brightness (embedded classifier)",
        "Fréchet distance (embedded classifier)",
    ]
    described = {method["name"]: method["description"] for method in shown["methods"]}
    assert described["half/median"] == "half the mean; median"
    assert {image["method"] for image in shown["images"]} == {*methods, "real"}
    assert len({(m["colour"], m["dash"]) for m in shown["methods"] if m["name"] in methods}) == len(methods)


# Errors


def refusal(said: Said) -> str:
    (line,) = said.err.splitlines()
    assert said.code == 2 and line.startswith("latentmix: error: ")
    return line


def test_there_is_no_such_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "'nope'" in refusal(invoke("report", "nope"))
    for name in ("one", "two"):
        (tmp_path / "outputs" / name).mkdir(parents=True)
        (tmp_path / "outputs" / name / "done.json").write_text("{}")
    assert refusal(invoke("report", "nope")).endswith("in outputs are one, two")
    assert find_run("one") == Path("outputs/one")


@pytest.mark.parametrize("missing", ["metrics.csv", "done.json"])
def test_a_run_that_is_not_finished(missing: str, tmp_path: Path) -> None:
    for name in {"metrics.csv", "done.json"} - {missing}:
        (tmp_path / name).write_text("")
    line = refusal(invoke("report", str(tmp_path)))
    assert "is not finished; give its command again" in line


@pytest.mark.parametrize(
    ("done", "table", "reason"),
    [
        ("{", "", "is not finished"),
        ("[]", "", "is not finished"),
        ("{}", "", "is not finished"),
        ('{"config": {}}', "class,n\nstar,x\n", "can't be read"),
        ('{"config": {}}', "", "is empty"),
    ],
)
def test_files_that_are_damaged(done: str, table: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "done.json").write_text(done)
    (tmp_path / "metrics.csv").write_text(table)
    assert reason in refusal(invoke("report", str(tmp_path)))


# The page by itself


def invented(
    classes: tuple[str, ...] = ("star", "heart"), methods: tuple[str, ...] = METHODS, keep: int = 2
) -> Contents:
    """Return the contents of a run that never happened. Each value tells where it comes from."""
    results, uris = [], {}
    kinds = ("fd_embedded", "clip_distance_embedded", "precision_embedded", "something")
    for i, class_id in enumerate((*classes, AVERAGE)):
        for j, method in enumerate(methods):
            for n in (2, 4, 16):
                for k, kind in enumerate(kinds):
                    value = 10.0 * k + (j + 1) * math.sqrt(n) + 0.1 * i
                    results.append(Result(class_id, n, method, kind, Estimate(value, value - 1, value + 1, 3)))
                for draw in range(2 if class_id != AVERAGE else 0):
                    uris[class_id, n, method, draw] = data_uri((40 * i, 40 * j, n + 100 * draw))
                    uris[class_id, 0, "real", draw] = data_uri((40 * i, 255, draw))
        for kind in kinds:
            results.append(Result(class_id, 0, "real", kind, Estimate(1.5, math.nan, math.nan, 3)))
    config = compose(["n=[2,4,16]"])
    about = {"python": "3.x", "versions": {"latentmix": "0"}, "model": {"weights": "abc"}}
    titles = {class_id: class_id for class_id in (*classes, AVERAGE)}
    run = Run(Path("nowhere/invented"), "invented", config.as_dict(), results)
    inputs = {(c, draw): [data_uri((0, 0, place)) for place in range(16)] for c in classes for draw in range(2)}
    return Contents(run, config, about, titles, Images(uris, inputs=inputs), {}, [])


def data_uri(colour: tuple[int, int, int]) -> str:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), colour).save(buffer, "WEBP", lossless=True)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def nasty() -> Contents:
    contents = invented(classes=(NASTY, "n" * 300))
    return replace(
        contents,
        run=replace(contents.run, label="name"),
        about={**contents.about, "versions": {NASTY: NASTY}, "arguments": ["sweep", NASTY]},
        pairs=[{"class": NASTY, "method": NASTY, "won": "0.5"}, {**PAIR, "method": NASTY, "metric": NASTY}],
        images=replace(contents.images, note=NASTY),
    )


def test_text_stays_text() -> None:
    page = render(nasty())
    assert "<script>document" not in page and "<img" not in page
    assert page.count("</script>") == 2
    assert {one["id"] for one in embedded_data(page)["classes"]} >= {NASTY}


def test_parts_are_not_filled_in_twice() -> None:
    contents = invented()
    page = render(replace(contents, about={**contents.about, "arguments": ["sweep", "{{script}}"]}))
    assert "{{script}}" in page


def test_no_two_methods_look_alike_and_controls_come_last() -> None:
    names = ("noise", "lin/0", "fix/lp0.5", "fix/lp2", "fix/lp", "slerp/0", "adain/0", "nao/chm", "future", "lol/m")
    methods = page_data(invented(methods=names))["methods"]
    assert {m["name"] for m in methods} == {*names, "real"}
    assert len({(m["colour"], m["dash"]) for m in methods}) == len(methods)
    assert {m["name"] for m in methods if m["control"]} == {"noise", "real", "future"}
    assert {m["name"] for m in methods[-3:]} == {"noise", "real", "future"}


def test_the_answer_takes_the_better_end_and_says_what_is_undecided() -> None:
    """fix/0 has the smaller distance and the smaller precision. Its parts, where there are any, decide."""
    by_metric = {answer.metric: answer for answer in answers(invented())}
    assert (by_metric["fd_embedded"].best, by_metric["precision_embedded"].best) == ("fix/0", "fix/chm")
    assert "undecided" in by_metric["fd_embedded"].sentence and "not known" in by_metric["fd_embedded"].sentence
    same = [replace(r, estimate=Estimate(1.0, math.nan, math.nan, 3)) for r in invented().results]
    assert "all methods have 1 by" in answers(with_results(invented(), same))[0].sentence
    for spread, wanted in ((0.1, "fix/0 is best and fix/chm worst"), (50.0, "it is undecided which method is best")):
        page = render(with_parts(invented(), spread))
        assert wanted in re.sub("</?b>", "", page)
        assert page.count("<b>fix/0</b>") == (1 if spread < 1 else 0) or spread > 1


def with_results(contents: Contents, results: list[Result]) -> Contents:
    return replace(contents, run=replace(contents.run, results=results))


def with_parts(contents: Contents, spread: float) -> Contents:
    """Return contents whose values are means of parts, which scatter by so much."""
    parts = spread * torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)
    names = {"fd_embedded": "fid", "clip_distance_embedded": "clip_distance"}
    contents.run.__dict__["samples"] = {
        (r.class_id, r.n, r.method, r.metric): (
            names[r.metric],
            mean(r.estimate.value + (parts if r.method == "fix/0" else -parts)),
        )
        for r in contents.results
        if r.metric in names and r.n
    }
    return contents


@pytest.mark.parametrize(
    ("metric", "worse", "text"),
    [("clip_distance_embedded", 99.0, "rewards typical"), ("precision_embedded", -99.0, "one half")],
)
def test_real_images_are_explained_where_they_are_not_the_best(metric: str, worse: float, text: str) -> None:
    for value in (worse, -worse):
        estimate = Estimate(value, math.nan, math.nan, 3)
        results = [replace(r, estimate=estimate) if r.method == "real" else r for r in invented().results]
        said = notes(with_results(invented(), results), metric)
        assert ("not the best" in said) == (value == worse)
        assert text in said or value != worse


def test_a_distance_to_the_mean_is_better_down_to_real_images_only() -> None:
    name = "clip_distance_embedded"
    (shown,) = (m for m in page_data(invented())["metrics"] if m["name"] == name)
    assert shown["direction"] == "lower is better, down to real images"
    for value, beyond in ((99.0, True), (-99.0, False)):
        estimate = Estimate(value, math.nan, math.nan, 3)
        results = [replace(r, estimate=estimate) if r.method == "real" else r for r in invented().results]
        (answer,) = (a for a in answers(with_results(invented(), results)) if a.metric == name)
        assert ("below that smaller is not better" in answer.sentence) == beyond


def test_images_are_found_where_a_gpu_made_them() -> None:
    cell = Cell("star", 2, Method("fix", "0"))
    config = compose([*BASE, "device=cuda:7"])
    expected = Experiment(compose([*BASE, "model.precision=float16", "outputs=elsewhere"])).layout.image_path(cell, 1)
    found = find_experiment(config, Path("elsewhere/small"), {"precision": "float16"})
    assert found.layout.image_path(cell, 1) == expected.absolute()


# In a browser


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("browser")) as one:
        yield one


@pytest.fixture
def page(chromium: Browser, tmp_path: Path) -> Browser:
    """Open the page of an invented run."""
    return opened(chromium, invented(), tmp_path)


def opened(chromium: Browser, contents: Contents, folder: Path, width: int = 1000, dark: bool = False) -> Browser:
    path = folder / "report.html"
    path.write_text(render(contents))
    chromium.complaints.clear()
    chromium.open(path, width, dark)
    return chromium


def column(page: Browser, place: int) -> list[float]:
    script = f"[...document.querySelectorAll('#numbers tbody tr')].map((tr) => tr.children[{place}].dataset.value)"
    return [float(value) for value in page.run(script) if value is not None]


def select(page: Browser, label: str, text: str, within: str = "body") -> None:
    page.run(
        f"""(() => {{
            const holds = (label) => label.firstChild.textContent === {json.dumps(label)};
            const labels = [...document.querySelectorAll({json.dumps(within)} + ' label')];
            const select = labels.find(holds).querySelector('select');
            select.selectedIndex = [...select.options].findIndex((option) => option.text === {json.dumps(text)});
            select.dispatchEvent(new Event('change'));
        }})()"""
    )


def texts(page: Browser, selector: str) -> list[str]:
    return page.run(f"[...document.querySelectorAll({json.dumps(selector)})].map((node) => node.textContent)")


@needs_chromium
def test_the_page_of_a_run_loads_without_complaint(chromium: Browser, outputs: Path) -> None:
    chromium.complaints.clear()
    chromium.open(outputs / "small" / "report.html")
    assert chromium.complaints == []
    assert chromium.run("document.querySelectorAll('#grid img').length") >= len(NS) * len(METHODS)
    assert chromium.run("[...document.querySelectorAll('#grid img')].every((image) => image.naturalWidth === 64)")
    assert chromium.run("document.querySelectorAll('figure svg .curve').length") > 0


@needs_chromium
def test_the_table_sorts_by_any_column(page: Browser) -> None:
    page.run("document.querySelector('#table').open = true")
    before = column(page, 2)
    button = "document.querySelectorAll('#numbers th button')[2]"
    for order in (False, True):
        page.run(f"{button}.click()")
        assert column(page, 2) == sorted(before, reverse=order) != before
        said = page.run(f"{button}.parentNode.getAttribute('aria-sort')")
        assert said == ("descending" if order else "ascending")
    page.run("document.querySelectorAll('#numbers th button')[1].focus()")
    page.press("Enter")
    assert column(page, 1) == sorted(column(page, 1))
    assert texts(page, "#numbers tbody tr:last-child td:nth-child(2)") == ["–"]  # a control has no N, and comes last
    assert page.complaints == []


@needs_chromium
@pytest.mark.parametrize("class_id", ["heart", AVERAGE])
def test_a_class_is_chosen(page: Browser, class_id: str) -> None:
    select(page, "Class", "heart", "#answer")
    select(page, "Class", "all (average)" if class_id == AVERAGE else class_id, "#answer")
    wanted = [r.estimate.value for r in invented().results if (r.class_id, r.metric) == (class_id, "fd_embedded")]
    assert column(page, 2) == wanted


@needs_chromium
def test_a_method_is_switched_off_and_on(page: Browser) -> None:
    def drawn() -> list[str]:
        return page.run(
            "[...document.querySelector('figure').querySelectorAll('[data-name]')].map((g) => g.dataset.name)"
        )

    assert drawn() == ["fix/0", "fix/chm", "real"]
    page.run("document.querySelector('#legend input').click()")
    assert drawn() == ["fix/chm", "real"]
    assert "fix/0" not in texts(page, "#numbers td:first-child")
    page.run("document.querySelector('#legend input').click()")
    assert drawn() == ["fix/0", "fix/chm", "real"]


@needs_chromium
def test_values_are_shown_by_the_arrow_keys(page: Browser) -> None:
    page.run("document.querySelector('figure svg').focus()")
    for key, wanted in (
        ("ArrowRight", "fix/0, N = 2: 1.614 [0.6142, 2.614] over 3 draws"),
        ("ArrowRight", "fix/0, N = 4: 2.2 [1.2, 3.2] over 3 draws"),
        ("ArrowDown", "fix/chm, N = 4: 4.2 [3.2, 5.2] over 3 draws"),
        ("ArrowDown", "real: 1.5 over 3 draws"),
    ):
        page.press(key)
        assert texts(page, "figure output")[0] == wanted


@needs_chromium
def test_the_grid_spans_what_is_left_open(page: Browser) -> None:
    def grid() -> tuple[list[str], list[str]]:
        return texts(page, "#grid tbody th"), texts(page, "#grid thead th")

    assert grid() == (["fix/0", "fix/chm", "real"], ["N = 2", "N = 4", "N = 16"])
    assert page.run("document.querySelectorAll('#grid tr:last-child img').length") == 1  # a control has no N
    select(page, "Method", "fix/chm", "#pictures")
    assert grid() == (["draw 1", "draw 2"], ["N = 2", "N = 4", "N = 16"])
    select(page, "N", "N = 4", "#pictures")
    assert grid() == (["star", "heart"], ["draw 1", "draw 2"])
    select(page, "Method", "every method", "#pictures")
    select(page, "Class", "heart", "#pictures")
    assert grid() == (["fix/0", "fix/chm", "real"], ["draw 1", "draw 2"])
    shown = page.run("[...document.querySelectorAll('#grid img')].map((image) => [image.alt, image.src])")
    kept = invented().images.uris
    mixed = [[f"heart, N = 4, {m}, draw {d + 1}", kept["heart", 4, m, d]] for m in METHODS for d in range(2)]
    assert shown == mixed + [[f"heart, real, draw {d + 1}", kept["heart", 0, "real", d]] for d in range(2)]


@needs_chromium
def test_an_image_is_shown_large_with_its_inputs(page: Browser) -> None:
    def large() -> tuple[str, list[str]]:
        shown = page.run("[...document.querySelectorAll('#chosen img')].map((image) => image.src)")
        return shown[0], shown[1:]

    contents = invented()
    kept, inputs = contents.images.uris, contents.images.inputs
    select(page, "Draw", "draw 2", "#pictures")
    page.run("document.querySelectorAll('#grid tbody tr')[1].querySelectorAll('button')[1].click()")
    assert large() == (kept["star", 4, "fix/chm", 1], inputs["star", 1][:4])
    page.run("document.querySelector('#grid tbody tr:last-child button').click()")
    assert large() == (kept["star", 0, "real", 1], [])


@needs_chromium
def test_differences_are_drawn_by_metric_and_n(chromium: Browser, tmp_path: Path) -> None:
    other = {**PAIR, "n": "4", "difference": "1", "low": "-1", "high": "3"}
    page = opened(chromium, replace(invented(), pairs=[PAIR, other]), tmp_path)
    select(page, "Class", "star", "#answer")
    page.run("document.querySelector('#pairs').open = true")
    titles = "[...document.querySelectorAll('#forest title')].map((node) => node.textContent)"
    assert page.run(titles) == ["fix/chm: −1.5 [−2, −1], over 3 draws"]
    select(page, "N", "N = 4", "#pairs")
    assert page.run(titles) == ["fix/chm: 1 [−1, 3], over 3 draws"]
    assert texts(page, "#forest td:nth-child(2)") == ["1[−1, 3]"]
    assert page.complaints == []


@needs_chromium
def test_several_runs_on_one_page(chromium: Browser, tmp_path: Path) -> None:
    other = invented()
    other = replace(other, run=replace(other.run, label="other", config=compose(["n=[2,4,16]", "seed=7"]).as_dict()))
    path = tmp_path / "report.html"
    path.write_text(render(invented(), other))
    chromium.complaints.clear()
    chromium.open(path)
    assert texts(chromium, "#runs th[scope=col]") == ["invented", "other"]
    assert texts(chromium, "#runs th[scope=row]") == ["answer", "seed"]
    assert chromium.run("document.querySelectorAll('#run-plots [data-name]').length") == 4  # two metrics, two runs
    chromium.loaded = False
    select(chromium, "Run", "other", "#runs")
    chromium.wait()
    assert chromium.run(
        "[...document.querySelectorAll('[data-run]:not([hidden])')].every((n) => n.dataset.run === '1')"
    )
    assert chromium.complaints == []


@needs_chromium
@pytest.mark.parametrize("width", [320, 1000])
@pytest.mark.parametrize("kind", ["plain", "nasty", "much"])
def test_nothing_is_wider_than_the_screen(chromium: Browser, tmp_path: Path, width: int, kind: str) -> None:
    much = tuple(f"{norm}/{mean}" for norm in ("lin", "fix", "nin", "slerp", "lol") for mean in ("0", "m", "chm", "lp"))
    contents = {"plain": invented, "nasty": nasty, "much": lambda: invented(methods=much)}[kind]()
    page = opened(chromium, contents, tmp_path, width)
    assert page.run("innerWidth") == width
    assert page.run("document.documentElement.scrollWidth") <= width
    assert page.run("Math.max(...[...document.querySelectorAll('main > *')].map((n) => n.scrollWidth))") <= width
    assert page.complaints == []


@needs_chromium
def test_names_are_never_taken_for_html(chromium: Browser, tmp_path: Path) -> None:
    page = opened(chromium, nasty(), tmp_path)
    assert page.run("document.title") == "name · latentmix"
    assert page.run("[...document.images].every((image) => image.src.startsWith('data:'))")
    assert NASTY in texts(page, "#choose-curves option")
    assert page.complaints == []


@needs_chromium
def test_the_page_is_dark_if_that_is_preferred(chromium: Browser, tmp_path: Path) -> None:
    def lightness(dark: bool) -> float:
        page = opened(chromium, invented(), tmp_path, dark=dark)
        red, green, blue = map(int, re.findall(r"\d+", page.run("getComputedStyle(document.body).backgroundColor"))[:3])
        return (red + green + blue) / 3

    assert lightness(dark=True) < 40 and lightness(dark=False) > 220


@needs_chromium
def test_everything_has_a_name_and_can_be_reached(page: Browser) -> None:
    assert page.run("[...document.images].every((image) => image.alt)")
    assert page.run("[...document.querySelectorAll('select, input')].every((n) => n.labels.length || n.ariaLabel)")
    assert page.run("[...document.querySelectorAll('.plot')].every((n) => n.tabIndex === 0 && n.ariaLabel)")
    assert page.run("[...document.querySelectorAll('.wide')].every((n) => n.tabIndex === 0 && n.ariaLabel)")
    summaries = texts(page, "details > summary")
    assert len(summaries) == len(set(summaries)) >= 4


@needs_chromium
@pytest.mark.parametrize("dark", [False, True])
def test_texts_stand_out_from_their_ground(chromium: Browser, tmp_path: Path, dark: bool) -> None:
    """WCAG's contrast of all texts is at least 4.5."""
    page = opened(chromium, invented(), tmp_path, dark=dark)
    page.run("for (const details of document.querySelectorAll('details')) details.open = true")
    pairs = page.run(
        """(() => {
        const seen = new Set();
        for (const node of document.querySelectorAll('body *')) {
            if (![...node.childNodes].some((one) => one.nodeType === 3 && one.textContent.trim())) continue;
            if (['SCRIPT', 'STYLE', 'NOSCRIPT', 'TITLE'].includes(node.tagName.toUpperCase())) continue;
            const style = getComputedStyle(node), ink = node instanceof SVGElement ? style.fill : style.color;
            let ground = node;
            while (ground && /rgba\\(0, 0, 0, 0\\)|transparent/.test(getComputedStyle(ground).backgroundColor))
                ground = ground.parentElement;
            seen.add(ink + ' | ' + getComputedStyle(ground || document.body).backgroundColor);
        }
        return [...seen];
    })()""".replace("\\\\", "\\")
    )
    assert len(pairs) >= 3
    for pair in pairs:
        one, other = (luminance(colour) for colour in pair.split(" | "))
        assert (max(one, other) + 0.05) / (min(one, other) + 0.05) >= 4.5, pair


def luminance(colour: str) -> float:
    channels = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@needs_chromium
@pytest.mark.parametrize("kind", ["no images", "one of each", "no average"])
def test_a_page_with_little_content(kind: str, chromium: Browser, tmp_path: Path) -> None:
    contents = invented(classes=("star",), methods=("fix/chm",))
    if kind == "no images":
        contents = replace(contents, images=Images({}, "none"))
    elif kind == "one of each":
        contents = with_results(contents, [r for r in contents.results if (r.class_id, r.n) == ("star", 4)][:1])
    else:
        contents = with_results(contents, [r for r in contents.results if r.class_id != AVERAGE])
    page = opened(chromium, contents, tmp_path)
    assert page.complaints == []
    assert page.run("document.querySelectorAll('#numbers tbody tr').length") >= 1
    assert page.run("document.querySelector('#grid').hidden") == (kind == "no images")
