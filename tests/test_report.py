"""The page of a run: its numbers and pictures are the run's, it needs nothing beside it, and a browser shows it."""

import base64
import csv
import io
import json
import math
import re
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import CHROMIUM, Browser, browser
from driver import Said, invoke
from PIL import Image

from latentmix.config import OF_A_MACHINE, Config, compose, find
from latentmix.experiment.experiment import Cell, Experiment
from latentmix.experiment.results import AVERAGE, Result
from latentmix.metrics import Estimate
from latentmix.mixing import Method
from latentmix.report import _experiment
from latentmix.report.command import command
from latentmix.report.labels import metric
from latentmix.report.page import Pictures, Report, data, render

NASTY = """</script><script>document.title='x'</script><img src=x onerror="document.title='x'">'&amp;"""
CLASSES, NS, METHODS = ("star",), (2, 4), ("fix/0", "fix/chm")
BASE = (
    "data.classes=[star]",
    "n=[2,4]",
    "methods=[fix/0,fix/chm]",
    "pool=4",
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
    """A finished sweep, and its page."""
    place = tmp_path_factory.mktemp("report")
    for arguments in (("sweep", *BASE, f"outputs={place}"), ("report", str(place / "small"))):
        said = invoke(*arguments)
        assert said.code == 0, said.err
    assert said.out.split() == [str(place / "small" / "report.html")]
    assert not said.err
    return place


@pytest.fixture
def run(outputs: Path, tmp_path: Path) -> Path:
    """The folder of a copy of the sweep, to change."""
    return shutil.copytree(outputs, tmp_path / "outputs") / "small"


def said_by(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found
    return json.loads(found[1])


def test_the_numbers_are_those_of_the_table(outputs: Path) -> None:
    shown = said_by((outputs / "small" / "report.html").read_text())
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


def test_small_pictures_are_those_of_the_cache_exactly(outputs: Path) -> None:
    shown = said_by((outputs / "small" / "report.html").read_text())["pictures"]
    experiment = Experiment(compose([*BASE, f"outputs={outputs}"]))
    mixed = {(p["class"], p["n"], p["method"], p["draw"]): p["src"] for p in shown if p["n"]}
    assert set(mixed) == {(c, n, m, draw) for c in CLASSES for n in NS for m in METHODS for draw in range(2)}
    for (class_id, n, method, draw), uri in mixed.items():
        with Image.open(experiment.image_path(Cell(class_id, n, Method.parse(method)), draw)) as image:
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


def test_it_tells_what_was_run_and_with_what(outputs: Path) -> None:
    page = (outputs / "small" / "report.html").read_text()
    about = json.loads((outputs / "small" / "done.json").read_text())
    for text in ("4 images of each", "2 draws", "8 real ones", "a photo of a [class]", about["model"]["weights"]):
        assert text in page
    for name, version in about["versions"].items():
        assert f"<dt>{name}</dt><dd>{version}</dd>" in page
    assert "<code>latentmix sweep " in page
    assert str(outputs) not in page  # where it ran is nobody's business


def test_once_more_gives_the_same_bytes(run: Path) -> None:
    before = (run / "report.html").read_bytes()
    assert invoke("report", str(run)).code == 0
    assert (run / "report.html").read_bytes() == before


def test_a_diagnosis_and_pairs_come_in_where_they_are(run: Path) -> None:
    assert invoke("diagnose", *BASE, f"outputs={run.parent}").code == 0
    header = "model,data,inversion,class,n,metric,method,reference,difference,low,high,won,count"
    (run / "pairs.csv").write_text(f"{header}\ntiny,shapes,ddim,star,2,fid,fix/chm,fix/0,-1.5,-2,-1,,2\n")
    assert invoke("report", str(run)).code == 0
    shown = said_by((run / "report.html").read_text())
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


def test_a_run_without_pictures_says_so(run: Path) -> None:
    shutil.rmtree(run.parent / "cache")
    said = invoke("report", str(run))
    (line,) = said.err.splitlines()
    assert said.code == 0 and line.startswith("latentmix: warning: no pictures of this run are in the cache")
    page = (run / "report.html").read_text()
    assert line.removeprefix("latentmix: warning: ") in page
    assert said_by(page)["pictures"] == []


def test_a_run_by_its_name_and_one_of_an_older_latentmix(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run.parent.parent)
    about = json.loads((run / "done.json").read_text())
    for name in {"metrics", "controls", "keep"} & about["config"].keys():
        del about["config"][name]  # as if the key had not been there yet
    (run / "done.json").write_text(json.dumps(about))
    assert invoke("report", "small").out.split() == ["outputs/small/report.html"]


# Errors


def refusal(said: Said) -> str:
    (line,) = said.err.splitlines()
    assert said.code == 2 and line.startswith("latentmix: error: ")
    return line


def test_there_is_no_such_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert refusal(invoke("report", "nope")).endswith(
        "there is no run 'nope', by folder or by name; in outputs are none"
    )
    for name in ("one", "two"):
        (tmp_path / "outputs" / name).mkdir(parents=True)
        (tmp_path / "outputs" / name / "done.json").write_text("{}")
    assert refusal(invoke("report", "nope")).endswith("in outputs are one, two")
    assert find("one") == Path("outputs/one")


@pytest.mark.parametrize("missing", ["metrics.csv", "done.json"])
def test_a_run_that_is_not_finished(missing: str, tmp_path: Path) -> None:
    for name in {"metrics.csv", "done.json"} - {missing}:
        (tmp_path / name).write_text("")
    line = refusal(invoke("report", str(tmp_path)))
    assert f"is not finished, as {missing} is not there; run latentmix sweep again" in line


@pytest.mark.parametrize(
    ("done", "table", "reason"),
    [
        ("{", "", "done.json can't be read"),
        ("[]", "", "done.json can't be read"),
        ("{}", "", "can't be read: 'config'"),
        ('{"config": {"n": [0]}}', "", "can't be read: n.0=0"),
        ('{"config": {}}', "class,n\nstar,x\n", "can't be read"),
        ('{"config": {}}', "", "is empty"),
    ],
)
def test_files_that_are_damaged(done: str, table: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "done.json").write_text(done)
    (tmp_path / "metrics.csv").write_text(table)
    assert reason in refusal(invoke("report", str(tmp_path)))


# The command that repeats a run


def repeated(config: Config) -> list[str]:
    """Overrides, after a look at whether they make the config again."""
    _, name, *overrides = shlex.split(command(config))
    assert name == "sweep"
    made, wanted = compose(overrides).as_dict(), config.as_dict()
    for key in OF_A_MACHINE:
        del made[key], wanted[key]
    assert made == wanted
    return overrides


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["experiment=demo"],
        ["experiment=demo", "draws=8"],
        ["seed=3", "steps=20"],
        ["steps=20", "inversion.steps=30"],
        ["inversion=fixed_point"],
        ["guidance=2", "pool=96", "n=[2,96]", "name=mine"],
        ["data.classes=random:3"],
        ["model.prompt='a {}, drawn'"],
    ],
)
def test_the_command_is_as_short_as_what_was_typed(overrides: list[str]) -> None:
    assert len(repeated(compose(overrides))) == len(overrides)


