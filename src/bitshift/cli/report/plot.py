"""Small plots as SVG strings: no dependency, no script, colours from the page's CSS variables (light and dark)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

SERIES_COLOURS = 6
"""The page's style defines ``--s0`` to ``--s5``."""


@dataclass(frozen=True, kw_only=True)
class Series:
    """One line of a chart: points in rising ``x``; NaN and infinity in ``y`` break the line."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    dashed: bool = False
    colour: int | None = None
    """Number of the colour; None counts the series in order."""

    def __post_init__(self) -> None:
        if len(self.x) != len(self.y):
            raise ValueError(f"series {self.name!r}: {len(self.x)} x values for {len(self.y)} y values")


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One horizontal stacked bar: a label and its parts as (name of the part, amount)."""

    label: str
    parts: Sequence[tuple[str, float]]
    note: str = ""


def nice_ticks(lo: float, hi: float, count: int = 5) -> list[float]:
    """About ``count`` round numbers (1, 2, 2.5, 5 times a power of ten) that lie in ``lo..hi``."""
    if not (math.isfinite(lo) and math.isfinite(hi)) or hi < lo:
        raise ValueError(f"ticks from {lo} to {hi}: need finite, rising ends")
    if hi == lo:
        return [lo]
    raw = (hi - lo) / max(count, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= raw * 0.999)
    first = math.ceil(lo / step - 1e-9)
    ticks = []
    while (first + len(ticks)) * step <= hi + step * 1e-9:
        ticks.append(round((first + len(ticks)) * step, 12))
    return ticks


def short_number(value: float) -> str:
    """A number for an axis or a tile: 1234567 is ``1.23M``, 0.05 is ``0.05``."""
    size = abs(value)
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if size >= limit:
            return f"{value / (1e3 if unit == 'k' else limit):.3g}{unit}"
    if size and size < 1e-3:
        return f"{value:.1e}"
    return f"{value:.4g}" if size < 1000 else f"{value:.0f}"


def _text(x: float, y: float, content: str, css: str = "", anchor: str = "start", extra: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{css}" text-anchor="{anchor}"{extra}>{escape(content)}</text>'


def _open(width: float, height: float, label: str) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" role="img"'
        f' aria-label="{escape(label, quote=True)}">'
    )


def _legend(names: Sequence[tuple[str, int, bool]], x: float, y: float, width: float) -> tuple[list[str], float]:
    """Legend entries from left to right, wrapped at ``width``; returns the marks and the height they took."""
    marks, at, line = [], x, y
    for name, colour, dashed in names:
        need = 26 + 6.6 * len(name) + 14
        if at > x and at + need > x + width:
            at, line = x, line + 17
        dash = ' stroke-dasharray="4 3"' if dashed else ""
        marks.append(
            f'<line x1="{at:.1f}" x2="{at + 18:.1f}" y1="{line - 4:.1f}" y2="{line - 4:.1f}" stroke-width="3"'
            f' style="stroke:var(--s{colour})"{dash}/>' + _text(at + 23, line, name, "lg")
        )
        at += need
    return marks, line - y + 17


def _range(values: Sequence[float], include: Sequence[float] = ()) -> tuple[float, float]:
    finite = [v for v in [*values, *include] if math.isfinite(v)]
    if not finite:
        return 0.0, 1.0
    lo, hi = min(finite), max(finite)
    if lo == hi:
        pad = abs(lo) * 0.1 or 0.5
        return lo - pad, hi + pad
    return lo, hi


