"""The page of a run: it has the run's numbers and images, needs no other file, and works in a browser."""

import base64
import csv
import io
import json
import math
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from browser import CHROMIUM, Browser, browser
from driver import invoke, refusal
from PIL import Image

from latentmix.compose import compose
from latentmix.experiment.comparison import Run
from latentmix.experiment.draws import Cell, subset
from latentmix.experiment.experiment import Experiment
from latentmix.experiment.results_table import AVERAGE, Result
from latentmix.metrics import Estimate, mean
from latentmix.mixing import Method
from latentmix.report.contents import Contents, Images, find_experiment
from latentmix.report.page import render
from latentmix.report.wording import answers, notes, say
from latentmix.runner.records import FOLDER, read_records, write_record

NASTY = """</script><script>document.title='x'</script><img src=x onerror="document.title='x'">'&amp;{{script}}"""
NS, METHODS = (2, 4, 16), ("fix/0", "fix/chm")
BASE = ["data.classes=[star]", "n=[2,4]", "methods=[fix/0,fix/chm]", "pool=7", "draws=2", "steps=2", "keep=2"]
BASE += ["data.reference=8", "launch.threads=1", "name=small"]


# A run's page


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the outputs folder of a finished sweep with its page."""
    folder = tmp_path_factory.mktemp("report")
    for arguments in (("sweep", *BASE, f"outputs={folder}"), ("report", str(folder / "small"))):
        said = invoke(*arguments)
        assert said.code == 0, said.err
    assert said.out.split() == [str(folder / "small" / "report.html")] and not said.err
    return folder


@pytest.fixture
def run(outputs: Path, tmp_path: Path) -> Path:
    """Return the folder of a copy of the sweep, which a test may change."""
    return shutil.copytree(outputs, tmp_path / "outputs") / "small"


def reported(run: Path) -> str:
    said = invoke("report", str(run))
    assert said.code == 0, said.err
    return (run / "report.html").read_text()


def shown(page: str) -> dict[str, Any]:
    """Return the page's data of its run."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found
    (run,) = json.loads(found[1])["runs"]
    return run