@pytest.mark.parametrize(
    "overrides", [["device=cpu"], ["batch=3", "launch.threads=1"], ["outputs=/elsewhere"], ["speed.compile=true"]]
)
def test_the_command_leaves_out_what_changes_no_result(overrides: list[str]) -> None:
    assert repeated(compose(overrides)) == []


@pytest.mark.parametrize(
    "overrides",
    [
        ["model=sd15", "data=imagenet", "data.path=pictures", "data.classes=random:10"],
        ["model=sd15", "guidance=7.5", "inversion=null_text"],
        ["data=synthetic", "data.classes=[tree frog]"],
        ["inversion=ddim", "inversion.iterations=3"],
        ["data=folder", "data.path='/a b/c'", "methods=[lin/0]"],
    ],
)
def test_the_command_makes_the_same_run(overrides: list[str]) -> None:
    plain = [text.replace("inversion.iterations", "+inversion.iterations") for text in overrides]
    repeated(compose(plain))


@pytest.mark.parametrize(
    "name", ["it's", "a,b", "null", "1e3", "[x]", 'say "so"', "a\\", "a\\'b", "ä ö", "k=v", "{x}", "", " ", "#1", NASTY]
)
def test_the_command_takes_any_name_of_a_class(name: str) -> None:
    config = compose([])
    assert repeated(replace(config, data=replace(config.data, classes=("star", name)))) != []


def test_names_that_no_command_line_brings_through_leave_none() -> None:
    config = compose([])
    for name in ("${x}", "\\${x}", "a\nb"):
        changed = replace(config, data=replace(config.data, classes=(name,)))
        assert command(changed) == "" or repeated(changed)


# The page by itself


