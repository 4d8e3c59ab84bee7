"""Models that other packages trained, as potentials."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from siliforce import __version__
from siliforce.deploy.mace_torch import mace_potential
from siliforce.deploy.nequip_checkpoint import is_checkpoint, nequip_potential
from siliforce.deploy.pickles import Layer, StandIn, path_of, read_pickle
from siliforce.errors import ModelFileError, SiliforceError
from siliforce.potential import Card, Potential

NOT_AS_EXPECTED = (
    AttributeError,
    IndexError,
    KeyError,
    OverflowError,
    RuntimeError,
    TypeError,
    ValidationError,
    ValueError,
)
"""What a file raises that is laid out in another way."""


def import_model(path: str | Path) -> Potential:
    """A potential with the energies, forces and stress of a model saved by its authors' package.

    Nothing in the file is run, and the package need not be installed.

    Args:
        path: a whole model saved by mace-torch (`NAME.model`), or a checkpoint of nequip's training
            (`.ckpt`) of NequIP or Allegro.

    Raises:
        ModelFileError: damaged, of another kind, or with layers or settings that siliforce's
            architecture does not have, by name.
    """
    path = Path(path)
    content = read_pickle(path)
    try:
        potential, origin = _potential(content)
    except SiliforceError as error:
        raise ModelFileError(f"{path}: {error}") from error
    except NOT_AS_EXPECTED as error:
        raise ModelFileError(
            f"{path}: not laid out as the packages write it ({type(error).__name__}: {error})"
        ) from error
    potential.card = Card(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        siliforce_version=__version__,
        data_source="not stated",
        elements=list(potential.species.symbols),
        imported={
            "file": path.name,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            **origin,
        },
    )
    return potential


def _potential(content: Any) -> tuple[Potential, dict[str, str]]:
    """The potential, and which package and class it was.

    Raises:
        SiliforceError: it cannot be imported.
    """
    if isinstance(content, StandIn) and content.path.startswith("mace."):
        return mace_potential(Layer.read(content)), {"package": "mace-torch", "class": content.path}
    if is_checkpoint(content):
        return nequip_potential(content)
    if isinstance(content, dict) and {"model", "optimizer"} <= content.keys():
        raise ModelFileError(
            "a checkpoint of mace-torch: weights without the settings of the model; give the "
            "NAME.model file of the same training"
        )
    raise ModelFileError(f"holds {_kind(content)}, not a model that can be imported")


def _kind(content: Any) -> str:
    if isinstance(content, dict):
        return f"a dict of {', '.join(map(str, list(content)[:5])) or 'nothing'}"
    return path_of(content)
