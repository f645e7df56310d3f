"""A report as one self-contained HTML page that is also well-formed XML: no script, no link to anything outside."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from bitshift.cli.output import size_text
from bitshift.cli.report import sections
from bitshift.cli.report.data import ReportData
from bitshift.cli.report.style import CSS

_SECTIONS = (
    ("comparison", "Compared", sections.comparison),
    ("curves", "Training", sections.curves),
    ("levels", "Weight levels", sections.levels),
    ("flips", "Flip rates", sections.flips),
    ("sizes", "Sizes", sections.sizes),
    ("operations", "Operations", sections.operations),
    ("confusion", "Confusion matrix", sections.confusion),
    ("graph", "Graph", sections.graph),
    ("configuration", "Configuration", sections.configuration),
)


def render(data: ReportData) -> str:
    """The whole page. Sections without data say what to run so that they fill; nothing is loaded from elsewhere."""
    links, parts = [], []
    for key, title, build in _SECTIONS:
        body = build(data)
        if not body and key in data.missing:
            body = f'<p class="soft">Not in this report: {escape(data.missing[key])}</p>'
        if body:
            links.append(f'<a href="#{key}">{title}</a>')
            parts.append(f'<section id="{key}"><h2>{title}</h2>{body}</section>')
    return (
        '<!DOCTYPE html>\n<html xmlns="http://www.w3.org/1999/xhtml" lang="en"><head><meta charset="utf-8"/>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"/>'
        f"<title>{escape(data.title)} - bitshift report</title><style>{CSS}</style></head><body><main>"
        f'<h1>{escape(data.title)}</h1><p class="soft">{escape(data.subtitle)}</p>'
        f"<nav>{''.join(links)}</nav>{_tiles(data)}{''.join(parts)}"
        f'<p class="note">Made {escape(data.made)} by bitshift report; one file of {{size}}, it loads nothing.</p>'
        "</main></body></html>\n"
    ).replace("{size}", size_text(sum(map(len, parts)) + len(CSS)), 1)


def _tiles(data: ReportData) -> str:
    cells: Sequence[str] = [
        f'<div class="tile"><span>{escape(t.name)}</span><b>{escape(t.value)}</b><i>{escape(t.below)}</i></div>'
        for t in data.tiles
    ]
    return f'<div class="tiles">{"".join(cells)}</div>' if cells else ""
