"""Faults over the real command line: after each, the same command gives the bytes of an undisturbed run, or refuses.

LATENTMIX_KILLS says how many runs are killed (`make test-faults` kills 120), and LATENTMIX_SEED which.
"""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import pytest
import torch
from driver import assert_same
from PIL import Image
from pipelines import SD
from warm import ALONE, Ended, Run, Warm

from latentmix import storage as store

KILLS = int(os.environ.get("LATENTMIX_KILLS", "10"))
SEED = int(os.environ.get("LATENTMIX_SEED", "0"))
FULL = KILLS >= 100  # else each fault is tried at one moment, not at several

pytestmark = pytest.mark.usefixtures("random_pipelines")

BASE = (
    *SD,
    "name=run",
    "data.classes=[star,heart]",
    "n=[2,4]",
    "methods=[fix/0,fix/chm]",
    "metrics=[fid,clip_distance]",
    "pool=4",
    "draws=4",
    "data.reference=4",
    "steps=2",
    "batch=2",
    "keep=2",
    "launch.threads=1",
)
ONE = ("n=[2]", "methods=[fix/0]")
SCRIPTS: dict[str, list[list[str]]] = {  # commands that follow one another in the same folder
    "a sweep": [["sweep", *BASE]],
    "pictures first": [["generate", *BASE, *ONE], ["evaluate", *BASE, *ONE]],
    "latents alone": [["mix", *BASE], ["diagnose", *BASE]],
    "images of its own": [["sweep", *BASE, *ONE, "data=synthetic", "data.reference=4"]],
    "to and fro": [["reconstruct", *BASE], ["probe", *BASE, "--offsets", "0,0.4,0.8"]],
}
DRAWN = "pictures first"  # the one whose figures are drawn
SHARES = dict.fromkeys(SCRIPTS, 1) | {"a sweep": 3}  # of the kills
STAGES = {  # in each of which a full suite kills
    *(f"experiment.stages.{name}" for name in ("_measure_real", "_invert", "_mix", "_generate", "_measure_images")),
    *("experiment.synthesis._synthesize", "experiment.reconstruction._reconstruct", "experiment.probe._generate"),
}


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warm]:
    """Its first run imports what a run needs, so that the runs to come are as fast as they ever are."""
    process, folder = Warm(), tmp_path_factory.mktemp("first")
    Bed(process, folder, [["sweep", *BASE, *ONE]]).finish(folder / "outputs", figures=True)
    yield process
    process.close()


@dataclass
class Bed:
    """Where runs of one script are made and disturbed."""

    warm: Warm
    folder: Path
    commands: Sequence[Sequence[str]]
    numbers: Iterator[int] = field(default_factory=count)

    def order(self, outputs: Path, **fault: object) -> Run:
        self.folder.mkdir(exist_ok=True)
        commands = [[*command, f"outputs={outputs}"] for command in self.commands]
        log = self.folder / f"{next(self.numbers)}.log"
        return Run(commands, str(log), **{"figures": self.commands is SCRIPTS[DRAWN]} | fault)  # type: ignore[arg-type]

    def run(self, outputs: Path, **fault: object) -> Ended:
        (ended,) = self.warm.run(self.order(outputs, **fault))
        return ended

    def finish(self, outputs: Path, **fault: object) -> Ended:
        ended = self.run(outputs, **fault)
        assert ended.code == 0, ended.err
        return ended


@dataclass(frozen=True)
class Whole:
    """An undisturbed run."""

    outputs: Path
    ended: Ended

    @property
    def span(self) -> tuple[float, float]:
        """Seconds in which something happens."""
        times = [when for when, _, _ in self.ended.log]
        return times[0], times[-1]

    def write(self, share: float) -> int:
        """The number of the write up to which a share of all are done."""
        return 1 + int(share * self.ended.written())

    def batch(self, work: str) -> int:
        """The number of the first batch of some work."""
        return 1 + next(k for k, batch in enumerate(self.ended.begun()) if batch.startswith(f"latentmix.{work} "))


@pytest.fixture(scope="module")
def wholes(warm: Warm, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Whole]:
    class Lazily(dict[str, Whole]):
        def __missing__(self, name: str) -> Whole:
            outputs = tmp_path_factory.mktemp("whole") / "outputs"
            self[name] = Whole(outputs, Bed(warm, outputs.parent, SCRIPTS[name]).finish(outputs))
            return self[name]

    return Lazily()


@pytest.fixture
def bed(warm: Warm, tmp_path: Path) -> Bed:
    return Bed(warm, tmp_path / "logs", SCRIPTS["a sweep"])


@pytest.fixture
def whole(wholes: dict[str, Whole]) -> Whole:
    return wholes["a sweep"]


