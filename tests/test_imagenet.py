"""ImageNet as it lies on disk, the names of its classes, and the choice of classes in any data set."""

import gzip
import io
import pickle
import shutil
import tarfile
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from latentmix.compose import compose
from latentmix.data import Source, choose, decoded_images, image_files, imagenet_names, load_dataset
from latentmix.data.folder import Folder
from latentmix.data.image_files import Rules
from latentmix.data.imagenet import ImageNet
from latentmix.data.imagenet_names import names, resolve, synsets, title
from latentmix.data.prompts import Prompts
from latentmix.data.shapes import SHAPES, Shapes
from latentmix.errors import UserError, warn_once
from latentmix.experiment.experiment import Experiment
from latentmix.storage import user_cache

FROG, BIRD, MACHINE, TENCH = "n01644373", "n02012849", "n03126707", "n01440764"
SKIP = Rules(bad_images="skip")
CLASSES = {FROG: (60, 70, 80), TENCH: (10, 20, 30)}  # what the images of each are grey with
LAYOUTS = ["train/", "", "ILSVRC/Data/CLS-LOC/train/", "tars", "train/tars", "archive", "the archive itself"]


def jpeg(grey: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (12, 8), (grey, grey, grey)).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def tar(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def files_of(class_id: str) -> dict[str, bytes]:
    """The images of a class, in no order."""
    return {f"{class_id}_{grey}.JPEG": jpeg(grey) for grey in reversed(CLASSES[class_id])}


def put(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def build(root: Path, layout: str) -> Path:
    """Two classes of three images each in one of the layouts; what data.path is then."""
    tars = {f"{class_id}.tar": tar(files_of(class_id)) for class_id in CLASSES}
    if "archive" in layout:
        put(root / "ILSVRC2012_img_train.tar", tar(tars))
        return root / "ILSVRC2012_img_train.tar" if layout == "the archive itself" else root
    if layout.endswith("tars"):
        for name, content in tars.items():
            put(root / layout.removesuffix("tars") / name, content)
        return root
    for class_id in CLASSES:
        for name, content in files_of(class_id).items():
            put(root / layout / class_id / name, content)
    return root


def greys(sources: list[Source]) -> list[int]:
    return [round(float(source.pixels(8).mean())) for source in sources]


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(UserError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Layouts


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_has_the_same_images_in_the_same_order(tmp_path: Path, layout: str) -> None:
    data = ImageNet(build(tmp_path / "one", layout))
    assert data.classes() == (TENCH, FROG)
    for class_id in CLASSES:
        plain = Folder(build(tmp_path / "other", "")).images(class_id)
        assert [source.id for source in data.images(class_id)] == [source.id for source in plain]
        assert greys(data.images(class_id)) == list(CLASSES[class_id])
        assert greys(data.images(class_id, 2)) == list(CLASSES[class_id][:2])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_prompts_name_images_in_tars_as_in_folders(tmp_path: Path, layout: str) -> None:
    sources = ImageNet(build(tmp_path / "one", layout)).images(TENCH)
    assert Path(sources[0].label).name == f"{TENCH}_10.JPEG"
    for name in (f"{TENCH}_20.JPEG", f"{TENCH}/{TENCH}_20.JPEG", "/".join(Path(sources[1].label).parts[-2:])):
        (tmp_path / "p.csv").write_text(f"file_name,prompt\n{name},a fish\n{FROG}/{TENCH}_10.JPEG,no fish\n")
        with pytest.warns(UserWarning, match="no prompt for 2 images"):
            prompted = Prompts(tmp_path / "p.csv").given_to(sources, "class")
        assert [source.prompt for source in prompted] == [None, "a fish", None]
        warn_once.cache_clear()


def test_the_train_folder_itself_will_do(tmp_path: Path) -> None:
    assert ImageNet(build(tmp_path, "train/") / "train").classes() == (TENCH, FROG)


@pytest.mark.parametrize("layout", ["train/", "archive"])
def test_nothing_is_unpacked_and_sources_can_be_sent_to_other_processes(tmp_path: Path, layout: str) -> None:
    data = ImageNet(build(tmp_path, layout))
    before = sorted(tmp_path.rglob("*"))
    (first, *_) = data.images(FROG)
    sent = pickle.dumps((data, first))
    assert len(sent) < 2000
    data, first = pickle.loads(sent)
    assert greys([first, *data.images(FROG)]) == [60, *CLASSES[FROG]]
    assert sorted(tmp_path.rglob("*")) == before


def test_what_is_not_of_the_1000_classes_is_ignored(tmp_path: Path) -> None:
    root = build(tmp_path, "")
    for name in ("n00000000", "n016443730", "notes"):
        (root / name).mkdir()
    assert ImageNet(root).classes() == (TENCH, FROG)


def test_hidden_members_and_other_files_are_ignored(tmp_path: Path) -> None:
    extra = {f"./{FROG}/._{FROG}_1.JPEG": b"macOS", "README.txt": b"frogs", f"./{FROG}/{FROG}_1.JPEG": jpeg(5)}
    put(tmp_path / f"{FROG}.tar", tar(files_of(FROG) | extra))
    assert greys(ImageNet(tmp_path).images(FROG)) == [5, *CLASSES[FROG]]


def test_a_tar_counts_more_than_the_folder_that_it_is_being_unpacked_to(tmp_path: Path) -> None:
    build(tmp_path, "tars")
    put(tmp_path / FROG / f"{FROG}_60.JPEG", jpeg(60))
    assert len(ImageNet(tmp_path).images(FROG)) == 3


# What is wrong


@pytest.mark.parametrize("layout", ["train/", "train/tars", "archive"])
def test_broken_images_are_refused_or_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str) -> None:
    whole = files_of(FROG)
    broken = f"{FROG}_70.JPEG"
    monkeypatch.setitem(globals(), "files_of", lambda class_id: whole | {broken: whole[broken][:200]})
    path = build(tmp_path, layout)
    text = refusal(lambda: ImageNet(path).images(FROG))
    assert broken in text and str(path) in text and text.endswith("mend or delete it, or set data.bad_images=skip")
    assert greys(ImageNet(path).images(FROG, 1)) == [60]
    with pytest.warns(UserWarning, match="the next image is taken instead"):
        assert greys(ImageNet(path, SKIP).images(FROG, 2)) == [60, 80]
    assert "has 2 of the 3 images asked for" in refusal(lambda: ImageNet(path, SKIP).images(FROG, 3))


@pytest.mark.parametrize("content", [tar(files_of(FROG))[:700], gzip.compress(tar({}))], ids=["cut off", "compressed"])
def test_a_tar_that_is_cut_off_or_compressed_is_refused(tmp_path: Path, content: bytes) -> None:
    put(tmp_path / f"{FROG}.tar", content)
    assert f"{FROG}.tar is no tar or a damaged one" in refusal(lambda: ImageNet(tmp_path).images(FROG))


def test_a_folder_that_lacks_images_classes_or_itself(tmp_path: Path) -> None:
    assert "gone: No such file or directory; expected DIR/train" in refusal(ImageNet(tmp_path / "gone").classes)
    (tmp_path / "hat").mkdir()
    assert "ImageNet's training images are not in" in refusal(ImageNet(tmp_path).classes)
    (tmp_path / FROG).mkdir()
    message = refusal(lambda: ImageNet(tmp_path).images(FROG))
    assert f"class {FROG} (tree frog) in {tmp_path / FROG} has no usable images" in message


@pytest.mark.parametrize("class_id", [BIRD, "hat", "../train", ""])
def test_a_class_that_is_not_there(tmp_path: Path, class_id: str) -> None:
    data = ImageNet(build(tmp_path, "train/"))
    known = f"class {BIRD} (crane) is not in {tmp_path}; there are {TENCH}, {FROG}"
    expected = known if class_id == BIRD else f"no class of ImageNet is called {class_id!r}; "
    assert refusal(lambda: data.images(class_id)).startswith(expected)


# Names


def test_names_and_definitions_are_those_of_timm() -> None:
    spec = find_spec("timm")  # whose import takes seconds
    assert spec and spec.submodule_search_locations
    folder = Path(spec.submodule_search_locations[0], "data", "_info")
    ids = (folder / "imagenet_synsets.txt").read_text().split()
    assert list(names()) == ids == sorted(ids) and len(ids) == 1000
    for column, file in enumerate(("imagenet_synset_to_lemma.txt", "imagenet_synset_to_definition.txt")):
        theirs = dict(line.split("\t", 1) for line in (folder / file).read_text("utf-8").splitlines())
        ours = {class_id: ", ".join(called) for class_id, called in names().items()}, imagenet_names._table()[1]
        assert ours[column] == {class_id: theirs[class_id] for class_id in ids}


@pytest.mark.parametrize("name", [FROG, "tree frog", "Tree_Frog", "tree-frog", "TREE FROG"])
def test_any_name_of_a_class_will_do(name: str) -> None:
    assert resolve(name) == FROG


def test_every_name_leads_to_its_class_or_is_refused_for_being_of_several() -> None:
    called = [(class_id, name.casefold()) for class_id, every in names().items() for name in every]
    owners = {name: {class_id for class_id, other in called if other == name} for _, name in called}
    several = {name for name, owner in owners.items() if len(owner) > 1}
    assert {"crane", "maillot", "missile", "cardigan", "panther"} <= several and len(several) < 30
    assert all(resolve(name) == class_id for class_id, name in called[::7] if name not in several)
    for name in several:
        message = refusal(partial(resolve, name))
        assert all(class_id in message for class_id in owners[name])


def test_both_cranes_are_named_with_what_they_are() -> None:
    text = refusal(lambda: resolve("crane"))
    assert text.startswith("2 classes of ImageNet are called 'crane': ")
    assert f"{BIRD} (large long-necked wading bird" in text
    assert f"{MACHINE} (lifts and moves heavy objects;" in text
    assert text.endswith("Give the id of one")
    assert title(BIRD) == title(MACHINE) == "crane"


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("tre frog", "'tree frog'"),
        ("n01644374", "'n01644373'"),
        ("xyzzyqwv", "give a WordNet id or a name, as 'tree frog'"),
    ],
)
def test_the_nearest_names_are_offered(name: str, hint: str) -> None:
    message = refusal(lambda: resolve(name))
    assert f"no class of ImageNet is called {name!r}; " in message and hint in message