def test_the_numbers_are_those_of_the_table(outputs: Path) -> None:
    with (outputs / "small" / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    page = shown((outputs / "small" / "report.html").read_text())
    assert len(page["rows"]) == len(rows) > 0
    for mine, theirs in zip(page["rows"], rows, strict=True):
        for name in ("class", "method", "metric", "n", "count"):
            assert str(mine[name]) == theirs[name]
        for name in ("value", "low", "high"):
            assert mine[name] == (float(theirs[name]) if theirs[name] else None)


def test_small_images_are_those_of_the_cache_exactly(outputs: Path) -> None:
    page = shown((outputs / "small" / "report.html").read_text())
    experiment = Experiment(compose([*BASE, f"outputs={outputs}"]))
    mixed = {(p["n"], p["method"], p["draw"]): p["src"] for p in page["images"] if p["n"]}
    assert set(mixed) == {(n, method, draw) for n in (2, 4) for method in METHODS for draw in range(2)}
    for (n, method, draw), uri in mixed.items():
        with Image.open(experiment.layout.image_path(Cell("star", n, Method.parse(method)), draw)) as image:
            np.testing.assert_array_equal(decoded(uri), np.asarray(image))
    real = [p["src"] for p in page["images"] if p["method"] == "real"]
    np.testing.assert_array_equal(decoded(real[1]), experiment.data.references("star")[1].pixels(64))
    first, order = experiment.data.pool("star"), subset(experiment.config.seed, "star", 1, experiment.config.pool)
    (inputs,) = (one["src"] for one in page["inputs"] if one["draw"] == 1)
    expected = np.asarray(Image.fromarray(first[order[0]].pixels(64)).resize((48, 48))).astype(int)
    assert len(inputs) == 4 and np.abs(decoded(inputs[0]).astype(int) - expected).mean() < 12


def decoded(uri: str) -> np.ndarray:
    head, _, body = uri.partition(",")
    assert head == "data:image/webp;base64"
    with Image.open(io.BytesIO(base64.b64decode(body))) as image:
        return np.asarray(image.convert("RGB"))


def test_the_page_says_what_was_run_and_asks_for_nothing_from_elsewhere(outputs: Path) -> None:
    page = (outputs / "small" / "report.html").read_text()
    about = json.loads((outputs / "small" / "done.json").read_text())
    for text in ("7 images of each", "2 draws", "8 real ones", "a photo of a [class]", *about["model"].values()):
        assert text in page
    for term in (*(f"{name}</dt><dd>{version}</dd>" for name, version in about["versions"].items()), "Device</dt>"):
        assert f"<dt>{term}" in page
    assert str(outputs) not in page and "default-src 'none'" in page  # where it ran is private
    assert set(re.findall(r"https?://[^\"'\s]*", page)) == {"http://www.w3.org/2000/svg"}  # a name, and no place
    assert all(place.startswith("data:") for place in re.findall(r"""(?:src|href)=["']?([^"'\s>]*)""", page))
    assert "@import" not in page and not re.search(r"url\((?!#)", page)


def test_the_command_is_shown_as_typed_without_settings_of_the_machine(run: Path) -> None:
    about = json.loads((run / "done.json").read_text())
    typed = ["sweep", "model.prompt=a <b> {}", "n=[2,4]", f"outputs={run.parent}", "launch.threads=1", "device=cpu"]
    (run / "done.json").write_text(json.dumps(about | {"arguments": typed}))
    page = reported(run)
    assert "<code>latentmix sweep &#x27;model.prompt=a &lt;b&gt; {}&#x27; &#x27;n=[2,4]&#x27;</code>" in page
    assert str(run.parent) not in page
    (run / "done.json").write_text(json.dumps(about | {"arguments": None}))
    page = reported(run)
    assert "latentmix sweep &" not in page and "<code>config.yaml</code>" in page


def test_a_run_of_an_older_latentmix_is_read_and_gives_the_same_bytes(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, about = (run / "report.html").read_bytes(), json.loads((run / "done.json").read_text())
    for name in ("metrics", "controls"):
        del about["config"][name]  # as if the key had not been there yet
    about["config"]["speed"]["prompts_twice"] = True  # a technique which went
    (run / "done.json").write_text(json.dumps(about))
    monkeypatch.chdir(run.parent.parent)
    assert invoke("report", "small").out.split() == ["outputs/small/report.html"]
    assert (run / "report.html").read_bytes() == before


def test_a_diagnosis_and_pairs_are_shown_if_they_exist(run: Path) -> None:
    assert invoke("diagnose", *BASE, f"outputs={run.parent}").code == 0
    header = "model,data,inversion,class,n,metric,method,reference,difference,low,high,won,count"
    (run / "pairs.csv").write_text(f"{header}\ntiny,shapes,ddim,star,2,fid,fix/chm,fix/0,-1.5,-2,-1,,2\n")
    page = shown(reported(run))
    found = json.loads((run / "diagnosis.json").read_text())["classes"]["star"]
    assert page["diagnosis"]["verdicts"] == [{"title": "star", "verdict": found["verdict"]}]
    row = dict(zip(page["diagnosis"]["columns"], page["diagnosis"]["rows"][0], strict=True))
    expected = {"norm / √L": found["norms"]["mean"], "explained by z0": found["terminal"]["share"]}
    expected |= {f"bias² in {part} · 1000": 1000 * found["bias"][part] for part in ("channels", "space")}
    expected |= {f"largest N, {m}": "any" if limit is None else limit for m, limit in found["safe"].items()}
    assert {name: row[name] for name in expected} == expected and row["class"] == "star"
    for name in (name for name in row if name.startswith("mean of channel")):
        mean = found["means"][int(name.rpartition(" ")[2])]
        assert row[name] == [mean["value"], mean["low"], mean["high"]]
    (growth, *_) = page["diagnosis"]["growth"]
    means = [row[int(growth["title"].removeprefix("Channel "))] for row in found["growth"]["means"]]
    assert growth["series"][0]["points"] == [list(point) for point in zip(found["growth"]["sizes"], means, strict=True)]
    (pair,) = page["pairs"]
    assert (pair["n"], pair["method"], pair["difference"], pair["high"], pair["won"]) == (2, "fix/chm", -1.5, -1, None)


def test_a_run_without_images_says_so(run: Path) -> None:
    shutil.rmtree(run.parent / "cache")
    (run / "report.html").unlink()
    (line,) = invoke("report", str(run)).err.splitlines()
    assert line.startswith("latentmix: warning: no images of this run are in the cache")
    page = (run / "report.html").read_text()
    assert line.removeprefix("latentmix: warning: ") in page and shown(page)["images"] == []


def test_a_page_with_images_is_kept_where_they_can_not_be_had_again(run: Path) -> None:
    page, kept = reported(run), run / "report-with-images.html"
    assert not kept.exists()
    shutil.rmtree(run.parent / "cache")
    for _ in range(2):
        assert len(invoke("report", str(run)).err.splitlines()) == 1
        assert kept.read_text() == page and shown((run / "report.html").read_text())["images"] == []
    shutil.copy(kept, run / "report.html")
    assert f"with more images, is kept as {kept}" in invoke("report", str(run)).err


# Errors


def test_there_is_no_such_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "'nope'" in refusal("report", "nope")
    for name in ("one", "two"):
        (tmp_path / "outputs" / name).mkdir(parents=True)
        (tmp_path / "outputs" / name / "done.json").write_text("{}")
    assert refusal("report", "nope").endswith("in outputs are one, two")
    assert "name a run" in refusal("report", "outputs=outputs")


@pytest.mark.parametrize(
    ("done", "table", "reason"),
    [
        (None, "", "is not finished; give its command again"),
        ("{}", None, "is not finished; give its command again"),
        ("[]", "", "is not finished"),
        ('{"config": {}}', "class,n\nstar,x\n", "can't be read"),
        ('{"config": {}}', "", "is empty"),
    ],
)
def test_files_that_are_missing_or_damaged(done: str | None, table: str | None, reason: str, tmp_path: Path) -> None:
    for name, text in {"done.json": done, "metrics.csv": table}.items():
        if text is not None:
            (tmp_path / name).write_text(text)
    assert reason in refusal("report", str(tmp_path))


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("done.json", lambda content: content[:-9]),
        ("metrics.csv", lambda content: content[:-9]),
        ("metrics.csv", lambda content: content[: content.index(b"star") + 4] + b"\n"),
        ("metrics.csv", lambda content: b""),
        ("images.parquet", lambda content: content[:-9]),
        ("images.parquet", lambda content: None),
        ("parts.parquet", lambda content: b""),
        ("diagnosis.json", lambda content: b'{"classes": {'),
        ("reconstruction.csv", lambda content: b"quantity,class,value\nx,all"),
    ],
)
def test_a_folder_that_was_copied_in_part_is_not_finished(
    run: Path, tmp_path: Path, name: str, damage: Callable[[bytes], bytes | None]
) -> None:
    """All commands agree, and name the file or say that the run is not finished."""
    assert "finished; the results are in" in invoke("status", str(run)).out
    whole, file = shutil.copytree(run, tmp_path / "outputs" / "whole"), run / name
    content = damage(file.read_bytes() if file.exists() else b"")
    if content is None:
        file.unlink()
    else:
        file.write_bytes(content)
    line, said = refusal("compare", str(run), str(whole)), invoke("status", str(run)).out
    assert (str(file) in line or "is not finished" in line) and "again" in line
    assert "all images are done, but" in said and line.removeprefix("latentmix: error: ") in said