def test_two_undisturbed_runs_are_the_same(bed: Bed, whole: Whole, tmp_path: Path) -> None:
    assert max(Counter(whole.ended.begun()).values()) == 1
    bed.finish(tmp_path / "outputs")
    assert_same(tmp_path / "outputs", whole.outputs)
    assert bed.finish(tmp_path / "outputs").begun() == []


# Killed


def moment(generator: random.Random, whole: Whole, attempts: Sequence[Ended]) -> dict[str, object]:
    """When a run is killed: by the clock or at a write, anywhere in what is left of it after some attempts."""
    first, last = whole.span
    left = 1 - sum(attempt.written() for attempt in attempts) / whole.ended.written()
    share = generator.random() * max(left, 0.02)
    if generator.random() < 0.5:
        return {"after": first + share * (last - first)}
    return {"at": (generator.choice(["midway", "whole", "moved"]), whole.write(share))}


def assert_little_is_lost(attempts: Sequence[Ended]) -> None:
    """No batch is begun again but the one in which its run was killed."""
    for number, attempt in enumerate(attempts):
        again = set(attempt.begun()) & {batch for later in attempts[number + 1 :] for batch in later.begun()}
        assert again <= set(attempt.begun()[-1:])
        assert max(Counter(attempt.begun()).values(), default=1) == 1


@pytest.mark.parametrize("name", SCRIPTS)
def test_runs_killed_at_random_go_on_to_the_same_bytes(
    name: str, warm: Warm, wholes: dict[str, Whole], tmp_path: Path
) -> None:
    generator, whole = random.Random(f"{SEED} {name}"), wholes[name]
    bed, kills = Bed(warm, tmp_path / "logs", SCRIPTS[name]), round(KILLS * SHARES[name] / sum(SHARES.values()))
    killed, attempts, places = 0, list[Ended](), (tmp_path / str(number) for number in count())
    outputs = next(places)
    while killed < kills:
        at = moment(generator, whole, attempts)
        attempts.append(bed.run(outputs, **at))
        print(f"seed {SEED}, {name}, kill {killed + 1}: {at} -> {attempts[-1].code}, {stage(attempts[-1])}")
        if attempts[-1].code == -signal.SIGKILL:
            killed += 1
            continue
        assert attempts[-1].code == 0, attempts[-1].err  # it was through before its moment came
        assert_whole(attempts, outputs, whole)
        attempts, outputs = [], next(places)
    attempts.append(bed.finish(outputs))
    assert_whole(attempts, outputs, whole)


@pytest.mark.skipif(not FULL, reason="a reduced suite leaves it to test_resume, which kills at chosen moments")
@pytest.mark.parametrize("work", sorted(STAGES))
def test_a_run_killed_in_each_stage(work: str, warm: Warm, wholes: dict[str, Whole], tmp_path: Path) -> None:
    at_it = (name for name in SCRIPTS if any(b.startswith(f"latentmix.{work} ") for b in wholes[name].ended.begun()))
    name, outputs = next(at_it), tmp_path / "outputs"
    bed, whole = Bed(warm, tmp_path / "logs", SCRIPTS[name]), wholes[name]
    killed = bed.run(outputs, at=("batch", whole.batch(work)))
    assert (killed.code, stage(killed)) == (-signal.SIGKILL, work)
    assert_whole([killed, bed.finish(outputs)], outputs, whole)


def assert_whole(attempts: Sequence[Ended], outputs: Path, whole: Whole) -> None:
    assert_same(outputs, whole.outputs)
    assert_little_is_lost(attempts)


def stage(ended: Ended) -> str:
    """What a run was at when it ended."""
    begun = ended.begun()
    return begun[-1].split(" ")[0].removeprefix("latentmix.") if begun else "nothing yet"


@pytest.mark.parametrize("share", [0.2, 0.6, 0.95] if FULL else [0.6])
def test_sigterm_ends_a_run_with_a_line(share: float, bed: Bed, whole: Whole, tmp_path: Path) -> None:
    at = ("midway", whole.write(share))
    ended = bed.run(tmp_path / "outputs", at=at, signal=signal.SIGTERM)
    assert ended.code == 143, ended.err
    assert (
        ended.line() == "latentmix: error: stopped; what is finished is kept, and the same command continues from there"
    )
    assert not list((tmp_path / "outputs").rglob("*.part"))
    again = bed.finish(tmp_path / "outputs")
    assert_whole([ended, again], tmp_path / "outputs", whole)


