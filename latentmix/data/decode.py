"""Decoding: the bytes of an image file -> an upright RGB picture, in the colours of sRGB.

Pillow's classes of these formats are called directly. `Image.open` would refuse large pictures by a limit that
belongs to the whole process; here `data.max_megapixels` decides.
"""

import io
import zlib
from contextlib import suppress
from functools import lru_cache
from itertools import count

import numpy as np
from PIL import Image, ImageCms, ImageFile, ImageOps
from PIL.BmpImagePlugin import BmpImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

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
OTHERS = {  # how files begin that are often in the place of images -> what they are
    b"version https://git-lfs": "a Git LFS pointer; run git lfs pull",
    b"<!doctype html": "an HTML page, as servers send in place of a file",
    b"<html": "an HTML page, as servers send in place of a file",
}
PROFILES = (b"ICC_PROFILE\0", b"iCCP", b"ICCP")  # what begins a colour profile in JPEG, PNG and WebP
SRGB_LEVELS = 24  # of 255, by which a grey may differ in a profile that is called sRGB
BITS, LARGEST_VALUE, KIND_OF_PAGE = 258, 281, 254  # tags of TIFF
PREVIEW_OR_MASK = 1 | 4  # in the kind of a page
WHITE = 65535
DEPTHS = {(1 << bits) - 1 for bits in range(9, 16)}  # the value of white in fewer bits, which TIFFs keep in 16
DIM = 32  # of 256: where all values of 16 bits are lower, they may be of 12
SEVERAL = "several pages or frames, of which only the first is read"
NEARLY_BLACK = (
    "16 bits and values below 1/8 of white alone, which come out nearly black; where white is 4095 (12 bits), save "
    "them in 8 bits, or as TIFF with the tag MaxSampleValue=4095"
)
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
    except Exception:  # nearly anything, for what is damaged or no image; decoding says what is wrong
        return False


@lru_cache(maxsize=64)
def _is_called_srgb(profile: bytes) -> bool:
    return "sRGB" in ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(profile)))


@lru_cache(maxsize=64)
def _is_srgb(profile: bytes) -> bool:
    """Return whether a profile leaves greys about as they are. Those of sRGB differ a little from each other."""
    greys = Image.fromarray(np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, 2))
    own, srgb = ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB")
    try:
        converted = np.asarray(ImageCms.profileToProfile(greys, own, srgb, outputMode="RGB"), dtype=float)
    except ImageCms.PyCMSError:  # it is of greys alone
        return True
    return bool(np.abs(converted - np.asarray(greys)).max() <= SRGB_LEVELS)


def has_fewer_bits(content: bytes) -> bool:
    """Return whether a file is a grey TIFF in 16 bits that says that it uses fewer."""
    if suffix(content) == ".tif":
        with suppress(Exception), TiffImageFile(io.BytesIO(content)) as opened:
            return opened.mode.startswith("I") and _white(opened) != WHITE
    return False


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
            picture, remarks = _decode(bare, max_megapixels)
            return picture, (*remarks, _unreadable("text or a colour profile"))
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
        remarks, is_deep = [], ";16" in str(opened.tile)
        opened.load()
        try:
            ImageOps.exif_transpose(opened, in_place=True)
        except Exception:  # for bytes that are no Exif, Pillow raises SyntaxError, struct.error, OSError, TypeError...
            remarks.append(_unreadable("Exif"))
        picture, profile_is_usable = in_srgb(opened)
        if not profile_is_usable:
            remarks.append(_unreadable("a colour profile"))
        if is_deep and np.max(picture.getextrema()) < DIM:
            remarks.append(NEARLY_BLACK)
        if _has_several(opened):
            remarks.append(SEVERAL)
        return picture, tuple(remarks)


def _unreadable(what: str) -> str:
    return f"{what} that can't be read, which are used without"


def _has_several(opened: ImageFile.ImageFile) -> bool:
    """Return whether a file holds further pictures; in a TIFF, previews and masks of the first one don't count."""
    if not isinstance(opened, TiffImageFile):
        return getattr(opened, "n_frames", 1) > 1
    with suppress(Exception):  # at the end, or where further pages are damaged
        for page in count(1):
            opened.seek(page)
            if not opened.tag_v2.get(KIND_OF_PAGE, 0) & PREVIEW_OR_MASK:
                return True
    return False


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


def rgb(picture: Image.Image) -> Image.Image:
    """Return a picture in RGB, on white where it is transparent."""
    if picture.mode == "F" or (picture.mode == "I" and np.abs(np.asarray(picture)).max() > 65535):
        raise OSError("its pixels have more than 16 bits; save it with 8 or 16")
    if picture.mode.startswith("I"):  # 16 bits of grey, which Pillow would clip to 255; or 8 bits, stored as integers
        grey = np.asarray(picture)
        scale = 1 if picture.mode == "I" and grey.max() <= 255 else _white(picture) / 255
        picture = Image.fromarray(np.rint(grey / scale).clip(0, 255).astype(np.uint8))
    if picture.mode == "La":  # which Pillow converts to LA alone
        picture = picture.convert("LA")
    if picture.has_transparency_data:
        bitmap = isinstance(picture, BmpImageFile)
        picture = picture.convert("RGBA")
        if bitmap and not picture.getchannel("A").getextrema()[1]:  # some programs leave the fourth byte at 0
            picture.putalpha(255)
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return picture.convert("RGB")


def _white(picture: Image.Image) -> int:
    """Return the value of white in a grey picture of 16 bits: a lower one where a TIFF says that it uses fewer bits."""
    tags = getattr(picture, "tag_v2", {})
    stated = (*tags.get(LARGEST_VALUE, ()), *((1 << bits) - 1 for bits in tags.get(BITS, ())))
    return next((value for value in stated if value in DEPTHS), WHITE)


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
