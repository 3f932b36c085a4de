"""Folders of images: what is listed, how often it is decoded, what becomes of each kind of file, what is refused."""

import struct
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from driver import invoke
from PIL import Image, ImageCms, ImageFile, TiffImagePlugin

from latentmix.commands import augment
from latentmix.compose import compose
from latentmix.data import choose, decoded_images
from latentmix.data.caller_images import picture_source
from latentmix.data.folder import Folder
from latentmix.data.image_files import Rules, digest, image_id
from latentmix.errors import UserError, warn_once
from latentmix.experiment.experiment import Experiment

CLOTHING = Path(__file__).resolve().parents[2] / "shared" / "data" / "clothing"
RED, WHITE, BLUE = (255, 0, 0), (255, 255, 255), (0, 0, 255)
REFUSE, SKIP = Rules(), Rules(bad_images="skip")
SKIPPED = "the next image is taken instead"


@pytest.fixture(autouse=True)
def own_memory(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing is known of images from other tests, and nothing gets into the user's cache."""
    monkeypatch.setenv("LATENTMIX_CACHE", str(tmp_path_factory.mktemp("cache")))
    decoded_images.DECODED.clear()
    warn_once.cache_clear()
    yield
    decoded_images.DECODED.clear()


@pytest.fixture
def hats(tmp_path: Path) -> Path:
    folder = tmp_path / "hat"
    folder.mkdir()
    return folder


def plain(colour: tuple[int, ...] = BLUE, size: tuple[int, int] = (8, 8), mode: str = "RGB") -> Image.Image:
    return Image.new(mode, size, colour)


def save(path: Path, colour: tuple[int, ...] = BLUE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    plain(colour).save(path)


def pixels(hats: Path, size: int = 8) -> np.ndarray:
    """The pixels of the one image there is."""
    (source,) = Folder(hats.parent).images("hat")
    return source.pixels(size)


def first_blue(folder: Path, rules: Rules = REFUSE) -> list[int]:
    """The blue channel of each image's first pixel, by which the tests tell plain images apart."""
    return [int(source.pixels(8)[0, 0, 2]) for source in Folder(folder, rules).images("hat")]


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(UserError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# What is listed


def test_classes_are_the_folders_that_have_images_sorted_without_hidden_ones(tmp_path: Path) -> None:
    for name in ("t-shirt", "polar_bear", ".cache", "__MACOSX", "@eaDir"):
        save(tmp_path / name / "a.png")
    (tmp_path / "README.txt").write_text("two classes")
    data = Folder(tmp_path)
    assert data.classes() == ("polar_bear", "t-shirt")
    assert [data.title(name) for name in data.classes()] == ["polar bear", "t-shirt"]


def test_a_class_may_be_a_link_and_have_a_link_to_itself(tmp_path: Path) -> None:
    save(tmp_path / "elsewhere" / "a.png")
    (tmp_path / "elsewhere" / "again").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "hat").symlink_to(tmp_path / "elsewhere")
    assert Folder(tmp_path / "data").classes() == ("hat",)
    assert len(Folder(tmp_path / "data").images("hat")) == 1


def test_a_class_is_found_however_its_accents_are_written(tmp_path: Path) -> None:
    """As one character, as people type them, or as two, as in archives of macOS."""
    save(tmp_path / "cafe\u0301" / "1.png")
    made = Folder(tmp_path)
    assert made.resolve("caf\u00e9") == "cafe\u0301" and len(made.images("caf\u00e9")) == 1
    assert choose(made, ["caf\u00e9"], 0) == ("cafe\u0301",)


def test_no_class_has_the_name_that_tables_have_for_the_average(tmp_path: Path) -> None:
    """Its results would be taken for the average, and be lost."""
    for name in ("all", "cat"):
        for index in range(4):
            save(tmp_path / "pets" / name / f"{index}.png", (0, 0, index))
    made = ("data=folder", f"data.path={tmp_path / 'pets'}", "n=[2]", "pool=4", "draws=2", "data.reference=4")
    result = invoke("sweep", *made, f"outputs={tmp_path / 'out'}")
    assert result.code == 2 and "no class can have that name; rename the class" in result.err
    assert Experiment(compose([*made, "data.classes=[cat]"])).classes == ("cat",)
    assert augment.prepare(tmp_path / "pets", 2, "2", 1.0, "nin/chm").classes == ("all", "cat")


def test_images_come_sorted_by_name_whatever_the_case_of_the_suffix(hats: Path) -> None:
    for name, blue in {"c.JPG": 30, "a.png": 10, "d.WebP": 40, "b.jpeg": 20}.items():
        plain((blue, blue, blue)).save(hats / name)
    assert first_blue(hats.parent) == pytest.approx([10, 20, 30, 40], abs=2)
    assert len(Folder(hats.parent).images("hat", 3)) == 3
    assert Folder(hats.parent).images("hat", 0) == []


def test_images_in_deeper_folders_come_after_those_above_without_droppings(hats: Path) -> None:
    for path, blue in {"b/x/2.png": 40, "b/1.png": 30, "z.png": 20, "a.png": 10}.items():
        save(hats / path, (0, 0, blue))
    for path in ("._a.png", ".thumbs/a.png", "__MACOSX/a.png", "@eaDir/a.png"):
        save(hats / path)
    (hats / "Thumbs.db").write_bytes(b"Windows")
    (hats / "b" / "named.png").mkdir()
    assert first_blue(hats.parent) == [10, 20, 30, 40]


def test_an_empty_class_is_left_out_unless_it_is_asked_for(tmp_path: Path) -> None:
    save(tmp_path / "cat" / "1.png")
    (tmp_path / "dog" / "deeper").mkdir(parents=True)
    with pytest.warns(UserWarning, match="no images, and are left out: dog"):
        assert Folder(tmp_path).classes() == ("cat",)
    assert Folder(tmp_path).resolve("dog") == "dog"
    message = f"class 'dog' in {tmp_path} has no usable images; add some (.jpg, .jpeg, .jpe, .jfif, .png, .webp, "
    message += ".tif, .tiff, .bmp)"
    assert refusal(lambda: Folder(tmp_path).images("dog", 3)) == message


@pytest.mark.parametrize(
    ("layout", "advice", "classes"),
    [
        (["train/cat/1", "train/dog/1", "val/cat/1"], "give {}/train as the folder", ("cat", "dog")),
        (["test/cat/1", "test/dog/1"], "give {}/test as the folder", ("cat", "dog")),
        (["pets/cat/1", "pets/dog/1", "__MACOSX/pets/cat/1"], "give {}/pets as the folder if", ("cat", "dog")),
        (["pets/train/cat/1"], "give {}/pets as the folder if", None),
        (["cat/front/1", "cat/side/1"], "or 'data.classes=[cat]' if", None),
    ],
)
def test_a_level_above_the_classes_is_named_with_what_to_give_instead(
    layout: list[str], advice: str, classes: tuple[str, ...] | None, tmp_path: Path
) -> None:
    for path in layout:
        save(tmp_path / f"{path}.png")
    message = refusal(Folder(tmp_path).classes)
    assert advice.format(tmp_path) in message
    if classes is not None:
        given = message.split("give ")[1].split(" as the folder")[0]
        assert Folder(Path(given)).classes() == classes


@pytest.mark.parametrize("names", ["training_set test_set", "seg_train seg_test", "train2017 val2017", "Train Val"])
def test_splits_by_other_names_are_no_classes(names: str, tmp_path: Path) -> None:
    for name in names.split():
        save(tmp_path / name / "cat" / "1.png")
    assert "has splits" in refusal(Folder(tmp_path).classes)
    for name in ("trainers", "contest"):
        save(tmp_path / "classes" / name / "sub" / "1.png")
    assert Folder(tmp_path / "classes").classes() == ("contest", "trainers")


def test_pictures_in_other_formats_are_left_out_with_a_warning(hats: Path) -> None:
    save(hats / "a.jfif")
    for name in ("b.heic", "c.GIF", ".d.gif", "decoded_images.txt"):
        (hats / name).write_bytes(b"x")
    with pytest.warns(UserWarning, match=r"hat: pictures in formats that are not read are left out: b\.heic, c\.GIF$"):
        assert len(Folder(hats.parent).images("hat")) == 1


def test_folders_below_a_class_and_classes_called_like_splits_are_read(tmp_path: Path) -> None:
    save(tmp_path / "one" / "cat" / "sub" / "1.png")
    assert Folder(tmp_path / "one").classes() == ("cat",)
    for name in ("train", "test"):
        save(tmp_path / "vehicles" / name / "1.png")
    assert Folder(tmp_path / "vehicles").classes() == ("test", "train")
    for name in ("front", "side"):
        save(tmp_path / "sides" / "cat" / name / "1.png", {"front": RED, "side": BLUE}[name])
    assert len(Folder(tmp_path / "sides").images(Folder(tmp_path / "sides").resolve("cat"))) == 2


# What is decoded, and how often


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The images that Pillow decodes. What has been still for a moment is remembered."""
    calls: list[object] = []
    load = ImageFile.ImageFile.load

    def count(image: ImageFile.ImageFile) -> object:
        if image.tile:
            calls.append(image)
        return load(image)

    monkeypatch.setattr(ImageFile.ImageFile, "load", count)
    monkeypatch.setattr(decoded_images, "WORTHWHILE", 0)
    monkeypatch.setattr(decoded_images, "SETTLED", -1e18)
    return calls


def use(folder: Path) -> None:
    """As a sweep does: check the pool and the references, invert the pool, measure the references."""
    pool, references = Folder(folder).images("hat", 4), Folder(folder).images("hat")
    for source in (*pool, *references):
        source.pixels(8)


def test_an_image_is_decoded_once_by_the_first_run_and_by_later_ones(hats: Path, decoded: list[object]) -> None:
    for blue in range(6):
        save(hats / f"{blue}.png", (0, 0, blue))
    use(hats.parent)
    assert len(decoded) == 6
    decoded_images.DECODED.clear()  # as in another process
    use(hats.parent)
    assert len(decoded) == 12
    Folder(hats.parent).images("hat")  # planned again, without a use
    assert len(decoded) == 12


def test_what_has_no_room_is_decoded_again_and_the_same(
    hats: Path, decoded: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    for blue in range(6):
        save(hats / f"{blue}.png", (0, 0, blue))
    monkeypatch.setattr(decoded_images.DECODED, "budget", 3 * 4 * 64)
    first = first_blue(hats.parent)
    assert first == first_blue(hats.parent) == list(range(6))
    assert len(decoded) > 6
    monkeypatch.setattr(decoded_images.DECODED, "budget", 0)
    decoded_images.DECODED.clear()
    assert first_blue(hats.parent) == first


def test_the_id_follows_the_bytes_and_a_change_is_noticed(hats: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(hats / "a.png", RED)
    (before,) = Folder(hats.parent).images("hat")
    assert len(before.id) == 16
    (hats / "a.png").rename(hats / "b.png")
    (renamed,) = Folder(hats.parent).images("hat")
    assert renamed.id == before.id
    save(hats / "b.png", BLUE)
    assert (renamed.pixels(8) == RED).all()  # as it was checked, and is kept in memory
    (after,) = Folder(hats.parent).images("hat")
    assert after.id != before.id and (after.pixels(8) == BLUE).all()
    decoded_images.DECODED.clear()
    assert "has changed since it was checked; restore it" in refusal(lambda: renamed.pixels(8))
    (hats / "b.png").unlink()
    assert "can't be read any more: [Errno 2]" in refusal(lambda: renamed.pixels(8))


def test_pixels_are_the_callers_own(hats: Path) -> None:
    save(hats / "a.png", RED)
    (source,) = Folder(hats.parent).images("hat")
    for size in (8, 8, 16):
        shown = source.pixels(size)
        assert (shown == RED).all() and shown.shape == (size, size, 3)
        shown[:] = 0


# What each kind of file becomes


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
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp"])
def test_images_are_turned_upright(hats: Path, name: str, orientation: int) -> None:
    image = plain(WHITE, (32, 32))
    image.paste(RED, (0, 0, 16, 16))
    image.paste(BLUE, (16, 0, 32, 16))
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 95, "subsampling": 0} if name == "a.jpg" else {"lossless": True}
    image.save(hats / name, exif=exif, **options)
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


@pytest.mark.parametrize("transparency", [0, bytes([0, 255])])
def test_the_transparent_colours_of_a_palette_are_white(hats: Path, transparency: int | bytes) -> None:
    image = Image.new("P", (32, 32), 0)
    image.putpalette([*BLUE, *RED])
    image.paste(1, (0, 0, 32, 16))
    image.save(hats / "a.png", transparency=transparency)
    shown = pixels(hats, 32)
    assert (shown[0] == RED).all()
    assert (shown[-1] == WHITE).all()


def test_sixteen_bits_of_grey_are_scaled_not_clipped(hats: Path) -> None:
    ramp = np.linspace(0, 65535, 8).astype(np.uint16)
    Image.fromarray(np.tile(ramp[:, None], 8)).save(hats / "a.png")
    assert pixels(hats)[:, 0, 0] == pytest.approx(ramp / 257, abs=0.51)


@pytest.mark.parametrize(("name", "options"), [("a.tif", {}), ("a.TIFF", {"compression": "tiff_lzw"}), ("a.bmp", {})])
def test_tiff_and_bmp_are_read(hats: Path, name: str, options: dict[str, Any]) -> None:
    picture = Image.radial_gradient("L").resize((20, 20)).convert("RGB")
    picture.save(hats / name, **options)
    assert np.array_equal(pixels(hats, 20), np.asarray(picture))


def test_grey_of_8_bits_that_is_stored_in_32_is_not_scaled(hats: Path) -> None:
    values = np.arange(0, 400, dtype=np.int32).reshape(20, 20) // 2
    Image.fromarray(values).save(hats / "a.tif")
    assert np.array_equal(pixels(hats, 20)[..., 0], values)


def test_a_bitmap_whose_fourth_byte_is_nought_everywhere_is_not_transparent(hats: Path) -> None:
    plain((10, 20, 30, 77), (4, 4), "RGBA").save(hats / "a.bmp")
    content = bytearray((hats / "a.bmp").read_bytes())
    start = int.from_bytes(content[10:14], "little")
    header = (108).to_bytes(4, "little") + bytes(content[18:30]) + (3).to_bytes(4, "little") + bytes(content[34:54])
    masks = b"".join(mask.to_bytes(4, "little") for mask in (0xFF0000, 0xFF00, 0xFF, 0xFF000000)) + b"BGRs" + bytes(48)
    for alpha, expected in ((0, (10, 20, 30)), (255, (10, 20, 30))):
        body = bytearray(content[start:])
        body[3::4] = bytes([alpha]) * (len(body) // 4)
        file = content[:10] + (14 + 108).to_bytes(4, "little") + header + masks + body
        (hats / "a.bmp").write_bytes(file)
        assert tuple(pixels(hats, 4)[0, 0]) == expected


def test_sixteen_bit_tiffs_are_scaled_and_more_bits_are_refused(hats: Path) -> None:
    values = np.linspace(0, 65535, 400).reshape(20, 20)
    Image.fromarray(values.astype(np.uint16)).save(hats / "a.tif")
    assert np.array_equal(pixels(hats, 20)[..., 0], np.rint(values.astype(np.uint16) / 257))
    for kind in (np.float32, np.int32):
        Image.fromarray((values * 100).astype(kind)).save(hats / "a.tif")
        assert "more than 16 bits; save it with 8 or 16" in refusal(lambda: pixels(hats))


def packed_tiff(values: np.ndarray) -> bytes:
    """A TIFF of 12 bits a pixel, packed as its specification says: two pixels in three bytes."""
    first, second = values.reshape(-1, 2).astype(int).T
    body = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], 1).astype(np.uint8).tobytes()
    (height, width), end = values.shape, 8 + len(body)
    tags = {256: width, 257: height, 258: 12, 259: 1, 262: 1, 273: 8, 277: 1, 278: height, 279: len(body)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return struct.pack("<2sHI", b"II", 42, end) + body + struct.pack("<H", len(tags)) + entries + bytes(4)


def test_twelve_bits_in_sixteen_are_scaled_where_the_file_says_so(hats: Path) -> None:
    values = np.linspace(0, 4095, 400).reshape(20, 20).astype(np.uint16)
    for name, tags in (("a.tif", {281: 4095}), ("b.tif", {281: 65535}), ("c.tif", {})):
        Image.fromarray(values).save(hats / name, tiffinfo=tags)
    (hats / "d.tif").write_bytes(packed_tiff(values))
    with pytest.warns(UserWarning, match=r"nearly black.*: \S*b.tif and 1 more$"):
        found = Folder(hats.parent).images("hat")
    for source, white in zip(found, (4095, 65535, 65535, 4095), strict=True):
        assert np.array_equal(source.pixels(20)[..., 0], np.rint(values / (white / 255)))
    contents = [(hats / name).read_bytes() for name in ("a.tif", "c.tif")]
    assert [image_id(content) == digest(content) for content in contents] == [False, True]


@pytest.mark.parametrize("name", ["a.tif", "a.webp", "a.png"])
def test_files_with_several_pictures_give_the_first_with_one_note(name: str, hats: Path) -> None:
    for letter, size in (("b", (8, 8)), ("a", (9, 9)), ("c", (10, 10))):  # the same bytes are decoded once
        pages: dict[str, Any] = {"save_all": True, "append_images": [plain(BLUE, size)]}
        plain(RED, size).save(hats / f"{letter}{name[1:]}", lossless=True, **pages)
    plain().save(hats / "d.tif")
    preview = TiffImagePlugin.AppendingTiffWriter(str(hats / "d.tif"))
    plain(RED).save(preview, "TIFF", tiffinfo={254: 1})
    preview.close()
    with pytest.warns(UserWarning) as warned:
        found = Folder(hats.parent).images("hat")
    assert [tuple(source.pixels(8)[0, 0]) for source in found] == [RED, RED, RED, BLUE]
    (text,) = (str(warning.message) for warning in warned)
    assert "several pages or frames" in text and text.endswith(f"{hats / name} and 2 more")
    with pytest.warns(UserWarning, match="several pages or frames"):
        picture_source(hats / name)


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.tif"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_colour_profiles_are_applied(hats: Path, name: str, mode: str) -> None:
    """A profile that is sRGB's but for its tone curve, or for greys any that is."""
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    linear = _linear_profile(srgb)
    colour = (200, 60, 120) if mode == "RGB" else (60, 60, 60)
    picture = Image.new("RGB", (16, 16), colour).convert(mode)
    options: dict[str, Any] = {} if name == "a.tif" else {"quality": 100}

    def away(profile: bytes, expected: list[int]) -> int:
        picture.save(hats / name, icc_profile=profile, **options)
        return int(abs(pixels(hats, 16).astype(int) - expected).max())

    assert away(srgb, list(colour)) <= 3
    if mode == "RGB":
        assert away(linear, [round(255 * _to_srgb(value / 255)) for value in colour]) <= 4
        assert away(linear, list(colour)) > 15
        plain_id = image_id((hats / name).read_bytes())
        assert away(_linear_profile(srgb, renamed=False), list(colour)) > 15  # it is called sRGB
        content = (hats / name).read_bytes()
        assert image_id(content) not in (plain_id, digest(content), digest(content + b"in sRGB"))
    for unfit in (b"no profile at all", linear if mode == "L" and name != "a.webp" else b""):
        if unfit:
            warn_once.cache_clear()
            with pytest.warns(UserWarning, match="a colour profile that can't be read"):
                assert away(unfit, list(colour)) <= 3


def _to_srgb(linear: float) -> float:
    return 12.92 * linear if linear <= 0.0031308 else 1.055 * linear ** (1 / 2.4) - 0.055


def _linear_profile(srgb: bytes, renamed: bool = True) -> bytes:
    """Return a profile of sRGB's primaries with a gamma of 1, and another name or the same."""
    content, at = bytearray(srgb), 132
    for _ in range(int.from_bytes(srgb[128:132])):
        tag, start = srgb[at : at + 4], int.from_bytes(srgb[at + 4 : at + 8])
        if tag in (b"rTRC", b"gTRC", b"bTRC"):
            content[start : start + 14] = b"curv" + bytes(4) + (1).to_bytes(4) + (256).to_bytes(2)
        at += 12
    own = bytes(content)
    return own.replace(b"s\0R\0G\0B", b"x\0x\0x\0x").replace(b"sRGB", b"xxxx") if renamed else own


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


# Damaged images


def damage(file: Path, kind: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(file)
    whole = file.read_bytes()
    file.write_bytes({"truncated": whole[: len(whole) // 2], "empty": b"", "text": b"<html>404</html>"}[kind])


DAMAGED = [
    ("b.jpg", "truncated"),
    ("b.png", "truncated"),
    ("b.webp", "truncated"),
    ("b.png", "text"),
    ("b.jpg", "empty"),
]


@pytest.mark.parametrize(("name", "kind"), DAMAGED)
def test_damaged_images_are_refused_by_name_or_skipped_with_a_warning(hats: Path, name: str, kind: str) -> None:
    for good, blue in {"a.png": 10, "c.png": 30, "d.png": 40}.items():
        save(hats / good, (0, 0, blue))
    damage(hats / name, kind)
    assert len(Folder(hats.parent).images("hat", 1)) == 1  # it is not asked for
    message = refusal(lambda: Folder(hats.parent).images("hat"))
    assert message.startswith(f"{hats / name} cannot be used: ")
    assert message.endswith("; mend or delete it, or set data.bad_images=skip")
    if kind == "text":
        assert "it is an HTML page" in message
    with pytest.warns(UserWarning, match=SKIPPED) as caught:
        sources = Folder(hats.parent, SKIP).images("hat", 2)
    assert [source.pixels(8)[0, 0, 2] for source in sources] == [10, 30]
    assert [str(hats / name) in str(warning.message) for warning in caught] == [True]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # each file is warned of once
        assert len(Folder(hats.parent, SKIP).images("hat")) == 3
    (hats / "c.png").unlink()
    assert "has 2 of the 3 images asked for" in refusal(lambda: Folder(hats.parent, SKIP).images("hat", 3))


def test_a_link_that_leads_nowhere_is_a_damaged_image(hats: Path) -> None:
    (hats / "a.jpg").symlink_to(hats / "gone.jpg")
    assert "No such file" in refusal(lambda: Folder(hats.parent).images("hat"))


# What is said where something is wrong


def test_what_is_no_folder_of_class_folders(tmp_path: Path) -> None:
    assert refusal(Folder(tmp_path / "gone").classes) == (
        f"cannot list {tmp_path / 'gone'}: No such file or directory; give a folder of class folders, DIR/<class>/*.jpg"
    )
    (tmp_path / "data.zip").touch()
    assert "data.zip: Not a directory; give a folder of class folders" in refusal(Folder(tmp_path / "data.zip").classes)
    assert "there are no class folders in" in refusal(Folder(tmp_path).classes)
    (tmp_path / "cat").mkdir()
    assert f"no class folder in {tmp_path} has images" in refusal(Folder(tmp_path).classes)
    save(tmp_path / "cat" / "a.png")
    instead = f"name the folder above it, {tmp_path}, and 'data.classes=[cat]'"
    assert instead in refusal(Folder(tmp_path / "cat").classes)
    assert Folder(tmp_path).classes() == ("cat",)


@pytest.mark.parametrize("class_id", ["hatt", "../hat", "", "."])
def test_an_unknown_class(tmp_path: Path, class_id: str) -> None:
    for name in ("hat", "dress", "pants", "shirt", "shoes", "skirt"):
        (tmp_path / name).mkdir()
    message = refusal(lambda: Folder(tmp_path).images(class_id))
    assert f"is called {class_id!r}; try '" in message
    assert message.endswith("there are dress, hat, pants, shirt, shoes, ...")


def test_advice_for_too_few_images_works(tmp_path: Path) -> None:
    for index in range(3):
        save(tmp_path / "data" / "hat" / f"{index}.png", (0, 0, index))
    run = ["invert", "--dry-run", "data=folder", f"data.path={tmp_path / 'data'}", f"outputs={tmp_path}", "n=[2]"]
    refused = invoke(*run, "pool=8")
    assert refused.code == 2 and "has 3 of the 8 images asked for; set pool=3" in refused.err
    assert invoke(*run, "pool=3").code == 0
    save(tmp_path / "data" / "cap" / "1.png")
    refused = invoke(*run, "pool=3")
    assert "class 'cap'" in refused.err and "add images, at least 1 more, or leave the class out" in refused.err
    assert invoke(*run, "pool=3", "data.classes=[hat]").code == 0


# Photographs


def test_real_photographs() -> None:
    if not CLOTHING.is_dir():
        pytest.skip(f"the clothing photographs are not at {CLOTHING}")
    folder = Folder(CLOTHING)
    assert len(folder.classes()) == 10
    sources = folder.images("t-shirt", 3)
    assert len({source.id for source in sources}) == 3
    for source in sources:
        image = source.pixels(64)
        assert (image.shape, image.dtype) == ((64, 64, 3), np.uint8)
        assert image.std() > 10  # it shows something
    assert "has 72 of the 100 images asked for" in refusal(lambda: folder.images("t-shirt", 100))
