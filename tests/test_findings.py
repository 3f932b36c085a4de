"""The script of docs/findings.md, on a small run: its tables say what the runs' files say."""

import math
import re
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
from pipelines import SD

from latentmix.experiment.csv_files import read_rows

SPEC = spec_from_file_location("findings", Path(__file__).parents[1] / "scripts" / "findings.py")
assert SPEC and SPEC.loader
findings = module_from_spec(SPEC)
SPEC.loader.exec_module(findings)

SMALL = (
    "data.classes=[star,heart]",
    "data.reference=12",
    "n=[2,3]",
    "pool=8",
    "draws=4",
    "steps=2",
    "launch.threads=1",
)

pytestmark = pytest.mark.usefixtures("random_pipelines")


def printed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    monkeypatch.setattr(sys, "argv", ["findings.py", *arguments, *SD, *SMALL, "metrics=[fid,clip_distance]"])
    capsys.readouterr()
    findings.main()
    return capsys.readouterr().out


def test_the_tables_are_those_of_the_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = printed(capsys, monkeypatch, "--outputs", str(tmp_path), "--runs", "main,weights1")
    lines = [re.split(r"\s*\|\s*", line.strip("| ")) for line in out.splitlines() if line.startswith("|")]
    rows = read_rows(tmp_path / "findings-tiny-128" / "pairs.csv")

    def half(row: dict[str, str]) -> float:
        return (float(row["high"]) - float(row["low"])) / 2

    for reference in ("fix/chm", "gauss:nin/pool"):
        wanted = ("3", "clip_distance_embedded", "nin/pool", reference)
        found = {r["class"]: r for r in rows if (r["n"], r["metric"], r["method"], r["reference"]) == wanted}
        over_draws = math.hypot(half(found["star"]), half(found["heart"])) / 2
        cell = f"{float(found['all']['difference']):+.3g} ±{over_draws:.2g}"  # no interval over so few classes
        assert cell in next(line for line in lines[-20:] if line[0] == f"`nin/pool` − `{reference}`")
    assert [line[:2] for line in lines[-4:]] == [["main", "2"], ["main", "3"], ["weights1", "2"], ["weights1", "3"]]


def test_a_dry_run_adds_up_and_computes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = printed(capsys, monkeypatch, "--outputs", str(tmp_path / "outputs"), "--dry-run", "--rate", "1000")
    lines = [re.split(r"\s{2,}", line.strip()) for line in out.splitlines()]
    assert [line[0] for line in lines] == ["run", *findings.RUNS, "all, at most"]
    assert float(lines[-1][1].split()[0]) == pytest.approx(sum(float(x[1].split()[0]) for x in lines[1:-1]), abs=0.1)
    assert not (tmp_path / "outputs").exists()
