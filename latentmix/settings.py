"""Types that all settings classes share. They need pydantic alone, so every room can declare its own settings."""

from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field


def expand_home(path: str) -> str:
    """Return a path whose leading ~ or ~USER is that home folder; any other text is returned as it is."""
    try:
        return str(Path(path).expanduser()) if path.startswith("~") else path
    except RuntimeError:  # there is no such user
        return path


STRICT = ConfigDict(extra="forbid", arbitrary_types_allowed=True, coerce_numbers_to_str=True)
LocalPath = Annotated[str, AfterValidator(expand_home)]  # text that may be a path
Folder = Annotated[Path, AfterValidator(lambda path: Path(expand_home(str(path))))]
Entry = TypeVar("Entry")
# One or several entries. A single one need not be written as a list.
Several = Annotated[
    tuple[Entry, ...], BeforeValidator(lambda x: x if x is None or isinstance(x, list | tuple) else (x,))
]
Positive = Annotated[int, Field(gt=0)]
Guidance = Annotated[float, Field(ge=0, allow_inf_nan=False)]  # 1 is no guidance
