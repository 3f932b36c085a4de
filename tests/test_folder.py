"""Folders of images: what is listed, how each kind of file becomes pixels, and what is said of what is wrong."""

import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from latentmix.data.folder import Folder
from latentmix.errors import UserError

CLOTHING = Path(__file__).resolve().parents[2] / "shared" / "data" / "clothing"
RED, WHITE, BLUE = (255, 0, 0), (255, 255, 255), (0, 0, 255)
SKIPPED = "the next image is taken instead"


@pytest.fixture
def hats(tmp_path: Path) -> Path:
    folder = tmp_path / "hat"
    folder.mkdir()
    return folder


def plain(colour: tuple[int, ...] = BLUE, size: tuple[int, int] = (8, 8), mode: str = "RGB") -> Image.Image:
    return Image.new(mode, size, colour)


def pixels(hats: Path, size: int = 8) -> np.ndarray:
    """The pixels of the one image there is."""
    (source,) = Folder(hats.parent).images("hat")
    return source.pixels(size)


def first_blue(folder: Path, **options) -> list[int]:
    """The blue channel of each image's first pixel, by which the tests tell plain images apart."""
    return [int(source.pixels(8)[0, 0, 2]) for source in Folder(folder, **options).images("hat")]


def refusal(folder: Path, class_id: str = "hat", count: int | None = None, **options) -> str:
    with pytest.raises(UserError) as caught:
        Folder(folder, **options).images(class_id, count)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# What is listed


def test_classes_are_the_folders_sorted_without_hidden_ones_and_files(tmp_path: Path) -> None:
    for name in ("t-shirt", "hat", ".cache"):
        (tmp_path / name).mkdir()
    (tmp_path / "README.txt").write_text("ten classes")
    assert Folder(tmp_path).classes() == ("hat", "t-shirt")


def test_a_class_may_be_a_link_to_a_folder(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    plain().save(tmp_path / "elsewhere" / "a.png")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "hat").symlink_to(tmp_path / "elsewhere")
    assert len(Folder(tmp_path / "data").images("hat")) == 1


@pytest.mark.parametrize(("class_id", "title"), [("t-shirt", "t-shirt"), ("polar_bear", "polar bear")])
def test_titles_have_spaces_for_underscores_alone(tmp_path: Path, class_id: str, title: str) -> None:
    assert Folder(tmp_path).title(class_id) == title


def test_images_come_sorted_by_name_whatever_the_case_of_the_suffix(hats: Path) -> None:
    for name, blue in {"c.JPG": 30, "a.png": 10, "d.WebP": 40, "b.jpeg": 20}.items():
        plain((blue, blue, blue)).save(hats / name)
    assert first_blue(hats.parent) == pytest.approx([10, 20, 30, 40], abs=2)
    assert len(Folder(hats.parent).images("hat", 3)) == 3
    assert Folder(hats.parent).images("hat", 0) == []


def test_hidden_files_other_files_and_deeper_folders_are_ignored(hats: Path) -> None:
    (hats / "._a.png").write_bytes(b"macOS")
    (hats / "a.txt").write_text("a hat")
    (hats / "deeper.png").mkdir()
    plain().save(hats / "deeper.png" / "b.png")
    plain().save(hats / "a.png")
    assert len(Folder(hats.parent).images("hat")) == 1


def test_the_id_follows_the_bytes(hats: Path) -> None:
    folder = Folder(hats.parent)
    plain(RED).save(hats / "a.png")
    before = folder.images("hat")[0].id
    assert len(before) == 16
    (hats / "a.png").rename(hats / "b.png")
    assert folder.images("hat")[0].id == before
    plain(BLUE).save(hats / "b.png")
    assert folder.images("hat")[0].id != before


# How files become pixels