def line_chart(
    series: Sequence[Series],
    *,
    label: str,
    x_label: str,
    y_label: str,
    percent: bool = False,
    from_zero: bool = False,
    width: int = 530,
    height: int = 290,
) -> str:
    """Lines over a common ``x`` axis with a legend; up to 80 points carry their values as hover titles.

    ``percent`` writes y ticks as per cent of 1; ``from_zero`` puts 0 on the y axis. Without a finite point the
    chart says so instead of drawing empty axes.
    """
    xs = [v for s in series for v in s.x]
    ys = [v for s in series for v in s.y if math.isfinite(v)]
    if not ys:
        return f"{_open(width, 60, label)}{_text(width / 2, 34, f'{label}: no values recorded', 'ax', 'middle')}</svg>"
    x_lo, x_hi = _range(xs)
    y_lo, y_hi = _range(ys, (0.0,) if from_zero else ())
    if not from_zero:
        y_lo -= (y_hi - y_lo) * 0.05
    y_hi += (y_hi - y_lo) * 0.05
    if percent:
        y_lo, y_hi = max(y_lo, 0.0), min(y_hi, 1.0)
    left, right, bottom = 54, 14, 40
    colours = [s.colour if s.colour is not None else i % SERIES_COLOURS for i, s in enumerate(series)]
    legend, legend_height = _legend(
        [(s.name, c, s.dashed) for s, c in zip(series, colours, strict=True)], left, 14, width - left - right
    )
    top = legend_height + 8

    def px(x: float) -> float:
        return left + (x - x_lo) / (x_hi - x_lo) * (width - left - right)

    def py(y: float) -> float:
        return height - bottom - (y - y_lo) / (y_hi - y_lo) * (height - bottom - top)

    def show(y: float) -> str:
        return f"{100 * y:.4g} %" if percent else short_number(y)

    out = [_open(width, height, label), *legend]
    for tick in nice_ticks(y_lo, y_hi, 5):
        out.append(f'<line class="gr" x1="{left}" x2="{width - right}" y1="{py(tick):.1f}" y2="{py(tick):.1f}"/>')
        out.append(_text(left - 6, py(tick) + 4, show(tick), "ax", "end"))
    whole = all(float(x).is_integer() for x in xs)
    for tick in nice_ticks(x_lo, x_hi, 8):
        if whole and not float(tick).is_integer():
            continue
        x, floor = px(tick), height - bottom
        out.append(f'<line class="tk" x1="{x:.1f}" x2="{x:.1f}" y1="{floor}" y2="{floor + 4}"/>')
        out.append(_text(x, floor + 17, short_number(tick), "ax", "middle"))
    out.append(f'<line class="fr" x1="{left}" x2="{width - right}" y1="{height - bottom}" y2="{height - bottom}"/>')
    out.append(_text((left + width - right) / 2, height - 6, x_label, "ax", "middle"))
    turn = f' transform="rotate(-90 13 {(top + height - bottom) / 2:.1f})"'
    out.append(_text(13, (top + height - bottom) / 2, y_label, "ax", "middle", turn))
    for s, colour in zip(series, colours, strict=True):
        dash = ' stroke-dasharray="5 4"' if s.dashed else ""
        points = [(px(x), py(y), x, y) for x, y in zip(s.x, s.y, strict=True)]
        for run in _finite_runs(points):
            if len(run) > 1:
                path = " ".join(f"{x:.1f},{y:.1f}" for x, y, _, _ in run)
                out.append(
                    f'<polyline points="{path}" fill="none" stroke-width="2" style="stroke:var(--s{colour})"{dash}/>'
                )
            radius = 3 if len(points) <= 40 else 1.6
            if len(points) > 80 and len(run) > 1:  # a line of many steps: points would only blur it
                continue
            for x, y, raw_x, raw_y in run:
                title = f"{escape(s.name)}, {escape(x_label)} {short_number(raw_x)}: {show(raw_y)}"
                out.append(
                    f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" style="fill:var(--s{colour})">'
                    f"<title>{title}</title></circle>"
                )
    return "".join([*out, "</svg>"])


def _finite_runs(points: Sequence[tuple[float, float, float, float]]) -> list[list[tuple[float, float, float, float]]]:
    runs: list[list[tuple[float, float, float, float]]] = [[]]
    for point in points:
        if math.isfinite(point[3]) and math.isfinite(point[2]):
            runs[-1].append(point)
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


def level_histogram(levels: Sequence[int], counts: Sequence[int], *, title: str, note: str, width: int = 252) -> str:
    """One layer's share of weights per level; bars in the order of ``levels``, negative ones in the second colour."""
    if len(levels) != len(counts):
        raise ValueError(f"histogram {title!r}: {len(levels)} levels for {len(counts)} counts")
    height, left, right, top, bottom = 132, 8, 8, 36, 20
    total = sum(counts) or 1
    peak = max([*counts, 1])
    slot = (width - left - right) / max(len(levels), 1)
    out = [
        _open(width, height, f"levels of {title}"),
        _text(left, 13, _clip(title, 36), "hd"),
        _text(left, 27, note, "ax"),
    ]
    every = max(1, math.ceil(len(levels) * 22 / (width - left - right)))
    for i, (level, count) in enumerate(zip(levels, counts, strict=True)):
        tall = count / peak * (height - top - bottom)
        x = left + i * slot
        colour = 3 if level == 0 else 1 if level < 0 else 0
        hover = f"level {level}: {count:,} weights, {100 * count / total:.2f} %"
        out.append(
            f'<rect x="{x + slot * 0.1:.1f}" y="{height - bottom - tall:.1f}" width="{slot * 0.8:.1f}"'
            f' height="{max(tall, 0.6):.1f}" style="fill:var(--s{colour})"><title>{hover}</title></rect>'
        )
        # Labels thin out from the middle, so that a symmetric set stays symmetric.
        if min(i, len(levels) - 1 - i) % every == 0:
            out.append(
                _text(x + slot / 2, height - 6, f"{level:g}" if abs(level) < 4096 else _power(level), "ax sm", "middle")
            )
    out.append(f'<line class="fr" x1="{left}" x2="{width - right}" y1="{height - bottom}" y2="{height - bottom}"/>')
    return "".join([*out, "</svg>"])


