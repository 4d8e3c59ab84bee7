"""A model file's card as a table for a terminal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.table import Table

HIDDEN = {"config", "environments"}
"""Shown by --json only: too long for a table."""


def card_table(header: dict[str, Any], path: Path) -> Table:
    """What the file says of the architecture, its data and its range."""
    table = Table(title=str(path), title_justify="left", show_header=False)
    table.add_column(style="bold")
    table.add_column()
    card = header["card"]
    table.add_row("model", f"{header['model']}, preset {header['preset'] or '(none)'}")
    table.add_row("precision", header["dtype"])
    table.add_row("short-range repulsion", "ZBL" if header["repulsion"] else "none")
    for key, value in card.items():
        if key not in HIDDEN and value not in ("", None, {}, [], 0):
            table.add_row(key.replace("_", " "), _text(value))
    return table


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return "\n".join(f"{k}: {_text(v)}" for k, v in value.items())
    if isinstance(value, list):
        numbers = len(value) == 2 and all(isinstance(v, int | float) for v in value)
        return (" to " if numbers else " ").join(_text(v) for v in value)
    return f"{value:.4g}" if isinstance(value, float) else json.dumps(value).strip('"')
