"""Decoding: the bytes of an image file -> an upright RGB picture, in the colours of sRGB; its crop at a size.

Pillow's classes of these formats are called directly. `Image.open` would refuse large pictures by a limit that
belongs to the whole process; here `data.max_megapixels` decides.
"""

import io
import zlib
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms, ImageFile, ImageOps
from PIL.BmpImagePlugin import BmpImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from latentmix.data.odd_image_files import UNREADABLE, peculiarities, white
from latentmix.settings import height_width

FORMATS: dict[str, type[ImageFile.ImageFile]] = {
    ".jpg": JpegImageFile,
    ".png": PngImageFile,
    ".webp": WebPImageFile,
    ".tif": TiffImageFile,
    ".bmp": BmpImageFile,
}
PNG_START = b"\x89PNG\r\n\x1a\n"
STARTS = {b"\xff\xd8\xff": ".jpg", PNG_START: ".png", b"BM": ".bmp"}
STARTS |= dict.fromkeys((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), ".tif")  # the latter two are BigTIFF
OTHERS = {  # beginnings of files that are often found in place of images -> what such a file is
    b"version https://git-lfs": "a Git LFS pointer; run git lfs pull",
    b"<!doctype html": "an HTML page, as servers send in place of a file",
    b"<html": "an HTML page, as servers send in place of a file",
}
PROFILES = (b"ICC_PROFILE\0", b"iCCP", b"ICCP")  # what begins a colour profile in JPEG, PNG and WebP
SRGB_LEVELS = 24  # of 255, by which a grey may differ in a profile that is called sRGB
PNG_PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")  # the chunks that decide a PNG's pixels


def suffix(content: bytes) -> str | None:
    """Return a format of `FORMATS` by the first bytes of a file; None for anything else."""
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return ".webp"
    return next((format_ for start, format_ in STARTS.items() if content.startswith(start)), None)


def names_a_profile(content: bytes) -> bool:
    """Return whether a file of JPEG, PNG or WebP may have a colour profile other than sRGB, by its bytes."""
    return b"sRGB" not in content and any(mark in content for mark in PROFILES)


def misnamed_profile(content: bytes) -> bool:
    """Return whether a file has a colour profile that is called sRGB and is another, such as "Linear sRGB"."""
    if not content.startswith((b"II", b"MM")) and not any(mark in content for mark in PROFILES):
        return False
    try:
        with FORMATS[suffix(content) or ""](io.BytesIO(content)) as opened:
            profile = opened.info.get("icc_profile")
        return bool(profile) and _is_called_srgb(profile) and not _is_srgb(profile)
    except Exception:  # of any type for a damaged file; `decode` reports it
        return False


@lru_cache(maxsize=64)
def _is_called_srgb(profile: bytes) -> bool:
    return "sRGB" in ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(profile)))


@lru_cache(maxsize=64)
def _is_srgb(profile: bytes) -> bool:
    """Return whether a profile leaves greys nearly unchanged. Different sRGB profiles differ by a few levels."""
    greys = Image.fromarray(np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, 2))
    own, srgb = ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB")
    try:
        converted = np.asarray(ImageCms.profileToProfile(greys, own, srgb, outputMode="RGB"), dtype=float)
    except ImageCms.PyCMSError:  # it is of greys alone
        return True
    return bool(np.abs(converted - np.asarray(greys)).max() <= SRGB_LEVELS)


def decode(content: bytes, max_megapixels: float) -> tuple[Image.Image, tuple[str, ...]]:
    """Return the whole picture in RGB, upright, on white where it is transparent; and remarks: images with what it is.

    Metadata decide nothing but the orientation, so a picture is used without those that cannot be read. Raises OSError
    for another format, a truncated file or too many pixels, and whatever Pillow raises for a damaged one.
    """
    try:
        return _decode(content, max_megapixels)
    except OSError:
        raise
    except Exception as error:  # for a damaged or very long chunk Pillow raises ValueError, SyntaxError and others
        bare = _without_metadata(content)
        if bare is None:
            raise
        try:
            return _decode(bare, max_megapixels)[0], (UNREADABLE.format("text or a colour profile"),)
        except Exception:
            raise error from None


