"""A prompt of its own for each image, from a CSV file (`data.prompts=FILE.csv`). Images are inverted under them."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from latentmix.cache import key
from latentmix.data.protocol import Source, first_few
from latentmix.errors import UserError, warn_once

NAMES = ("file_name", "file", "image", "path")  # columns of the images' file names
TEXTS = ("prompt", "text", "caption")  # and of their prompts


def read_prompts(file: Path) -> dict[str, str]:
    """Return prompts by file name. Raises: UserError where the file can't be read, or names an image twice."""
    try:
        with file.open(newline="", encoding="utf-8-sig") as opened:
            header = opened.readline()
            opened.seek(0)
            mark = next((mark for mark in ",;\t" if mark in header), ",")
            reader = csv.DictReader(opened, delimiter=mark, skipinitialspace=True, strict=True)
            reader.fieldnames = [column.strip().lower() for column in reader.fieldnames or ()]
            rows = list(reader)
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"data.prompts={file} can't be read: {getattr(error, 'strerror', None) or error}") from error
    columns = list(rows[0]) if rows else []
    name, text = (next((column for column in known if column in columns), None) for known in (NAMES, TEXTS))
    if name is None or text is None:
        raise UserError(f"{file} needs the columns {NAMES[0]} and {TEXTS[0]} in its first line, and rows below")
    found: dict[str, str] = {}
    for number, row in enumerate(rows, 2):
        image = PurePosixPath((row[name] or "").strip().replace("\\", "/")).as_posix().removeprefix("./")
        prompt = (row[text] or "").strip()
        if None in row:  # DictReader's key of fields for which there is no column
            advice = f"put a prompt that has a {mark!r} in double quotes"
            raise UserError(f"{file}, row {number}: there are more fields than columns; {advice}")
        if not prompt or image == "." or image in found:
            named = "an image" if image == "." else image
            raise UserError(f"{file}, row {number}: {named} has no name, no prompt, or two; mend the row")
        found[image] = prompt
    return found


def with_prompts(sources: Sequence[Source], prompts: Mapping[str, str], file: Path, where: str) -> list[Source]:
    """Return images with the prompts of their file names, by as many folders of their path as `prompts` has.

    An image without one has the prompt of its class. Raises: UserError if none has one.
    """
    prompted = [_with_prompt(source, prompts) for source in sources]
    without = [source.label for source in prompted if source.prompt is None]
    if len(without) == len(prompted):
        example = "/".join(Path(sources[0].label).parts[-2:])
        raise UserError(f"{file} names no image of {where}; write them as CLASS/NAME, such as {example}")
    if without:
        lacking = f"{len(without)} images of {where}: {first_few(without)}"
        warn_once(f"{file} has no prompt for {lacking}; theirs is the class's")
    return prompted


def _with_prompt(source: Source, prompts: Mapping[str, str]) -> Source:
    parts = Path(source.label).parts
    ends = ("/".join(parts[start:]) for start in range(len(parts)))  # the longest first
    prompt = next((prompts[end] for end in ends if end in prompts), None)
    return source if prompt is None else replace(source, id=f"{source.id}-{key(prompt)}", prompt=prompt)