def _power(level: int) -> str:
    return f"{'-' if level < 0 else ''}2^{abs(level).bit_length() - 1}"


def _clip(text: str, limit: int) -> str:
    """The end of a module path says more than its start."""
    return text if len(text) <= limit else "…" + text[1 - limit :]


def heat_map(
    values: Sequence[Sequence[float]],
    *,
    label: str,
    rows: Sequence[str],
    columns: Sequence[str],
    row_title: str,
    column_title: str,
    show: Sequence[Sequence[str]],
    hover: Sequence[Sequence[str]],
    top_value: float,
    cell: tuple[float, float] = (40, 26),
) -> str:
    """Cells shaded by ``values / top_value`` (0..1); ``show`` is written in a cell, ``hover`` is its title."""
    name_width = min(max([len(_clip(r, 34)) for r in rows] + [len(row_title)]) * 6.3 + 14, 240)
    cw, ch = cell
    left, top = name_width + 4, 40
    width = max(left + cw * len(columns), left + 6 * len(column_title)) + 10
    height = top + ch * len(rows) + 8
    every = max(1, math.ceil(max((len(c) for c in columns), default=1) * 6.8 / cw))
    out = [_open(width, height, label), _text(left, 12, column_title, "ax"), _text(4, top - 8, row_title, "ax")]
    for j, column in enumerate(columns):
        if j % every == 0:
            out.append(_text(left + cw * (j + 0.5), top - 8, column, "ax", "middle"))
    for i, row in enumerate(rows):
        y = top + ch * i
        out.append(_text(left - 7, y + ch / 2 + 4, _clip(row, 34), "ax", "end"))
        for j, value in enumerate(values[i]):
            share = min(max(value / top_value, 0.0), 1.0) if top_value > 0 else 0.0
            # A square root keeps rare confusions visible beside a full diagonal.
            alpha = math.sqrt(share)
            out.append(
                f'<rect x="{left + cw * j:.1f}" y="{y:.1f}" width="{cw - 1:.1f}" height="{ch - 1:.1f}" class="cl"/>'
                f'<rect x="{left + cw * j:.1f}" y="{y:.1f}" width="{cw - 1:.1f}" height="{ch - 1:.1f}"'
                f' style="fill:var(--s0);fill-opacity:{alpha:.3f}"><title>{escape(hover[i][j])}</title></rect>'
            )
            if show[i][j]:
                css = "cv" if alpha > 0.55 else "cd"
                out.append(
                    _text(
                        left + cw * (j + 0.5) - 0.5, y + ch / 2 + 4, show[i][j], css, "middle", ' pointer-events="none"'
                    )
                )
    return "".join([*out, "</svg>"])


def bar_chart(bars: Sequence[Bar], *, label: str, unit: str, width: int = 700) -> str:
    """Horizontal stacked bars on one scale; equal part names have equal colours and stand in the legend."""
    names = list(dict.fromkeys(name for bar in bars for name, _ in bar.parts))
    peak = max([sum(v for _, v in bar.parts) for bar in bars] + [0.0]) or 1.0
    left = min(max([len(b.label) for b in bars] + [4]) * 6.6 + 14, 250)
    right = 130
    legend, legend_height = _legend(
        [(n, i % SERIES_COLOURS, False) for i, n in enumerate(names)], left, 14, width - left - 10
    )
    top, step = legend_height + 6, 30
    height = top + step * len(bars) + 8
    out = [_open(width, height, label), *legend]
    for i, bar in enumerate(bars):
        y, x = top + step * i, left
        out.append(_text(left - 8, y + 16, bar.label, "ax", "end"))
        for name, amount in bar.parts:
            wide = amount / peak * (width - left - right)
            out.append(
                f'<rect x="{x:.1f}" y="{y + 2:.1f}" width="{wide:.2f}" height="20"'
                f' style="fill:var(--s{names.index(name) % SERIES_COLOURS})">'
                f"<title>{escape(bar.label)}, {escape(name)}: {short_number(amount)} {escape(unit)}</title></rect>"
            )
            x += wide
        note = bar.note or f"{short_number(sum(v for _, v in bar.parts))} {unit}"
        out.append(_text(x + 7, y + 16, note, "ax"))
    return "".join([*out, "</svg>"])
