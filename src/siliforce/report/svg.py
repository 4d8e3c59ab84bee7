"""Small charts as SVG: readable without a script, coloured by the page's style, made for print.

A script of the page reads the pixel positions and the axis ranges back for its tooltips, so that
no number is stored twice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Literal

import numpy as np
from markupsafe import Markup

from siliforce.report.numbers import MINUS, shown

WIDTH, NARROW = 460, 360
ASPECT = 0.65
LEFT, RIGHT, TOP, BOTTOM = 58, 16, 30, 44
EDGE = 5
MOST_INTERVAL = 2.0
"""A dot chart reaches so many times its largest dot at most; wider intervals are cut off."""
MOST_SPREAD = 20.0
"""Dots beyond so many times the median are not drawn; their value stands at the chart's edge."""


Kind = Literal["line", "points", "both", "band"]


@dataclass(frozen=True)
class Series:
    """One set of points.

    Attributes:
        name: for the tooltip.
        x, y: the same length; what is not finite leaves a gap.
        style: number of its colour.
        kind: how it is drawn.
        dashed: a line's second kind, such as training beside validation.
        low, high: interval of each y, if there is one; kind `band` shows it as an area behind
            the line, the others as bars.
    """

    name: str
    x: Sequence[float] | np.ndarray
    y: Sequence[float] | np.ndarray
    style: int = 0
    kind: Kind = "line"
    dashed: bool = False
    low: Sequence[float] | np.ndarray = ()
    high: Sequence[float] | np.ndarray = ()


@dataclass(frozen=True)
class Axis:
    """Range and scale of one direction.

    Attributes:
        low, high: of the data shown.
        start, length: in the drawing.
        log: logarithmic.
    """

    low: float
    high: float
    start: float
    length: float
    log: bool = False

    def place(self, values: Any) -> np.ndarray:
        """Positions in the drawing; not finite where a logarithm has none."""
        values = np.asarray(values, dtype=float)
        low, high = self.low, self.high
        if self.log:
            with np.errstate(invalid="ignore", divide="ignore"):
                values = np.log10(np.where(values > 0, values, np.nan))
            low, high = math.log10(low), math.log10(high)
        return self.start + self.length * (values - low) / (high - low)

    def ticks(self) -> list[float]:
        """Round numbers within the range."""
        return log_ticks(self.low, self.high) if self.log else linear_ticks(self.low, self.high)