def test_all_labels_go_by_their_order_however_they_are_spelt() -> None:
    spelt = [", ".join(every) for every in names().values()]
    spelt[134], spelt[517] = "crane bird", "crane"
    assert synsets(spelt) == tuple(names())
    with pytest.raises(UserError, match="usual order"):
        synsets(sorted(spelt, key=str.casefold))


def test_labels_that_are_numbers_go_by_themselves() -> None:
    assert synsets(["0", "134", "30"]) == (TENCH, BIRD, list(names())[30])
    assert synsets(sorted(map(str, range(1000)))) == tuple(list(names())[i] for i in sorted(range(1000), key=str))


def test_fewer_labels_go_by_their_ids_or_names() -> None:
    assert synsets([MACHINE, "tench", "tree frog, tree-frog", "maillot"]) == (MACHINE, TENCH, FROG, "n03710637")
    with pytest.raises(UserError, match="2 classes of ImageNet are called 'crane'"):
        synsets(["tench", "crane"])


# The choice of classes


def test_classes_are_chosen_by_name_and_known_by_id(tmp_path: Path) -> None:
    path = build(tmp_path, "train/")
    run = ["data=imagenet", f"data.path={path}", "pool=2", "n=[2]", "steps=2"]
    experiment = Experiment(compose([*run, "data.classes=[tree frog,tench,n01644373]"]))
    assert experiment.classes == (FROG, TENCH)
    assert experiment.data.prompt(FROG).endswith("tree frog")
    assert greys(experiment.data.pool(TENCH)) == [10, 20]
    assert Experiment(compose(run)).classes == (TENCH, FROG)
    with pytest.raises(UserError, match="2 classes of ImageNet are called 'crane'"):
        _ = Experiment(compose([*run, "data.classes=[crane]"])).classes
    with pytest.raises(UserError, match="is not in"):
        _ = Experiment(compose([*run, f"data.classes=[{BIRD}]"])).classes