# The page by itself


def invented(classes: tuple[str, ...] = ("star", "heart"), methods: tuple[str, ...] = METHODS) -> Contents:
    """Return the contents of a run that never happened. Each value tells where it comes from."""
    results, uris = [], {}
    kinds = ("fd_embedded", "clip_distance_embedded", "precision_embedded", "something")
    for i, class_id in enumerate((*classes, AVERAGE)):
        for j, method in enumerate(methods):
            for n in NS:
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
    run = Run(Path("nowhere/invented"), "invented", about | {"config": config.as_dict()}, results)
    inputs = {(c, draw): [data_uri((0, 0, place)) for place in range(16)] for c in classes for draw in range(2)}
    return Contents(run, titles, Images(uris, inputs=inputs), [])


def data_uri(colour: tuple[int, int, int]) -> str:
    Image.new("RGB", (64, 64), colour).save(buffer := io.BytesIO(), "WEBP", lossless=True)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


PAIR = {"class": "star", "n": "16", "metric": "fd_embedded", "method": "fix/chm", "reference": "fix/0"}
PAIR |= {"difference": "-1.5", "low": "-2", "high": "-1", "won": "0.75", "count": "3", "over": "draws"}


def nasty() -> Contents:
    contents, about = invented(classes=(NASTY, "n" * 300)), {"versions": {NASTY: NASTY}, "arguments": ["sweep", NASTY]}
    return replace(
        contents,
        run=replace(contents.run, label="name", about={**contents.run.about, **about}),
        pairs=[{"class": NASTY, "method": NASTY, "won": "0.5"}, {**PAIR, "method": NASTY, "metric": NASTY}],
        images=replace(contents.images, note=NASTY),
    )