def test_the_command_as_users_start_it_ends_with_a_line(whole: Whole, tmp_path: Path, bed: Bed) -> None:
    outputs, words = tmp_path / "outputs", ["sweep", *BASE]
    command = [sys.executable, "-m", "latentmix", *words, f"outputs={outputs}"]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=os.environ | ALONE
    )
    while process.poll() is None and not list(outputs.glob("cache/latents/*/*.safetensors")):
        time.sleep(0.01)
    process.terminate()
    _, err = process.communicate()
    assert process.returncode == 143, err
    assert err.splitlines()[-1].startswith("latentmix: error: stopped; what is finished is kept")
    bed.finish(outputs)
    assert_same(outputs, whole.outputs)


# No space left, and nothing to be written at all


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", place], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", place], check=True)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.97] if FULL else [0.5])
def test_a_disk_that_fills_up(share: float, bed: Bed, whole: Whole, disk: Path) -> None:
    outputs, ballast = disk / "outputs", disk / "ballast"
    ended = bed.run(outputs, at=("moved", whole.write(share)), then="fill", path=str(ballast))
    if share == 0:  # the first write is before the plan, which says that it has no room
        assert ended.code == 2, ended.err
        assert ended.line().startswith("latentmix: error: the disk is too small: ")
        assert "free some space" in ended.line()
    else:
        assert ended.code == 1, ended.err
        assert ended.line().startswith("latentmix: error: the disk is full: ")
        assert "give the same command again" in ended.line()
    assert not list(outputs.rglob("*.part"))
    ballast.unlink()
    assert_whole([ended, bed.finish(outputs)], outputs, whole)


@pytest.mark.parametrize("share", [0.0, 0.5] if FULL else [0.5])
def test_outputs_that_become_read_only(share: float, bed: Bed, whole: Whole, disk: Path) -> None:
    outputs = disk / "outputs"
    ended = bed.run(outputs, at=("moved", whole.write(share)), then="read-only", path=str(disk))
    assert ended.code == 2, ended.err
    # The first write is before the plan, which looks at the folder.
    said = "can't be written to" if share == 0 else "could not be written: Read-only file system"
    assert f"{said}; choose another place with outputs=" in ended.line()
    refused = bed.run(outputs)
    assert refused.code == 2 and not refused.begun()
    assert "can't be written to; choose another place with outputs=" in refused.line()
    subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
    assert_whole([ended, bed.finish(outputs)], outputs, whole)


# Damaged


def kinds(outputs: Path) -> dict[str, list[Path]]:
    """All files by kind; but for the notes of what a folder is, which are for people, and never read."""
    found: dict[str, list[Path]] = {}
    for path in sorted(p for p in outputs.rglob("*") if p.is_file() and p.name != "identity.json"):
        found.setdefault(re.sub(r"[0-9a-f]{16}|\d{6}", "*", path.relative_to(outputs).as_posix()), []).append(path)
    return found


def damage(path: Path, generator: random.Random, how: str) -> None:
    content = bytearray(path.read_bytes())
    place = generator.randrange(len(content))
    if how == "flipped":
        content[place] ^= 1 << generator.randrange(8)
    path.write_bytes(content if how == "flipped" else content[:place])


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_flipped_bit_and_a_half_written_file_of_each_kind(
    name: str, warm: Warm, wholes: dict[str, Whole], tmp_path: Path
) -> None:
    generator, whole = random.Random(f"{SEED} {name}"), wholes[name]
    outputs, bed = shutil.copytree(whole.outputs, tmp_path / "outputs"), Bed(warm, tmp_path / "logs", SCRIPTS[name])
    flipped: dict[Path, bytes] = {}
    for files in kinds(outputs).values():
        for path, how in zip(generator.sample(files, len(files)), ["flipped", "cut"], strict=False):
            damage(path, generator, how)
            if how == "flipped" and path.suffix == ".safetensors":
                flipped[path] = path.read_bytes()
    bed.finish(outputs)
    for path in (path for path, content in flipped.items() if path.read_bytes() == content):
        with pytest.raises(ValueError, match=path.name):  # the bit is in a tensor that these commands do not read
            store.load_tensors(path)
        path.write_bytes((whole.outputs / path.relative_to(outputs)).read_bytes())
    assert_same(outputs, whole.outputs)
    assert bed.finish(outputs).begun() == []


# Not alone


def test_two_runs_into_one_folder_at_once(bed: Bed, whole: Whole, tmp_path: Path) -> None:
    outputs = tmp_path / "outputs"
    for ended in bed.warm.run(bed.order(outputs), bed.order(outputs)):
        assert ended.code == 0, ended.err
    assert_same(outputs, whole.outputs)


def test_a_run_beside_one_that_is_killed(bed: Bed, whole: Whole, tmp_path: Path) -> None:
    outputs = tmp_path / "outputs"
    killed, other = bed.warm.run(bed.order(outputs, at=("midway", whole.write(0.1))), bed.order(outputs))
    assert (killed.code, other.code) == (-signal.SIGKILL, 0), other.err
    assert_same(outputs, whole.outputs)


