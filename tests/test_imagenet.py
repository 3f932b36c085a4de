"""ImageNet as it lies on disk, the names of its classes, and the choice of classes in any data set."""

import io
import pickle
import shutil
import tarfile
import time
import warnings
from pathlib import Path

import pytest
from PIL import Image

from latentmix.compose import compose
from latentmix.data import Dataset, Source, choose, load_dataset
from latentmix.data import checked as kept
from latentmix.data import files as pictures
from latentmix.data.folder import Folder
from latentmix.data.imagenet import ImageNet, names, resolve, synsets, title
from latentmix.data.shapes import SHAPES, Shapes
from latentmix.errors import UserError
from latentmix.experiment.experiment import Experiment

FROG, BIRD, MACHINE, TENCH = "n01644373", "n02012849", "n03126707", "n01440764"
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


def files(class_id: str) -> dict[str, bytes]:
    """The images of a class, in no order."""
    return {f"{class_id}_{grey}.JPEG": jpeg(grey) for grey in reversed(CLASSES[class_id])}


def put(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def build(root: Path, layout: str) -> Path:
    """Two classes of three images each in one of the layouts; what data.path is then."""
    tars = {f"{class_id}.tar": tar(files(class_id)) for class_id in CLASSES}
    if "archive" in layout:
        put(root / "ILSVRC2012_img_train.tar", tar(tars))
        return root / "ILSVRC2012_img_train.tar" if layout == "the archive itself" else root
    if layout.endswith("tars"):
        for name, content in tars.items():
            put(root / layout.removesuffix("tars") / name, content)
        return root
    for class_id in CLASSES:
        for name, content in files(class_id).items():
            put(root / layout / class_id / name, content)
    return root


def greys(sources: list[Source]) -> list[int]:
    return [round(float(source.pixels(8).mean())) for source in sources]


def refusal(data: Dataset, class_id: str = FROG, count: int | None = None) -> str:
    with pytest.raises(UserError) as caught:
        data.images(class_id, count)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def unresolved(name: str) -> str:
    with pytest.raises(UserError) as caught:
        resolve(name)
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


def test_the_train_folder_itself_will_do(tmp_path: Path) -> None:
    assert ImageNet(build(tmp_path, "train/") / "train").classes() == (TENCH, FROG)


@pytest.mark.parametrize("layout", ["train/tars", "archive"])
def test_nothing_is_unpacked(tmp_path: Path, layout: str) -> None:
    data = ImageNet(build(tmp_path, layout))
    before = sorted(tmp_path.rglob("*"))
    greys(data.images(FROG))
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("layout", ["train/", "archive"])
def test_data_sets_and_sources_can_be_sent_to_other_processes(tmp_path: Path, layout: str) -> None:
    data = ImageNet(build(tmp_path, layout))
    (first, *_) = data.images(FROG)
    sent = pickle.dumps((data, first))
    assert len(sent) < 2000
    data, first = pickle.loads(sent)
    assert greys([first, *data.images(FROG)]) == [60, *CLASSES[FROG]]


def test_what_is_not_of_the_1000_classes_is_ignored(tmp_path: Path) -> None:
    root = build(tmp_path, "")
    for name in ("n00000000", "n016443730", "notes"):
        (root / name).mkdir()
    assert ImageNet(root).classes() == (TENCH, FROG)


def test_hidden_members_and_other_files_are_ignored(tmp_path: Path) -> None:
    extra = {f"./{FROG}/._{FROG}_1.JPEG": b"macOS", "README.txt": b"frogs", f"./{FROG}/{FROG}_1.JPEG": jpeg(5)}
    put(tmp_path / f"{FROG}.tar", tar(files(FROG) | extra))
    assert greys(ImageNet(tmp_path).images(FROG)) == [5, *CLASSES[FROG]]


def test_a_tar_counts_more_than_the_folder_that_it_is_being_unpacked_to(tmp_path: Path) -> None:
    build(tmp_path, "tars")
    put(tmp_path / FROG / f"{FROG}_60.JPEG", jpeg(60))
    assert len(ImageNet(tmp_path).images(FROG)) == 3


# What is wrong


@pytest.mark.parametrize("layout", ["train/", "train/tars", "archive"])
def test_broken_images_are_refused_or_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str) -> None:
    whole = files(FROG)
    broken = f"{FROG}_70.JPEG"
    monkeypatch.setitem(globals(), "files", lambda class_id: whole | {broken: whole[broken][:200]})
    path = build(tmp_path, layout)
    text = refusal(ImageNet(path))
    assert broken in text and str(path) in text and text.endswith("mend or delete it, or set data.bad_images=skip")
    assert greys(ImageNet(path).images(FROG, 1)) == [60]
    with pytest.warns(UserWarning, match="the next image is taken instead"):
        assert greys(ImageNet(path, "skip").images(FROG, 2)) == [60, 80]
    assert "has 2 of the 3 images asked for" in refusal(ImageNet(path, "skip"), count=3)