def with_results(contents: Contents, results: list[Result]) -> Contents:
    return replace(contents, run=replace(contents.run, results=results))


def with_value(value: float, *methods: str) -> Contents:
    """Return contents in which these methods have the same value by all metrics."""
    same = Estimate(value, math.nan, math.nan, 3)
    results = [replace(r, estimate=same) if r.method in methods else r for r in invented().run.results]
    return with_results(invented(), results)


def test_a_run_of_an_older_release_has_later_settings_by_default_and_others_by_their_new_names() -> None:
    """And techniques that went are left out."""
    run = invented().run
    older = {key: value for key, value in run.config.items() if key != "controls"} | {"speed": {"prompts_twice": True}}
    older["model"] = {"world" if key == "domain" else key: value for key, value in run.config["model"].items()}
    assert replace(run, about={**run.about, "config": older}).settings == run.settings


def test_text_stays_text() -> None:
    page = render(nasty())
    assert "<script>document" not in page and "<img" not in page
    assert page.count("</script>") == 2 and "{{script}}" in page  # parts are not filled in twice
    assert {one["id"] for one in shown(page)["classes"]} >= {NASTY}


def test_the_answer_takes_the_better_end_and_says_what_is_undecided() -> None:
    """fix/0 has the smaller distance and the smaller precision. Its parts, where there are any, decide."""
    by_metric = {answer.metric: answer for answer in answers(invented())}
    assert (by_metric["fd_embedded"].best, by_metric["precision_embedded"].best) == ("fix/0", "fix/chm")
    assert "undecided" in by_metric["fd_embedded"].sentence and "not known" in by_metric["fd_embedded"].sentence
    assert "all methods have 1.00 by" in answers(with_value(1.0, *METHODS))[0].sentence
    for spread, wanted in ((0.1, "<b>fix/0</b> is best and <b>fix/chm</b> worst"), (50.0, "it is undecided which")):
        assert wanted in render(with_parts(invented(), spread))


def with_parts(contents: Contents, spread: float) -> Contents:
    """Return contents whose values are means of parts, which scatter by so much."""
    parts = spread * torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)
    contents.run.__dict__["samples"] = {
        (r.class_id, r.n, r.method, r.metric): ("fid", mean(r.estimate.value + parts * (-1) ** (r.method == "fix/0")))
        for r in contents.run.results
        if r.metric == "fd_embedded" and r.n
    }
    return contents


def test_what_real_images_say_of_a_metric_follows_from_their_value() -> None:
    for metric, worse, text in (("clip_distance_embedded", 99.0, "typical"), ("precision_embedded", -99.0, "one half")):
        assert "not the best" in (said := notes(with_value(worse, "real"), metric)) and text in said
        assert "not the best" not in notes(with_value(-worse, "real"), metric)
    for value, beyond in ((99.0, True), (-99.0, False)):
        (answer,) = (a for a in answers(with_value(value, "real")) if a.metric == "clip_distance_embedded")
        assert ("below that smaller is not better" in answer.sentence) == beyond


def test_numbers_of_sentences_have_three_digits_and_a_true_minus() -> None:
    assert [say(x) for x in (12.3456, -0.0045678, 0.0, 26.0)] == ["12.3", "−0.00457", "0", "26.0"]
    assert [say(x) for x in (250.4, 1234.6, 0.99996, math.nan)] == ["250", "1235", "1.000", "nan"]


