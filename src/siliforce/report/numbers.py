"""Numbers as people read them."""

from __future__ import annotations

import math
from typing import Any

MINUS = "\N{MINUS SIGN}"
SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def shown(value: Any, digits: int = 3) -> str:
    """A number with so many significant digits, without exponent from 1e-3 to 1e6; else a dash."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "–"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}".replace("-", MINUS)
    if value == 0:
        return "0"
    size = abs(value)
    if size < 1e-3 or size >= 1e6:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        power = str(int(exponent)).translate(SUPERSCRIPT)
        return f"{mantissa} × 10{power}".replace("-", MINUS)
    decimals = max(digits - 1 - math.floor(math.log10(size)), 0)
    return f"{value:,.{decimals}f}".replace("-", MINUS)


def interval(low: float | None, high: float | None, digits: int = 3) -> str:
    """`12.1 to 14.8`, or nothing."""
    if low is None or high is None:
        return ""
    return f"{shown(low, digits)} to {shown(high, digits)}"


def duration(seconds: float | None) -> str:
    """`48 s`, `3.2 min`, `5.1 h`."""
    if seconds is None:
        return "–"
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h"


def listed(items: list[str], limit: int = 0) -> str:
    """`a`, `a and b`, `a, b and c`; beyond `limit`, `a, b and 3 more`."""
    if limit and len(items) > limit:
        items = [*items[:limit], f"{len(items) - limit} more"]
    if len(items) < 2:
        return "".join(items)
    return f"{', '.join(items[:-1])} and {items[-1]}"


def spread(low: float, high: float, digits: int = 3) -> str:
    """`300 to 1200`, or one number where both are the same."""
    first, last = shown(low, digits), shown(high, digits)
    return first if first == last else f"{first} to {last}"