def test_a_tar_that_was_cut_off_is_damaged(tmp_path: Path) -> None:
    put(tmp_path / f"{FROG}.tar", tar(files(FROG))[:700])
    assert f"{FROG}.tar is no tar or a damaged one" in refusal(ImageNet(tmp_path))


def test_a_compressed_tar_is_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / f"{FROG}.tar", "w:gz"):
        pass
    assert "is no tar or a damaged one" in refusal(ImageNet(tmp_path))


def test_a_class_without_images(tmp_path: Path) -> None:
    (tmp_path / FROG).mkdir()
    assert f"class {FROG} (tree frog) in {tmp_path / FROG} has no usable images" in refusal(ImageNet(tmp_path))


def test_a_folder_without_imagenet(tmp_path: Path) -> None:
    (tmp_path / "hat").mkdir()
    with pytest.raises(UserError, match=r"ImageNet's training images are not in .*; expected DIR/train/n01440764/"):
        ImageNet(tmp_path).classes()


def test_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot list .*gone: No such file or directory; expected DIR/train"):
        ImageNet(tmp_path / "gone").classes()


@pytest.mark.parametrize("class_id", [BIRD, "hat", "../train", ""])
def test_a_class_that_is_not_there(tmp_path: Path, class_id: str) -> None:
    what = f"{BIRD} (crane)" if class_id == BIRD else repr(class_id)
    there = f"there are {TENCH}, {FROG}"
    assert refusal(ImageNet(build(tmp_path, "train/")), class_id) == f"class {what} is not in {tmp_path}; {there}"


# Names


def test_there_are_1000_classes_and_their_ids_are_sorted() -> None:
    assert len(names()) == 1000
    assert list(names()) == sorted(names())
    assert [*names()].index(TENCH) == 0
    assert [*names()].index(BIRD) == 134


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
        assert all(class_id in unresolved(name) for class_id in owners[name])


def test_both_cranes_are_named_with_what_they_are() -> None:
    text = unresolved("crane")
    assert text.startswith("2 classes of ImageNet are called 'crane': ")
    assert f"{BIRD} (large long-necked wading bird" in text
    assert f"{MACHINE} (lifts and moves heavy objects;" in text
    assert text.endswith("Give the id of one")
    assert title(BIRD) == title(MACHINE) == "crane"


@pytest.mark.parametrize(
    ("name", "hint"),
    [("tre frog", "'tree frog'"), ("golden retreiver", "'golden retriever'"), ("n01644374", "'n01644373'")],
)
def test_the_nearest_names_are_offered(name: str, hint: str) -> None:
    assert f"no class of ImageNet is called {name!r}; did you mean" in unresolved(name)
    assert hint in unresolved(name)


def test_a_name_near_none() -> None:
    assert unresolved("xyzzyqwv").endswith("give a WordNet id or a name, as 'tree frog'")


def test_all_labels_go_by_their_order_however_they_are_spelt() -> None:
    spelt = [", ".join(every) for every in names().values()]
    spelt[134], spelt[517] = "crane bird", "crane"
    assert synsets(spelt) == tuple(names())
    with pytest.raises(UserError, match="usual order"):
        synsets(sorted(spelt, key=str.casefold))


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
    assert experiment.prompt(FROG).endswith("tree frog")
    assert greys(experiment.pool(TENCH)) == [10, 20]
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


