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
from latentmix.experiment.draws import Cell
from latentmix.experiment.experiment import Experiment
from latentmix.experiment.results import AVERAGE, Result
from latentmix.metrics import METRICS, Estimate, Metric, mean
from latentmix.mixing import MEANS, NORMS, Mean, Method, Norm
from latentmix.report.contents import Contents, Images, find_experiment
from latentmix.report.data import page_data
from latentmix.report.page import render

NASTY = """</script><script>document.title='x'</script><img src=x onerror="document.title='x'">'&amp;"""
CLASSES, NS, METHODS = ("star",), (2, 4), ("fix/0", "fix/chm")
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
    return json.loads(found[1])


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
    real = [p["src"] for p in shown if p["method"] == "real"]
    assert len(real) == 2
    np.testing.assert_array_equal(decoded(real[1]), experiment.references("star")[1].pixels(64))


def decoded(uri: str) -> np.ndarray:
    head, _, body = uri.partition(",")
    assert head == "data:image/webp;base64"
    with Image.open(io.BytesIO(base64.b64decode(body))) as image:
        return np.asarray(image.convert("RGB"))


def test_the_page_asks_for_nothing_from_elsewhere(outputs: Path) -> None:
    page = (outputs / "small" / "report.html").read_text()
    assert "default-src 'none'" in page
    assert re.findall(r"https?://[^\"'\s]*", page) == ["http://www.w3.org/2000/svg"]  # a name, and no place
    assert all(place.startswith("data:") for place in re.findall(r"""(?:src|href)=["']?([^"'\s>]*)""", page))
    assert "@import" not in page and not re.search(r"url\((?!#)", page)


def test_the_page_says_what_was_run_and_with_what(outputs: Path) -> None:
    page = (outputs / "small" / "report.html").read_text()
    about = json.loads((outputs / "small" / "done.json").read_text())
    for text in ("7 images of each", "2 draws", "8 real ones", "a photo of a [class]", *about["model"].values()):
        assert text in page
    for name, version in about["versions"].items():
        assert f"<dt>{name}</dt><dd>{version}</dd>" in page
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
    assert shown["pairs"] == {
        "classes": ["star"],
        "columns": ["N", "metric", "method", "reference", "difference", "share of draws won", "count"],
        "rows": [[2, "FID", "fix/chm", "fix/0", [-1.5, -2, -1], None, 2]],
    }


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
    assert f"is not finished, as {missing} is missing; run latentmix sweep again" in line


@pytest.mark.parametrize(
    ("done", "table", "reason"),
    [
        ("{", "", "done.json can't be read"),
        ("[]", "", "done.json can't be read"),
        ("{}", "", "can't be read: 'config'"),
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
    return Contents(config, about, results, titles, Images(uris), {}, [])


def data_uri(colour: tuple[int, int, int]) -> str:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), colour).save(buffer, "WEBP", lossless=True)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def nasty() -> Contents:
    contents = invented(classes=(NASTY, "n" * 300))
    return replace(
        contents,
        config=replace(contents.config, name="name"),
        about={**contents.about, "versions": {NASTY: NASTY}, "arguments": ["sweep", NASTY]},
        pairs=[{"class": NASTY, "method": NASTY, "won": "0.5"}],
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


def test_the_summary_takes_the_better_end_and_tells_of_ties() -> None:
    page = render(invented())
    assert "At the largest N = 16, averaged over 2 classes" in page
    assert "<td>fix/0: 4.2 [3.2, 5.2]</td><td>fix/chm: 8.2 [7.2, 9.2]</td>" in page  # a distance
    assert "<td>fix/chm: 28.2 [27.2, 29.2]</td><td>fix/0: 24.2 [23.2, 25.2]</td>" in page  # precision
    same = [replace(r, estimate=Estimate(1.0, math.nan, math.nan, 3)) for r in invented().results]
    assert "<td>all alike: 1</td><td></td>" in render(replace(invented(), results=same))


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
    assert chromium.run("[...document.images].every((image) => image.complete && image.naturalWidth === 64)")
    assert chromium.run("document.querySelectorAll('figure svg .curve').length") > 0


@needs_chromium
def test_the_table_sorts_by_any_column(page: Browser) -> None:
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
    select(page, "Class", "heart", "#curves")
    select(page, "Class", "all (average)" if class_id == AVERAGE else class_id, "#curves")
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
        ("ArrowRight", "fix/0, N = 2: 1.614 [0.6142, 2.614] over 3 classes"),
        ("ArrowRight", "fix/0, N = 4: 2.2 [1.2, 3.2] over 3 classes"),
        ("ArrowDown", "fix/chm, N = 4: 4.2 [3.2, 5.2] over 3 classes"),
        ("ArrowDown", "real: 1.5 over 3 classes"),
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
def test_two_methods_on_the_same_draw_side_by_side(page: Browser) -> None:
    def sources() -> list[str]:
        return page.run("['.over', ':not(.over)'].map((kind) => document.querySelector('.slider img' + kind).src)")

    kept = invented().images.uris
    assert sources() == [kept["star", 16, "fix/0", 0], kept["star", 16, "fix/chm", 0]]
    select(page, "Draw", "draw 2", "#pictures")
    select(page, "N", "N = 2", "#choose-pair")
    assert sources() == [kept["star", 2, "fix/0", 1], kept["star", 2, "fix/chm", 1]]
    page.run("document.querySelector('.slider input').focus()")
    for _ in range(3):
        page.press("ArrowRight")
    at = "getComputedStyle(document.querySelector('.slider')).getPropertyValue('--at')"
    assert page.run(at) == "53%"
    page.run("document.querySelectorAll('#grid tbody tr')[1].querySelector('button').click()")  # fix/chm, N = 2
    assert sources() == [kept["star", 2, "fix/chm", 1], kept["star", 2, "fix/0", 1]]


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
    assert NASTY in texts(page, "#curves option")
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
    links = page.run("[...document.querySelectorAll('nav a')].map((a) => a.getAttribute('href'))")
    assert {"#curves", "#table", "#pictures", "#settings", "#repeat", "#environment"} <= set(links)
    assert all(page.run(f"Boolean(document.querySelector({json.dumps(link)} + ' h2'))") for link in links)


@needs_chromium
@pytest.mark.parametrize("kind", ["no images", "one of each", "no average"])
def test_a_page_with_little_content(kind: str, chromium: Browser, tmp_path: Path) -> None:
    contents = invented(classes=("star",), methods=("fix/chm",))
    if kind == "no images":
        contents = replace(contents, images=Images({}, "none"))
    elif kind == "one of each":
        contents = replace(contents, results=[r for r in contents.results if (r.class_id, r.n) == ("star", 4)][:1])
    else:
        contents = replace(contents, results=[r for r in contents.results if r.class_id != AVERAGE])
    page = opened(chromium, contents, tmp_path)
    assert page.complaints == []
    assert page.run("document.querySelectorAll('#numbers tbody tr').length") >= 1
    assert page.run("document.querySelector('#grid').hidden") == (kind == "no images")
