"""mkdocs hook: shows the pages that live outside docs/ on the site, with links that work in both places.

``ARCHITECTURE.md`` and its neighbours are read on a repository's front page, so they stay at the root. The site gets
them as generated pages, and links between them and docs/ are rewritten.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files  # pyright: ignore[reportMissingImports] - comes with the extra docs

ROOT = Path(__file__).resolve().parent.parent
PAGES = {
    "ARCHITECTURE.md": "architecture.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "bench/README.md": "benchmarks.md",
}
SITE = {**PAGES, "README.md": "index.md"}
LINK = re.compile(r"(?<=\]\()(?P<target>[^)#:\s]+)(?P<anchor>#[^)\s]*)?(?=\))")


def on_files(files: Files, config: Any) -> Files:
    """Add the root's pages to the site."""
    for source, page in PAGES.items():
        text = _relink((ROOT / source).read_text(), posixpath.dirname(source), page)
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turn a docs page's links to the root's pages into links on the site."""
    uri = page.file.src_uri
    if uri in PAGES.values():
        return markdown
    return _relink(markdown, posixpath.join("docs", posixpath.dirname(uri)), uri)


def _relink(text: str, folder: str, page: str) -> str:
    """``text`` of ``page``, read as a file of the repository's ``folder``, with its links for the site."""

    def replace(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(folder, match["target"]))
        if target in SITE:
            site = SITE[target]
        elif target.startswith("docs/"):
            site = target.removeprefix("docs/")
        else:
            return match[0]
        return posixpath.relpath(site, posixpath.dirname(page) or ".") + (match["anchor"] or "")

    return LINK.sub(replace, text)
