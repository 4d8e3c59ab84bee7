"""The architectures: the table of contents.

Each lives in one file and is imported only when it is asked for. Out-of-tree models register
under the entry point group `siliforce.models`.
"""

from __future__ import annotations

import difflib
from importlib import import_module
from importlib.metadata import entry_points

from siliforce.errors import ConfigError
from siliforce.models.base import Model, ModelConfig, RawOutput

__all__ = ["MODELS", "Model", "ModelConfig", "RawOutput", "get_model", "list_models"]

MODELS: dict[str, str] = {
    "bpnn": "siliforce.models.bpnn:BPNN",
    "bpnn_transfer": "siliforce.models.bpnn_transfer:TransferBPNN",
    "dpa1": "siliforce.models.dpa1:DPA1",
    "schnet": "siliforce.models.schnet:SchNet",
    "dimenet_pp": "siliforce.models.dimenet_pp:DimeNetPP",
    "gemnet_t": "siliforce.models.gemnet:GemNetT",
    "gemnet_dt": "siliforce.models.gemnet:GemNetDT",
    "nequip": "siliforce.models.nequip:NequIP",
    "allegro": "siliforce.models.allegro:Allegro",
    "mace": "siliforce.models.mace:MACE",
    "scn": "siliforce.models.scn:SCN",
}
"""Name on the command line -> module:class."""


def list_models() -> list[str]:
    """Names of all models, in-tree and registered by entry point."""
    return [*MODELS, *(e.name for e in entry_points(group="siliforce.models"))]


def get_model(name: str) -> type[Model]:
    """The model class of that name.

    Raises:
        ConfigError: no such model; the message suggests the nearest name.
    """
    target = MODELS.get(name)
    if target is not None:
        module, attribute = target.split(":")
        return getattr(import_module(module), attribute)
    for entry in entry_points(group="siliforce.models", name=name):
        return entry.load()
    near = difflib.get_close_matches(name, list_models(), n=1)
    hint = f"did you mean '{near[0]}'? " if near else ""
    raise ConfigError(f"unknown model '{name}'; {hint}available: {', '.join(list_models())}")
