"""Pictures of PIL as callers have them: of any mode, and unusable ones, of which one line says which and why."""

import io
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import latentmix as lm
from latentmix.data.caller_images import read_pictures

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8))
CLEAR = Image.new("RGBA", (16, 16), (255, 0, 0, 128))


def truncated(format_: str) -> Image.Image:
    file = io.BytesIO()
    PICTURE.save(file, format_)
    return Image.open(io.BytesIO(file.getvalue()[:-60]))


def closed() -> Image.Image:
    file = io.BytesIO()
    PICTURE.save(file, "PNG")
    picture = Image.open(file)
    picture.close()
    return picture


UNUSABLE = [
    (lambda: truncated("JPEG"), "truncated"),
    (lambda: truncated("PNG"), "truncated"),
    (closed, "a picture of mode RGB: "),
    (lambda: PICTURE.convert("F"), "mode F: its pixels have more than 16 bits; save it with 8 or 16"),
]


@pytest.mark.parametrize(("picture", "reason"), UNUSABLE)
def test_a_picture_that_cannot_be_used_is_named_in_one_line(picture: Any, reason: str) -> None:
    for images, label in (([PICTURE, picture()], "images[1]"), (picture(), "the image")):
        with pytest.raises(lm.UserError) as caught:
            read_pictures(images, 16)
        said = str(caught.value)
        assert said.startswith(f"{label} can't be read") and reason in said and "\n" not in said
    with pytest.raises(lm.UserError, match=r"^reference\[1\] can't be read"):
        lm.evaluate([PICTURE] * 2, [PICTURE, picture()], ["kid"], features="embedded")
    with pytest.raises(lm.UserError, match=r"^images\[1\]: NoneType is no image"):
        lm.evaluate([PICTURE, None], [PICTURE] * 2, ["kid"], features="embedded")


@pytest.mark.parametrize(
    "mode", ["1", "L", "P", "LA", "PA", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr", "HSV", "LAB", "I", "I;16"]
)
def test_pictures_of_all_modes_that_pillow_converts_can_be_used(mode: str) -> None:
    pixels, single = read_pictures(Image.new(mode, (16, 16)), None)
    assert single and pixels.shape == (1, 3, 16, 16)


def test_premultiplied_grey_is_read_as_grey_with_transparency() -> None:
    grey = CLEAR.convert("LA")
    expected, found = (read_pictures(picture, None)[0].int() for picture in (grey, grey.convert("La")))
    torch.testing.assert_close(found, expected, rtol=0, atol=2)
