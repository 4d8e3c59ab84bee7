"""The papers of a run folder: config.yaml, run.json, split.json, and comparing them on restart."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from siliforce.files import write_atomic

CONFIG, RUN, SPLIT = "config.yaml", "run.json", "split.json"


def now() -> str:
    """UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def versions() -> dict[str, str]:
    """Of what computes."""
    return {
        "siliforce": version("siliforce"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Atomic, readable."""
    write_atomic(path, json.dumps(content, indent=2) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Empty if the file is not there or not readable."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return {}


def write_config(path: Path, content: Mapping[str, Any]) -> None:
    """The resolved configuration; training from it repeats the run."""
    text = yaml.safe_dump(dict(content), sort_keys=False, allow_unicode=True)
    write_atomic(path, "# Resolved: everything that was chosen, by you or by default.\n" + text)


def differences(old: Any, new: Any, name: str = "") -> list[str]:
    """`train.lr was 0.01, is 0.02` for every value that differs."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        result = []
        for key in [*old, *(k for k in new if k not in old)]:
            path = f"{name}.{key}" if name else str(key)
            result += differences(old.get(key), new.get(key), path)
        return result
    # Tuples come back from JSON as lists.
    same = json.dumps(old) == json.dumps(new)
    return [] if same else [f"{name} was {old}, is {new}"]
