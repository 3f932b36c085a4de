"""The HTML of a page. Texts are inserted here, escaped; numbers and images are JSON for the page's script."""

import base64
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from html import escape
from importlib import resources

from latentmix.config import flat_settings
from latentmix.experiment.comparison import settings_to_show
from latentmix.report import data, wording
from latentmix.report.contents import Contents


def render(*runs: Contents) -> str:
    """Return the page of one or several runs."""
    parts = {
        "style": _file("page.css"),
        "script": _file("page.js"),
        "data": data.to_json(runs),
        "name": escape(", ".join(run.run.label for run in runs)),
        "question": escape(wording.QUESTION),
        "compared": _compared(runs) if len(runs) > 1 else "",
        "answers": _of_each(runs, _answer),
        "notes": _of_each(runs, lambda run: f'<p class="note">{escape(run.images.note)}</p>' * bool(run.images.note)),
        "methods": _of_each(
            runs, lambda run: f"<dl>{_list([(m['name'], m['description']) for m in data.methods(run)])}</dl>"
        ),
        "what": _of_each(runs, _what),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], _file("page.html"))


def _of_each(runs: Sequence[Contents], part: Callable[[Contents], str]) -> str:
    """Return a part of the page for each run; the script shows that of the selected run."""
    return "".join(f'<div data-run="{index}">{part(run)}</div>' for index, run in enumerate(runs))


def _answer(run: Contents) -> str:
    config, found = run.run.settings, wording.answers(run)
    subtitle = f"{config.model.name}, {config.data.name}, inverted by {config.inversion.name}"
    answer = f'<p class="answer">{_marked(found[0])}</p>' if found else ""
    return f'<p class="subtitle">{escape(subtitle)}</p>{answer}'


def _marked(answer: wording.Answer) -> str:
    """Return a sentence with its methods in bold."""
    pattern = "|".join(re.escape(escape(name)) for name in sorted({answer.best, answer.worst}, key=len, reverse=True))
    return re.sub(rf"(?<![\w/])({pattern})(?![\w/])", r"<b>\1</b>", escape(answer.sentence))


def _what(run: Contents) -> str:
    return (
        f"{_command(run.arguments)}<dl>{_list(wording.settings(run))}</dl>{_downloads(run.files)}"
        f"<dl>{_list(wording.circumstances(run))}</dl>"
    )


def _command(arguments: Sequence[str]) -> str:
    settings = "All settings are in <code>config.yaml</code> in the run’s folder."
    if not arguments:
        return f"<p>{settings}</p>"
    command = escape(shlex.join(["latentmix", *arguments]))
    return (
        "<p>The command as it was typed, without settings that change no result, such as the device. "
        f"{settings}</p><pre><code>{command}</code></pre>"
    )


def _downloads(files: Mapping[str, str]) -> str:
    """Return links that save the tables, whose content is in the links."""
    links = [
        f'<a download="{name}" href="data:text/csv;base64,{base64.b64encode(text.encode()).decode()}">{name}</a>'
        for name, text in files.items()
    ]
    return f"<p>Save {' or '.join(links)}. Below each plot is a button that saves it as SVG.</p>" if links else ""


def _compared(runs: Sequence[Contents]) -> str:
    """Return a table with a column for each run: its answer, and the settings that differ."""
    flat = [flat_settings(run.run.settings.as_dict()) for run in runs]
    answers = ["".join(_marked(answer) for answer in wording.answers(run)[:1]) for run in runs]
    cells = {
        key: [escape(_plain(settings.get(key))) for settings in flat]
        for key in settings_to_show([run.run for run in runs])
    }
    head = "".join(f'<th scope="col">{escape(run.run.label)}</th>' for run in runs)
    rows = "".join(
        f'<tr><th scope="row">{escape(key)}</th>{"".join(f"<td>{cell}</td>" for cell in row)}</tr>'
        for key, row in ({"answer": answers} | cells).items()
    )
    return f"<table><thead><tr><td></td>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _plain(value: object) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "–"
    return "–" if value is None else str(value)


def _list(entries: Sequence[tuple[str, str]]) -> str:
    return "".join(f"<div><dt>{escape(term)}</dt><dd>{escape(text)}</dd></div>" for term, text in entries)


def _file(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
