"""Let links of the pages work both in the repository and in the site that mkdocs builds.

Pages link to files of the repository by their paths. Some of these files are pages of the site. A link to another file
outside of docs/ becomes plain text, since the site has no copy of it.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PAGES = {
    "README.md": "docs/index.md",
    "CHANGELOG.md": "docs/changes.md",
    "CONTRIBUTING.md": "docs/contributing.md",
    "latentmix/embedded/README.md": "docs/embedded.md",
    "configs/config.yaml": "docs/settings.md",
}
INCLUDED = re.compile(r'^--8<-- "([^"]+\.md)"$', re.MULTILINE)
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)#:\s]+)(#[^)\s]*)?\)")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Return a page's text with the pages that it includes, and with links that the site can follow."""
    if included := INCLUDED.search(markdown):
        return relinked((ROOT / included[1]).read_text(), posixpath.dirname(included[1]))
    return relinked(markdown, "docs")


def relinked(markdown: str, folder: str) -> str:
    """Return the text of a page in `folder`, with each link pointing to a page of the site, or its text alone."""

    def replace(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(folder, link[2]))
        page = PAGES.get(target, target)
        if page.startswith("docs/"):
            return f"[{link[1]}]({posixpath.relpath(page, 'docs')}{link[3] or ''})"
        return f"{link[1]} (`{target}`)"

    return LINK.sub(replace, markdown)
