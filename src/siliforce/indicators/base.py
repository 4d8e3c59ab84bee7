"""What every measured property returns: a Result, with metrics that carry their units."""

from __future__ import annotations

import math
import re
import time
from io import BytesIO
from pathlib import Path
from typing import Annotated, Any, Literal
from zipfile import BadZipFile

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from siliforce import __version__
from siliforce.errors import DataError
from siliforce.files import write_atomic
from siliforce.hardware import hardware_stamp
from siliforce.potential import Potential

FORMAT_VERSION = 1


def _finite(value: Any) -> Any:
    """JSON has no NaN: what is not a number is None, here and in the file."""
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _jsonable(value: Any) -> Any:
    """NumPy to plain types, and NaN to None, all the way down."""
    if isinstance(value, dict):
        return {str(k): _jsonable(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(v) for v in value]
    if isinstance(value, np.ndarray):
        return _jsonable(value.tolist())
    return _finite(value)


Number = Annotated[float | None, BeforeValidator(_finite)]


Table = Annotated[dict[str, list[dict[str, Any]]], BeforeValidator(_jsonable)]
Plain = Annotated[dict[str, Any], BeforeValidator(_jsonable)]


class Metric(BaseModel):
    """One number of an indicator.

    Attributes:
        value: None if it could not be measured; `note` then says why.
        better: which direction is better, None for a quantity without one.
        low, high: 95 % interval of the sampling noise, where it was estimated.
    """

    model_config = ConfigDict(extra="forbid")

    name: str
    value: Number
    unit: str
    better: Literal["lower", "higher"] | None = None
    low: Number = None
    high: Number = None
    note: str = ""


class Result(BaseModel):
    """What one indicator found for one model on one set of structures.

    Attributes:
        indicator: name of the property, as its file is called.
        model: what was measured.
        dataset: hash of the data, or name of the structure.
        split: `train`, `valid`, `test`, `ood:<name>`, or empty where there is none.
        protocol: `siliforce` or `paper`.
        metrics: the numbers.
        tables: breakdowns, lists of rows.
        curves: what is plotted.
        failure: why the indicator could not be measured or the run failed; empty if it did not.
        hardware: stamp of the machine, for timings.
        provenance: versions, settings, sizes of the sample.
        arrays: per-frame and per-atom data; kept in a file beside the JSON.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    format_version: int = FORMAT_VERSION
    indicator: str
    model: str
    dataset: str = ""
    split: str = ""
    protocol: str = "siliforce"
    metrics: list[Metric] = Field(default_factory=list)
    tables: Table = Field(default_factory=dict)
    curves: Plain = Field(default_factory=dict)
    failure: str = ""
    hardware: Plain = Field(default_factory=dict)
    provenance: Plain = Field(default_factory=dict)
    arrays: dict[str, np.ndarray] = Field(default_factory=dict, exclude=True)

    def metric(self, name: str) -> Metric | None:
        """The metric of that name, or None."""
        return next((m for m in self.metrics if m.name == name), None)

    def value(self, name: str) -> float | None:
        """The value of a metric, None if it is not there or was not measured."""
        found = self.metric(name)
        return None if found is None else found.value

    @property
    def stem(self) -> str:
        """Name of the result's files without their endings."""
        parts = [self.indicator, self.split] if self.split else [self.indicator]
        if self.protocol != "siliforce":
            parts.append(self.protocol)
        return re.sub(r"[^A-Za-z0-9._-]+", "_", "-".join(parts))

    def save(self, folder: str | Path) -> Path:
        """Write `<folder>/<stem>.json`, and `.npz` beside it if there are arrays; atomic."""
        path = Path(folder) / f"{self.stem}.json"
        sidecar = path.with_suffix(".npz")
        if self.arrays:
            buffer = BytesIO()
            np.savez_compressed(buffer, allow_pickle=False, **self.arrays)
            write_atomic(sidecar, buffer.getvalue())
        else:
            sidecar.unlink(missing_ok=True)
        return write_atomic(path, self.checked().model_dump_json(indent=1))

    def checked(self) -> Result:
        """As a file holds it: what was put in later is checked, arrays are lists."""
        return type(self).model_validate(self.model_dump())

    @classmethod
    def load(cls, path: str | Path) -> Result:
        """Read a result and the arrays beside it.

        Raises:
            DataError: missing, damaged, or of another format version.
        """
        path = Path(path)
        try:
            result = cls.model_validate_json(path.read_bytes())
        except OSError as error:
            raise DataError(f"{path}: no such result") from error
        except ValidationError as error:
            raise DataError(f"{path}: not a result of siliforce, or damaged: {error}") from error
        if result.format_version != FORMAT_VERSION:
            raise DataError(
                f"{path}: result format {result.format_version}, this siliforce reads "
                f"{FORMAT_VERSION}; measure it again"
            )
        sidecar = path.with_suffix(".npz")
        if sidecar.is_file():
            try:
                with np.load(sidecar, allow_pickle=False) as file:
                    result.arrays = dict(file)
            except (OSError, ValueError, EOFError, BadZipFile) as error:
                raise DataError(f"{sidecar}: damaged; measure it again") from error
        return result


def load_results(folder: str | Path) -> tuple[list[Result], list[str]]:
    """All results of a folder by file name, and what could not be read."""
    results, problems = [], []
    for path in sorted(Path(folder).glob("*.json")):
        try:
            results.append(Result.load(path))
        except DataError as error:
            problems.append(str(error))
    return results, problems


def model_name(source: Any) -> str:
    """Name of a potential or an ASE calculator in results; a name stays as it is."""
    if isinstance(source, str):
        return source
    if isinstance(source, Potential):
        cap = source.model.config.max_neighbors
        return source.model.name if cap is None else f"{source.model.name}, {cap} neighbours"
    members = getattr(source, "potentials", None)
    if members:
        name = model_name(members[0])
        return name if len(members) == 1 else f"{name} ensemble of {len(members)}"
    return type(source).__name__.lower()


def stamp(source: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Hardware and provenance that every result carries."""
    device = source.device if isinstance(source, Potential) else "cpu"
    members = getattr(source, "potentials", None)
    if members:
        device = members[0].device
    provenance: dict[str, Any] = {
        "siliforce": __version__,
        "measured": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    potential = source if isinstance(source, Potential) else (members or [None])[0]
    if potential is not None:
        provenance |= {
            "preset": potential.preset,
            "dtype": str(potential.dtype).removeprefix("torch."),
            "force_mode": potential.model.force_mode,
            "training_data": potential.card.data_hash,
        }
    return hardware_stamp(device), provenance