TOP_LEFT, TOP_RIGHT, BOTTOM_LEFT, BOTTOM_RIGHT = (0, 0), (0, -1), (-1, 0), (-1, -1)
ORIENTATIONS = {  # where each brings the file's top left and top right corners
    1: (TOP_LEFT, TOP_RIGHT),
    2: (TOP_RIGHT, TOP_LEFT),
    3: (BOTTOM_RIGHT, BOTTOM_LEFT),
    4: (BOTTOM_LEFT, BOTTOM_RIGHT),
    5: (TOP_LEFT, BOTTOM_LEFT),
    6: (TOP_RIGHT, BOTTOM_RIGHT),
    7: (BOTTOM_RIGHT, TOP_RIGHT),
    8: (BOTTOM_LEFT, TOP_LEFT),
}


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_images_are_turned_upright(hats: Path, orientation: int) -> None:
    image = plain(WHITE, (32, 32))
    image.paste(RED, (0, 0, 16, 16))
    image.paste(BLUE, (16, 0, 32, 16))
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(hats / "a.jpg", exif=exif, quality=95, subsampling=0)
    upright, (red, blue) = pixels(hats, 32).astype(int), ORIENTATIONS[orientation]
    assert upright[red] == pytest.approx(RED, abs=8)
    assert upright[blue] == pytest.approx(BLUE, abs=8)


def test_orientation_comes_before_the_crop(hats: Path) -> None:
    image = plain(WHITE, (96, 32))
    image.paste(RED, (32, 0, 64, 16))  # the upper half of the middle square
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(hats / "a.png", exif=exif)
    upright = pixels(hats, 32)
    assert (upright[:, 20:] == RED).all()
    assert (upright[:, :12] == WHITE).all()


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp"])
def test_grey_becomes_three_equal_channels(hats: Path, name: str) -> None:
    plain((77,), mode="L").save(hats / name)
    assert pixels(hats) == pytest.approx(np.full((8, 8, 3), 77), abs=2)


def test_cmyk_becomes_rgb(hats: Path) -> None:
    plain((0, 255, 255, 0), mode="CMYK").save(hats / "a.jpg", quality=95)
    assert pixels(hats)[4, 4].astype(int) == pytest.approx(RED, abs=4)


@pytest.mark.parametrize("name", ["a.png", "a.webp"])
def test_transparency_lies_on_white(hats: Path, name: str) -> None:
    image = plain((0, 0, 0, 0), (32, 32), "RGBA")
    image.paste((0, 0, 0, 128), (0, 0, 32, 16))
    image.save(hats / name, lossless=True)
    shown = pixels(hats, 32)
    assert (shown[-1] == 255).all()
    assert (shown[0] == 127).all()


def test_grey_with_alpha_lies_on_white(hats: Path) -> None:
    plain((0, 0), mode="LA").save(hats / "a.png")
    assert (pixels(hats) == 255).all()


def test_the_transparent_colour_of_a_palette_is_white(hats: Path) -> None:
    image = Image.new("P", (32, 32), 0)
    image.putpalette([*BLUE, *RED])
    image.paste(1, (0, 0, 32, 16))
    image.save(hats / "a.png", transparency=0)
    shown = pixels(hats, 32)
    assert (shown[0] == RED).all()
    assert (shown[-1] == WHITE).all()


def test_palettes_with_an_alpha_for_each_colour(hats: Path) -> None:
    image = Image.new("P", (8, 8), 1)
    image.putpalette([*BLUE, *RED])
    image.save(hats / "a.png", transparency=bytes([255, 0]))
    assert (pixels(hats) == 255).all()


def test_black_and_white(hats: Path) -> None:
    plain((1,), mode="1").save(hats / "a.png")
    assert (pixels(hats) == 255).all()


def test_sixteen_bits_of_grey_are_scaled_not_clipped(hats: Path) -> None:
    ramp = np.linspace(0, 65535, 8).astype(np.uint16)
    Image.fromarray(np.tile(ramp[:, None], 8)).save(hats / "a.png")
    assert pixels(hats)[:, 0, 0] == pytest.approx(ramp / 257, abs=0.51)


