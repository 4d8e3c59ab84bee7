"""Finds development data that may not be part of the project; skips where it is absent."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

_DEFAULT = Path(__file__).resolve().parents[2] / "shared" / "data"


def shared_data(name: str) -> Path:
    """Path of a file of the shared development data; skips the test if it is not there."""
    path = Path(os.environ.get("SILIFORCE_SHARED_DATA", _DEFAULT)) / name
    if not path.exists():
        pytest.skip(f"{name} is not distributed with siliforce; set SILIFORCE_SHARED_DATA")
    return path
