"""Engines: settings in, labels out. `ENGINES` is the table of contents."""

from __future__ import annotations

import difflib
from typing import Any

from pydantic import BaseModel, ValidationError

from siliforce.errors import ConfigError
from siliforce.generate.engines.base import Engine, Labels, gate, net_force
from siliforce.generate.engines.cp2k import CP2K
from siliforce.generate.engines.potential import PythonEngine
from siliforce.generate.engines.qe import QuantumEspresso
from siliforce.generate.engines.server import BUILDERS
from siliforce.generate.engines.vasp import VASP

ENGINES: dict[str, type[Engine]] = {
    "qe": QuantumEspresso,
    "cp2k": CP2K,
    "vasp": VASP,
    **dict.fromkeys(BUILDERS, PythonEngine),
}


def make_engine(settings: dict[str, Any]) -> Engine:
    """Engine from its settings.

    Raises:
        ConfigError: unknown engine, or a setting it does not have.
    """
    name = settings.get("engine")
    if name not in ENGINES:
        raise ConfigError(f"unknown engine '{name}'; {nearest(str(name), list(ENGINES))}")
    try:
        return ENGINES[name](**settings)
    except ValidationError as error:
        raise ConfigError(f"engine '{name}', {explain(error, ENGINES[name])}") from error


def nearest(word: str, known: list[str]) -> str:
    """`did you mean 'x'?`, or all there are."""
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"did you mean '{near[0]}'?" if near else f"known: {', '.join(known)}"


def explain(error: ValidationError, *models: type[BaseModel]) -> str:
    """The first things that are wrong in settings, in one line.

    Args:
        models: whose keys were probably meant.
    """
    lines = []
    for one in error.errors()[:3]:
        where = ".".join(map(str, one["loc"])) or "settings"
        if one["type"] == "extra_forbidden":
            known = list(dict.fromkeys(key for model in models for key in model.model_fields))
            lines.append(f"unknown key '{where}'; {nearest(str(one['loc'][-1]), known)}")
        else:
            simple = isinstance(one["input"], str | int | float)
            given = f" (given: {one['input']!r})" if simple else ""
            lines.append(f"{where}: {one['msg'].removeprefix('Value error, ')}{given}")
    return "; ".join(lines)


__all__ = ["ENGINES", "Engine", "Labels", "explain", "gate", "make_engine", "net_force"]