def _decode(content: bytes, max_megapixels: float) -> tuple[Image.Image, tuple[str, ...]]:
    start = suffix(content)
    if start is None:
        beginning, plain = content[:512].lstrip().lower(), "not an image in JPEG, PNG, WebP, TIFF or BMP format"
        other = next((what for start, what in OTHERS.items() if beginning.startswith(start)), plain)
        raise OSError(f"it is {other if content else 'empty'}")
    with FORMATS[start](io.BytesIO(content)) as opened:
        megapixels = opened.width * opened.height / 1e6
        if megapixels > max_megapixels:
            raise OSError(f"it has {megapixels:.4g} megapixels, more than data.max_megapixels={max_megapixels:g}")
        unreadable, is_deep = "", ";16" in str(opened.tile)
        opened.load()
        try:
            ImageOps.exif_transpose(opened, in_place=True)
        except Exception:  # for bytes that are no Exif, Pillow raises SyntaxError, struct.error, OSError, TypeError...
            unreadable = "Exif"
        picture, profile_is_usable = in_srgb(opened)
        return picture, peculiarities(opened, picture, is_deep, unreadable if profile_is_usable else "a colour profile")


def in_srgb(picture: Image.Image) -> tuple[Image.Image, bool]:
    """Return a picture in RGB and sRGB, on white where transparent; and False if its colour profile is unusable."""
    plain = picture if picture.mode in ("L", "CMYK") and not picture.has_transparency_data else rgb(picture)
    if profile := picture.info.get("icc_profile"):
        try:
            own, srgb = ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB")
            if not (_is_called_srgb(profile) and _is_srgb(profile)):
                return ImageCms.profileToProfile(plain, own, srgb, outputMode="RGB") or plain, True
        except (ImageCms.PyCMSError, OSError):  # OSError for bytes that are no profile
            return rgb(plain), False
    return rgb(plain), True


def fitted(picture: Image.Image, size: int | str) -> np.ndarray:
    """Return the centre of a picture, cut to the shape of a size and resized to it: uint8 [H, W, 3]."""
    height, width = height_width(size)
    return np.array(ImageOps.fit(picture, (width, height), Image.Resampling.BICUBIC))


def rgb(picture: Image.Image) -> Image.Image:
    """Return a picture in RGB, on white where it is transparent."""
    if picture.mode == "F" or (picture.mode == "I" and np.abs(np.asarray(picture)).max() > 65535):
        raise OSError("its pixels have more than 16 bits; save it with 8 or 16")
    if picture.mode.startswith("I"):  # 16 bits of grey, which Pillow would clip to 255; or 8 bits, stored as integers
        grey = np.asarray(picture)
        scale = 1 if picture.mode == "I" and grey.max() <= 255 else white(picture) / 255
        picture = Image.fromarray(np.rint(grey / scale).clip(0, 255).astype(np.uint8))
    if picture.mode == "La":  # Pillow converts it only to LA
        picture = picture.convert("LA")
    if picture.has_transparency_data:
        bitmap = isinstance(picture, BmpImageFile)
        picture = picture.convert("RGBA")
        if bitmap and not picture.getchannel("A").getextrema()[1]:  # some programs leave the fourth byte at 0
            picture.putalpha(255)
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return picture.convert("RGB")


def _without_metadata(content: bytes) -> bytes | None:
    """Return a PNG without the chunks that decide neither pixels nor orientation; None for another format."""
    if not content.startswith(PNG_START):
        return None
    kept, at = [PNG_START], len(PNG_START)
    while at + 12 <= len(content):  # a chunk: length of data, kind, data, checksum
        kind, end = content[at + 4 : at + 8], at + 12 + int.from_bytes(content[at : at + 4])
        chunk = content[at + 4 : end]
        if kind in PNG_PIXELS or (kind == b"eXIf" and zlib.crc32(chunk[:-4]) == int.from_bytes(chunk[-4:])):
            kept.append(content[at:end])
        at = end
    return b"".join(kept)
