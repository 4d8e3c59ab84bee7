"""Radar charts: several scores of one model as a polygon, outer is better."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from markupsafe import Markup

from siliforce.report.svg import drawing, segment, words

SIZE, RADIUS = 280.0, 92.0
RINGS = (0.25, 0.5, 0.75, 1.0)


def radar(
    axes: Sequence[str], polygons: Mapping[str, tuple[Mapping[str, float], int]], title: str
) -> Markup:
    """Scores between 0 and 1 around a circle.

    Args:
        axes: names, clockwise from the top; at least three.
        polygons: name -> scores by axis (an axis without one is left out), number of the colour.
        title: for screen readers.
    """
    angles = {axis: 2 * np.pi * k / len(axes) for k, axis in enumerate(axes)}
    parts = [_ring([(r, a) for a in angles.values()], "grid") for r in RINGS]
    for axis, angle in angles.items():
        end = _place(1.0, angle)
        parts.append(segment(*_place(0.0, 0.0), *end, "grid"))
        x, y = _place(1.0 + 20 / RADIUS, angle)
        kind = "tick middle" if abs(np.sin(angle)) < 0.3 else "tick end" if x < SIZE / 2 else "tick"
        shift = 10 if kind != "tick middle" else 0
        parts.append(words(x - np.sign(np.sin(angle)) * shift, y + 4, axis, kind))
    for name, (scores, style) in polygons.items():
        corners = [(scores[axis], angles[axis]) for axis in axes if axis in scores]
        dashed = " dash" if name == "OOD" else ""
        parts.append(_ring(corners, f"line area s{style}{dashed}"))
        for axis in axes:
            if axis in scores:
                x, y = _place(scores[axis], angles[axis])
                tag = escape(f"{name}, {axis}: {scores[axis]:.2f}")
                parts.append(
                    f'<path class="pts big s{style}" d="M{x:.1f} {y:.1f}h0">'
                    f"<title>{tag}</title></path>"
                )
    return drawing(parts, SIZE, SIZE, title, 'data-x="0 1 0 1 0" data-labels="|"')


def _place(radius: float, angle: float) -> tuple[float, float]:
    x, y = np.sin(angle), -np.cos(angle)
    return float(SIZE / 2 + RADIUS * radius * x), float(SIZE / 2 + RADIUS * radius * y)


def _ring(corners: Sequence[tuple[float, float]], kind: str) -> str:
    points = [_place(r, a) for r, a in corners]
    path: Any = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    return f'<path class="{kind}" d="M{path}Z"/>' if points else ""
