"""Engines: settings in, labels out. `ENGINES` is the table of contents."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

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
        raise ConfigError(f"unknown engine '{name}'; known: {', '.join(ENGINES)}")
    try:
        return ENGINES[name](**settings)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "settings"
        raise ConfigError(f"engine '{name}', {where}: {first['msg']}") from error


__all__ = ["ENGINES", "Engine", "Labels", "gate", "make_engine", "net_force"]
