"""Data sets of the Hugging Face hub: local Parquet files and image folders stand in for them, read by the same call."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from huggingface_hub.errors import GatedRepoError
from PIL import Image

from latentmix.checks.data import check_data
from latentmix.compose import compose
from latentmix.data import NotFetched, hub, load_dataset
from latentmix.data.hub import Hub, PlannedHub
from latentmix.data.imagenet_names import names, resolve
from latentmix.errors import UserError
from latentmix.experiment.experiment import Experiment
from latentmix.storage import DiskFull

IMAGENETTE_CLASSES = {  # as its authors name them
    resolve(name)
    for name in (
        *("tench", "English springer", "cassette player", "chain saw", "church"),
        *("French horn", "garbage truck", "gas pump", "golf ball", "parachute"),
    )
}
ROWS = 60
FRUIT = ["plum", "apple", "star/fruit"]  # label = row % 3, and grey = row
FEATURES = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=FRUIT)})


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nothing of these tests gets into the user's caches, and none of them reaches a network."""
    monkeypatch.setenv("LATENTMIX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    return tmp_path / "cache"


@pytest.fixture
def fruit(tmp_path: Path) -> Path:
    return parquet(tmp_path / "fruit", FRUIT)


def jpeg(grey: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (grey, grey, grey)).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def parquet(folder: Path, labels: list[str], columns: tuple[str, str] = ("image", "label"), rows: int = ROWS) -> Path:
    """A data set in three files; image number i is grey i, and of label i mod the number of labels."""
    image, label = columns
    features = datasets.Features({image: datasets.Image(), label: datasets.ClassLabel(names=labels)})
    content = {
        image: [{"bytes": jpeg(row), "path": None} for row in range(rows)],
        label: [row % len(labels) for row in range(rows)],
    }
    made = datasets.Dataset.from_dict(content, features=features)
    folder.mkdir(parents=True)
    for part in range(3):
        made.shard(3, part, contiguous=True).to_parquet(folder / f"train-{part:05d}-of-00003.parquet")
    return folder


def data(source: Path | str, *overrides: str) -> Hub:
    config = compose(["data=hub", f"data.hub={source}", "pool=2", "n=[2]", *overrides]).data
    made = load_dataset(config)
    assert isinstance(made, Hub)
    return made


def greys(made: Hub, class_id: str, count: int | None = None) -> list[int]:
    return [int(source.pixels(8)[0, 0, 0]) for source in made.images(class_id, count)]


def refusal(made: Hub, class_id: str = "plum", count: int | None = None) -> str:
    with pytest.raises(UserError) as caught:
        made.images(class_id, count)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which data sets are opened by `datasets`, in turn."""
    calls: list[str] = []
    load = datasets.load_dataset

    def noted(path: str, **how: Any) -> Any:
        calls.append(path)
        return load(path, **how)

    monkeypatch.setattr(datasets, "load_dataset", noted)
    return calls


def kept(cache: Path) -> dict[str, int]:
    """How many images are in each class's folder."""
    folders = sorted(path for path in cache.glob("hub/*/*") if path.is_dir())
    return {folder.name: len(list(folder.glob("*.jpg"))) for folder in folders}


# What is kept


def test_images_come_in_the_streams_order_with_their_bytes_as_they_are(fruit: Path, cache: Path) -> None:
    made = data(fruit)
    assert made.classes() == ("apple", "plum", "star-fruit")
    assert greys(made, "apple") == list(range(1, ROWS, 3))
    assert greys(made, "star-fruit", 4) == [2, 5, 8, 11]
    (folder,) = cache.glob("hub/*/00001")
    assert [file.read_bytes() for file in sorted(folder.glob("*.jpg"))] == [jpeg(row) for row in range(1, ROWS, 3)]


def test_only_the_wanted_classes_are_kept(fruit: Path, cache: Path) -> None:
    data(fruit).fetch(["plum", "star-fruit"])
    assert kept(cache) == {"00000": 20, "00002": 20}


def test_all_classes_come_in_one_stream_and_never_again(fruit: Path, opened: list[str]) -> None:
    experiment = Experiment(compose(["data=hub", f"data.hub={fruit}", "data.classes=[plum,apple]", "pool=3", "n=[2]"]))
    assert experiment.classes == ("plum", "apple")
    assert [len(experiment.data.pool(class_id)) for class_id in experiment.classes] == [3, 3]
    assert [len(experiment.data.references(class_id)) for class_id in experiment.classes] == [20, 20]
    assert opened == [str(fruit)] * 2  # once for the names of the labels
    opened.clear()
    assert greys(data(fruit), "plum", 1) == [0]
    assert opened == []


def test_a_limit_ends_the_stream_early(fruit: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = rows_seen(monkeypatch)
    made = data(fruit, "data.limit=2")
    made.fetch(["plum", "apple"])
    assert kept(cache) == {"00000": 2, "00001": 2}
    assert max(seen) == 4
    assert greys(made, "plum") == [0, 3]
    assert "data.limit=2 keeps fewer than 3 images" in refusal(made, count=3)


def test_a_higher_limit_fetches_more_and_a_lower_one_takes_fewer(fruit: Path, opened: list[str]) -> None:
    assert greys(data(fruit, "data.limit=3"), "plum") == [0, 3, 6]
    opened.clear()
    assert greys(data(fruit, "data.limit=2"), "plum") == [0, 3]
    assert opened == []
    assert greys(data(fruit), "plum") == list(range(0, ROWS, 3))
    assert opened == [str(fruit)]
    assert greys(data(fruit, "data.limit=1000"), "plum") == list(range(0, ROWS, 3))
    assert opened == [str(fruit)]  # there are no more, as is known


def test_data_sets_subsets_and_columns_do_not_mix(fruit: Path, tmp_path: Path) -> None:
    other = parquet(tmp_path / "other" / "fruit", ["apple", "plum", "apple_tree"], ("img", "kind"))
    assert greys(data(fruit), "plum", 2) == [0, 3]
    assert greys(data(other, "data.image=img", "data.label=kind"), "plum", 2) == [1, 4]
    assert data(other, "data.image=img", "data.label=kind").title("apple_tree") == "apple tree"


def test_a_folder_is_known_by_its_place_and_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not by how it is called: a relative name is another folder elsewhere, and a folder may get other images."""
    for place, labels in (("one", ["apple", "plum"]), ("two", ["plum", "apple"])):
        parquet(tmp_path / place / "fruit", labels, rows=4)
    monkeypatch.chdir(tmp_path / "one")
    assert greys(data("./fruit"), "apple") == greys(data("fruit"), "apple") == [0, 2]
    monkeypatch.chdir(tmp_path / "two")
    assert greys(data("./fruit"), "apple") == greys(data("fruit"), "apple") == [1, 3]
    assert greys(data(tmp_path / "one" / "fruit"), "apple") == [0, 2]
    monkeypatch.chdir(tmp_path / "two" / "fruit")
    assert greys(data(".", "data.label=null"), "fruit") == [0, 1, 2, 3]
    for file in Path().glob("*.parquet"):
        file.unlink()
    table(tmp_path / "two" / "fruit", [jpeg(7), jpeg(9)])
    assert greys(data("../fruit"), "plum") == [7, 9]


def table(folder: Path, images: list[bytes | None]) -> datasets.Dataset:
    """A data set of a single file and class."""
    rows = [image and {"bytes": image, "path": None} for image in images]
    made = datasets.Dataset.from_dict({"image": rows, "label": [0] * len(rows)}, features=FEATURES)
    folder.mkdir(parents=True, exist_ok=True)
    made.to_parquet(folder / "train-00000-of-00001.parquet")
    return made


def test_rows_without_an_image_are_left_out(tmp_path: Path) -> None:
    table(tmp_path / "gaps", [jpeg(1), None, jpeg(3)])
    assert greys(data(tmp_path / "gaps"), "plum") == [1, 3]


def test_what_save_to_disk_wrote_is_read(tmp_path: Path) -> None:
    made = table(tmp_path / "made", [jpeg(1), jpeg(2), jpeg(3)])
    made.save_to_disk(str(tmp_path / "saved"))
    datasets.DatasetDict({"train": made}).save_to_disk(str(tmp_path / "dict"))
    assert greys(data(tmp_path / "saved"), "plum") == greys(data(tmp_path / "dict"), "plum") == [1, 2, 3]


def test_a_file_in_place_of_its_folder_is_named(fruit: Path) -> None:
    file = next(fruit.glob("*.parquet"))
    assert refusal(data(file)) == f"{file} is a file; give the folder that it is in, data.hub={fruit}"


def test_image_folders_are_read_too(tmp_path: Path) -> None:
    """Their rows hold paths in place of bytes."""
    for row in range(6):
        file = tmp_path / "animals" / "train" / ["cat", "dog"][row % 2] / f"{row}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(jpeg(row))
    assert greys(data(tmp_path / "animals"), "dog") == [1, 3, 5]


def test_files_are_named_for_what_they_are(tmp_path: Path, cache: Path) -> None:
    buffer = io.BytesIO()
    Image.new("L", (8, 8), 7).save(buffer, "PNG")
    rows = [{"bytes": content, "path": "x.jpg"} for content in (buffer.getvalue(), jpeg(5))]
    content = datasets.Dataset.from_dict({"image": rows, "label": [0, 0]}, features=FEATURES)
    (tmp_path / "mixed").mkdir()
    content.to_parquet(tmp_path / "mixed" / "train.parquet")
    assert greys(data(tmp_path / "mixed"), "plum") == [7, 5]
    assert sorted(file.suffix for file in cache.rglob("00000/0*")) == [".jpg", ".png"]


def test_broken_images_are_refused_or_skipped(tmp_path: Path) -> None:
    rows = [{"bytes": content, "path": None} for content in (jpeg(1), b"text", jpeg(3))]
    content = datasets.Dataset.from_dict({"image": rows, "label": [0, 0, 0]}, features=FEATURES)
    (tmp_path / "broken").mkdir()
    content.to_parquet(tmp_path / "broken" / "train.parquet")
    assert "it is not an image" in refusal(data(tmp_path / "broken"))
    with pytest.warns(UserWarning, match="the next image is taken instead"):
        assert greys(data(tmp_path / "broken", "data.bad_images=skip"), "plum") == [1, 3]


# Interruptions


def rows_seen(monkeypatch: pytest.MonkeyPatch, stop: Any = None, error: BaseException | None = None) -> list[int]:
    """The rows that are streamed, by their grey; at the row `stop` an error is raised."""
    seen: list[int] = []
    read = datasets.IterableDataset.__iter__

    def iterate(rows: datasets.IterableDataset) -> Iterator[Any]:
        for example in read(rows):
            row = int(np.asarray(Image.open(io.BytesIO(example["image"]["bytes"])))[0, 0, 0])
            if row == stop and error is not None:
                raise error
            seen.append(row)
            yield example

    monkeypatch.setattr(datasets.IterableDataset, "__iter__", iterate)
    return seen


@pytest.mark.parametrize(
    ("stop", "error"),
    [
        (1, KeyboardInterrupt()),
        (20, ConnectionError("reset")),
        (41, KeyboardInterrupt()),
        (59, ConnectionError("reset")),
    ],
)
def test_a_stream_that_was_stopped_goes_on_from_about_there(
    fruit: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, stop: int, error: BaseException
) -> None:
    monkeypatch.setattr(hub, "STRIDE", 7)
    with monkeypatch.context() as patch:
        rows_seen(patch, stop, error)
        with pytest.raises(KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else UserError):
            data(fruit).fetch(["plum", "apple"])
    assert not list(cache.rglob("complete.json"))
    seen = rows_seen(monkeypatch)
    made = data(fruit)
    made.fetch(["plum", "apple"])
    assert seen == list(range(stop // 7 * 7, ROWS))
    assert greys(made, "plum") == list(range(0, ROWS, 3))
    assert greys(made, "apple") == list(range(1, ROWS, 3))
    assert not list(cache.rglob("progress.json"))


def test_a_stream_for_other_classes_starts_over(fruit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "STRIDE", 7)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        rows_seen(patch, 30, KeyboardInterrupt())
        data(fruit).fetch(["plum"])
    assert greys(data(fruit), "star-fruit") == list(range(2, ROWS, 3))
    assert greys(data(fruit), "plum") == list(range(0, ROWS, 3))


def test_a_full_disk_is_named_with_the_folder(fruit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = data(fruit)
    made.classes()

    def full(path: Path, content: bytes) -> None:
        raise DiskFull("choose another place with outputs=")

    monkeypatch.setattr(hub, "write_atomic", full)
    with pytest.raises(DiskFull, match="set LATENTMIX_CACHE to a folder with more"):
        made.fetch(["plum"])


# Dry runs, which fetch nothing


def planned(source: Path | str, *overrides: str) -> PlannedHub:
    return PlannedHub(compose(["data=hub", f"data.hub={source}", "pool=2", "n=[2]", *overrides]).data)


def test_images_that_are_here_are_themselves_and_others_are_counted(fruit: Path, opened: list[str]) -> None:
    data(fruit).fetch(["plum"])
    opened.clear()
    made = planned(fruit)
    assert made.classes() == ("apple", "plum", "star-fruit")  # as a note of them is here
    assert [source.id for source in made.images("plum")] == [source.id for source in data(fruit).images("plum")]
    made.fetch(["apple"])
    assert [len(made.images("apple", count)) for count in (None, 7)] == [1300, 7]
    assert len({source.id for source in made.images("apple")}) == 1300
    assert len(planned(fruit, "data.limit=40").images("apple")) == 40
    with pytest.raises(UserError, match="are not here; latentmix fetch gets them"):
        made.images("apple", 1)[0].pixels(8)
    assert opened == []


@pytest.mark.parametrize(
    ("overrides", "classes"),
    [
        (["data=imagenet-hub", "data.classes=null"], tuple(names())),
        (["data=imagenette"], tuple(c for c in names() if c in IMAGENETTE_CLASSES)),
        (["data=hub", "data.hub=a/b", "data.classes=[b_c,a]"], ("a", "b_c")),
        (["data=hub", "data.hub=a/b", "data.classes=random:2"], ("class 0", "class 1")),
        (["data=hub", "data.hub=a/b", "data.synsets=true", "data.classes=[goldfish]"], tuple(names())),
    ],
)
def test_classes_are_told_as_far_as_they_can_be(overrides: list[str], classes: tuple[str, ...]) -> None:
    made = PlannedHub(compose(overrides).data)
    assert made.classes() == classes
    assert len({made.title(class_id) for class_id in classes}) > 0.99 * len(classes)


def test_classes_of_which_nothing_is_known_are_asked_for(fruit: Path) -> None:
    with pytest.raises(UserError, match=r"classes of a/b are not known before latentmix fetch; or name data\.classes"):
        planned("a/b").classes()


# ImageNet's classes


def other_labels(folder: Path, kind: str, values: list[Any]) -> Path:
    """A data set whose labels are of another type; image number i is grey i."""
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value(kind)})
    rows = {"image": [{"bytes": jpeg(grey), "path": None} for grey in range(len(values))], "label": values}
    folder.mkdir(parents=True)
    datasets.Dataset.from_dict(rows, features=features).to_parquet(folder / "train-00000-of-00001.parquet")
    return folder


@pytest.mark.parametrize(
    ("kind", "values", "expected"),
    [
        ("string", ["cat", "dog", "cat", None, "", "dog"], {"cat": [0, 2], "dog": [1, 5]}),
        ("int64", [7, 10, 7, None, 10, 10], {"10": [1, 4, 5], "7": [0, 2]}),
        ("bool", [True, False, True], {"False": [1], "True": [0, 2]}),
        ("string", ["a/b", "a/b"], {"a-b": [0, 1]}),
    ],
)
def test_labels_may_be_text_or_numbers_and_missing(
    kind: str, values: list[Any], expected: dict[str, list[int]], tmp_path: Path, opened: list[str]
) -> None:
    folder = other_labels(tmp_path / "pets", kind, values)
    made = data(folder)
    assert made.classes() == tuple(expected)
    assert {name: greys(made, name) for name in expected} == expected
    opened.clear()
    assert {name: greys(data(folder), name) for name in expected} == expected and opened == []


def test_rows_without_a_class_label_are_left_out(tmp_path: Path) -> None:
    folder = tmp_path / "fruit"
    folder.mkdir()
    rows = {"image": [{"bytes": jpeg(grey), "path": None} for grey in range(6)], "label": [0, 1, None, -1, 0, 1]}
    datasets.Dataset.from_dict(rows, features=FEATURES).to_parquet(folder / "train-00000-of-00001.parquet")
    assert greys(data(folder), "plum") == [0, 4] and greys(data(folder), "apple") == [1, 5]


def test_without_labels_all_images_are_one_class(fruit: Path) -> None:
    made = data(fruit, "data.label=null")
    assert made.classes() == ("fruit",) and made.title("fruit") == "fruit"
    assert greys(made, "fruit") == list(range(ROWS))


def test_captions_are_no_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "MOST_CLASSES", 5)
    folder = other_labels(tmp_path / "c", "string", [f"caption {row}" for row in range(9)])
    assert "more than 5 values of 'label', so they are no classes" in refusal(data(folder))
    empty = other_labels(tmp_path / "e", "string", [None, ""])
    assert "only empty values of 'label'; data.label=null takes one class" in refusal(data(empty))


def test_all_of_imagenets_labels_are_wordnet_ids_in_their_order(tmp_path: Path) -> None:
    spelt = [", ".join(every) for every in names().values()]
    spelt[517] = "crane2"  # as labels may not be the same
    made = data(parquet(tmp_path / "imagenet", spelt, rows=3), "data.synsets=true")
    assert made.classes() == tuple(names())
    assert made.resolve("goldfish") == "n01443537"
    assert made.title("n01443537") == "goldfish"
    assert greys(made, "n01443537") == [1]
    with pytest.raises(UserError, match="2 classes of ImageNet are called 'crane'"):
        made.resolve("crane")


@pytest.mark.parametrize("labels", [["tench", "English springer"], ["n01440764", "n02102040"]])
def test_imagenette_is_read_from_the_hubs_parquet_copy(tmp_path: Path, labels: list[str]) -> None:
    """There a subset is a folder, and a split one in it."""
    for subset, split, first in (("full_size", "train", 1), ("full_size", "validation", 2), ("160px", "train", 3)):
        content = {"image": [{"bytes": jpeg(first), "path": None}], "label": [1]}
        features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=labels)})
        (tmp_path / "copy" / subset / split).mkdir(parents=True)
        file = tmp_path / "copy" / subset / split / "0000.parquet"
        datasets.Dataset.from_dict(content, features=features).to_parquet(file)
    run = ["data=imagenette", f"data.hub={tmp_path / 'copy'}", "data.classes=[english springer]", "pool=1", "n=[1]"]
    for subset, grey in (("full_size", 1), ("160px", 3)):
        experiment = Experiment(compose([*run, f"data.subset={subset}"]))
        assert experiment.classes == ("n02102040",)
        assert [source.pixels(8)[0, 0, 0] for source in experiment.data.references("n02102040")] == [grey]
    with pytest.raises(
        UserError, match=r"no class in .* is called 'tree frog'; try '.*'; there are tench, English spr"
    ):
        experiment.data.dataset.resolve("tree frog")


# What is wrong


def test_without_a_network(cache: Path) -> None:
    text = refusal(data("ILSVRC/imagenet-1k", "data.synsets=true"), "n01440764")
    assert text.startswith("ILSVRC/imagenet-1k is not here, and HF_HUB_OFFLINE is set; run this once with a network")
    assert str(cache / "hub" / "ILSVRC--imagenet-1k-") in text
    assert text.endswith("; or take data=imagenet data.path=DIR, ImageNet's training images")
    assert "data=imagenet" not in refusal(data("owner/name"))


def test_once_kept_no_network_is_needed(fruit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "is_local", lambda name: False)  # as of a data set of the hub
    data(fruit).fetch(["plum"])
    source = fruit.rename(fruit.with_name("gone"))
    assert greys(data(source.with_name("fruit")), "plum", 2) == [0, 3]


class Response:
    status_code, headers, request = 401, dict[str, str](), None


def gated() -> Exception:
    error = datasets.exceptions.DatasetNotFoundError("Dataset 'a/b' is a gated dataset on the Hub.")
    error.__cause__ = GatedRepoError("401 Client Error", response=Response())  # type: ignore[arg-type]
    return error


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ConnectionError("Couldn't reach 'a/b' on the Hub"), "a/b is not here, and HF_HUB_OFFLINE is set; run this"),
        (
            OSError("[Errno 28] No space left"),
            "a/b can't be read from the hub: [Errno 28] No space left; check",
        ),
        (gated(), "a/b is gated: accept its terms at https://huggingface.co/datasets/a/b, then log in with `hf auth"),
        (RuntimeError("Dataset scripts are no longer supported, but found b.py"), "try data.revision=refs/convert/"),
        (datasets.exceptions.DatasetNotFoundError("Dataset 'a/b' doesn't exist"), "a/b is not on the hub, or private"),
        (ValueError("Config name is missing.\nPlease pick one"), "read from the hub: Config name is missing. Please"),
        (KeyError(), "a/b can't be read from the hub: KeyError; check data.hub"),
    ],
)
def test_what_the_hub_refuses(monkeypatch: pytest.MonkeyPatch, error: Exception, text: str) -> None:
    def refuse(path: str, **how: Any) -> None:
        raise error

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    assert text in refusal(data("a/b"))
    with pytest.raises(UserError) as caught:
        data("a/b").classes()
    assert isinstance(caught.value, NotFetched) == any(sign in text for sign in ("not here", "gated", "private"))


@pytest.mark.parametrize(
    ("override", "text"),
    [
        ("data.image=img", "no Image column 'img'; set data.image to one, of: image (Image), label (ClassLabel)"),
        (
            "data.label=image",
            "no column of labels 'image' (text, whole numbers or class labels); set data.label to one, of: image (Im",
        ),
        ("data.label=class", "or to null, if all images are of one class"),
        (
            "data.split=trian",
            "can't be read: Bad split: trian. Available splits: ['train']; check data.subset",
        ),
        ("data.subset=small", "BuilderConfig 'small' not found. Available: ['default']; check data.subset"),
    ],
)
def test_columns_splits_and_subsets_that_are_not_there(fruit: Path, override: str, text: str) -> None:
    assert text in refusal(data(fruit, override))


@pytest.mark.parametrize("name", ["{}/gone", "~/no/such/folder", "./gone"])
def test_a_local_folder_that_is_not_there(name: str, tmp_path: Path) -> None:
    assert refusal(data(f"'{name.format(tmp_path)}'")).startswith("there is no folder ")


def test_what_is_wrong_with_a_local_folder_is_told_as_it_is(fruit: Path) -> None:
    """Whatever its name, and whether or not there is a network."""
    folder = fruit.rename(fruit.with_name("Offline-ConnectionError"))
    run = ["data=hub", f"data.hub={folder}", "data.split=val", "pool=2", "n=[2]"]
    finding = check_data(Experiment(compose(run)), {"pool", "references"})
    assert finding.state == "missing" and finding.text.endswith(
        "can't be read: Bad split: val. Available splits: ['train']; check data.subset and data.split"
    )
    (folder / "train-00001-of-00003.parquet").write_bytes(b"damaged")
    assert "is not here" not in refusal(data(folder))


def test_an_unknown_class(fruit: Path) -> None:
    with pytest.raises(
        UserError, match=r"no class in .*fruit is called 'aple'; try 'apple'; there are apple, plum, st"
    ):
        data(fruit).resolve("aple")
    assert "is called '../plum'; try 'plum'" in refusal(data(fruit), "../plum")


def test_a_flipped_bit_of_an_image_is_noticed_and_a_deleted_one_comes_again(fruit: Path, cache: Path) -> None:
    data(fruit).fetch(["plum"])
    file = sorted(cache.rglob("00000/*.jpg"))[3]
    content = bytearray(file.read_bytes())
    content[-40] ^= 1  # a picture that can be shown all the same
    file.write_bytes(content)
    assert f"{file} cannot be used: its bytes are not those that were fetched" in refusal(data(fruit))
    file.unlink()
    assert greys(data(fruit), "plum") == list(range(0, ROWS, 3))


def test_a_flipped_digit_of_a_note_counts_as_missing(fruit: Path, cache: Path) -> None:
    assert len(data(fruit, "data.limit=3", "data.reference=2").images("plum")) == 3
    (note,) = cache.rglob("complete.json")
    assert '"limit": 3' in note.read_text()
    note.write_text(note.read_text().replace('"limit": 3', '"limit": 7'))
    assert len(data(fruit, "data.limit=7", "data.reference=2").images("plum")) == 7


def test_a_damaged_note_counts_as_missing(fruit: Path, cache: Path) -> None:
    data(fruit).fetch(["plum"])
    for note in cache.rglob("*.json"):
        note.write_text(json.dumps([1])[:2])
    assert len(data(fruit).images("plum")) == 20