def test_random_classes_come_from_any_data_set(tmp_path: Path) -> None:
    config = compose(["data=folder", f"data.path={build(tmp_path, '')}", "data.classes=random:1"])
    assert choose(load_dataset(config.data), config.data.classes, 0)[0] in CLASSES
    assert len(Experiment(compose(["data.classes=random:4"])).classes) == 4


def test_more_random_classes_than_there_are() -> None:
    with pytest.raises(UserError, match=r"data\.classes=random:11 asks for more than the 10 classes that there are"):
        choose(Shapes(), ["random:11"], 0)


# What is remembered of images


@pytest.fixture
def remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[pictures.Blob]:
    """Which images are decoded, where whatever has been still for a moment is remembered."""
    decoded: list[pictures.Blob] = []
    checksum = pictures._checksum
    monkeypatch.setenv("LATENTMIX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(kept, "WORTHWHILE", 1)
    monkeypatch.setattr(kept, "SETTLED", -1e18)

    def noted(blob: pictures.Blob) -> str:
        decoded.append(blob)
        return checksum(blob)

    monkeypatch.setattr(pictures, "_checksum", noted)
    return decoded


@pytest.mark.parametrize("layout", ["train/", "train/tars", "archive"])
def test_whole_images_are_decoded_once(tmp_path: Path, remembered: list[pictures.Blob], layout: str) -> None:
    path = build(tmp_path, layout)
    first = [source.id for class_id in CLASSES for source in ImageNet(path).images(class_id)]
    assert len(remembered) == len(set(first)) == 6
    assert [source.id for class_id in CLASSES for source in ImageNet(path).images(class_id)] == first
    assert len(remembered) == 6


def test_an_image_that_changed_is_decoded_again(tmp_path: Path, remembered: list[pictures.Blob]) -> None:
    path = build(tmp_path, "")
    file = path / FROG / f"{FROG}_60.JPEG"
    before = ImageNet(path).images(FROG)[0].id
    time.sleep(0.05)
    assert len(jpeg(61)) == len(jpeg(60))
    file.write_bytes(jpeg(61))
    assert ImageNet(path).images(FROG)[0].id != before
    file.write_bytes(b"text")
    assert "it is not an image" in refusal(ImageNet(path))
    file.unlink()
    file.symlink_to("gone")
    assert "No such file" in refusal(ImageNet(path))


def test_broken_images_are_not_remembered(tmp_path: Path, remembered: list[pictures.Blob]) -> None:
    path = build(tmp_path, "")
    put(path / FROG / f"{FROG}_70.JPEG", b"text")
    for _ in range(2):
        assert "_70.JPEG cannot be used" in refusal(ImageNet(path))
    assert [blob.name for blob in remembered].count(f"{FROG}_70.JPEG") == 2


def test_files_that_have_just_changed_are_not_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They could change again without their time of change showing it."""
    monkeypatch.setenv("LATENTMIX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(kept, "WORTHWHILE", 1)
    ImageNet(build(tmp_path, "")).images(FROG)
    assert not (tmp_path / "cache").exists()


def test_few_images_leave_nothing_in_the_users_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, remembered: list[pictures.Blob]
) -> None:
    monkeypatch.setattr(kept, "WORTHWHILE", 100)
    ImageNet(build(tmp_path, "")).images(FROG)
    assert not (tmp_path / "cache").exists()


def test_a_cache_that_is_damaged_or_cannot_be_written_does_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, remembered: list[pictures.Blob]
) -> None:
    path = build(tmp_path, "")
    ImageNet(path).images(FROG)
    (note,) = (tmp_path / "cache").rglob("*.json")
    note.write_text("[1, 2")
    assert greys(ImageNet(path).images(FROG)) == list(CLASSES[FROG])
    shutil.rmtree(tmp_path / "cache")
    (tmp_path / "cache").touch()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert greys(ImageNet(path).images(FROG)) == list(CLASSES[FROG])
