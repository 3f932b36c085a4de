"""Prompts of single images, from a file (`data.prompts=FILE.csv`). Images are inverted under them."""

import csv
import json
import unicodedata
from collections.abc import Sequence
from dataclasses import replace
from io import StringIO
from pathlib import Path, PurePosixPath
from typing import Any

from latentmix.data.protocol import Source, first_few
from latentmix.errors import UserError, warn_once
from latentmix.storage import key

NAMES = ("file_name", "file", "image", "path")  # columns of the images' file names
TEXTS = ("prompt", "text", "caption")  # and of their prompts


class Prompts:
    """The prompts in a file, by the file names of images. Raises: UserError as `read_prompts` does."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.texts = read_prompts(file)
        self._given: dict[str, Source] = {}  # name in the file -> the image that has its prompt

    def given_to(self, sources: Sequence[Source], where: str) -> list[Source]:
        """Return images with the prompts of their file names. Names in the file may include any number of folders.

        An image without one keeps the prompt of its class. Raises: UserError if no image has one, or if a name fits
        several images.
        """
        prompted = [self._prompted(source) for source in sources]
        without = [source.label for source in prompted if source.prompt is None]
        if len(without) == len(prompted):
            raise UserError(f"{self.file} names no image of {where}; write them as {_as_example(sources[0])}")
        if without:
            warn_once(
                f"{self.file} has no prompt for {len(without)} images of {where}: {first_few(without)}; theirs is the "
                "class's"
            )
        return prompted

    def _prompted(self, source: Source) -> Source:
        whole = unicodedata.normalize("NFC", Path(source.label).absolute().as_posix())
        paths = [path.split("/") for path in (whole, whole.replace(".tar/", "/"))]  # in a tar, or where it is unpacked
        ends = ("/".join(parts[start:]) for parts in paths for start in range(len(parts)))  # the longest first
        if (name := next((end for end in ends if end in self.texts), None)) is None:
            return source
        if (other := self._given.setdefault(name, source)).id != source.id:
            raise UserError(
                f"{self.file}: {name} is the name of {other.label} and of {source.label}; write them as "
                f"{_as_example(source, other)}"
            )
        prompt = self.texts[name]
        return replace(source, id=f"{source.id}-{key(prompt)}", prompt=prompt)


def read_prompts(file: Path) -> dict[str, str]:
    """Return prompts by file name. Raises: UserError where the file can't be read, or names an image twice."""
    rows, mark = _read(file)
    columns = list(rows[0]) if rows else []
    name, text = (next((column for column in known if column in columns), None) for known in (NAMES, TEXTS))
    if name is None or text is None:
        raise UserError(f"{file} needs the columns {NAMES[0]} and {TEXTS[0]} in its first line, and rows below")
    found: dict[str, str] = {}
    for number, row in enumerate(rows, 2):
        image = unicodedata.normalize("NFC", str(row.get(name) or "").strip().replace("\\", "/"))
        image = PurePosixPath(image).as_posix().removeprefix("./")
        prompt = str(row.get(text) or "").strip()
        if None in row:  # DictReader's key of fields for which there is no column
            advice = f"put a prompt that has a {mark!r} in double quotes"
            raise UserError(f"{file}, row {number}: there are more fields than columns; {advice}")
        if not prompt or image == "." or image in found:
            named = "an image" if image == "." else image
            raise UserError(f"{file}, row {number}: {named} has no name, no prompt, or two; mend the row")
        found[image] = prompt
    return found


def _read(file: Path) -> tuple[list[dict[Any, Any]], str]:
    """Return the rows of a CSV file, JSON lines or a JSON list, and what separates fields. Raises: UserError."""
    line = 0
    try:
        content = file.read_bytes()
        text = content.decode("utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
        if text.lstrip()[:1] in ("{", "["):  # as metadata.jsonl of Hugging Face's image folders
            plain = (
                json.loads(text)
                if text.lstrip().startswith("[")
                else map(json.loads, filter(str.strip, text.splitlines()))
            )
            return [{column.strip().lower(): value for column, value in row.items()} for row in plain], ","
        header = text.partition("\n")[0]
        mark = next((mark for mark in ",;\t" if mark in header), ",")
        reader = csv.DictReader(StringIO(text, newline=""), delimiter=mark, skipinitialspace=True, strict=True)
        reader.fieldnames = [column.strip().lower() for column in reader.fieldnames or ()]
        rows: list[dict[Any, Any]] = []
        for row in reader:
            rows.append(row)
            line = reader.line_num
        return rows, mark
    except UnicodeDecodeError as error:
        raise UserError(f"data.prompts={file} can't be read: it is not in UTF-8; save it as CSV in UTF-8") from error
    except csv.Error as error:
        advice = "write a quote inside a quoted prompt twice"
        raise UserError(f"data.prompts={file} can't be read: {error}, after line {line}; {advice}") from error
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise UserError(f"data.prompts={file} can't be read: {getattr(error, 'strerror', None) or error}") from error


def _as_example(source: Source, other: Source | None = None) -> str:
    """Return an example for a message: the name of an image in a file of prompts, unlike that of another one."""
    parts, others = Path(source.label).parts, Path(other.label).parts if other else ()
    count = next(n for n in range(2, len(parts) + 2) if parts[-n:] != others[-n:])
    return f"CLASS/NAME, such as {'/'.join(parts[-count:])}"