def made(classes: tuple[str, ...] = ("star", "heart"), methods: tuple[str, ...] = METHODS, keep: int = 2) -> Report:
    """What a run of these might have said; values tell where they come from."""
    results, uris = [], {}
    kinds = ("fd_embedded", "clip_distance_embedded", "precision_embedded", "something")
    for i, class_id in enumerate((*classes, AVERAGE)):
        for j, method in enumerate(methods):
            for n in (2, 4, 16):
                for k, kind in enumerate(kinds):
                    value = 10.0 * k + (j + 1) * math.sqrt(n) + 0.1 * i
                    results.append(Result(class_id, n, method, kind, Estimate(value, value - 1, value + 1, 3)))
                for draw in range(keep if class_id != AVERAGE else 0):
                    uris[class_id, n, method, draw] = image_path((40 * i, 40 * j, n + 100 * draw))
                    uris[class_id, 0, "real", draw] = image_path((40 * i, 255, draw))
        for kind in kinds:
            results.append(Result(class_id, 0, "real", kind, Estimate(1.5, math.nan, math.nan, 3)))
    config = compose(["n=[2,4,16]"])
    about = {"python": "3.x", "versions": {"latentmix": "0"}, "model": {"weights": "abc"}}
    titles = {class_id: class_id for class_id in (*classes, AVERAGE)}
    return Report(config, about, results, titles, Pictures(uris), {}, [], "latentmix sweep")


def image_path(colour: tuple[int, int, int]) -> str:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), colour).save(buffer, "WEBP", lossless=True)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def nasty() -> Report:
    report = made(classes=(NASTY, "n" * 300))
    config = replace(report.config, name="name")
    about = {**report.about, "versions": {NASTY: NASTY}}
    pairs = [{"class": NASTY, "method": NASTY, "won": "0.5"}]
    return replace(
        report, config=config, about=about, pairs=pairs, command=NASTY, pictures=replace(report.pictures, note=NASTY)
    )


def test_text_stays_text() -> None:
    page = render(nasty())
    assert "<script>document" not in page and "<img" not in page
    assert page.count("</script>") == 2
    assert {one["id"] for one in said_by(page)["classes"]} >= {NASTY}


def test_parts_are_not_filled_in_twice() -> None:
    assert "{{script}}" in render(replace(made(), command="{{script}}"))


@pytest.mark.parametrize(
    ("name", "label", "better"),
    [
        ("fid", "FID", "lower"),
        ("fd_embedded", "Fréchet distance (embedded)", "lower"),
        ("fd_infinity_embedded", "Fréchet distance for infinitely many images (embedded)", "lower"),
        ("clip_distance_ViT-L-14/openai", "CLIP cosine distance (ViT-L-14/openai)", "lower"),
        ("coverage_inception", "Coverage (inception)", "higher"),
        ("fd_dinov2-vitl14", "Fréchet distance (dinov2-vitl14)", "lower"),
        ("clip_score_embedded", "CLIP score (embedded)", "higher"),
        ("diversity_lpips-alex", "Diversity (lpips-alex)", ""),
        ("fidelity", "fidelity", ""),
    ],
)
def test_metrics_in_words(name: str, label: str, better: str) -> None:
    assert metric(name) == {"name": name, "label": label, "better": better}


def test_no_two_methods_look_alike_and_controls_come_last() -> None:
    names = ("noise", "lin/0", "fix/lp0.5", "fix/lp2", "fix/lp", "slerp/0", "adain/0", "nao/chm", "future", "lol/m")
    methods = data(made(methods=names))["methods"]
    assert {m["name"] for m in methods} == {*names, "real"}
    assert len({(m["colour"], m["dash"]) for m in methods}) == len(methods)
    assert {m["name"] for m in methods if m["control"]} == {"noise", "real", "future"}
    assert {m["name"] for m in methods[-2:]} == {"noise", "real"}


def test_the_summary_takes_the_better_end_and_tells_of_ties() -> None:
    page = render(made())
    assert "At the largest N = 16, averaged over 2 classes" in page
    assert "<td>fix/0: 4.2 [3.2, 5.2]</td><td>fix/chm: 8.2 [7.2, 9.2]</td>" in page  # a distance
    assert "<td>fix/chm: 28.2 [27.2, 29.2]</td><td>fix/0: 24.2 [23.2, 25.2]</td>" in page  # precision
    same = [replace(r, estimate=Estimate(1.0, math.nan, math.nan, 3)) for r in made().results]
    assert "<td>all alike: 1</td><td></td>" in render(replace(made(), results=same))


def test_pictures_are_found_where_a_gpu_made_them() -> None:
    cell = Cell("star", 2, Method("fix", "0"))
    config = compose([*BASE, "device=cuda:7"])
    there = Experiment(compose([*BASE, "model.precision=float16", "outputs=elsewhere"])).image_path(cell, 1)
    assert (
        _experiment(config, Path("elsewhere/small"), {"precision": "float16"}).image_path(cell, 1) == there.absolute()
    )


# In a browser


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("browser")) as one:
        yield one


