"""A folder that a batch of runs writes as it goes, and from which it goes on after a kill.

`NAME.xyz` and `NAME.csv` of every run grow as frames and log entries come; `state.npz` holds all
that is needed to continue, replaced in one step. What the trajectories hold beyond the last state
is cut off when the runs are taken up again, and the logs are written anew from it.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from ase import Atoms
from ase.io.extxyz import read_extxyz, write_extxyz

from siliforce.errors import ConfigError, DataError
from siliforce.files import write_atomic
from siliforce.simulation.md import SHOWN_AS, Failure, MDRun

STATE = "state.npz"


class Archive:
    """The files of a batch of runs.

    Attributes:
        root: the folder.
        names: of the runs' files.
        key: fingerprint of everything that decides the runs.
    """

    def __init__(
        self, root: str | Path, names: Sequence[str], key: str, state: str = STATE
    ) -> None:
        self.root, self.names, self.key = Path(root), list(names), key
        self.state = self.root / state
        self.root.mkdir(parents=True, exist_ok=True)
        self._files: dict[str, Any] = {}

    def trajectory(self, run: int) -> Path:
        """Frames of a run, extended XYZ."""
        return self.root / f"{self.names[run]}.xyz"

    def log(self, run: int) -> Path:
        """Log of a run, CSV."""
        return self.root / f"{self.names[run]}.csv"

    def begin(self) -> None:
        """Start with empty files."""
        for run in range(len(self.names)):
            for path in (self.trajectory(run), self.log(run)):
                self._files[str(path)] = path.open("w", encoding="utf-8")

    def add_frame(self, run: int, frame: Atoms) -> None:
        """Append a frame."""
        text = io.StringIO()
        write_extxyz(text, [frame], write_results=False)
        self._append(self.trajectory(run), text.getvalue())

    def add_row(self, run: int, row: dict[str, float]) -> None:
        """Append a line to the log, after names and units of the columns if it is the first."""
        path, shown = self.log(run), {name: SHOWN_AS.get(name, ("", 1.0)) for name in row}
        if self._files[str(path)].tell() == 0:
            heads = (f"{name} ({unit})" if unit else name for name, (unit, _) in shown.items())
            self._append(path, ",".join(heads) + "\n")
        values = (f"{factor * row[name]:.10g}" for name, (_, factor) in shown.items())
        self._append(path, ",".join(values) + "\n")

    def _append(self, path: Path, text: str) -> None:
        file = self._files[str(path)]
        file.write(text)
        file.flush()

    def save(self, runs: Sequence[MDRun], facts: dict[str, Any], arrays: dict[str, Any]) -> None:
        """Keep all that is needed to go on from here."""
        ends = {}
        for path, file in self._files.items():
            os.fsync(file.fileno())
            ends[Path(path).name] = file.tell()
        records = [
            {
                "log": run.log,
                "failure": None if run.failure is None else asdict(run.failure),
                "wall": run.wall,
                "steps": run.steps,
            }
            for run in runs
        ]
        text = json.dumps({"key": self.key, "ends": ends, "runs": records, **facts})
        buffer = io.BytesIO()
        np.savez(buffer, facts=np.array(text), **arrays)
        write_atomic(self.state, buffer.getvalue())

    def resume(self, runs: Sequence[MDRun]) -> tuple[dict[str, Any], dict[str, np.ndarray]] | None:
        """Bring the runs and the files to the last state; None if there is none to go on from.

        There is none either where a run was ended for what no longer is a failure.

        Raises:
            ConfigError: the folder holds other runs.
            DataError: a damaged file.
        """
        path = self.state
        if not path.is_file():
            return None
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = dict(file)
            facts = json.loads(str(arrays.pop("facts")))
        except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
            raise DataError(f"{path}: damaged ({error}); delete it to start again") from error
        if facts["key"] != self.key:
            raise ConfigError(
                f"{self.root} holds other runs (another model, start, setting or number of "
                "replicas, or a calculator that states no parameters to know it by); choose "
                "another folder, or delete this one"
            )
        failures = [f and Failure(**f) for f in (record["failure"] for record in facts["runs"])]
        if any(f and not f.holds(run.config) for f, run in zip(failures, runs, strict=True)):
            return None
        for number, (run, record) in enumerate(zip(runs, facts["runs"], strict=True)):
            run.log, run.wall, run.steps = record["log"], record["wall"], record["steps"]
            run.failure = failures[number]
            frames, log = self.trajectory(number), self.log(number)
            self._reopen(frames, facts["ends"][frames.name])
            run.frames = _read(frames)
            self._files[str(log)] = log.open("w", encoding="utf-8")
            for values in zip(*run.log.values(), strict=True):
                self.add_row(number, dict(zip(run.log, values, strict=True)))
        return facts, arrays

    def _reopen(self, path: Path, end: int) -> None:
        if not path.is_file() or path.stat().st_size < end:
            raise DataError(f"{path}: shorter than when it was left; delete {self.state}")
        os.truncate(path, end)
        self._files[str(path)] = path.open("a", encoding="utf-8")

    def close(self) -> None:
        """Close the growing files."""
        for file in self._files.values():
            file.close()
        self._files = {}


def _read(path: Path) -> list[Atoms]:
    with path.open(encoding="utf-8") as file:
        return list(read_extxyz(file, index=slice(None))) if path.stat().st_size else []