@pytest.mark.parametrize("size", [(96, 32), (32, 96)])
def test_the_crop_is_centred(hats: Path, size: tuple[int, int]) -> None:
    image = plain(WHITE, size)
    left, top = (size[0] - 32) // 2, (size[1] - 32) // 2
    image.paste(RED, (left, top, left + 32, top + 32))
    image.save(hats / "a.png")
    assert (pixels(hats, 32) == RED).all()


@pytest.mark.parametrize("size", [16, 64])
def test_cropping_equals_resizing_the_short_side_and_cutting_out_the_middle(hats: Path, size: int) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (32, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(hats / "a.png")
    resized = np.asarray(Image.fromarray(noise).resize((2 * size, size), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(pixels(hats, size), resized[:, size // 2 : size // 2 + size])


def test_shrinking_does_not_alias(hats: Path) -> None:
    stripes = np.tile(np.array([0, 255], np.uint8), (64, 32))
    Image.fromarray(stripes).save(hats / "a.png")
    assert pixels(hats, 8)[:, 1:-1].astype(int) == pytest.approx(np.full((8, 6, 3), 127.5), abs=2)


@pytest.mark.parametrize("shape", [(1, 1), (5, 3), (1, 2000)])
def test_pixels_are_square_rgb_and_writable_at_any_size(hats: Path, shape: tuple[int, int]) -> None:
    plain(RED, shape).save(hats / "a.png")
    shown = pixels(hats, 48)
    assert (shown.shape, shown.dtype, shown.flags.writeable) == ((48, 48, 3), np.uint8, True)
    assert (shown == RED).all()


# Broken images


def break_(file: Path, how: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(file)
    whole = file.read_bytes()
    file.write_bytes({"truncated": whole[: len(whole) // 2], "empty": b"", "text": b"<html>404</html>"}[how])


BROKEN = [
    ("b.jpg", "truncated"),
    ("b.png", "truncated"),
    ("b.webp", "truncated"),
    ("b.png", "text"),
    ("b.jpg", "empty"),
]


@pytest.mark.parametrize(("name", "how"), BROKEN)
def test_broken_images_are_refused_by_name(hats: Path, name: str, how: str) -> None:
    break_(hats / name, how)
    message = refusal(hats.parent)
    assert message.startswith(f"{hats / name} cannot be used: ")
    assert message.endswith("; mend or delete it, or set data.bad_images=skip")


@pytest.mark.parametrize(("name", "how"), BROKEN)
def test_broken_images_are_skipped_with_a_warning(hats: Path, name: str, how: str) -> None:
    for good, blue in {"a.png": 10, "c.png": 30, "d.png": 40}.items():
        plain((0, 0, blue)).save(hats / good)
    break_(hats / name, how)
    with pytest.warns(UserWarning, match=SKIPPED) as caught:
        sources = Folder(hats.parent, "skip").images("hat", 2)
    assert [source.pixels(8)[0, 0, 2] for source in sources] == [10, 30]
    assert [str(hats / name) in str(warning.message) for warning in caught] == [True]


def test_each_file_is_warned_of_once(hats: Path) -> None:
    break_(hats / "b.png", "text")
    plain().save(hats / "c.png")
    with pytest.warns(UserWarning, match=SKIPPED):
        Folder(hats.parent, "skip").images("hat")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(Folder(hats.parent, "skip").images("hat")) == 1


def test_a_broken_image_that_is_not_asked_for_does_no_harm(hats: Path) -> None:
    plain().save(hats / "a.png")
    break_(hats / "b.png", "text")
    assert len(Folder(hats.parent).images("hat", 1)) == 1


def test_text_is_called_what_it_is_not(hats: Path) -> None:
    break_(hats / "b.png", "text")
    assert "it is not an image in JPEG, PNG or WEBP format" in refusal(hats.parent)


def test_other_formats_are_refused_under_any_suffix(hats: Path) -> None:
    plain().save(hats / "a.png", format="TIFF")
    assert "it is not an image in" in refusal(hats.parent)


@pytest.mark.parametrize("limit", [40, 10])  # of 64 pixels; Pillow warns above the limit, and raises above its double
def test_decompression_bombs_are_broken_images(hats: Path, monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    plain(size=(8, 8)).save(hats / "a.png")
    plain((0, 0, 30), (2, 2)).save(hats / "b.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    assert "decompression bomb" in refusal(hats.parent)
    with pytest.warns(UserWarning, match=SKIPPED):
        assert first_blue(hats.parent, bad_images="skip") == [30]


def test_a_link_that_leads_nowhere_is_a_broken_image(hats: Path) -> None:
    (hats / "a.jpg").symlink_to(hats / "gone.jpg")
    assert "No such file" in refusal(hats.parent)


# What is said where something is wrong


def test_a_missing_folder(tmp_path: Path) -> None:
    message = refusal(tmp_path / "gone")
    assert message == (
        f"cannot list {tmp_path / 'gone'}: No such file or directory; give a folder of class folders, DIR/<class>/*.jpg"
    )


def test_a_file_in_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "data.zip").touch()
    assert "data.zip: Not a directory; give a folder of class folders" in refusal(tmp_path / "data.zip")


def test_no_class_folders(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there are no class folders in .*; expected DIR/<class>/\*\.jpg"):
        Folder(tmp_path).classes()


def test_images_without_class_folders(tmp_path: Path) -> None:
    plain().save(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"the images lie directly in .*; move them into a folder per class"):
        Folder(tmp_path).classes()


@pytest.mark.parametrize("class_id", ["hatt", "../hat", "", "."])
def test_an_unknown_class(tmp_path: Path, class_id: str) -> None:
    for name in ("hat", "dress", "pants", "shirt", "shoes", "skirt"):
        (tmp_path / name).mkdir()
    message = refusal(tmp_path, class_id)
    assert f"is called {class_id!r}; try '" in message
    assert message.endswith("there are dress, hat, pants, shirt, shoes, ...")


def test_the_nearest_class_is_offered(tmp_path: Path) -> None:
    for name in ("hat", "t-shirt"):
        (tmp_path / name).mkdir()
    message = f"no class in {tmp_path} is called 'tshirt'; try 't-shirt'; there are hat, t-shirt"
    assert refusal(tmp_path, "tshirt") == message


def test_a_class_without_images(hats: Path) -> None:
    message = f"class 'hat' in {hats.parent} has no usable images; add some (.jpg, .jpeg, .png, .webp)"
    assert refusal(hats.parent) == message
    assert refusal(hats.parent, count=3) == message


def test_a_class_with_too_few_images(hats: Path) -> None:
    plain().save(hats / "a.png")
    message = f"class 'hat' in {hats.parent} has 1 of the 3 images asked for; lower the count or add images"
    assert refusal(hats.parent, count=3) == message


def test_skipped_images_do_not_count(hats: Path) -> None:
    plain().save(hats / "a.png")
    break_(hats / "b.png", "text")
    with pytest.warns(UserWarning, match=SKIPPED):
        assert "has 1 of the 2 images asked for" in refusal(hats.parent, count=2, bad_images="skip")


# Photographs


def test_real_photographs() -> None:
    if not CLOTHING.is_dir():
        pytest.skip(f"the clothing photographs are not at {CLOTHING}")
    folder = Folder(CLOTHING)
    assert len(folder.classes()) == 10
    assert folder.title("t-shirt") == "t-shirt"
    sources = folder.images("t-shirt", 3)
    assert len({source.id for source in sources}) == 3
    for source in sources:
        image = source.pixels(64)
        assert (image.shape, image.dtype) == ((64, 64, 3), np.uint8)
        assert image.std() > 10  # it shows something
    with pytest.raises(UserError, match="has 72 of the 100 images asked for"):
        folder.images("t-shirt", 100)