@pytest.fixture
def page(chromium: Browser, tmp_path: Path) -> Browser:
    """The page of a made-up run."""
    return opened(chromium, made(), tmp_path)


def opened(chromium: Browser, report: Report, folder: Path, width: int = 1000, dark: bool = False) -> Browser:
    path = folder / "report.html"
    path.write_text(render(report))
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
    wanted = [r.estimate.value for r in made().results if (r.class_id, r.metric) == (class_id, "fd_embedded")]
    assert column(page, 2) == wanted


@needs_chromium
def test_a_method_is_switched_off_and_on(page: Browser) -> None:
    def there() -> list[str]:
        return page.run(
            "[...document.querySelector('figure').querySelectorAll('[data-name]')].map((g) => g.dataset.name)"
        )

    assert there() == ["fix/0", "fix/chm", "real"]
    page.run("document.querySelector('#legend input').click()")
    assert there() == ["fix/chm", "real"]
    assert "fix/0" not in texts(page, "#numbers td:first-child")
    page.run("document.querySelector('#legend input').click()")
    assert there() == ["fix/0", "fix/chm", "real"]


@needs_chromium
def test_values_show_under_the_pointer_and_by_keys(page: Browser) -> None:
    page.run("document.querySelector('figure svg').focus()")
    for key, wanted in (
        ("ArrowRight", "fix/0, N = 2: 1.614 [0.6142, 2.614] over 3 classes"),
        ("ArrowRight", "fix/0, N = 4: 2.2 [1.2, 3.2] over 3 classes"),
        ("ArrowDown", "fix/chm, N = 4: 4.2 [3.2, 5.2] over 3 classes"),
        ("ArrowDown", "real: 1.5 over 3 classes"),
    ):
        page.press(key)
        assert texts(page, "figure output")[0] == wanted
    page.run("document.activeElement.blur()")
    assert texts(page, "figure output")[0].strip() == ""
    page.run("document.querySelector('figure').scrollIntoView({behavior: 'instant'})")
    page.run("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")  # it has scrolled
    curve = "document.querySelector('figure [data-name=\"fix/chm\"] path:last-child').getBoundingClientRect()"
    x, y = page.run(f"[{curve}.x + {curve}.width / 2, {curve}.y + {curve}.height / 2]")
    page.move(x + 3, y - 3)
    assert texts(page, "figure output")[0] == "fix/chm, N = 16: 8.2 [7.2, 9.2] over 3 classes"


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
    kept = made().pictures.uris
    mixed = [[f"heart, N = 4, {m}, draw {d + 1}", kept["heart", 4, m, d]] for m in METHODS for d in range(2)]
    assert shown == mixed + [[f"heart, real, draw {d + 1}", kept["heart", 0, "real", d]] for d in range(2)]


@needs_chromium
def test_two_methods_on_the_same_draw_side_by_side(page: Browser) -> None:
    def sources() -> list[str]:
        return page.run("['.over', ':not(.over)'].map((kind) => document.querySelector('.slider img' + kind).src)")

    kept = made().pictures.uris
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
@pytest.mark.parametrize("width", [320, 360, 1000])
@pytest.mark.parametrize("kind", ["plain", "nasty", "much"])
def test_nothing_is_wider_than_the_screen(chromium: Browser, tmp_path: Path, width: int, kind: str) -> None:
    much = tuple(f"{norm}/{mean}" for norm in ("lin", "fix", "nin", "slerp", "lol") for mean in ("0", "m", "chm", "lp"))
    report = {"plain": made, "nasty": nasty, "much": lambda: made(methods=much)}[kind]()
    page = opened(chromium, report, tmp_path, width)
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
def test_it_is_dark_where_that_is_preferred(chromium: Browser, tmp_path: Path) -> None:
    def lightness(dark: bool) -> float:
        page = opened(chromium, made(), tmp_path, dark=dark)
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
@pytest.mark.parametrize("kind", ["no pictures", "one of each", "no average"])
def test_a_page_of_little(kind: str, chromium: Browser, tmp_path: Path) -> None:
    report = made(classes=("star",), methods=("fix/chm",))
    if kind == "no pictures":
        report = replace(report, pictures=Pictures({}, "none"))
    elif kind == "one of each":
        report = replace(report, results=[r for r in report.results if (r.class_id, r.n) == ("star", 4)][:1])
    else:
        report = replace(report, results=[r for r in report.results if r.class_id != AVERAGE])
    page = opened(chromium, report, tmp_path)
    assert page.complaints == []
    assert page.run("document.querySelectorAll('#numbers tbody tr').length") >= 1
    assert page.run("document.querySelector('#grid').hidden") == (kind == "no pictures")
