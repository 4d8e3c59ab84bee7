"""Checkpoints: tensors and a JSON header in one safetensors file, so that loading runs no code.

A run folder holds the newest as `last.checkpoint` and the one before as `previous.checkpoint`.
A new one is complete on disk before either name is moved, so a kill at any moment, or a full
disk, leaves at least one that can be read.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from siliforce.errors import ModelFileError
from siliforce.files import write_atomic

FORMAT_VERSION = 1
LAST, PREVIOUS, NEXT = "last.checkpoint", "previous.checkpoint", "next.checkpoint"


class Snapshot(NamedTuple):
    """Everything needed to go on: tensors by name, and a header of JSON types."""

    tensors: dict[str, Tensor]
    header: dict[str, Any]

    def clone(self) -> Snapshot:
        """A copy that further training does not change."""
        return Snapshot({k: v.clone() for k, v in self.tensors.items()}, dict(self.header))


def exists(folder: str | Path) -> bool:
    """Whether the folder holds a checkpoint, readable or not."""
    return any((Path(folder) / name).exists() for name in (LAST, PREVIOUS, NEXT))


def save(folder: str | Path, snapshot: Snapshot) -> Path:
    """Write the newest checkpoint of a run folder.

    Raises:
        OSError: disk full, no permission; the checkpoints that were there stay.
    """
    folder = Path(folder)
    tensors = {k: v.detach().cpu().contiguous() for k, v in snapshot.tensors.items()}
    header = {
        **snapshot.header,
        "format_version": FORMAT_VERSION,
        "checksum": _checksum(tensors),
    }
    new = write_atomic(
        folder / NEXT, safetensors_bytes(tensors, {"siliforce_checkpoint": json.dumps(header)})
    )
    last = folder / LAST
    if last.exists():
        last.replace(folder / PREVIOUS)
    return new.replace(last)


def clean(folder: str | Path) -> None:
    """Remove what writes left behind that were killed."""
    for path in Path(folder).glob(f".{NEXT}.*"):
        path.unlink(missing_ok=True)


def load(folder: str | Path) -> tuple[Snapshot, list[str]]:
    """The newest readable checkpoint of a run folder.

    Returns:
        The checkpoint, and one sentence for each newer one that could not be read.

    Raises:
        ModelFileError: there is none, or none can be read.
    """
    folder = Path(folder)
    complaints: list[str] = []
    for name in _by_age(folder):
        try:
            return read(folder / name), complaints
        except ModelFileError as error:
            complaints.append(str(error))
    if not complaints:
        raise ModelFileError(f"{folder}: no checkpoint to go on from; start without --restart")
    raise ModelFileError(
        "; ".join(complaints) + "; no other checkpoint is left: start again in another folder "
        "(best.safetensors there, if any, is still a usable potential)"
    )


def read(path: Path) -> Snapshot:
    """One checkpoint file, verified.

    Raises:
        ModelFileError: damaged, or of another format version.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        header = json.loads(metadata["siliforce_checkpoint"])
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise ModelFileError(f"{path}: damaged or not a checkpoint ({error})") from None
    if header.get("format_version") != FORMAT_VERSION:
        raise ModelFileError(
            f"{path}: format version {header.get('format_version')}, this siliforce reads "
            f"{FORMAT_VERSION}; continue with the release that wrote it"
        )
    if header.get("checksum") != _checksum(tensors):
        raise ModelFileError(f"{path}: damaged (the checksum of its tensors does not match)")
    return Snapshot(tensors, header)


def _by_age(folder: Path) -> list[str]:
    """Newest first. NEXT is complete: it is there if a kill came before it got its name."""
    return [name for name in (NEXT, LAST, PREVIOUS) if (folder / name).exists()]


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    value = 0
    for name in sorted(tensors):
        tensor = tensors[name]
        value = zlib.crc32(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode(), value)
        value = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, value)
    return f"{value:08x}"