def linear_ticks(low: float, high: float, target: int = 6) -> list[float]:
    """About `target` round numbers in [low, high]."""
    raw = (high - low) / target
    base = 10.0 ** math.floor(math.log10(raw))
    step = next(m * base for m in (1, 2, 2.5, 5, 10) if m * base >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [0.0 if k == 0 else k * step for k in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten, with 2 and 5 between them where the range is short."""
    decades = math.log10(high / low)
    factors = (1, 2, 5) if decades < 2.2 else (1,)
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    every = max(1, math.ceil(decades / 6))
    found = [f * 10.0**k for k in range(first, last + 1, every) for f in factors]
    inside = [t for t in found if low * 0.999 <= t <= high * 1.001]
    return inside if len(inside) > 1 else linear_ticks(low, high, 4)


def tick_labels(values: Sequence[float]) -> list[str]:
    """Short, all with as many decimals as one of them needs, and with a real minus sign."""
    if any(v != 0 and (abs(v) < 1e-3 or abs(v) >= 1e5) for v in values):
        texts = [f"{v:.0e}".replace("e-0", "e-").replace("e+0", "e") if v else "0" for v in values]
    else:
        trimmed = [f"{v:.6f}".rstrip("0") for v in values]
        decimals = max((len(t) - t.index(".") - 1 for t in trimmed), default=0)
        texts = [f"{v:.{decimals}f}" if v else "0" for v in values]
    return [t.replace("-", MINUS) for t in texts]


def data_range(
    values: Sequence[Any], log: bool = False, pad: float = 0.04, include: Sequence[float] = ()
) -> tuple[float, float]:
    """Smallest and largest finite value of several arrays, with some room around."""
    parts = [np.asarray(v, dtype=float).ravel() for v in values]
    joined = np.concatenate([*parts, np.asarray(include, float)]) if parts else np.zeros(0)
    joined = joined[np.isfinite(joined)]
    if log:
        joined = joined[joined > 0]
    if len(joined) == 0:
        return (0.1, 1.0) if log else (0.0, 1.0)
    low, high = float(joined.min()), float(joined.max())
    if log:
        room = max((high / low) ** pad, 1.05)
        return low / room, high * room
    room = pad * (high - low) or 0.05 * abs(high) or 0.5
    return low - room, high + room


def chart(
    series: Sequence[Series],
    x_label: str,
    y_label: str,
    title: str,
    log_y: bool = False,
    log_x: bool = False,
    square: bool = False,
    diagonal: bool = False,
    x_range: tuple[float, float] | None = None,
    y_range: tuple[float, float] | None = None,
    levels: Sequence[float] = (),
    marks: Sequence[float] = (),
    notes: Sequence[str] = (),
    width: float = WIDTH,
) -> Markup:
    """A chart of lines and points.

    Args:
        series: drawn in this order.
        x_label, y_label: with their units.
        title: what it shows, for screen readers.
        log_y, log_x: logarithmic axes.
        square, diagonal: for parity plots.
        x_range, y_range: instead of the data's own.
        levels: horizontal reference lines.
        marks: vertical reference lines.
        notes: short lines of text in the upper left corner.
        width: of the drawing; where three stand side by side, `NARROW` keeps the text legible.
    """
    height = width - LEFT - RIGHT + TOP + BOTTOM if square else max(ASPECT * width, 260)
    low, high = x_range or data_range([s.x for s in series], log_x, pad=0.02)
    x = Axis(low, high, LEFT, width - LEFT - RIGHT, log_x)
    heights = [values for s in series for values in (s.y, s.low, s.high)]
    low, high = y_range or data_range(heights, log_y, include=levels)
    y = Axis(low, high, height - BOTTOM, -(height - TOP - BOTTOM), log_y)
    parts = [_frame(x, y, height, x_label, y_label)]
    if diagonal:
        parts.append(segment(x.place(low), y.place(low), x.place(high), y.place(high), "guide"))
    for level in levels:
        if y.low <= level <= y.high:
            parts.append(segment(LEFT, y.place(level), width - RIGHT, y.place(level), "guide"))
    for mark in marks:
        if x.low < mark < x.high:
            parts.append(segment(x.place(mark), TOP, x.place(mark), height - BOTTOM, "guide dash"))
    parts.append(_window("".join(_draw(s, x, y) for s in series), x, y))
    for k, note in enumerate(notes):
        parts.append(words(LEFT + 10, TOP + 18 + 16 * k, note, "note"))
    attributes = (
        f'data-x="{x.low:.9g} {x.high:.9g} {x.start:g} {x.length:g} {int(log_x)}" '
        f'data-y="{y.low:.9g} {y.high:.9g} {y.start:g} {y.length:g} {int(log_y)}" '
        f'data-labels="{escape(x_label)}|{escape(y_label)}"'
    )
    return drawing(parts, width, height, title, attributes)


@dataclass(frozen=True)
class Row:
    """One line of a dot chart: a label, a remark, and (name, value, low, high, style) per dot."""

    label: str
    remark: str
    dots: Sequence[tuple[str, float | None, float | None, float | None, int]]


def dot_chart(rows: Sequence[Row], x_label: str, title: str) -> Markup:
    """Values of several models by category, from zero, with intervals where there are any."""
    line, top = 24, 12
    label_width = 8 + 7 * max((len(r.label) for r in rows), default=4)
    left = min(max(label_width, 60), 190)
    remark_width = 8 + 6.4 * max((len(r.remark) for r in rows), default=0)
    right = min(remark_width, 110)
    values = [v for r in rows for dot in r.dots for v in dot[1:4] if v is not None]
    dots = np.array([dot[1] for r in rows for dot in r.dots if dot[1] is not None] or [1.0])
    near = dots[dots <= MOST_SPREAD * np.median(dots)]
    largest = near.max(initial=0.0)
    values = [v for v in values if v <= MOST_INTERVAL * largest]  # a wide interval is cut off
    x = Axis(0.0, max(values, default=1.0) * 1.06 or 1.0, left, WIDTH - left - right)
    bottom = top + line * len(rows)
    parts = []
    for tick, text in _labelled_ticks(x):
        place = float(x.place(tick))
        parts.append(segment(place, top, place, bottom, "grid"))
        parts.append(words(place, bottom + 16, text, "tick middle"))
    for k, row in enumerate(rows):
        middle = top + line * (k + 0.5)
        parts.append(words(left - 8, middle + 4, _shortened(row.label, left), "tick end"))
        parts.append(words(WIDTH - 2, middle + 4, row.remark, "remark end"))
        for j, dot in enumerate(row.dots):
            offset = 5.0 * (j - 0.5 * (len(row.dots) - 1))
            parts.append(_dot(dot, x, middle + offset, row.label))
    parts.append(words(left + x.length / 2, bottom + 36, x_label, "label middle"))
    attributes = f'data-x="{x.low:g} {x.high:.9g} {x.start:g} {x.length:g} 0" data-dots="1"'
    attributes += f' data-labels="{escape(x_label)}|"'
    return drawing(parts, WIDTH, bottom + 44, title, attributes)


def _dot(dot: tuple[Any, ...], x: Axis, at: float, label: str) -> str:
    name, value, low, high, style = dot
    if value is None:
        return ""
    if value > x.high:
        return words(x.start + x.length, at + 4, f"{name} {shown(value)} →".strip(), "remark")
    found = ""
    if low is not None and high is not None:
        ends = [float(x.place(min(max(v, x.low), x.high))) for v in (low, high)]
        found = segment(ends[0], at, ends[1], at, f"range s{style}")
    tag = escape(f"{label}, {name}" if name else label)
    return found + (
        f'<path class="pts big s{style}" data-name="{tag}" d="M{float(x.place(value)):.1f} '
        f'{at:.1f}h0"/>'
    )


def _shortened(text: str, width: float) -> str:
    room = int((width - 8) / 7)
    return text if len(text) <= room else text[: room - 1] + "…"


def drawing(
    parts: Sequence[str], width: float, height: float, title: str, attributes: str
) -> Markup:
    """An SVG of its parts; `attributes` tell the page's script the axes."""
    return Markup(
        f'<svg class="chart" viewBox="0 0 {width:g} {height:g}" role="img" '
        f'aria-label="{escape(title)}" {attributes}>{"".join(parts)}</svg>'
    )


def _frame(x: Axis, y: Axis, height: float, x_label: str, y_label: str) -> str:
    """Grid, ticks and labels; the ordinate's label lies flat above it."""
    bottom, end, parts = height - BOTTOM, LEFT + x.length, []
    for tick, text in _labelled_ticks(y):
        place = float(y.place(tick))
        parts.append(segment(LEFT, place, end, place, "grid"))
        parts.append(words(LEFT - 7, place + 4, text, "tick end"))
    for tick, text in _labelled_ticks(x):
        place = float(x.place(tick))
        parts.append(segment(place, bottom, place, bottom + 4, "axis"))
        parts.append(words(place, bottom + 18, text, "tick middle"))
    parts.append(segment(LEFT, bottom, end, bottom, "axis"))
    parts.append(words(LEFT + x.length / 2, height - 6, x_label, "label middle"))
    parts.append(words(2, 14, y_label, "label"))
    return "".join(parts)


def _window(drawn: str, x: Axis, y: Axis) -> str:
    """What is drawn, cut off where the axes end; dots on an edge are left whole."""
    left, top = x.start - EDGE, y.start + y.length - EDGE
    width, height = x.length + 2 * EDGE, 2 * EDGE - y.length
    box = f"{left:g} {top:g} {width:g} {height:g}"
    return (
        f'<svg x="{left:g}" y="{top:g}" width="{width:g}" height="{height:g}" viewBox="{box}">'
        f"{drawn}</svg>"
    )


def _labelled_ticks(axis: Axis) -> list[tuple[float, str]]:
    ticks = axis.ticks()
    if axis.log:  # 0.5, 1, 2 rather than 0.5, 1.0, 2.0
        return [(t, tick_labels([t])[0]) for t in ticks]
    return list(zip(ticks, tick_labels(ticks), strict=True))


def _draw(series: Series, x: Axis, y: Axis) -> str:
    """A path of lines, of dots, or both; dots are segments of no length with round ends."""
    px, py = x.place(series.x), y.place(series.y)
    good = np.isfinite(px) & np.isfinite(py)
    name = escape(series.name)
    low, high = y.place(series.low), y.place(series.high)
    if series.kind == "band":
        found = _area(series.style, px, low, high)
    else:
        bars = zip(px, low, high, strict=False)
        found = "".join(segment(a, b, a, c, f"range s{series.style}") for a, b, c in bars)
    if series.kind != "points":
        pen, steps = "M", []
        for a, b, ok in zip(px, py, good, strict=True):
            if ok:
                steps.append(f"{pen}{a:.1f} {b:.1f}")
            pen = "L" if ok else "M"
        dash = " dash" if series.dashed else ""
        named = "" if series.kind == "both" else f' data-name="{name}"'
        found += f'<path class="line s{series.style}{dash}"{named} d="{"".join(steps)}"/>'
    if series.kind in ("points", "both"):
        dots = "".join(f"M{a:.1f} {b:.1f}h0" for a, b in zip(px[good], py[good], strict=True))
        big = " big" if series.kind == "both" or good.sum() < 60 else ""
        found += f'<path class="pts{big} s{series.style}" data-name="{name}" d="{dots}"/>'
    return found


def _area(style: int, x: np.ndarray, low: np.ndarray, high: np.ndarray) -> str:
    """The area between two lines, without a name: tooltips belong to the lines."""
    good = np.isfinite(x) & np.isfinite(low) & np.isfinite(high)
    there, back = np.stack([x, low])[:, good], np.stack([x, high])[:, good][:, ::-1]
    around = np.concatenate([there, back], axis=1).T
    points = "L".join(f"{a:.1f} {b:.1f}" for a, b in around)
    return f'<path class="band s{style}" d="M{points}Z"/>' if points else ""


def segment(x1: Any, y1: Any, x2: Any, y2: Any, kind: str) -> str:
    """A straight line."""
    a, b, c, d = (float(v) for v in (x1, y1, x2, y2))
    return f'<path class="{kind}" d="M{a:.1f} {b:.1f}L{c:.1f} {d:.1f}"/>'


def words(x: float, y: float, text: str, kind: str) -> str:
    """A text at a place."""
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'
