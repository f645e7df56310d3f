"""Plots are well-formed SVG whose marks stand where the values say."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitshift.cli.report import plot

SVG = "{http://www.w3.org/2000/svg}"


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6), st.integers(2, 10))
def test_ticks_lie_inside_the_range_at_equal_distances(lo: float, span: float, count: int) -> None:
    hi = lo + span
    ticks = plot.nice_ticks(lo, hi, count)
    slack = (hi - lo) * 1e-6 + 1e-9
    assert all(lo - slack <= t <= hi + slack for t in ticks)
    steps = [b - a for a, b in pairwise(ticks)]
    assert all(math.isclose(s, steps[0], rel_tol=1e-6, abs_tol=slack) for s in steps)
    assert len(ticks) <= count + 1


def test_ticks_of_zero_to_one_are_fifths() -> None:
    assert plot.nice_ticks(0, 1, 5) == [0, 0.2, 0.4, 0.6, 0.8, 1.0]


def test_ticks_refuse_an_infinite_range() -> None:
    with pytest.raises(ValueError, match="finite"):
        plot.nice_ticks(0, math.inf)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.05, "0.05"),
        (999, "999"),
        (1234, "1234"),
        (12345, "12.3k"),
        (1234567, "1.23M"),
        (-2e9, "-2G"),
        (1e-5, "1.0e-05"),
    ],
)
def test_short_numbers_keep_three_digits(value: float, text: str) -> None:
    assert plot.short_number(value) == text


def test_higher_values_stand_higher_and_later_ones_further_right() -> None:
    series = plot.Series(name="a", x=[1, 2, 3], y=[0.2, 0.5, 0.9])
    root = ET.fromstring(plot.line_chart([series], label="l", x_label="epoch", y_label="y", percent=True))
    circles = root.findall(f"{SVG}circle")
    xs, ys = ([float(c.get(k, "nan")) for c in circles] for k in ("cx", "cy"))
    assert xs == sorted(xs)
    assert ys == sorted(ys, reverse=True)
    assert "90 %" in (circles[2].findtext(f"{SVG}title") or "")


def test_a_line_breaks_at_nan() -> None:
    series = plot.Series(name="a", x=[1, 2, 3, 4, 5], y=[1, 2, math.nan, 3, 4])
    root = ET.fromstring(plot.line_chart([series], label="l", x_label="x", y_label="y"))
    assert len(root.findall(f"{SVG}polyline")) == 2
    assert len(root.findall(f"{SVG}circle")) == 4


@pytest.mark.parametrize("y", [[], [math.nan, math.inf]])
def test_a_chart_without_finite_points_says_so(y: list[float]) -> None:
    svg = plot.line_chart([plot.Series(name="a", x=list(range(len(y))), y=y)], label="loss", x_label="x", y_label="y")
    assert "no values recorded" in "".join(ET.fromstring(svg).itertext())


def test_one_point_and_equal_points_do_not_divide_by_zero() -> None:
    for y in ([0.5], [0.5, 0.5]):
        ET.fromstring(
            plot.line_chart([plot.Series(name="a", x=range(len(y)), y=y)], label="l", x_label="x", y_label="y")
        )


def test_series_of_unequal_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="2 x values for 1 y values"):
        plot.Series(name="a", x=[1, 2], y=[1])


def test_names_with_markup_are_escaped() -> None:
    bad = '<b>&"x"'
    charts = [
        plot.line_chart([plot.Series(name=bad, x=[1], y=[1])], label=bad, x_label=bad, y_label=bad),
        plot.level_histogram([-1, 1], [3, 4], title=bad, note=bad),
        plot.bar_chart([plot.Bar(label=bad, parts=[(bad, 1.0)])], label=bad, unit=bad),
        plot.heat_map([[1.0]], label=bad, rows=[bad], columns=[bad], row_title=bad, column_title=bad, show=[[bad]],
                      hover=[[bad]], top_value=1.0),
    ]  # fmt: skip
    for chart in charts:
        assert bad in "".join(ET.fromstring(chart).itertext())


def test_histogram_bars_are_as_tall_as_their_share() -> None:
    root = ET.fromstring(plot.level_histogram([-2, -1, 1, 2], [10, 20, 40, 0], title="t", note="n"))
    heights = [float(r.get("height", "nan")) for r in root.findall(f"{SVG}rect")]
    assert heights[1] / heights[2] == pytest.approx(0.5, abs=0.01)
    assert heights[0] / heights[2] == pytest.approx(0.25, abs=0.01)


def test_stacked_bars_share_one_scale() -> None:
    bars = [plot.Bar(label="a", parts=[("m", 30.0), ("n", 10.0)]), plot.Bar(label="b", parts=[("m", 0.0), ("n", 20.0)])]
    root = ET.fromstring(plot.bar_chart(bars, label="l", unit="pJ"))
    wide = [float(r.get("width", "nan")) for r in root.findall(f"{SVG}rect")]
    assert wide[0] == pytest.approx(3 * wide[1], rel=1e-2)
    assert wide[2] == 0
    assert wide[3] == pytest.approx(2 * wide[1], rel=1e-2)


def test_a_full_cell_is_opaque_and_an_empty_one_clear() -> None:
    svg = plot.heat_map([[0.0, 5.0]], label="l", rows=["r"], columns=["a", "b"], row_title="r", column_title="c",
                        show=[["", "5"]], hover=[["0", "5"]], top_value=5.0)  # fmt: skip
    styles = [r.get("style") or "" for r in ET.fromstring(svg).findall(f"{SVG}rect") if r.get("style")]
    assert ["fill-opacity:0.000" in styles[0], "fill-opacity:1.000" in styles[1]] == [True, True]