def test_random_classes_are_sorted_nested_and_follow_the_seed() -> None:
    drawn = {(k, seed): choose(Shapes(), [f"random:{k}"], seed) for k in range(1, 11) for seed in range(20)}
    for (k, seed), classes in drawn.items():
        assert len(set(classes)) == k and list(classes) == sorted(classes)
        assert set(classes) <= set(drawn.get((k + 1, seed), classes))
    assert len({drawn[3, seed] for seed in range(20)}) > 10
    assert {class_id for seed in range(20) for class_id in drawn[3, seed]} == set(SHAPES)


def test_random_classes_never_change_since_experiments_name_them_by_a_seed() -> None:
    assert choose(Shapes(), ["random:3"], 0) == ("crescent", "drop", "hexagon")
    assert "data.classes=random:11 asks for more than the 10 classes" in refusal(
        lambda: choose(Shapes(), ["random:11"], 0)
    )


def test_a_class_that_is_called_like_a_draw_is_itself(tmp_path: Path) -> None:
    for name in ("random:1", "random:2", "star"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.jpg").touch()
    assert choose(Folder(tmp_path), ["random:1"], 0) == ("random:1",)
    assert len(choose(Folder(tmp_path), ["random:3"], 0)) == 3


def test_random_classes_come_from_any_data_set(tmp_path: Path) -> None:
    config = compose(["data=folder", f"data.path={build(tmp_path, '')}", "data.classes=random:1"])
    assert choose(load_dataset(config.data), config.data.classes, 0)[0] in CLASSES


@pytest.mark.parametrize(
    ("kind", "needed"), [("folder", "data.path=DIR"), ("imagenet", "data.path=DIR"), ("hub", "data.hub=OWNER/NAME")]
)
def test_what_a_kind_of_data_needs_is_asked_for(kind: str, needed: str) -> None:
    assert f"data={kind} needs {needed}" in refusal(lambda: load_dataset(replace(compose([]).data, kind=kind)))


# What is remembered of images


@pytest.fixture
def remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[image_files.Blob]:
    """The images that are checked by their content. What has been still for a moment is remembered."""
    checked: list[image_files.Blob] = []
    check = image_files._check
    monkeypatch.setenv("LATENTMIX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(decoded_images, "WORTHWHILE", 0)
    monkeypatch.setattr(decoded_images, "SETTLED", -1e18)

    def noted(blob: image_files.Blob, *more: Any) -> str:
        checked.append(blob)
        return check(blob, *more)

    monkeypatch.setattr(image_files, "_check", noted)
    return checked


@pytest.mark.parametrize("layout", ["train/", "train/tars", "archive"])
def test_whole_images_are_checked_once(tmp_path: Path, remembered: list[image_files.Blob], layout: str) -> None:
    path = build(tmp_path, layout)
    first = [source.id for class_id in CLASSES for source in ImageNet(path).images(class_id)]
    assert len(remembered) == len(set(first)) == 6
    assert [source.id for class_id in CLASSES for source in ImageNet(path).images(class_id)] == first
    assert len(remembered) == 6
    ImageNet(path, Rules(max_megapixels=100)).images(FROG)  # another rule
    assert len(remembered) == 9


def test_an_image_that_changed_is_checked_again(tmp_path: Path, remembered: list[image_files.Blob]) -> None:
    path = build(tmp_path, "")
    file = path / FROG / f"{FROG}_60.JPEG"
    before = ImageNet(path).images(FROG)[0].id
    time.sleep(0.05)
    assert len(jpeg(61)) == len(jpeg(60))
    file.write_bytes(jpeg(61))
    assert ImageNet(path).images(FROG)[0].id != before
    file.write_bytes(b"text")
    for _ in range(2):  # what is damaged is not remembered
        assert "_60.JPEG cannot be used: it is not an image" in refusal(lambda: ImageNet(path).images(FROG))


def test_recent_changes_and_short_checks_leave_nothing_in_the_users_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file could change again without its time of change showing it."""
    monkeypatch.setenv("LATENTMIX_CACHE", str(tmp_path / "cache"))
    for name, value in {"WORTHWHILE": 0, "SETTLED": -1e18}.items():
        with monkeypatch.context() as patch:
            patch.setattr(decoded_images, name, value)
            ImageNet(build(tmp_path, "")).images(FROG)
        assert not (tmp_path / "cache").exists()


def test_a_cache_that_is_damaged_or_cannot_be_written_does_no_harm(
    tmp_path: Path, remembered: list[image_files.Blob]
) -> None:
    path = build(tmp_path, "")
    ImageNet(path).images(FROG)
    (note,) = user_cache().rglob("*.json")
    note.write_text("[1, 2")
    assert greys(ImageNet(path).images(FROG)) == list(CLASSES[FROG])
    shutil.rmtree(user_cache())
    user_cache().touch()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert greys(ImageNet(path).images(FROG)) == list(CLASSES[FROG])
