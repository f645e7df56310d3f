"""The comparison as a picture: a panel for each configuration, bars of seconds with quartiles."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bitshift.cli.bench.compare import Comparison
from bitshift.cli.bench.peers import OURS, title_of


def draw(comparisons: Sequence[Comparison], title: str, path: Path) -> None:
    """Write a picture; its kind follows from the suffix of ``path`` (.png, .svg, .pdf)."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    rows = max(len(c.about) for c in comparisons)
    figure, panels = plt.subplots(
        len(comparisons), 1, figsize=(8, 1.1 + len(comparisons) * (0.6 + 0.34 * rows)), squeeze=False
    )
    for panel, found in zip(panels[:, 0], comparisons, strict=True):
        names = list(found.about)[::-1]
        times = [found.measured.time(name) for name in names]
        middle = [1e3 * t.median for t in times]
        ends = [[1e3 * (t.median - t.low) for t in times], [1e3 * (t.high - t.median) for t in times]]
        colours = ["#1f6feb" if name == OURS else "#9aa4b2" for name in names]
        panel.barh([title_of(name) for name in names], middle, xerr=ends, color=colours, ecolor="#30363d", capsize=2)
        for place, name in enumerate(names):
            ratio = found.measured.ratio(OURS, name).median
            text = f" {middle[place]:.3g} ms" + ("" if name == OURS else f"  ({ratio:.2f}x)")
            panel.text(middle[place] + ends[1][place], place, text, va="center", fontsize=8)
        panel.set_xlim(0, max(middle) * 1.25)
        panel.set_title(f"{found.threads} thread(s), batch {found.batch}", fontsize=9, loc="left")
        panel.spines[["top", "right"]].set_visible(False)
    panels[-1, 0].set_xlabel("ms a batch, median and quartiles; in brackets: bitshift is x faster")
    figure.suptitle(title, fontsize=10)
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)