# Clocks


@pytest.mark.parametrize("year", [1971, 2099] if FULL else [1971])
def test_clocks_count_for_nothing(year: int, bed: Bed, whole: Whole, tmp_path: Path) -> None:
    """The clock is set back or forward while a run lies half done."""
    outputs, clock = tmp_path / "outputs", (year - 1970) * 365.25 * 86400
    killed = bed.run(outputs, at=("moved", whole.write(0.5)))
    for path in outputs.rglob("*"):
        os.utime(path, (2**31 - clock, 2**31 - clock))  # 1971 finds files of 2037, and 2099 of 1909
    ended = bed.run(outputs, clock=clock)
    assert ended.code == 0, ended.err
    assert_whole([killed, ended], outputs, whole)


# What goes in


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, generator = tmp_path_factory.mktemp("photographs"), random.Random(0)
    for class_id in ("cat", "dog"):
        (folder / class_id).mkdir()
        for number in range(4):
            Image.frombytes("RGB", (64, 64), generator.randbytes(64 * 64 * 3)).save(folder / class_id / f"{number}.png")
    return folder


@pytest.fixture
def album(warm: Warm, photographs: Path, tmp_path: Path) -> Bed:
    """A sweep over a copy of the photographs."""
    copy = shutil.copytree(photographs, tmp_path / "album")
    words = ("data=folder", f"data.path={copy}", "data.classes=[cat,dog]", "data.reference=4")
    return Bed(warm, tmp_path / "logs", [["sweep", *BASE, *ONE, *words]])


@pytest.mark.parametrize("then", ["vanish", "change"])
@pytest.mark.parametrize("k", [1, 5] if FULL else [5])  # while real images are measured, and while they are inverted
def test_an_image_that_vanishes_or_changes_is_named(then: str, k: int, album: Bed, tmp_path: Path) -> None:
    outputs, image = tmp_path / "outputs", tmp_path / "album" / "dog" / "3.png"
    content = image.read_bytes()
    image.with_name(".other").write_bytes((tmp_path / "album" / "cat" / "0.png").read_bytes())
    ended = album.run(outputs, at=("batch", k), then=then, path=str(image))
    assert ended.code == 2
    assert str(image) in ended.line() and "give the same command again" in ended.line()
    image.write_bytes(content)
    again = album.finish(outputs)
    album.finish(tmp_path / "whole")
    assert_same(outputs, tmp_path / "whole")
    assert_little_is_lost([ended, again])


@pytest.mark.parametrize("lost", ["latents", "references"])
def test_what_vanishes_from_the_cache_is_made_again(lost: str, bed: Bed, whole: Whole, tmp_path: Path) -> None:
    """By the same command, which plans again."""
    outputs = tmp_path / "outputs"
    at = ("batch", whole.batch("experiment.stages._generate"))
    ended = bed.run(outputs, at=at, then="vanish", path=str(outputs / "cache" / lost))
    assert ended.code == 0, ended.err
    assert_same(outputs, whole.outputs)


def test_features_that_vanish_are_made_again_from_images_or_noise(bed: Bed, whole: Whole, tmp_path: Path) -> None:
    """Cells of which all images are kept are measured from the files, in the batches in which they were generated."""
    outputs = shutil.copytree(whole.outputs, tmp_path / "outputs")
    for features in outputs.glob("cache/cells/*/features-*"):
        shutil.rmtree(features)
    begun = " ".join(bed.finish(outputs).begun())
    assert "_measure_images" in begun and "_generate" in begun
    assert_same(outputs, whole.outputs)


# A long run in miniature


def test_many_small_batches_leave_no_file_open_and_take_no_more_memory(warm: Warm, tmp_path: Path) -> None:
    more = ("batch=1", "draws=60", "n=[2]", "methods=[fix/0]", "data.classes=[star]", "keep=60", "pool=12")
    ended = Bed(warm, tmp_path / "logs", [["sweep", *BASE, *more]]).finish(tmp_path / "outputs")
    files, pages = (ended.numbers(what)[-50:] for what in ("files", "pages"))
    assert len(files) == 50 and min(files[25:]) <= min(files[:25])  # more while another thread reads or writes
    assert max(pages[25:]) - max(pages[:25]) < 16 * 2**20 / 4096


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_reading_many_parts_again_and_again_leaves_no_file_open(tmp_path: Path) -> None:
    parts, before = store.TensorCache(tmp_path, "identity"), open_files()
    for row in range(200):
        parts.write([str(row)], {"x": torch.zeros(1, 8)})
    for _ in range(5):
        assert len(parts.read()) == 200
    assert open_files() == before