def test_real_images_are_compared_with_the_largest_n_in_whatever_order_a_run_has_them() -> None:
    """At N = 2 the best value by this metric is 1.6, and at N = 16 it is 4.2."""
    for order in (1, -1):
        contents = with_results(invented(), with_value(3.0, "real").run.results[::order])
        assert "not the best" not in notes(contents, "fd_embedded")
        (answer,) = (a for a in answers(contents) if a.metric == "fd_embedded")
        assert (answer.best, answer.worst) == METHODS and "At N = 16" in answer.sentence


def test_images_are_found_where_a_gpu_made_them() -> None:
    cell = Cell("star", 2, Method("fix", "0"))
    config = compose([*BASE, "device=cuda:7"])
    expected = Experiment(compose([*BASE, "model.precision=float16", "outputs=elsewhere"])).layout.image_path(cell, 1)
    found = find_experiment(config, Path("elsewhere/small"), {"precision": "float16"})
    assert found.layout.image_path(cell, 1) == expected.absolute()


# In a browser


@pytest.fixture(scope="module")
def one_browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("there is no chromium on PATH to look at the page with")
    with browser(tmp_path_factory.mktemp("browser")) as one:
        yield one


@pytest.fixture
def chromium(one_browser: Browser) -> Iterator[Browser]:
    one_browser.complaints.clear()
    yield one_browser
    assert one_browser.complaints == []


@pytest.fixture
def page(chromium: Browser, tmp_path: Path) -> Browser:
    """Open the page of an invented run."""
    return opened(chromium, tmp_path, invented())


def opened(chromium: Browser, folder: Path, *contents: Contents, width: int = 1000, dark: bool = False) -> Browser:
    (folder / "report.html").write_text(render(*contents))
    chromium.open(folder / "report.html", width, dark)
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


def texts(page: Browser, selector: str, what: str = "textContent") -> list[str]:
    return page.run(f"[...document.querySelectorAll({json.dumps(selector)})].map((node) => node.{what})")


def sources(page: Browser, selector: str) -> list[str]:
    return texts(page, selector, "src")


def test_the_page_of_a_run_loads_without_complaint(chromium: Browser, outputs: Path) -> None:
    chromium.open(outputs / "small" / "report.html")
    assert chromium.run("document.querySelectorAll('#grid img').length") >= 4
    assert chromium.run("[...document.querySelectorAll('#grid img')].every((image) => image.naturalWidth === 64)")
    assert chromium.run("document.querySelectorAll('figure svg .curve').length") > 0


def test_the_table_sorts_by_any_column_and_is_of_the_class_that_is_chosen(page: Browser) -> None:
    page.run("document.querySelector('#table').open = true")
    before = column(page, 2)
    button = "document.querySelectorAll('#numbers th button')[2]"
    for reverse in (False, True):
        page.run(f"{button}.click()")
        assert column(page, 2) == sorted(before, reverse=reverse) != before
    assert page.run(f"{button}.parentNode.getAttribute('aria-sort')") == "descending"
    page.run("document.querySelectorAll('#numbers th button')[1].focus()")
    page.press("Enter")
    assert column(page, 1) == sorted(column(page, 1))
    assert texts(page, "#numbers tbody tr:last-child td:nth-child(2)") == ["–"]  # a control has no N, and comes last
    for title, class_id in (("heart", "heart"), ("all (average)", AVERAGE)):
        select(page, "Class", title, "#answer")
        wanted = [
            r.estimate.value for r in invented().run.results if (r.class_id, r.metric) == (class_id, "fd_embedded")
        ]
        assert sorted(column(page, 2)) == sorted(wanted)


def test_a_method_is_switched_off_and_on_and_arrow_keys_show_values(page: Browser) -> None:
    def drawn() -> list[str]:
        return texts(page, "#plots figure:first-child [data-name]", "dataset.name")

    assert drawn() == ["fix/0", "fix/chm", "real"]
    page.run("document.querySelector('#legend input').click()")
    assert drawn() == ["fix/chm", "real"] and "fix/0" not in texts(page, "#numbers td:first-child")
    page.run("document.querySelector('#legend input').click()")
    assert drawn() == ["fix/0", "fix/chm", "real"]
    page.run("document.querySelector('figure svg').focus()")
    for key, wanted in (
        ("ArrowRight", "fix/0, N = 2: 1.614 [0.6142, 2.614] over 3 draws"),
        ("ArrowRight", "fix/0, N = 4: 2.2 [1.2, 3.2] over 3 draws"),
        ("ArrowDown", "fix/chm, N = 4: 4.2 [3.2, 5.2] over 3 draws"),
        ("ArrowDown", "real: 1.5 over 3 draws"),
    ):
        page.press(key)
        assert texts(page, "figure output")[0] == wanted


