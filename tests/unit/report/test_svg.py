"""Charts: ticks at round numbers, points where they belong, gaps where there is nothing."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np
import pytest

from siliforce.report.numbers import duration, interval, listed, shown, spread
from siliforce.report.svg import (
    Axis,
    Row,
    Series,
    chart,
    data_range,
    dot_chart,
    linear_ticks,
    log_ticks,
    tick_labels,
)


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (-3.2, 8.9), (0.0012, 0.0019), (-58, 61), (1e4, 9.7e4), (5, 5.01)]
)
def test_ticks_are_few_round_and_inside(low, high):
    ticks = linear_ticks(low, high)
    assert 3 <= len(ticks) <= 8
    assert all(low - 1e-12 <= t <= high + 1e-12 for t in ticks)
    steps = np.diff(ticks)
    assert steps == pytest.approx(steps[0])
    mantissa = steps[0] / 10 ** np.floor(np.log10(steps[0]) + 1e-9)
    assert any(mantissa == pytest.approx(m) for m in (1, 2, 2.5, 5, 10))


@pytest.mark.parametrize(("low", "high"), [(8, 700), (95, 130), (1e-5, 1e4), (0.9, 1.1)])
def test_log_ticks(low, high):
    ticks = log_ticks(low, high)
    assert 2 <= len(ticks) <= 9
    assert all(low * 0.99 <= t <= high * 1.01 for t in ticks)


def test_tick_labels_share_their_decimals():
    assert tick_labels([0.0, 0.25, 0.5]) == ["0", "0.25", "0.50"]
    assert tick_labels([-20.0, 0.0, 20.0]) == ["−20", "0", "20"]
    assert tick_labels([0.0, 2e5, 4e5]) == ["0", "2e5", "4e5"]
    assert tick_labels([1e-4, 2e-4]) == ["1e-4".replace("-", "−"), "2e−4"]


def test_range_of_nothing_and_of_one_value():
    assert data_range([]) == (0.0, 1.0)
    assert data_range([[np.nan]], log=True) == (0.1, 1.0)
    low, high = data_range([[3.0, 3.0]])
    assert low < 3 < high
    low, high = data_range([[1.0, -5.0, 100.0]], log=True)
    assert 0 < low < 1 < 100 < high


def test_axis_places_values():
    assert Axis(0, 10, 100, 50).place([0, 5, 10]) == pytest.approx([100, 125, 150])
    found = Axis(1, 100, 0, -20, log=True).place([1, 10, 100, 0, -3])
    assert found[:3] == pytest.approx([0, -10, -20])
    assert np.isnan(found[3:]).all()


def test_lines_break_at_gaps_and_the_file_is_valid_xml():
    series = Series('a <b> & "c"', [0, 1, 2, 3], [1.0, np.nan, 3.0, 4.0])
    svg = chart([series], "x (Å)", "y", "title & more", levels=[2.0], marks=[1.5], notes=["n < 1"])
    root = ElementTree.fromstring(svg)
    line = next(p for p in root.iter("path") if p.get("data-name"))
    assert line.get("data-name") == 'a <b> & "c"'
    assert re.sub(r"[\d. ]", "", line.get("d")) == "MML"
    assert root.get("aria-label") == "title & more"


def test_lines_end_where_the_axes_end():
    svg = chart([Series("a", [0, 1, 2], [0, 500, 1])], "x", "y", "t", y_range=(0.0, 2.0))
    (box,) = (e for e in ElementTree.fromstring(svg).iter("svg") if e.get("x"))
    line = next(p for p in box.iter("path") if p.get("data-name") == "a")
    heights = [float(v) for v in re.findall(r" (-?[\d.]+)(?=L|$)", line.get("d"))]
    top, height = float(box.get("y")), float(box.get("height"))
    assert min(heights) < top < max(heights) < top + height


def test_dots_far_beyond_the_others_stand_as_numbers_at_the_edge():
    rows = [
        Row(n, "", [("OOD", v, None, None, 1)]) for n, v in (("a", 1.0), ("b", 2.0), ("c", 9e4))
    ]
    svg = dot_chart(rows, "error", "t")
    assert svg.count("data-name") == 2
    assert "OOD 90,000 →" in svg
    assert 'data-x="0 2.12' in svg


def test_logarithmic_abscissa_with_intervals():
    series = Series("a", [10, 100, 1000], [4.0, 2.0, 1.0], 0, "both", low=[3, 1, 1], high=[5, 3, 1])
    svg = chart([series], "samples", "meV", "t", log_x=True)
    assert re.search(r'data-x="[^"]* 1"', svg)
    ends = re.findall(r'class="range s0" d="M([\d.]+) ([\d.]+)L([\d.]+) ([\d.]+)"', svg)
    places = np.array(ends, dtype=float)
    assert len(places) == 3
    assert (places[:, 0] == places[:, 2]).all()
    steps = np.diff(places[:, 0])
    assert steps[0] == pytest.approx(steps[1], abs=0.15)  # even for a constant ratio
    assert (places[:2, 1] > places[:2, 3]).all()  # low stands below high


def test_empty_charts_are_drawn():
    for svg in (
        chart([], "x", "y", "t"),
        chart([Series("a", [], [])], "x", "y", "t", log_y=True),
        chart([Series("a", [1.0], [2.0], kind="points")], "x", "y", "t", square=True),
        dot_chart([], "x", "t"),
        dot_chart([Row("Si", "", [("m", None, None, None, 0)])], "x", "t"),
    ):
        ElementTree.fromstring(svg)
        assert "nan" not in svg


def test_dot_chart_places_dots_and_intervals_and_shortens_labels():
    label = "a very long name of a configuration type"
    rows = [Row(label, "3 frames", [("mace", 50.0, 40.0, 60.0, 0), ("bpnn", 100.0, None, None, 1)])]
    root = ElementTree.fromstring(dot_chart(rows, "force RMSE (meV/Å)", "t"))
    texts = [t.text for t in root.iter("text")]
    assert any(t.endswith("…") for t in texts)
    low, high, start, length, _ = map(float, root.get("data-x").split())
    dots = [p for p in root.iter("path") if "pts" in p.get("class")]
    place = float(dots[1].get("d")[1:].split()[0])
    assert low + (place - start) / length * (high - low) == pytest.approx(100, rel=2e-3)
    assert dots[1].get("data-name") == f"{label}, bpnn"
    assert sum("range" in p.get("class") for p in root.iter("path")) == 1


def test_numbers():
    assert shown(None) == "–"
    assert shown(float("nan")) == "–"
    assert shown(0.0) == "0"
    assert shown(1234567) == "1,234,567"
    assert shown(12.3456) == "12.3"
    assert shown(-0.012345) == "−0.0123"
    assert shown(1234.6) == "1,235"
    assert shown(2.5e-7) == "2.50 × 10⁻⁷"
    assert interval(1.0, None) == ""
    assert interval(1.0, 2.0) == "1.00 to 2.00"
    assert duration(None) == "–"
    assert [duration(s) for s in (48, 192, 18360)] == ["48 s", "3.2 min", "5.1 h"]
    assert listed([]) == ""
    assert listed(["a"]) == "a"
    assert listed(["a", "b", "c"]) == "a, b and c"
    assert listed(["a", "b", "c", "d"], 2) == "a, b and 2 more"
    assert spread(300.0, 300.0) == "300"
