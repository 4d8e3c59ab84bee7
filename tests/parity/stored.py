"""Structures that a reference file holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from ase import Atoms


def structure(reference: Mapping[str, np.ndarray], prefix: str) -> Atoms:
    """The structure whose fields are `prefix/numbers`, `prefix/positions` ..."""
    fields: dict[str, Any] = {
        field: reference[f"{prefix}/{field}"] for field in ("numbers", "positions", "cell", "pbc")
    }
    return Atoms(**fields)
