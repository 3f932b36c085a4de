"""Types that all settings classes share. They import only pydantic, so every module can use them."""

import re
from pathlib import Path
from typing import Annotated, Any, LiteralString, TypeVar

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

URL = re.compile(r"[a-z][a-z0-9+.-]+:/", re.IGNORECASE)  # also where a Path took one of its slashes; C:/ is none


def expand_home(path: str | Path) -> str:
    """Return a path whose leading ~ or ~USER is that home folder; any other text is returned as it is."""
    text = str(path)
    try:
        return str(Path(text).expanduser()) if text.startswith("~") else text
    except RuntimeError:  # there is no such user
        return text


def numbers(text: str) -> tuple[float, ...]:
    """Return the numbers in a text, with commas between them. Raises ValueError for anything else."""
    parts = [part for part in re.split(r"[,;\s]+", text.strip().strip("[]()")) if part]
    try:
        return tuple(map(float, parts or [""]))
    except ValueError:
        raise ValueError("these are no numbers; write them with commas between, such as 0.5,0.3,0.2") from None


def refusal_of_url(text: str | Path) -> LiteralString | None:
    """Return why a URL in the place of a path can't be used; None for anything else."""
    if not URL.match(str(text)):
        return None
    named = " (from the Hugging Face hub, by OWNER/NAME as model.hub or data.hub)" if "hugg" in str(text) else ""
    return f"is a URL, and only files of this machine are read and written: download it, and give its path here{named}"


def _local_path(path: str) -> str:
    """Return a path with its ~ expanded. Raises ValueError for a URL, and for an empty one: the current folder."""
    if reason := refusal_of_url(path):
        raise PydanticCustomError("url", reason)
    if not path.strip():
        raise PydanticCustomError("empty_path", "is empty; is there a variable that is not set?")
    return expand_home(path)


def _image_size(given: Any) -> Any:
    """Return a size in its plain form: a number for a square, else "WIDTHxHEIGHT"."""
    found = re.fullmatch(r"(0*[1-9]\d{0,5})(?:x(0*[1-9]\d{0,5}))?", str(given))
    if found is None:
        raise PydanticCustomError("image_size", "should be pixels: 512, or 768x512 for width and height")
    width, height = int(found[1]), int(found[2] or found[1])
    return width if width == height else f"{width}x{height}"


def height_width(size: int | str) -> tuple[int, int]:
    """Return the height and the width of images of an `ImageSize`."""
    if isinstance(size, int):
        return size, size
    width, height = size.split("x")
    return int(height), int(width)


STRICT = ConfigDict(extra="forbid", arbitrary_types_allowed=True, coerce_numbers_to_str=True)
LocalPath = Annotated[str, AfterValidator(_local_path)]  # text that may be a path
Folder = Annotated[Path, BeforeValidator(lambda path: _local_path(path) if isinstance(path, str) else path)]
Entry = TypeVar("Entry")
# One or several entries. A single one need not be written as a list.
Several = Annotated[
    tuple[Entry, ...], BeforeValidator(lambda x: x if x is None or isinstance(x, list | tuple) else (x,))
]
Positive = Annotated[int, Field(gt=0)]
ImageSize = Annotated[int | str, BeforeValidator(_image_size)]  # pixels: 512, or "768x512", width and height
Guidance = Annotated[float, Field(ge=0, allow_inf_nan=False)]  # 1 is no guidance
