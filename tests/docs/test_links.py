"""Links between pages lead to files and headings that are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from docs.pages import FENCE, PAGES, ROOT, name, prose

LINK = re.compile(r"\[[^\]]*\]\((?P<target>[^)\s#]*)(?:#(?P<anchor>[^)\s]*))?\)")
# Pages that the site's hook (tools/docs_pages.py) makes from files at the root.
GENERATED = {"docs/architecture.md", "docs/contributing.md", "docs/changelog.md", "docs/benchmarks.md"}


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and mkdocs make them."""
    headings = re.findall(r"^#+ +(.*)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[\s]", "-", re.sub(r"[^\w\s-]", "", heading.strip().lower())) for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    for match in LINK.finditer(prose(page)):
        target, anchor = match["target"], match["anchor"]
        if "://" in target or target.startswith("mailto:"):
            continue
        file = (page.parent / target).resolve() if target else page
        assert file.exists(), f"{name(page)}: {match[0]} leads to no file"
        if anchor and file.suffix == ".md":
            assert anchor in anchors(file), f"{name(page)}: {match[0]}: {name(file)} has no such heading"


def test_every_page_of_the_docs_is_in_the_navigation() -> None:
    listed = {"docs/" + target for target in re.findall(r"([\w-]+\.md)\b", (ROOT / "mkdocs.yml").read_text())}
    there = {name(page) for page in PAGES if name(page).startswith("docs/")}
    assert there | GENERATED == listed