def test_a_plot_is_saved_with_its_title_and_its_legend(page: Browser) -> None:
    page.run("HTMLAnchorElement.prototype.click = function () { window.saved = decodeURIComponent(this.href) }")
    page.run("document.querySelector('#plots .save').click()")
    saved = page.run("saved").partition(",")[2]
    words = [node.text for node in ElementTree.fromstring(saved).iter("{http://www.w3.org/2000/svg}text")]
    assert words[-4:] == ["Fréchet distance (embedded classifier)", "fix/0", "fix/chm", "real"]


def test_the_grid_spans_what_is_left_open_and_an_image_is_shown_with_its_inputs(page: Browser) -> None:
    def grid() -> tuple[list[str], list[str]]:
        return texts(page, "#grid tbody th"), texts(page, "#grid thead th")

    kept, inputs = invented().images.uris, invented().images.inputs
    assert grid() == (["fix/0", "fix/chm", "real"], ["N = 2", "N = 4", "N = 16"])
    assert len(sources(page, "#grid tr:last-child img")) == 1  # a control has no N
    select(page, "Draw", "draw 2", "#pictures")
    page.run("document.querySelectorAll('#grid tbody tr')[1].querySelectorAll('button')[1].click()")
    assert sources(page, "#chosen img") == [kept["star", 4, "fix/chm", 1], *inputs["star", 1][:4]]
    page.run("document.querySelector('#grid tbody tr:last-child button').click()")
    assert sources(page, "#chosen img") == [kept["star", 0, "real", 1]]
    select(page, "Method", "fix/chm", "#pictures")
    assert grid() == (["draw 1", "draw 2"], ["N = 2", "N = 4", "N = 16"])
    select(page, "N", "N = 4", "#pictures")
    assert grid() == (["star", "heart"], ["draw 1", "draw 2"])
    select(page, "Method", "every method", "#pictures")
    select(page, "Class", "heart", "#pictures")
    assert grid() == (["fix/0", "fix/chm", "real"], ["draw 1", "draw 2"])
    mixed = [kept["heart", 4, method, draw] for method in METHODS for draw in range(2)]
    assert sources(page, "#grid img") == mixed + [kept["heart", 0, "real", draw] for draw in range(2)]
    assert page.run("document.querySelector('#grid img').alt") == "heart, N = 4, fix/0, draw 1"


def test_differences_are_drawn_by_metric_and_n(chromium: Browser, tmp_path: Path) -> None:
    other = {**PAIR, "n": "4", "difference": "1", "low": "-1", "high": "3"}
    page = opened(chromium, tmp_path, replace(invented(), pairs=[PAIR, other]))
    select(page, "Class", "star", "#answer")
    page.run("document.querySelector('#pairs').open = true")
    assert texts(page, "#forest title") == ["fix/chm: −1.5 [−2, −1], over 3 draws"]
    select(page, "N", "N = 4", "#pairs")
    assert texts(page, "#forest title") == ["fix/chm: 1 [−1, 3], over 3 draws"]
    assert texts(page, "#forest td:nth-child(2)") == ["1[−1, 3]"]


def test_several_runs_on_one_page(chromium: Browser, tmp_path: Path) -> None:
    other = invented()
    about = {"config": compose(["n=[2,4,16]", "seed=7"]).as_dict()}
    other = replace(other, run=replace(other.run, label="other", about=about))
    opened(chromium, tmp_path, invented(), other)
    assert texts(chromium, "#runs th[scope=col]") == ["invented", "other"]
    assert texts(chromium, "#runs th[scope=row]") == ["answer", "seed"]
    assert chromium.run("document.querySelectorAll('#run-plots [data-name]').length") == 4  # two metrics, two runs
    chromium.loaded = False
    select(chromium, "Run", "other", "#runs")
    chromium.wait()
    assert chromium.run(
        "[...document.querySelectorAll('[data-run]')].every((n) => n.hidden !== (n.dataset.run === '1'))"
    )


