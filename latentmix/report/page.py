"""The HTML of a page. Texts are escaped and written here; numbers and images go to the script as JSON."""

import html
import re
import shlex
from collections.abc import Sequence
from importlib import resources

from latentmix.report import data, wording
from latentmix.report.contents import Contents


def render(contents: Contents) -> str:
    """Return the page of a run."""
    parts = {
        "style": _file("page.css"),
        "script": _file("page.js"),
        "data": data.to_json(contents),
        "name": _escape(contents.config.name),
        "question": _escape(wording.QUESTION),
        "subtitle": _escape(wording.subtitle(contents)),
        "summary": _summary(wording.summary(contents)),
        "settings": _list(wording.settings(contents)),
        "methods": _list([(method["name"], method["description"]) for method in data.methods(contents)]),
        "environment": _list(wording.environment(contents)),
        "repeat": _repeat(contents.arguments),
        "note": f'<p class="note">{_escape(contents.images.note)}</p>' if contents.images.note else "",
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], _file("page.html"))


def _summary(summary: wording.Summary | None) -> str:
    if summary is None:
        return ""
    rows = "".join(
        f'<tr><th scope="row">{_escape(metric)}</th><td>{_escape(best)}</td><td>{_escape(worst)}</td></tr>'
        for metric, best, worst in summary.rows
    )
    return (
        f"<p>{_escape(summary.sentence)}</p>"
        '<div class="wide" tabindex="0" role="region" aria-label="In short"><table><thead><tr>'
        '<th scope="col">metric</th><th scope="col">best</th><th scope="col">worst</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _repeat(arguments: Sequence[str]) -> str:
    settings = "All settings are in <code>config.yaml</code> beside this page."
    if not arguments:
        return f"<p>{settings}</p>"
    command = _escape(shlex.join(["latentmix", *arguments]))
    return (
        "<p>The command as it was typed, without settings that change no result, such as the device. "
        f"{settings}</p><pre><code>{command}</code></pre>"
    )


def _list(entries: Sequence[tuple[str, str]]) -> str:
    return "".join(f"<div><dt>{_escape(term)}</dt><dd>{_escape(text)}</dd></div>" for term, text in entries)


def _escape(text: str) -> str:
    return html.escape(text)


def _file(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
