"""Frames to label: content hash, batches of them in a run's queue, results as extended XYZ."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write

from siliforce.data.read import ENERGY_KEYS, FORCES_KEYS, STRESS_KEYS, VIRIAL_KEYS
from siliforce.errors import DataError
from siliforce.generate.engines.base import Labels

POSITION_DECIMALS = 8
KEY_LENGTH = 20
LABELS = {*ENERGY_KEYS, *FORCES_KEYS, *STRESS_KEYS, *VIRIAL_KEYS}


def canonical(atoms: Atoms) -> Atoms:
    """Species, cell and positions as the files keep them (8 decimals), and `info`; no labels.

    Neither those of a calculator nor those of `info`: our reader would take them for ours.
    """
    frame = Atoms(
        numbers=atoms.numbers,
        positions=np.round(atoms.positions, POSITION_DECIMALS) + 0.0,
        cell=np.round(atoms.cell.array, POSITION_DECIMALS) + 0.0,
        pbc=atoms.pbc,
    )
    frame.info = {k: v for k, v in atoms.info.items() if k not in LABELS}
    return frame


def frame_key(atoms: Atoms, settings: dict[str, Any]) -> str:
    """Hash of what is computed (species, cell, positions, periodicity) and how (settings)."""
    frame = canonical(atoms)
    digest = hashlib.sha256()
    for part in (
        frame.numbers.astype("<i8"),
        frame.cell.array.astype("<f8"),
        frame.positions.astype("<f8"),
        frame.pbc.astype("u1"),
    ):
        digest.update(part.tobytes())
    digest.update(json.dumps(settings, sort_keys=True).encode())
    return digest.hexdigest()[:KEY_LENGTH]


def to_extxyz(frames: Iterable[Atoms]) -> str:
    """Extended XYZ text, positions with 8 decimals, cell and energy in full."""
    stream = io.StringIO()
    write(stream, list(frames), format="extxyz", write_results=True)
    return stream.getvalue()


def read_frames(path: str | Path) -> list[Atoms]:
    """Every frame of a file, compressed or not.

    Raises:
        DataError: the file is missing or not readable as frames.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"no file '{path}'")
    try:
        return list(read(path, index=":"))
    except Exception as error:  # ASE raises whatever its many readers raise
        raise DataError(f"cannot read frames from '{path}': {error}") from error


def labelled(atoms: Atoms, labels: Labels, facts: dict[str, Any]) -> Atoms:
    """The frame with its labels and where they come from."""
    frame = canonical(atoms)
    results: dict[str, Any] = {"energy": labels.energy, "forces": labels.forces}
    if labels.stress is not None:
        results["stress"] = labels.stress
    frame.info |= facts | labels.details
    frame.calc = SinglePointCalculator(frame, **results)
    return frame