def test_intervals_are_seen_whole_where_all_are_wide_and_only_the_widest_is_cut_off(
    chromium: Browser, tmp_path: Path
) -> None:
    def inside() -> list[bool]:
        return chromium.run(
            """[...document.querySelectorAll("#plots figure:first-child .bar")].map((bar) => {
                const box = bar.closest("svg").querySelector("clipPath rect");
                const [top, height] = ["y", "height"].map((name) => Number(box.getAttribute(name)));
                return ["y1", "y2"].every((y) => bar.getAttribute(y) >= top && bar.getAttribute(y) <= top + height);
            })"""
        )

    def wide(r: Result) -> Estimate:
        value = 50 + r.n / 16 + (r.method == "fix/0")
        reach = 400 if (r.n, r.method) == (16, "fix/0") else 20
        return Estimate(value, value - reach, value + reach, 3)

    results = [replace(r, estimate=wide(r)) for r in invented().run.results if r.n]
    opened(chromium, tmp_path, with_results(invented(), results))
    assert inside().count(False) == 1 and len(inside()) == 6


@pytest.mark.parametrize("width", [320, 1000])
@pytest.mark.parametrize("kind", ["nasty", "much"])
def test_nothing_is_wider_than_the_screen_or_taken_for_html(
    chromium: Browser, tmp_path: Path, width: int, kind: str
) -> None:
    much = tuple(f"{norm}/{mean}" for norm in ("lin", "fix", "nin", "slerp", "lol") for mean in ("0", "m", "chm", "lp"))
    page = opened(chromium, tmp_path, nasty() if kind == "nasty" else invented(methods=much), width=width)
    assert page.run("innerWidth") == width
    assert page.run("document.documentElement.scrollWidth") <= width
    assert page.run("Math.max(...[...document.querySelectorAll('main > *')].map((n) => n.scrollWidth))") <= width
    assert page.run("document.title") == f"{'name' if kind == 'nasty' else 'invented'} · latentmix"
    assert all(source.startswith("data:") for source in sources(page, "img"))


def test_everything_has_a_name_and_can_be_reached(page: Browser) -> None:
    assert page.run("[...document.images].every((image) => image.alt)")
    assert page.run("[...document.querySelectorAll('select, input')].every((n) => n.labels.length || n.ariaLabel)")
    assert page.run("[...document.querySelectorAll('.plot, .wide')].every((n) => n.tabIndex === 0 && n.ariaLabel)")
    summaries = texts(page, "details > summary")
    assert len(summaries) == len(set(summaries)) >= 4


def test_the_page_is_dark_if_that_is_preferred(chromium: Browser, tmp_path: Path) -> None:
    for dark in (True, False):
        script = "getComputedStyle(document.body).backgroundColor"
        ground = opened(chromium, tmp_path, invented(), dark=dark).run(script)
        assert (sum(map(int, re.findall(r"\d+", ground)[:3])) < 3 * 128) == dark


@pytest.mark.parametrize("dark", [False, True])
def test_texts_stand_out_from_their_ground(chromium: Browser, tmp_path: Path, dark: bool) -> None:
    """WCAG's contrast of all texts is at least 4.5."""
    page = opened(chromium, tmp_path, invented(), dark=dark)
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


def test_a_page_with_little_content(chromium: Browser, tmp_path: Path) -> None:
    few = invented(classes=("star",), methods=("fix/chm",))
    without_average = [r for r in few.run.results if r.class_id != AVERAGE]
    for contents in (
        replace(few, images=Images({}, "none")),
        with_results(few, [few.run.results[0]]),
        with_results(few, without_average),
    ):
        page = opened(chromium, tmp_path, contents)
        assert page.run("document.querySelectorAll('#numbers tbody tr').length") >= 1
        assert page.run("document.querySelector('#grid').hidden") == (not contents.images.uris)


def test_the_record_of_a_worker_is_left_out_where_it_is_damaged(tmp_path: Path) -> None:
    write_record(tmp_path, began=0, device="cpu", spent={"generate": (4, 1.5)})
    [record], [file] = read_records(tmp_path), (tmp_path / FOLDER).glob("*.json")
    assert record["stages"] == {"generate": [4, 1.5]}
    file.write_text(file.read_text().replace('"machine"', '"mashine"'))
    assert read_records(tmp_path) == []
